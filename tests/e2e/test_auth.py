"""The whole system on a NATS that allows each role what it needs, and nothing else."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.node import RegisterNode
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.service import FindServices, RegisterService
from coordinator.commands.task import CancelTask, ClaimTasks, GetTask, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.errors import Forbidden, Refused, Unavailable
from coordinator.home import Home
from coordinator.processes.up import run_cluster
from coordinator.security.permissions import user_of
from coordinator.settings.load import load
from coordinator.task_groups import task_group
from coordinator.worker import Worker
from events.container import ContainerStatus
from events.publisher import EventPublisher
from events.resources import NONE
from events.subjects import Subjects
from events.task import TaskStatus
from tests.secured import USERS as SOME_USERS
from tests.secured import Secured, directory_of, secured, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.bus.subscription import Message
    from coordinator.security.permissions import User

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

S = Subjects()
PATIENCE_S = 30.0
RULES = """
security:
  default: {may: []}
  sources:
    execution: {may: [task.*, service.*, container.*, coordinator.stats], tenants: [default], max_pending_tasks: 3}
    monitoring: {may: [task.get]}
"""


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
async def system(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Secured]:
    """A nats-server with users, and everything that `coordinator up` runs, each part as its own user."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    ready: asyncio.Future[Secured] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with secured(tmp_path / "auth", tls=request.param) as server:
            for name, value in {**server.environment, "COORDINATOR_CONFIG": str(rules)}.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("COORDINATOR_HOME", str(tmp_path / "home"))
            async with run_cluster(Home(tmp_path / "home"), load(), quiet=True):
                ready.set_result(server)
                await over.wait()

    living: asyncio.Future[None] = asyncio.ensure_future(live())
    await asyncio.wait((living, ready), return_when=asyncio.FIRST_COMPLETED)
    try:
        if living.done():
            living.result()
        yield ready.result()
    finally:
        over.set()
        await living


