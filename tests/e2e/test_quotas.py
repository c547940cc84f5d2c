"""Quotas and the owners of shares, with real users on a real server: one source is bounded, and no other one is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import pytest

from coordinator.commands.acting import acting
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, DestroyContainer, GetContainer
from coordinator.commands.payloads import payload_of
from coordinator.commands.pool import AllocatePool, DefinePool, GetPool, ReleasePool
from coordinator.commands.service import DeregisterService, RegisterService
from coordinator.commands.session import BindSession, CloseSession
from coordinator.commands.task import CancelTask, ClaimTasks, SubmitTask
from coordinator.commands.worker import LeaveWorker, RegisterWorker
from coordinator.errors import Forbidden, NotFound, Refused
from coordinator.home import Home
from coordinator.processes.up import run_cluster
from coordinator.scheduler import ResourceAllocator
from coordinator.settings.load import load
from coordinator.worker import Worker
from events.container import ContainerStatus
from events.resources import Resources
from tests.secured import secured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from coordinator.client.client import Client
    from coordinator.commands.command import Command
    from tests.secured import Secured

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 30.0
USERS = (
    ("domain", "execution"),
    ("domain", "monitoring"),
    ("worker", "w1"),
    ("node", "n1"),
    ("agents", "n1"),
)
RULES = """
security:
  sources:
    execution: {max_containers: 2, max_sessions: 2, max_services: 2, max_allocations: 2}
    agents-n1: {max_workers: 2}
    admin: {max_pools: 2}
  tenants:
    red: {max_containers: 3}
