"""
Returned agent: a node agent is killed, its container moves, the agent comes back and stops the old generation.

One coordinator, two node agents and the built-in agent with handlers, each in its own process. On its way out the old
generation must not deregister the service of the new one nor drain its worker: discovery always offers the agent that
runs, and every task is executed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.commands.container import CreateContainer, DestroyContainer, GetContainer, StartContainer
from coordinator.commands.node import ListNodes
from coordinator.commands.payloads import payload_of
from coordinator.commands.service import FindServices
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.commands.worker import ListWorkers
from coordinator.task_groups import task_group
from events.service import ServiceStatus
from events.task import TaskStatus
from projections.worker import WorkerStatus
from tests.faults.instances import PATIENCE_S, Instance, instances, led_by
from tests.faults.outcome import spread_of
from tests.real_server import real_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.container import Container
    from projections.worker import WorkerState

_POLL_S = 0.05
CONTAINER_ID = "moved"
EXECUTED_WITHIN_S = 10.0
_HANDLERS = """
from coordinator.worker import task

@task("echo")
def echo(payload):
    return payload
"""


class Node(Instance):
    """One `coordinator node run`, named like its home."""

    def __init__(self, home: Path, url: str, *, environment: dict[str, str]) -> None:
        super().__init__(home, url, environment=environment)
        self._arguments = ["node", "run", "--id", home.name, "--stop-containers"]


async def run(times: int = 10, *, node_lease_s: int = 3) -> dict[str, Any]:
    """Kill the node agent that serves the container *times* times, and let it come back after the container moved."""
    with tempfile.TemporaryDirectory(prefix="coordinator-returned-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        (handlers := Path(folder) / "echo_handlers.py").write_text(_HANDLERS)
        environment = {
            "COORDINATOR_NODE__NODE_LEASE_S": str(node_lease_s),
            "COORDINATOR_NODE__SYNC_INTERVAL_S": str(node_lease_s / 15),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, 1, environment=environment) as (coordinator,),
            Client.open(server.url, source="faults") as client,
        ):
            await coordinator.start()
            await led_by(client, coordinator)
            nodes = [Node(Path(folder) / name, server.url, environment=environment) for name in ("node_a", "node_b")]
            try:
                for node in nodes:
                    await node.start()
                return await _judge(_Scene(client, {node.home.name: node for node in nodes}), handlers, times)
            finally:
                with suppress(Exception):  # the outcome is known; what is left is stopped with its node
                    await client.execute(DestroyContainer(container_id=CONTAINER_ID, force=True))
                for node in nodes:
                    await node.close()


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if no old generation harmed the new one."""
    return result["moves"] > 0 and not any(result[name] for name in ("not_offered", "not_active", "not_executed"))


class _Scene:
    """The container, and what the coordinator says of it."""

    def __init__(self, client: Client, nodes: dict[str, Node]) -> None:
        self.client = client
        self.nodes = nodes

    async def container(self) -> Container:
        found: Container = await self.client.execute(GetContainer(container_id=CONTAINER_ID))
        return found

    async def until(self, is_so: Callable[[Container], bool]) -> Container:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so(found := await self.container()):  # noqa: ASYNC110  # it is asked
                await asyncio.sleep(_POLL_S)
        return found

    async def is_offered(self, node_id: str) -> bool:
        """Whether discovery offers exactly the agent on that node."""
        found = await self.client.execute(FindServices(service_name="task_agent", status=ServiceStatus.HEALTHY))
        return [one.service.metadata["node_id"] for one in found] == [node_id]

    async def is_active(self) -> bool:
        """Whether its worker may get tasks."""
        workers: list[WorkerState] = await self.client.execute(ListWorkers())
        return [one.status for one in workers] == [WorkerStatus.ACTIVE]

    async def until_serves(self, node_id: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not (await self.is_offered(node_id) and await self.is_active()):  # noqa: ASYNC110  # it is asked
                await asyncio.sleep(_POLL_S)

    async def executes(self, task_id: str) -> bool:
        """Whether a new task is executed soon."""
        await self.client.execute(SubmitTask(task_id=task_id, task_name="echo", payload=payload_of(task_id)))
        task = await self.client.execute(GetTask(task_id=task_id, wait_s=EXECUTED_WITHIN_S))
        return bool(task.status is TaskStatus.COMPLETED)


async def _judge(scene: _Scene, handlers: Path, times: int) -> dict[str, Any]:
    began = time.monotonic()
    execute, moved_s = scene.client.execute, list[float]()
    harm = dict.fromkeys(("not_offered", "not_active", "not_executed"), 0)
    async with asyncio.timeout(PATIENCE_S):
        while len(await execute(ListNodes())) < len(scene.nodes):  # noqa: ASYNC110  # it is asked
            await asyncio.sleep(_POLL_S)
    await execute(
        CreateContainer(
            container_id=CONTAINER_ID,
            agent_id="agent",
            agent_type="task_agent",
            environment={"COORDINATOR_HANDLERS": str(handlers)},
        )
    )
    await execute(StartContainer(container_id=CONTAINER_ID))
    for number in range(times):
        before = await scene.until(lambda one: one.status.value == "running")
        await scene.until_serves(before.node_id)
        killed = scene.nodes[before.node_id]
        at = time.monotonic()
        await killed.kill()
        after = await scene.until(
            lambda one, old=before: one.generation != old.generation and one.status.value == "running"  # type: ignore[misc]
        )
        await scene.until_serves(after.node_id)
        moved_s.append(time.monotonic() - at)
        async with task_group() as tasks:
            tasks.create_task(killed.start())
            tasks.create_task(_ended(before.pid))
        harm["not_offered"] += not await scene.is_offered(after.node_id)
        harm["not_active"] += not await scene.is_active()
        harm["not_executed"] += not await scene.executes(f"after_{number}")
    return {"moves": len(moved_s), "moved_s": spread_of(moved_s), **harm, "took_s": round(time.monotonic() - began, 1)}


async def _ended(pid: int) -> None:
    """Wait until the old generation has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240  # a process that is not ours
            await asyncio.sleep(_POLL_S)
