"""The built-in agent as a process: registered within a moment, works when it has handlers, and exits cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.node import ObservedContainer, RegisterNode, SyncNode
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.service import DeregisterService, FindServices
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.commands.worker import DrainWorker, ListWorkers
from coordinator.deciders.rules import Rules
from coordinator.guard import Child, spawn
from coordinator.task_groups import task_group
from events.base import Position
from events.resources import Resources
from events.service import ServiceStatus
from events.task import TaskStatus
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from coordinator.commands.service import ServiceView
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 20.0

HANDLERS = """
import asyncio
from coordinator.worker import task

@task("double")
def double(payload):
    return payload * 2

@task("nap")
async def nap(payload):
    await asyncio.sleep(payload)
"""


def environment(url: str, **more: str) -> dict[str, str]:
    """The environment a node agent gives to a container."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COORDINATOR_URL": url,
        "COORDINATOR_NAMESPACE": "coordination",
        "COORDINATOR_CONTAINER_ID": "agent-1",
        "COORDINATOR_AGENT_TYPE": "task_agent",
        "COORDINATOR_NODE_ID": "node-1",
        **more,
    }


@asynccontextmanager
async def agent(url: str, *, first: str = "", **more: str) -> AsyncIterator[Child]:
    """Run an agent; *first* is a statement executed before it, for example to shorten its pauses."""
    begin = ["-c", f"{first}; import coordinator.agent; coordinator.agent.main()"]
    argv = [sys.executable, *(begin if first else ["-m", "coordinator.agent"])]
    async with await spawn(argv, env=environment(url, **more), grace_s=PATIENCE_S) as child:
        yield child


async def offered(cluster: Cluster) -> list[ServiceView]:
    found: list[ServiceView] = await cluster.client.execute(FindServices(service_name="task_agent"))
    return found


async def until_offered(cluster: Cluster, is_so: Callable[[list[ServiceView]], bool] = bool) -> list[ServiceView]:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so(found := await offered(cluster)):  # noqa: ASYNC110  # what is asked for has no event
            await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def synced(cluster: Cluster, node_id: str, running: ObservedContainer) -> AsyncIterator[None]:
    """Report for a node while the block runs, however slow the machine is."""

    async def again_and_again() -> None:
        while True:
            await cluster.client.execute(SyncNode(node_id=node_id, observed=(running,)))
            await asyncio.sleep(0.2)

    async with task_group() as tasks:
        reporting = tasks.create_task(again_and_again())
        try:
            yield
        finally:
            reporting.cancel()


async def run_task(cluster: Cluster, task_id: str, payload: object, name: str = "double") -> None:
    await cluster.client.execute(SubmitTask(task_id=task_id, task_name=name, payload=payload_of(payload)))


