"""
Heartbeats of many services from one process: `python -m coordinator.bench.beats SERVICES PERIOD_S`.

Each service sends one heartbeat per period to the coordinator at COORDINATOR_URL, spread evenly over the period, until
the process is stopped or its parent dies.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from coordinator.bench.loads import service_ids
from coordinator.client.client import Client
from coordinator.settings.load import load
from coordinator.stop_signals import stop_on_signals
from coordinator.task_groups import task_group

STEP_S = 0.01


async def beat(services: int, period_s: float) -> None:
    """Send heartbeats until stopped."""
    stop = asyncio.Event()
    namespace = load().namespace
    async with (
        stop_on_signals(lambda _: stop.set(), stop.set),
        Client.open(os.environ["COORDINATOR_URL"], source="bench", namespace=namespace) as client,
        task_group() as tasks,
    ):
        beating = tasks.create_task(_keep_beating(client, service_ids(services), period_s))
        await stop.wait()
        beating.cancel()


async def _keep_beating(client: Client, ids: list[str], period_s: float) -> None:
    began, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * len(ids) / period_s)
        while sent < due:
            client.beat_service(ids[sent % len(ids)], load=0.5, connections=3)
            sent += 1
        await asyncio.sleep(STEP_S)


if __name__ == "__main__":
    asyncio.run(beat(int(sys.argv[1]), float(sys.argv[2])))
