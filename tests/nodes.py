"""The agent of a node, on a runtime of the test's choice."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.node.node_agent import NodeAgent
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.client.client import Client
    from coordinator.runtime.protocol import Runtime

PATIENCE_S = 20.0


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