@pytest.mark.alone
async def test_an_agent_is_offered_soon_and_withdrawn_at_its_end(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """The agent is HEALTHY within two seconds and reports its endpoint; SIGTERM deregisters it and it exits with 0."""
    began = time.monotonic()
    async with agent(cluster.url) as child:
        (found,) = await until_offered(cluster)
        took_s = time.monotonic() - began
        assert (found.service.service_id, found.service.container_id) == ("agent-1", "agent-1")
        assert (found.service.status, found.service.host, found.service.port) == (ServiceStatus.HEALTHY, "127.0.0.1", 0)
        assert (found.service.service_type, found.service.worker_id) == ("agent", "")
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert await offered(cluster) == []
    record_property("healthy_after_s", round(took_s, 3))
    assert took_s < 2.0


async def test_an_agent_with_handlers_executes_tasks(cluster: Cluster, tmp_path: Path) -> None:
    """The agent is a worker named like its container, and its heartbeats report how many tasks it runs."""
    (tmp_path / "agent_handlers.py").write_text(HANDLERS)
    more = {"COORDINATOR_HANDLERS": str(tmp_path / "agent_handlers.py"), "COORDINATOR_WORKER_SLOTS": "2"}
    async with agent(cluster.url, **more) as child:
        await run_task(cluster, "one", 21)
        done = await cluster.client.execute(GetTask(task_id="one", wait_s=PATIENCE_S))
        assert (done.status, done.worker_id, value_of(done.result)) == (TaskStatus.COMPLETED, "agent-1", 42)
        (worker,) = await cluster.client.execute(ListWorkers())
        assert (worker.worker_id, worker.slots, worker.container_id) == ("agent-1", 2, "agent-1")
        assert worker.handles == ("double", "nap")
        await run_task(cluster, "long", 2.5, name="nap")
        (busy,) = await until_offered(
            cluster, lambda found: any(one.reported and one.reported.connections == 1 for one in found)
        )
        assert (busy.service.worker_id, busy.reported and busy.reported.load) == ("agent-1", 0.5)
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert (await cluster.client.execute(GetTask(task_id="long"))).status is TaskStatus.COMPLETED
    assert await offered(cluster) == []


async def test_an_agent_outlives_its_coordinator_and_its_connection(cluster: Cluster, tmp_path: Path) -> None:
    """After a takeover and a killed nats-server the agent is registered as before and executes new tasks."""
    (tmp_path / "agent_handlers.py").write_text(HANDLERS)
    async with agent(cluster.url, COORDINATOR_HANDLERS=str(tmp_path / "agent_handlers.py")):
        await until_offered(cluster)
        await cluster.crash()
        await cluster.start()
        await run_task(cluster, "one", 1)
        await cluster.client.execute(GetTask(task_id="one", wait_s=PATIENCE_S))
        await cluster.restart_nats()
        await run_task(cluster, "two", 2)
        done = await cluster.client.execute(GetTask(task_id="two", wait_s=PATIENCE_S))
        assert (done.status, value_of(done.result)) == (TaskStatus.COMPLETED, 4)
        assert [one.service.status for one in await offered(cluster)] == [ServiceStatus.HEALTHY]


async def test_an_agent_whose_worker_is_drained_stays_offered(cluster: Cluster, tmp_path: Path) -> None:
    """Draining a worker does not stop its container: a process that ended would be restarted, not drained."""
    (tmp_path / "agent_handlers.py").write_text(HANDLERS)
    first = "from coordinator.worker import claiming; claiming.CLAIM_WAIT_S = 0.5"
    async with agent(cluster.url, first=first, COORDINATOR_HANDLERS=str(tmp_path / "agent_handlers.py")) as child:
        await run_task(cluster, "one", 1)
        await cluster.client.execute(GetTask(task_id="one", wait_s=PATIENCE_S))
        await cluster.client.execute(DrainWorker(worker_id="agent-1"))
        await run_task(cluster, "two", 2)
        async with asyncio.timeout(PATIENCE_S):
            while (await cluster.client.execute(ListWorkers()))[0].status is not WorkerStatus.LEFT:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert len(await offered(cluster)) == 1
        assert (await cluster.client.execute(GetTask(task_id="two"))).status is TaskStatus.PENDING
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0


@pytest.mark.parametrize("cluster", [Rules(node_lease_s=1.0, lease_s=60.0)], indirect=True)
async def test_an_old_generation_does_not_harm_the_new_one(cluster: Cluster, tmp_path: Path) -> None:
    """
    A node agent that had died comes back after its container has moved, and stops the old generation.

    On its way out the old one deregisters no service and drains no worker, and it cannot register again.
    """
    (tmp_path / "agent_handlers.py").write_text(HANDLERS)
    handlers = {"COORDINATOR_HANDLERS": str(tmp_path / "agent_handlers.py")}
    execute = cluster.client.execute
    capacity = Resources(cpu_millis=4000, memory_bytes=2**32)
    await execute(RegisterNode(node_id="node-1", capacity=capacity, runtime="process"))
    await execute(CreateContainer(container_id="agent-1", agent_id="a", agent_type="task_agent"))
    old = (await execute(StartContainer(container_id="agent-1"))).generation
    running = ObservedContainer(container_id="agent-1", generation=old, state="running")
    first = "import coordinator.agent as agent; agent.REGISTER_EVERY_S = 5.0"
    async with agent(cluster.url, first=first, COORDINATOR_GENERATION=old, **handlers) as left_over:
        async with synced(cluster, "node-1", running):
            await until_offered(cluster)
        await execute(RegisterNode(node_id="node-2", capacity=capacity, runtime="process"))
        async with asyncio.timeout(PATIENCE_S):
            while (new := (await execute(GetContainer(container_id="agent-1"))).generation) == old:
                await execute(SyncNode(node_id="node-2"))
                await asyncio.sleep(0.1)
        running = ObservedContainer(container_id="agent-1", generation=new, state="running")
        async with (
            synced(cluster, "node-2", running),
            agent(cluster.url, COORDINATOR_NODE_ID="node-2", COORDINATOR_GENERATION=new, **handlers),
        ):
            await until_offered(cluster, lambda found: [one.service.metadata["node_id"] for one in found] == ["node-2"])
            async with asyncio.timeout(PATIENCE_S):
                while (await execute(ListWorkers()))[0].registered < Position.parse(new):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            os.kill(left_over.pid, signal.SIGTERM)
            await asyncio.wait_for(left_over.wait(), PATIENCE_S)
            await run_task(cluster, "one", 21)
            done = await execute(GetTask(task_id="one", wait_s=PATIENCE_S))
            assert (done.status, value_of(done.result)) == (TaskStatus.COMPLETED, 42)
            assert [one.service.status for one in await offered(cluster)] == [ServiceStatus.HEALTHY]
            (worker,) = await execute(ListWorkers())
            assert worker.status is WorkerStatus.ACTIVE
            async with agent(cluster.url, COORDINATOR_GENERATION=old, **handlers) as late:
                assert await asyncio.wait_for(late.wait(), PATIENCE_S) == 1
            assert [one.service.metadata["node_id"] for one in await offered(cluster)] == ["node-2"]


async def test_an_agent_that_was_taken_off_comes_back(cluster: Cluster) -> None:
    """The agent registers again from time to time, so a registry that lost it learns of it again."""
    first = "import coordinator.agent as agent; agent.BEAT_S = 0.05; agent.REGISTER_EVERY_S = 0.2"
    async with agent(cluster.url, first=first):
        await until_offered(cluster)
        await cluster.client.execute(DeregisterService(service_id="agent-1"))
        await until_offered(cluster)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"COORDINATOR_CONTAINER_ID": ""}, "COORDINATOR_CONTAINER_ID must be set"),
        ({"COORDINATOR_WORKER_SLOTS": "many"}, "COORDINATOR_WORKER_SLOTS 'many' is not a number"),
        ({"COORDINATOR_HANDLERS": "nowhere_at_all"}, "module 'nowhere_at_all' not found"),
        ({}, "no NATS server at 127.0.0.1:1"),
    ],
)
def test_an_agent_that_cannot_be_one_says_why(more: dict[str, str], why: str) -> None:
    """An agent that cannot start logs one line on standard error that says why, and exits with 1."""
    ran = subprocess.run(
        [sys.executable, "-m", "coordinator.agent"],
        env=environment("nats://127.0.0.1:1", **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert why in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr
