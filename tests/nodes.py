"""The agent of a node, on a runtime of the test's choice, and what becomes of containers there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.nodes import ask_node
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer, StopContainer
from coordinator.commands.node import NodeQuestion
from coordinator.node.node_agent import NodeAgent
from events.container import ContainerStatus
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from coordinator.client.client import Client
    from coordinator.runtime.protocol import Runtime
    from projections.container import Container

PATIENCE_S = 20.0
REAL_PATIENCE_S = 60.0
"""The same with real engines, which are slow beside others."""


@asynccontextmanager
async def serving(
    client: Client, machine: Runtime, *, secrets: Path = Path("secrets"), **options: Any
) -> AsyncIterator[NodeAgent]:
    """Serve the node `n` while the block runs, from its first answered sync on."""
    async with NodeAgent.open(
        client,
        machine,
        node_id="n",
        capacity=Resources(cpu_millis=4000, memory_bytes=2**30),
        reach={},
        secrets=secrets,
        interval_s=0.1,
        **options,
    ) as agent:
        await asyncio.wait_for(agent.ready.wait(), PATIENCE_S)
        yield agent


async def started(client: Client, container_id: str, agent_type: str) -> None:
    """Create and start a container with limits that a shell can live in."""
    resources = Resources(cpu_millis=500, memory_bytes=128 * 2**20)
    await client.execute(
        CreateContainer(container_id=container_id, agent_id="a", agent_type=agent_type, resources=resources)
    )
    await client.execute(StartContainer(container_id=container_id))


async def until(client: Client, container_id: str, is_so: Callable[[Container], bool]) -> Container:
    """Wait until it is so of a container, and return the container."""
    async with asyncio.timeout(REAL_PATIENCE_S):
        while True:
            found = await client.execute(GetContainer(container_id=container_id))
            if is_so(found):
                return found
            await asyncio.sleep(0.05)


async def runs_and_stops(client: Client, agent_type: str) -> None:
    """Start a container that writes its id, ask for its output and usage, and stop it."""
    await started(client, "c", agent_type)
    await until(client, "c", lambda one: one.status is ContainerStatus.RUNNING)
    asked = NodeQuestion(container_id="c", lines=5)
    async with asyncio.timeout(REAL_PATIENCE_S):
        while await ask_node(client, "n", "logs", asked) != ["c"]:  # noqa: ASYNC110 - nobody tells of lines
            await asyncio.sleep(0.05)
    assert (await ask_node(client, "n", "usage", asked))["pids"] >= 1
    await client.execute(StopContainer(container_id="c"))
    await until(client, "c", lambda one: one.status is ContainerStatus.STOPPED)


async def is_a_failure_by_oom(client: Client, agent_type: str) -> None:
    """Start a container that needs more memory than it may have; the cause reaches the journal."""
    await started(client, "greedy", agent_type)
    failed = await until(client, "greedy", lambda one: one.status is ContainerStatus.ERROR)
    assert failed.last_exit is not None
    assert failed.last_exit.cause == "oom"


async def is_refused(client: Client, agent_type: str) -> str:
    """Start a container that its node cannot start, and return why."""
    await started(client, agent_type, agent_type)
    return (await until(client, agent_type, lambda one: one.status is ContainerStatus.ERROR)).reason
