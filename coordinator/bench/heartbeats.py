"""
Measure the cost of heartbeats from many services: the share of a core used by the coordinator and by the server.

The heartbeats come over NATS from another process. They must add no commit to the journal, and every service must stay
healthy.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from coordinator.bench.bare import bare_figures
from coordinator.bench.loads import STOP_GRACE_S, register_services
from coordinator.bench.measure import cpu_shares, machine, measured_cluster
from coordinator.bus.streams import stream_info
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.guard import spawn
from coordinator.journal.stream import NatsJournal

if TYPE_CHECKING:
    from coordinator.processes.up import Cluster

PERIOD_S = 10
SILENT_S = 25
"""A service without a heartbeat for this long becomes unhealthy; the measurement takes longer."""


async def run(*, services: int, seconds: int) -> dict[str, Any]:
    """
    Send a heartbeat for each of *services* services every 10 s; measure for *seconds* seconds after the first round.

    Returns shares of a core, `coordinator_cpu`, `nats_server_cpu` and their sum; heartbeats per second; the number of
    services that became unhealthy and of commits made during the measurement, both of which should be 0.
    """
    async with measured_cluster(
        COORDINATOR_REGISTRY__HEARTBEAT_TIMEOUT=str(SILENT_S), COORDINATOR_REGISTRY__MAX_SERVICES=str(services + 1)
    ) as cluster:
        async with Client.open(cluster.url, source="bench") as client:
            await register_services(client, services)
            argv = [sys.executable, "-P", "-m", "coordinator.bench.beats", str(services), str(PERIOD_S)]
            env = {**os.environ, "COORDINATOR_URL": cluster.url}
            nowhere = subprocess.DEVNULL
            async with await spawn(argv, env=env, stdout=nowhere, stderr=nowhere, grace_s=STOP_GRACE_S):
                await asyncio.sleep(PERIOD_S)
                seen = await _measure(client, cluster, seconds)
            healthy = (await client.execute(GetStats())).services.get("healthy", 0)
        alone = await bare_figures(cluster.url)
    return {
        "services": services,
        "seconds": seconds,
        **seen,
        "lost_health": services - healthy,
        **alone,
        "machine": await machine(),
    }


async def _measure(client: Client, cluster: Cluster, seconds: int) -> dict[str, Any]:
    journal = NatsJournal(client.bus, client.subjects)
    pids = {"coordinator": cluster.programs["coordinator"].pid or 0, "nats_server": cluster.server.pid}
    commits, beats = (await journal.bounds()).last, await _beats(client)
    shares = await cpu_shares(pids, seconds)
    return {
        "beats_per_s": round((await _beats(client) - beats) / seconds),
        **{f"{name}_cpu": round(share, 4) for name, share in shares.items()},
        "both_cpu": round(sum(shares.values()), 4),
        "commits": (await journal.bounds()).last - commits,
    }


async def _beats(client: Client) -> int:
    """Return the number of heartbeats the server has received so far."""
    info = await stream_info(client.bus, client.subjects.stream_heartbeats, timeout_s=5.0)
    return int(info["state"]["last_seq"])
