"""
A whole cluster in one process: the real nats-server, a coordinator, a follower and a node agent.

`embedded` programs and tests use it. The parts are the same as in `coordinator up` and also communicate over NATS; only
the engine can be called directly, too.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from coordinator.client.client import Client
from coordinator.home import Home
from coordinator.leadership.coordinator import Coordinator
from coordinator.nats_server.keep import keep_serving
from coordinator.nats_server.server import EmbeddedServer
from coordinator.processes.coordinator import instance_of, log_without_effect
from coordinator.processes.credentials import patience
from coordinator.processes.follower import open_follower
from coordinator.processes.node import open_node
from coordinator.task_groups import task_group
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.settings.model import Settings

LEAD_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 10.0


@asynccontextmanager
async def local_cluster(folder: Path, settings: Settings) -> AsyncIterator[tuple[Coordinator, Client]]:
    """
    Run the cluster in *folder* while the block runs.

    Raises:
        Refused: no usable nats-server, or the folder is in use.
        Unavailable: a part was not ready in time.
    """
    home = Home(folder)
    log_without_effect(settings)
    async with EmbeddedServer(home.nats_store) as server, task_group() as tasks:
        coordinator = Coordinator(instance_of(settings, url=server.url, name=home.instance("coordinator"), home=home))
        keeping = tasks.create_task(keep_serving(server))
        serving = tasks.create_task(coordinator.run())
        try:
            await _within(LEAD_TIMEOUT_S, coordinator.leading, "lead")
            async with (
                Client.open(server.url, namespace=settings.namespace, name="app", **patience(settings)) as client,
                open_follower(settings, server.url, home, client, {}),
                open_node(settings, home, client, {"COORDINATOR_URL": server.url}) as node,
            ):
                await _within(READY_TIMEOUT_S, node.ready, "register its node")
                try:
                    yield coordinator, client
                finally:
                    await node.stop_all()
        finally:
            coordinator.stop("closed")
            await asyncio.wait([serving])
            keeping.cancel()


async def _within(timeout_s: float, event: asyncio.Event, what: str) -> None:
    """Wait for *event*; a failing part cancels this wait, since both are in the task group."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        msg = f"the coordinator of this process did not {what} within {timeout_s:g} s"
        raise Unavailable(msg, reason="timeout") from None