"""
SHARE = Resources(cpu_millis=1)


class Bounded(NamedTuple):
    """A kind: who is bounded and who is not, the command for the thing of an id, and how it ends."""

    plural: str
    bounded: tuple[str, str]
    free: tuple[str, str]
    create: Callable[[str], Command]
    end: Callable[[str], Command]


EXECUTION, MONITORING = ("domain", "execution"), ("domain", "monitoring")
KINDS = (
    Bounded(
        "containers",
        EXECUTION,
        MONITORING,
        lambda one: CreateContainer(container_id=one, agent_id="a", agent_type="task_agent"),
        lambda one: DestroyContainer(container_id=one),
    ),
    Bounded(
        "sessions",
        EXECUTION,
        MONITORING,
        lambda one: BindSession(session_id=one, container_id="a"),
        lambda one: CloseSession(session_id=one),
    ),
    Bounded(
        "services",
        EXECUTION,
        MONITORING,
        lambda one: RegisterService(service_id=one, service_name="s", service_type="t", host="localhost", port=1),
        lambda one: DeregisterService(service_id=one),
    ),
    Bounded(
        "shares of pools",
        EXECUTION,
        MONITORING,
        lambda one: AllocatePool(pool_id="a", request_id=one, resources=SHARE),
        lambda one: ReleasePool(pool_id="a", request_id=one),
    ),
    Bounded(
        "workers",
        ("agents", "n1"),
        MONITORING,
        lambda one: RegisterWorker(worker_id=one),
        lambda one: LeaveWorker(worker_id=one),
    ),
)


@asynccontextmanager
async def leading(server: Secured, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run what `coordinator up` runs, each part as its own user, with the rules."""
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    for name, value in {**server.environment, "COORDINATOR_CONFIG": str(rules)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COORDINATOR_HOME", str(folder / "home"))
    async with run_cluster(Home(folder / "home"), load(), quiet=True):
        yield


async def is_refused(client: Client, command: Command, why: str) -> bool:
    with pytest.raises(Refused, match=why) as refused:
        await client.execute(command)
    return (refused.value.reason, type(refused.value)) == ("quota", Refused)


async def test_one_source_is_bounded_and_the_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of each kind is refused with the reason, also after a restart; a repeat is not; an end makes room."""
    async with secured(tmp_path / "auth", USERS) as server:
        async with leading(server, tmp_path, monkeypatch), server.client("admin") as admin:
            for pool_id in ("a", "b"):
                await admin.execute(DefinePool(pool_id=pool_id, capacity=Resources(cpu_millis=100)))
            assert await is_refused(
                admin, DefinePool(pool_id="c", capacity=SHARE), "source admin has 2 pools, of at mo"
            )
            await admin.execute(DefinePool(pool_id="a", capacity=Resources(cpu_millis=200)))
            for kind in KINDS:
                async with server.client(*kind.bounded) as client:
                    for one in ("a", "b", "a"):
                        await client.execute(kind.create(one))
        async with leading(server, tmp_path, monkeypatch):
            for kind in KINDS:
                name = "-".join(kind.bounded).removeprefix("domain-")
                async with server.client(*kind.bounded) as client, server.client(*kind.free) as other:
                    why = f"source {name} has 2 {kind.plural}, of at most 2"
                    assert await is_refused(client, kind.create("c"), why)
                    await client.execute(kind.create("b"))
                    for one in ("d", "e", "f"):
                        await other.execute(kind.create(one))
                    await client.execute(kind.end("b"))
                    await client.execute(kind.create("c"))
                    assert await is_refused(client, kind.create("g"), why)
            async with server.client(*EXECUTION) as client:
                assert (await client.execute(GetContainer(container_id="c"))).source == "execution"
                assert (await client.execute(GetContainer(container_id="b"))).status is ContainerStatus.DESTROYED


async def test_what_creates_one_on_its_way_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may bind a session, a claim registers its worker; and a tenant is bounded beside its sources."""
    async with secured(tmp_path / "auth", USERS) as server, leading(server, tmp_path, monkeypatch):
        async with server.client(*EXECUTION) as client:
            one = CreateContainer(container_id="a", agent_id="a", agent_type="task_agent")
            await client.execute(one)
            for session_id in ("s1", "s2"):
                await client.execute(BindSession(session_id=session_id, container_id="a"))
            bound = CreateContainer(container_id="b", agent_id="a", agent_type="task_agent", session_id="s3")
            assert await is_refused(client, bound, "source execution has 2 sessions, of at most 2: close one first")
            with pytest.raises(NotFound, match="container 'b' not found"):
                await client.execute(GetContainer(container_id="b"))
        async with server.client("agents", "n1") as agents:
            for worker_id in ("w1", "w2"):
                assert await agents.execute(ClaimTasks(claim_id=f"of-{worker_id}", worker_id=worker_id)) == []
            claim = ClaimTasks(claim_id="of-w3", worker_id="w3")
            assert await is_refused(agents, claim, "source agents-n1 has 2 workers, of at most 2: stop one first")
        worker = Worker("w4", url=server.url, creds=server.creds("agents", "n1"))
        worker.task("double")(lambda payload: payload * 2)
        with pytest.raises(Refused, match="has 2 workers, of at most 2"):
            await worker.run()
        async with server.client(*MONITORING) as client:
            with acting(tenant="red"):
                for container_id in ("r1", "r2", "r3"):
                    await client.execute(
                        CreateContainer(container_id=container_id, agent_id="a", agent_type="task_agent")
                    )
                fourth = CreateContainer(container_id="r4", agent_id="a", agent_type="task_agent")
                assert await is_refused(client, fourth, "tenant red has 3 containers, of at most 3: destroy one first")
            with acting(tenant="blue"):
                await client.execute(fourth)


async def test_only_its_owner_releases_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source is told whose it is, and the share stays; an administrator may release it."""
    async with (
        secured(tmp_path / "auth", USERS) as server,
        leading(server, tmp_path, monkeypatch),
        server.client("admin") as admin,
        server.client(*EXECUTION) as owner,
        server.client(*MONITORING) as other,
    ):
        await admin.execute(DefinePool(pool_id="p", capacity=Resources(cpu_millis=100)))
        for request_id in ("r1", "r2"):
            assert await owner.execute(AllocatePool(pool_id="p", request_id=request_id, resources=SHARE))
            with pytest.raises(Forbidden, match=f"the share '{request_id}' of pool 'p' belongs to execution, not to"):
                await other.execute(ReleasePool(pool_id="p", request_id=request_id))
        assert set((await other.execute(GetPool(pool_id="p"))).allocations) == {"r1", "r2"}
        assert await owner.execute(ReleasePool(pool_id="p", request_id="r1"))
        assert await admin.execute(ReleasePool(pool_id="p", request_id="r2"))
        assert not (await other.execute(GetPool(pool_id="p"))).allocations
        assert await other.execute(ReleasePool(pool_id="p", request_id="r1")) is False


async def test_optimizing_leaves_the_shares_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It releases what its own source holds for what has ended, and is stopped by nothing that is another's."""
    async with secured(tmp_path / "auth", USERS) as server, leading(server, tmp_path, monkeypatch):
        async with server.client("admin") as admin, server.client(*MONITORING) as other:
            await admin.execute(DefinePool(pool_id=ResourceAllocator.POOL, capacity=Resources(cpu_millis=100)))
            for task_id in ("mine", "theirs"):
                await admin.execute(SubmitTask(task_id=task_id, task_name="n"))
                await admin.execute(CancelTask(task_id=task_id))
            await other.execute(AllocatePool(pool_id=ResourceAllocator.POOL, request_id="theirs", resources=SHARE))
        monkeypatch.delenv("COORDINATOR_NATS__AUTH")
        monkeypatch.setenv("COORDINATOR_URL", server.url)
        monkeypatch.setenv("COORDINATOR_NATS__CREDS", server.creds(*EXECUTION))
        async with ResourceAllocator() as allocator:
            assert await allocator.request_resources("mine", {"cpu": 0.001})
            assert [one["released"] for one in (await allocator.optimize_allocations())["actions"]] == ["mine"]
            assert set((await allocator.get_resource_status())["allocations"]) == {"theirs"}
            with pytest.raises(Forbidden, match="belongs to monitoring"):
                await allocator.release_resources("theirs")


async def test_the_bytes_of_payloads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large payloads of one source leave room for another's, also after a restart; what ends makes room."""
    monkeypatch.setenv("COORDINATOR_SCHEDULER__MAX_PENDING_BYTES", str(1024 * 1024))
    large = payload_of("x" * 60_000)

    async def until_full(client: Client, name: str) -> int:
        """Submit until it is refused; return how many were accepted."""
        accepted = count()

        async def fill() -> None:
            for number in accepted:
                await client.execute(SubmitTask(task_id=f"{name}{number}", task_name="n", payload=large))

        with pytest.raises(Refused, match=r"scheduler.max_pending_bytes") as refused:
            await fill()
        assert refused.value.reason == "queue_full"
        return next(accepted) - 1

    async with secured(tmp_path / "auth", USERS) as server:
        async with leading(server, tmp_path, monkeypatch), server.client(*EXECUTION) as client:
            assert await until_full(client, "e") == 8
            assert (await client.execute(GetStats())).pending_bytes == 8 * 60_002
        async with (
            leading(server, tmp_path, monkeypatch),
            server.client(*EXECUTION) as client,
            server.client(*MONITORING) as other,
        ):
            assert await until_full(client, "f") == 0
            await client.execute(SubmitTask(task_id="e0", task_name="n", payload=large))
            await client.execute(SubmitTask(task_id="small", task_name="n", payload=payload_of(1)))
            assert await until_full(other, "m") == 4
            await client.execute(CancelTask(task_id="e0"))
            assert await until_full(client, "g") == 0
            for number in range(1, 5):
                await client.execute(CancelTask(task_id=f"e{number}"))
            assert await until_full(client, "h") == 3
            await client.execute(CancelTask(task_id="h0"))
            assert (await client.execute(GetStats())).pending_bytes == 9 * 60_002
