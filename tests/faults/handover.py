"""
Handover: the writer is stopped, as in a rolling upgrade. How long do clients wait for an answer?

Three coordinators as processes, each with its follower. The current leader gets SIGTERM while clients call without
pause, hands over, and is started again as a standby.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from coordinator.client.client import Client
from tests.faults.instances import PATIENCE_S, instances, led_by, start_all
from tests.faults.outcome import Outcome, promises_kept, spread_of, under_calls
from tests.faults.wiretap import feed_lacks
from tests.real_server import real_server

TARGET_S = 1.0
EVERY_S = 0.01
"""Interval between calls: the resolution of a measured gap."""
SETTLED_S = 0.5


async def run(times: int = 20, *, count: int = 3) -> dict[str, Any]:
    """Let *count* coordinators hand over *times* times; a gap is the longest time without an answer."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="coordinator-handover-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, count, with_follower=True) as all_of_them,
        ):
            async with Client.open(server.url, source="starter") as starter:
                await start_all(all_of_them, starter)
            writer, codes = all_of_them[0], list[int]()
            async with under_calls(outcome, server.url, every_s=EVERY_S) as (client, calls):
                for _ in range(times):
                    await asyncio.sleep(SETTLED_S)
                    began = time.monotonic()
                    codes.append(await writer.stop())
                    others = [one for one in all_of_them if one is not writer]
                    leads = await led_by(client, *others)
                    await asyncio.sleep(SETTLED_S)
                    outcome.seconds.append(calls.longest_gap_s(began, time.monotonic()))
                    await writer.start()
                    await writer.stood_by()
                    writer = leads
            lacks = await feed_lacks(server.url, PATIENCE_S)
    return {
        "target_s": TARGET_S,
        "handovers": len(outcome.seconds),
        "gap_s": spread_of(outcome.seconds),
        "feed_lacks": lacks,
        "ended_with_errors": sum(code != 0 for code in codes),
        **outcome.told(),
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if the gap was short and no call got an error or a wrong answer."""
    return (
        promises_kept(result)
        and result["handovers"] > 0
        and not result["ended_with_errors"]
        and not result["feed_lacks"]
        and result["gap_s"]["median"] < TARGET_S
    )
