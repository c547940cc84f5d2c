"""
Container ends: what is in a container ends or waits with it, at once, however it ends.

Built-in agents run a long task each. Their containers are destroyed, killed, or paused and resumed, one by one. From
the commit that says so on, discovery must not offer the agent, and its task must run elsewhere, or wait.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    GetContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
)
from coordinator.commands.node import ListNodes
from coordinator.commands.payloads import payload_of
from coordinator.commands.service import FindServices
from coordinator.commands.task import CancelTask, GetTask, SubmitTask
from events.container import ContainerStatus
from events.service import ServiceStatus
from events.task import TaskStatus
from projections.node import NodeStatus
from tests.faults.instances import instances, led_by
from tests.faults.nodes import NodeProcess, closed_after
from tests.real_server import real_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from events.container import Secret
    from projections.node import Node

PATIENCE_S = 60.0
_POLL_S = 0.02
_HANDLERS = """
import asyncio
from coordinator.worker import task

@task("nap")
async def nap(seconds):
    await asyncio.sleep(seconds)
"""
KINDS = ("destroyed", "killed", "paused")


async def run(times: int = 5) -> dict[str, Any]:
    """End a container in each way *times* times, while its task runs."""
    with tempfile.TemporaryDirectory(prefix="coordinator-ends-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        (handlers := Path(folder) / "nap_handlers.py").write_text(_HANDLERS)
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, 1, environment=environment) as (coordinator,),
            Client.open(server.url, source="faults") as client,
        ):
            await coordinator.start()
            await led_by(client, coordinator)
            node = NodeProcess(Path(folder) / "node", server.url, "node", environment=environment)
            async with closed_after(node):
                await node.start()
                scene = _Scene(client, {"COORDINATOR_HANDLERS": str(handlers)})
                await scene.until(scene.has_node)
                for number in range(times):
                    for kind in KINDS:
                        await scene.play(kind, f"{kind}_{number}")
    return {"times": times, "ended": scene.ended, "still_offered": scene.offered, "still_running": scene.running}


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if nothing of a container that had ended or was paused was offered or ran on."""
    found = (result["ended"], result["still_offered"], result["still_running"])
    return result["times"] > 0 and found == (len(KINDS) * result["times"], 0, 0)


class _Scene:
    """Containers, what is in them, and what was seen of it."""

    def __init__(self, client: Client, environment: dict[str, str | Secret]) -> None:
        self.ended = self.offered = self.running = 0
        self._client = client
        self._environment = environment

    async def until(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await is_so():  # noqa: ASYNC110  # it is asked
                await asyncio.sleep(_POLL_S)

    async def has_node(self) -> bool:
        nodes: list[Node] = await self._client.execute(ListNodes())
        return any(one.status is NodeStatus.READY for one in nodes)

    async def play(self, kind: str, name: str) -> None:
        """Start a container and a task in it, end the container, and look."""
        execute = self._client.execute

        async def is_offered() -> bool:
            found = await execute(FindServices(service_name="task_agent", status=ServiceStatus.HEALTHY))
            return any(one.service.container_id == name for one in found)

        async def status_is(*wanted: ContainerStatus) -> bool:
            return (await execute(GetContainer(container_id=name))).status in wanted

        async def runs_here() -> bool:
            task = await execute(GetTask(task_id=name))
            return bool(task.status is TaskStatus.RUNNING and task.worker_id == name)

        await execute(
            CreateContainer(container_id=name, agent_id=name, agent_type="task_agent", environment=self._environment)
        )
        await execute(StartContainer(container_id=name))
        await self.until(is_offered)
        await execute(SubmitTask(task_id=name, task_name="nap", payload=payload_of(600)))
        await self.until(runs_here)
        if kind == "destroyed":
            await execute(DestroyContainer(container_id=name, force=True))
            await self.until(lambda: status_is(ContainerStatus.DESTROYED))
        elif kind == "killed":
            os.kill((await execute(GetContainer(container_id=name))).pid, signal.SIGKILL)
            await self.until(lambda: status_is(ContainerStatus.ERROR, ContainerStatus.STARTING))
        else:
            await execute(PauseContainer(container_id=name))
            await self.until(lambda: status_is(ContainerStatus.PAUSED))
        self.ended += 1
        self.offered += await is_offered()
        if kind == "paused":  # the attempt waits, and goes on
            self.running += not await runs_here()
            await execute(ResumeContainer(container_id=name))
            await self.until(is_offered)
        else:
            self.running += await runs_here()
        await execute(CancelTask(task_id=name))
        await execute(DestroyContainer(container_id=name, force=True))
        await self.until(lambda: status_is(ContainerStatus.DESTROYED))
