"""
Outages longer than the lease of a node: afterwards everything that should run runs again, and nobody had to ask.

The containers are the built-in agent, which exits with 0 on SIGTERM. The coordinator is stopped (SIGSTOP) or killed, or
the node agent is, each for *seconds*.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.node import ListNodes
from events.container import ContainerStatus
from projections.node import NodeStatus
from tests.faults.instances import Instance, instances
from tests.faults.nodes import NodeProcess, closed_after
from tests.real_server import real_server

if TYPE_CHECKING:
    from projections.container import Container

PATIENCE_S = 60.0
KINDS = ("coordinator_stopped", "coordinator_killed", "node_stopped", "node_killed")
_POLL_S = 0.1


async def run(containers: int = 3, *, seconds: int = 18, lease_s: int = 15) -> dict[str, Any]:
    """Make every kind of outage, one after the other, and look for *containers* containers after each."""
    environment = {"COORDINATOR_NODE__NODE_LEASE_S": str(lease_s)}
    environment["COORDINATOR_NODE__SYNC_INTERVAL_S"] = str(lease_s / 15)
    with tempfile.TemporaryDirectory(prefix="coordinator-outage-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, 1, environment=environment) as (coordinator,),
            Client.open(server.url, source="outage") as client,
        ):
            client.call_timeout_s = PATIENCE_S
            node = NodeProcess(Path(folder) / "node", server.url, "node", environment=environment)
            async with closed_after(node):
                await coordinator.start()
                await node.start()
                ids = [f"ctr_{number}" for number in range(containers)]
                await _start(client, ids)
                outcome = {
                    kind: await _outage(kind, client, coordinator, node, seconds, lease_s, ids) for kind in KINDS
                }
    return {"containers": containers, "seconds": seconds, "lease_s": lease_s, "after": outcome}


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if after each outage all containers ran again, none of them counted as failed."""
    after = result["after"].values()
    return (
        len(after) == len(KINDS)
        and all(one["running"] == result["containers"] and one["failures"] == 0 for one in after)
        and any(one["restarted"] for one in after)
    )


async def _start(client: Client, ids: list[str]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not [one for one in await client.execute(ListNodes()) if one.status is NodeStatus.READY]:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
    for container_id in ids:
        await client.execute(CreateContainer(container_id=container_id, agent_id=container_id, agent_type="task_agent"))
        await client.execute(StartContainer(container_id=container_id))
    async with asyncio.timeout(PATIENCE_S):
        while not all(one.status is ContainerStatus.RUNNING for one in await _states(client, ids)):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)


async def _outage(
    kind: str,
    client: Client,
    coordinator: Instance,
    node: NodeProcess,
    seconds: int,
    lease_s: int,
    ids: list[str],
) -> dict[str, Any]:
    """Make one outage; return how many containers run soon after it, and what was recorded of them."""
    loop = asyncio.get_running_loop()
    before = await _states(client, ids)
    victim = coordinator if kind.startswith("coordinator") else node
    await _away(victim, kind, seconds)
    ended, deadline = loop.time(), loop.time() + PATIENCE_S
    # It answers again, and has heard the node at least once since: what it says now is not from before the outage.
    await client.execute(GetStats())
    await asyncio.sleep(min(5.0, lease_s / 2))
    while True:
        states = await _states(client, ids)
        running = sum(one.status is ContainerStatus.RUNNING for one in states)
        if running == len(ids) or loop.time() >= deadline:
            break
        await asyncio.sleep(_POLL_S)
    return {
        "running": running,
        "restarted": sum(one.generation != was.generation for one, was in zip(states, before, strict=True)),
        "failures": sum(one.failures - was.failures for one, was in zip(states, before, strict=True)),
        "after_s": round(loop.time() - ended, 1),
    }


async def _away(victim: Instance, kind: str, seconds: int) -> None:
    if kind.endswith("stopped"):
        victim.freeze()
        await asyncio.sleep(seconds)
        victim.thaw()
    else:
        await victim.kill()
        await asyncio.sleep(seconds)
        await victim.start()


async def _states(client: Client, ids: list[str]) -> list[Container]:
    return [await client.execute(GetContainer(container_id=one)) for one in ids]
