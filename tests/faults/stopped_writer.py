"""
A stopped writer: SIGSTOP, a standby takes over, SIGCONT; the one that wakes must change nothing.

It wakes in the middle of whatever it did, its connections still open, with every request in its buffers that clients
have sent meanwhile. Judged from the journal (no commit of its reign behind the next claim) and from the wire (no
request was answered in two ways, nobody was told that something was taken which is not in the journal). Several
independent systems run side by side, for most of it is waiting.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client import Client
from coordinator.groups import task_group
from tests.faults.instances import instances, led_by, start_all
from tests.faults.outcome import Outcome, promises_kept, spread_of, under_calls
from tests.real_server import real_server

if TYPE_CHECKING:
    from tests.faults.instances import Instance

EVERY_S = 0.1
AWAKE_S = 3.0
"""How long one that woke may do what it should not, before the next is stopped."""


async def run(
    times: int = 20, *, stopped_s: int = 60, at_once: int = 10, seed: int = 1, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Stop the writer for *stopped_s* seconds, *times* times in all, in *at_once* systems side by side."""
    outcome = Outcome()
    async with task_group() as tasks:
        for number in range(at_once):
            share = times // at_once + (number < times % at_once)
            rng = random.Random(seed * 1000 + number)
            tasks.create_task(_system(share, stopped_s, rng, outcome, environment))
    return {
        "stopped": len(outcome.seconds),
        "stopped_s": stopped_s,
        "takeover_s": spread_of(outcome.seconds),
        **outcome.told(),
        "seed": seed,
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Say whether nothing came of the writers that woke."""
    return promises_kept(result) and result["stopped"] > 0


async def _system(
    times: int, stopped_s: float, rng: random.Random, outcome: Outcome, environment: dict[str, str] | None
) -> None:
    with tempfile.TemporaryDirectory(prefix="coordinator-stopped-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, 2, environment=environment) as (first, second),
        ):
            async with Client.open(server.url, source="starter") as starter:
                await start_all([first, second], starter)
            async with under_calls(outcome, server.url, every_s=EVERY_S) as (client, _):
                writer, standby = first, second
                for _ in range(times):
                    await asyncio.sleep(rng.uniform(0.5, 2.0))
                    outcome.seconds.append(await _stop(client, writer, standby, stopped_s))
                    writer, standby = standby, writer


async def _stop(client: Client, writer: Instance, standby: Instance, stopped_s: float) -> float:
    """Stop the writer, wake it when the standby has long led, and give the seconds that the takeover took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.freeze()
    await led_by(client, standby)
    took_s = loop.time() - began
    await asyncio.sleep(began + stopped_s - loop.time())
    before = writer.logged.count("standing_by")
    writer.thaw()
    await writer.stood_by(before + 1)
    await asyncio.sleep(AWAKE_S)
    return took_s
