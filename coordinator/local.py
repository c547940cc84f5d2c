"""
A whole cluster in one process: the real nats-server, a coordinator, a follower, and a node agent with the process runtime.

What `embedded` programs and tests stand on. The parts are the same as in `coordinator up`, and meet through NATS all the same;
only the engine may also be asked directly.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from coordinator import __version__
from coordinator.client import Client
from coordinator.embedded import EmbeddedServer
from coordinator.follower import Follower
from coordinator.groups import task_group
from coordinator.home import Home
from coordinator.node import NodeAgent, machine_capacity, open_runtime
from coordinator.serve import Coordinator, Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LEAD_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 10.0


@asynccontextmanager
async def local_cluster(folder: Path, settings: Any) -> AsyncIterator[tuple[Coordinator, Client]]:
    """
    Run everything in *folder* while the block runs.

    Raises:
        Refused: no usable nats-server, or the folder is in use.
        Unavailable: something did not come up in time.
    """
    home = Home(folder)
    async with EmbeddedServer(home.nats_store) as server, task_group() as tasks:
        coordinator = Coordinator(instance_of(settings, url=server.url, name=home.instance("coordinator")))
        serving = tasks.create_task(coordinator.run())
        async with asyncio.timeout(LEAD_TIMEOUT_S):
            await _either(coordinator.leading.wait(), serving)
        try:
            async with (
                Client.open(server.url, namespace=settings.namespace, name="app") as client,
                Follower.open(server.url, home.state_db, namespace=settings.namespace),
                open_runtime(settings.node.runtime, home, namespace=settings.namespace) as runtime,
                NodeAgent.open(
                    client,
                    runtime,
                    node_id=home.instance("node"),
                    capacity=machine_capacity(),
                    url=server.url,
                    secrets=home.path / "secrets",
                ) as node,
            ):
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await node.ready.wait()
                try:
                    yield coordinator, client
                finally:
                    await node.stop_all()
        finally:
            coordinator.stop("closed")
            await asyncio.wait([serving])


async def _either(first: Any, task: asyncio.Task[None]) -> None:
    """Wait for *first*, or for *task* to fail before it comes."""
    waiting = asyncio.ensure_future(first)
    done, _ = await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        waiting.cancel()
        task.result()


def instance_of(settings: Any, *, url: str, name: str) -> Instance:
    """Make an instance's description from the settings."""
    return Instance(
        url=url,
        name=name,
        version=__version__,
        namespace=settings.namespace,
        creds=settings.nats.creds,
        tls_ca=settings.nats.tls_ca,
        replicas=settings.nats.replicas,
        rules=settings.rules(),
        limits=settings.limits(),
        lease_ttl_s=settings.leadership.ttl_s,
        lease_renew_s=settings.leadership.renew_s,
        lease_fresh_s=settings.leadership.fresh_s,
    )