async def test_everything_works_under_its_own_user(system: Secured) -> None:
    """Submit, work, discover, contain, publish, follow, watch, query: each by the role meant for it."""
    heard: list[str] = []

    def hear(message: Message) -> None:
        heard.append(message.subject)

    worker = Worker("any", url=system.url, creds=system.creds("worker", "w1"), tls_ca=system.authority, slots=2)
    worker.task("double")(lambda payload: payload * 2)
    async with (
        system.client("domain", "execution") as domain,
        system.client("monitor") as monitor,
        task_group() as tasks,
    ):
        await monitor.bus.subscribe(S.events_all, hear)
        working = tasks.create_task(worker.run())
        await domain.execute(SubmitTask(task_id="t1", task_name="double", payload=payload_of(21)))
        done = await monitor.execute(GetTask(task_id="t1", wait_s=PATIENCE_S))
        assert (done.status, done.worker_id, value_of(done.result)) == (TaskStatus.COMPLETED, "w1", 42)
        assert done.source == "execution"
        await _a_container(domain)
        await _an_inbox(system)
        await _a_reading(monitor)
        await until(lambda: {S.event("task.submitted"), S.event("task.completed")} <= set(heard))
        worker.stop()
        await working
    listed = subprocess.run(  # noqa: ASYNC221  # nothing else runs in this loop
        [sys.executable, "-m", "coordinator.cli", "task", "list", "--json"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert {one["task_id"] for one in json.loads(listed.stdout)} == {"t1", "of-inbox"}


async def _a_container(domain: Client) -> None:
    """What runs in a container registers with credentials of its own."""
    await domain.execute(CreateContainer(container_id="c1", agent_id="a1", agent_type="task_agent"))
    await domain.execute(StartContainer(container_id="c1"))
    question = GetContainer(container_id="c1", unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S)
    assert (await domain.execute(question)).status is ContainerStatus.RUNNING
    async with asyncio.timeout(PATIENCE_S):
        while not await domain.execute(FindServices(service_name="task_agent")):  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.05)


async def _an_inbox(system: Secured) -> None:
    """An inbox is created by the administrator; only its own domain can publish into it."""
    made = [sys.executable, "-m", "coordinator.cli", "inbox", "add", "execution"]
    await asyncio.to_thread(subprocess.run, made, capture_output=True, timeout=60, check=True)
    creds = system.creds("domain", "execution")
    async with EventPublisher.open(system.url, domain="execution", creds=creds, tls_ca=system.authority) as publisher:
        await publisher.publish("task.submitted", {"task_name": "unknown"}, subject="of-inbox")
    async with EventPublisher.open(system.url, domain="monitoring", creds=creds, tls_ca=system.authority) as another:
        with pytest.raises(Refused, match="may not publish on"):
            await another.publish("task.submitted", {"task_name": "unknown"}, subject="forged")
    async with system.client("monitor") as monitor:
        async with asyncio.timeout(PATIENCE_S):
            while (await monitor.execute(GetStats())).tasks["pending"] < 1:  # noqa: ASYNC110  # it is told to nobody
                await asyncio.sleep(0.05)
        assert (await monitor.execute(GetTask(task_id="of-inbox"))).source == "execution"


async def _a_reading(monitor: Client) -> None:
    """Followers answer with the same credentials."""
    subject = monitor.subjects.read(monitor.source, "events")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = json.loads(await monitor.bus.request(subject, b'{"type":"task"}', timeout_s=PATIENCE_S))
            if "ok" in answer and answer["ok"]["events"]:
                break
            await asyncio.sleep(0.05)


async def test_what_is_not_allowed_is_refused_at_once(system: Secured) -> None:
    """The server refuses subjects a role does not have; the coordinator refuses rights a source does not have."""
    async with system.client("worker", "w1") as worker, system.client("domain", "execution") as domain:
        with pytest.raises(Forbidden, match=r"the credentials of worker-w1 do not allow .*\.task\.submit"):
            await worker.execute(SubmitTask(task_id="x", task_name="n"))
        with pytest.raises(Forbidden, match="do not allow"):
            await domain.execute(RegisterNode(node_id="evil", capacity=NONE, runtime="fake"))
        for number in range(3):
            await domain.execute(SubmitTask(task_id=f"q{number}", task_name="nobody"))
        with pytest.raises(Refused, match="3 tasks of source execution are pending"):
            await domain.execute(SubmitTask(task_id="q3", task_name="nobody"))
    async with Client.open(
        system.url, creds=system.creds("domain", "execution"), tls_ca=system.authority, tenant="other"
    ) as foreign:
        with pytest.raises(Forbidden, match="may not act for tenant 'other'"):
            await foreign.execute(SubmitTask(task_id="x", task_name="n"))
    async with system.client("domain", "monitoring") as reader:
        assert (await reader.execute(GetTask(task_id="q0"))).task_id == "q0"
        with pytest.raises(Forbidden, match=r"monitoring may not send task\.cancel, only task\.get"):
            await reader.execute(CancelTask(task_id="q0"))
        with pytest.raises(Forbidden):
            await reader.execute(RegisterService(service_id="s", service_name="s", service_type="t", host="h", port=1))
        with pytest.raises(Forbidden):
            await reader.execute(FindServices())
    cancel = [sys.executable, "-m", "coordinator.cli", "task", "cancel", "q0"]
    await asyncio.to_thread(subprocess.run, cancel, capture_output=True, timeout=60, check=True)


async def test_answers_that_do_not_fit_into_one_message_are_asked_for_again(system: Secured) -> None:
    """An exported service lets one answer message through: what has no room in it comes in the next."""
    large = payload_of("x" * 60_000)
    async with system.client("domain", "execution") as domain:
        await domain.execute(SubmitTask(task_id="large", task_name="nobody", payload=large))
    async with system.client("domain", "monitoring") as reader:
        told = await asyncio.gather(*(reader.execute(GetTask(task_id="large")) for _ in range(60)))
        assert all(task.payload == large for task in told)
    async with system.client("worker", "w1") as worker:
        await worker.execute(RegisterWorker(worker_id="w1"))
        claims = [ClaimTasks(claim_id=f"c{number}", worker_id="w1") for number in range(20)]
        placed = [task.task_id for got in await asyncio.gather(*map(worker.execute, claims)) for task in got]
        assert placed == ["large"]


async def test_a_user_that_is_added_is_taken_up(tmp_path: Path) -> None:
    """Added users are accepted after a reload, which disconnects nobody; before it, or of another authority, never."""
    async with secured(tmp_path) as server:
        creds = server.directory.credentials
        other = directory_of(tmp_path / "other", SOME_USERS)
        with pytest.raises(Refused, match="does not accept the credentials"):
            await _log_in(server, str(other.credentials(_user("admin"))))
        async with server.bus(_user("monitor")) as monitor:
            server.directory.add(_user("worker", "w2"))
            with pytest.raises(Refused, match="does not accept the credentials"):
                await _log_in(server, str(creds(_user("worker", "w2"))))
            server.reload()
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        await _log_in(server, str(creds(_user("worker", "w2"))))
                        break
                    except Refused:
                        await asyncio.sleep(0.05)
            assert monitor.connected


async def test_without_credentials_nobody_gets_in(tmp_path: Path) -> None:
    """Connecting without credentials or with a password is refused; without a trusted CA there is no TLS."""
    async with secured(tmp_path, tls=True) as server:
        for url in (server.url, server.url.replace("tls://", "tls://admin:admin@")):
            with pytest.raises((Refused, Unavailable)):
                async with Bus.open(url, name="t", tls_ca=server.authority, connect_timeout_s=5.0):
                    pass
        with pytest.raises(Unavailable):
            async with Bus.open(server.url, name="t", creds=server.creds("admin"), connect_timeout_s=5.0):
                pass
        async with server.bus(_user("admin")) as bus:
            assert bus.user == "admin"


def _user(role: str, name: str = "") -> User:

    return user_of(role, name)


async def _log_in(server: Secured, creds: str) -> None:
    async with Bus.open(server.url, name="t", creds=creds, tls_ca=server.authority, connect_timeout_s=20.0):
        pass
