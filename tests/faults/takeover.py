"""
Takeover: `kill -9` of the writer while clients call. How long until the standby answers a new command?

Everything is real: nats-server with fsync and one replica, two coordinators as processes, the default lease. The killed
one is restarted only after the other has taken over, as on two machines of which one is lost. The kill is at a random
time between two renewals. Several independent systems run in parallel to save time.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.commands.task import SubmitTask
from coordinator.leadership.lease import RENEW_S
from coordinator.task_groups import task_group
from tests.faults.instances import instances, led_by, start_all
from tests.faults.outcome import Outcome, promises_kept, spread_of, under_calls
from tests.real_server import real_server

if TYPE_CHECKING:
    from tests.faults.instances import Instance

TARGET_S = 20.0
ANSWER_WITHIN_S = 60.0


async def run(
    times: int = 20, *, at_once: int = 5, seed: int = 1, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Kill the writer *times* times in all, in *at_once* parallel systems."""
    outcome = Outcome()
    async with task_group() as tasks:
        for number in range(at_once):
            share = times // at_once + (number < times % at_once)
            tasks.create_task(_system(share, random.Random(seed * 1000 + number), outcome, environment))
    return {
        "target_s": TARGET_S,
        "takeovers": len(outcome.seconds),
        "takeover_s": spread_of(outcome.seconds),
        **outcome.told(),
        "seed": seed,
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if each takeover was in time and no promise was broken."""
    return promises_kept(result) and result["takeovers"] > 0 and result["takeover_s"]["most"] < TARGET_S


async def _system(times: int, rng: random.Random, outcome: Outcome, environment: dict[str, str] | None) -> None:
    with tempfile.TemporaryDirectory(prefix="coordinator-takeover-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, 2, environment=environment) as (first, second),
        ):
            async with Client.open(server.url, source="starter") as starter:
                await start_all([first, second], starter)
            async with under_calls(outcome, server.url) as (client, _):
                writer, standby = first, second
                for number in range(times):
                    await asyncio.sleep(rng.uniform(0.5, 0.5 + RENEW_S))
                    outcome.seconds.append(await _kill(client, writer, number))
                    await led_by(client, standby)
                    await writer.start()
                    await writer.stood_by()
                    writer, standby = standby, writer


async def _kill(client: Client, writer: Instance, number: int) -> float:
    """Kill the writer, and return the seconds until a new command is answered."""
    began = time.monotonic()
    await writer.kill()
    await client.execute(SubmitTask(task_id=f"new_{number}", task_name="n"), timeout_s=ANSWER_WITHIN_S)
    return time.monotonic() - began
