"""
A stopped writer: SIGSTOP, a standby takes over, SIGCONT. The woken writer must change nothing.

It continues where it was stopped, with open connections and all client requests since then in its buffers. Checked from
the journal (no commit of its reign after the next claim) and from the wire (no request was answered in two ways, no
task was reported as taken that is not in the journal). With *stopped_s* 0 it is stopped for about the time of its
lease, and so wakes at, just before or just after the takeover. Several independent systems run in parallel, because
most of the time is waiting.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.leadership.lease import TTL_S
from coordinator.task_groups import task_group
from tests.faults.instances import instances, lease_of, led_by, start_all
from tests.faults.outcome import Outcome, promises_kept, spread_of, under_calls
from tests.real_server import real_server

if TYPE_CHECKING:
    from tests.faults.instances import Instance

EVERY_S = 0.1
AWAKE_S = 3.0
"""Time for a woken writer to do harm before the next one is stopped."""


async def run(
    times: int = 20, *, stopped_s: int = 60, lease_s: int = TTL_S, at_once: int = 10, seed: int = 1
) -> dict[str, Any]:
    """Stop the writer for *stopped_s* seconds, *times* times in all, in *at_once* parallel systems."""
    outcome, woken = Outcome(), Counter[str]()
    async with task_group() as tasks:
        for number in range(at_once):
            share = times // at_once + (number < times % at_once)
            system = _System(random.Random(seed * 1000 + number), lease_s, outcome, woken)
            tasks.create_task(system.run(share, stopped_s))
    return {
        "stopped": woken.total(),
        "stopped_s": stopped_s,
        "lease_s": lease_s,
        "leads_then": dict(woken),
        "takeover_s": spread_of(outcome.seconds),
        **outcome.told(),
        "seed": seed,
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if the woken writers changed nothing."""
    return promises_kept(result) and result["stopped"] > 0


class _System:
    """Two coordinators on their own NATS; *woken* counts which one leads after the stopped one has woken."""

    def __init__(self, rng: random.Random, lease_s: int, outcome: Outcome, woken: Counter[str]) -> None:
        self._rng = rng
        self._lease_s = lease_s
        self._outcome = outcome
        self._woken = woken

    async def run(self, times: int, stopped_s: int) -> None:
        """Stop the leader *times* times."""
        environment = lease_of(self._lease_s)
        with tempfile.TemporaryDirectory(prefix="coordinator-stopped-") as folder:
            (nats := Path(folder) / "nats").mkdir()
            async with (
                real_server(nats) as server,
                instances(Path(folder), server.url, 2, environment=environment) as (first, second),
            ):
                async with Client.open(server.url, source="starter") as starter:
                    await start_all([first, second], starter)
                async with under_calls(self._outcome, server.url, every_s=EVERY_S) as (client, _):
                    for _ in range(times):
                        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
                        writer = await led_by(client, first, second)
                        standby = second if writer is first else first
                        if stopped_s:
                            await self._stop_for(client, writer, standby, stopped_s)
                        else:
                            await self._stop_about_a_lease(client, writer, standby)

    async def _stop_for(self, client: Client, writer: Instance, standby: Instance, stopped_s: int) -> None:
        """Stop the writer, and wake it long after the standby has taken over."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.freeze()
        await led_by(client, standby)
        self._outcome.seconds.append(loop.time() - began)
        await asyncio.sleep(began + stopped_s - loop.time())
        before = writer.logged.count("standby_started")
        writer.thaw()
        await writer.stood_by(before + 1)
        await asyncio.sleep(AWAKE_S)
        self._woken["the other"] += 1

    async def _stop_about_a_lease(self, client: Client, writer: Instance, standby: Instance) -> None:
        writer.freeze()
        await asyncio.sleep(self._lease_s * self._rng.uniform(0.7, 1.2))
        writer.thaw()
        await asyncio.sleep(self._lease_s / 2)
        leads = await led_by(client, writer, standby)
        self._woken["itself" if leads is writer else "the other"] += 1
