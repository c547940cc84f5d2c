"""
Steady calls for half an hour, with one process killed every 30 s. How many are answered in time?

Runs everything of `coordinator up`, a standby coordinator and two workers. The victim is drawn at random: the leading
coordinator, nats-server, a worker or the follower; its supervisor restarts it. With *restart* 0 a killed coordinator
stays away until the other has taken over, as if its machine were lost. Clients wait patiently, and no answer may
be wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.commands.cluster import GetStats
from coordinator.home import Home
from coordinator.processes.up import run_cluster
from coordinator.settings.load import load
from coordinator.task_groups import task_group
from tests.faults.instances import Instance, led_by
from tests.faults.kills import WORKERS, Killer, worker_of
from tests.faults.outcome import Outcome, promises_kept, under_calls

if TYPE_CHECKING:
    from coordinator.client.client import Client
    from coordinator.processes.up import Cluster
    from tests.faults.calls import Call

VICTIMS = ("coordinator", "nats-server", "worker", "follower")
WITHIN_S = 15.0
TARGET = 0.999


async def run(
    *, minutes: float = 30, every_s: int = 30, calls_each_s: int = 40, restart: int = 1, seed: int = 1
) -> dict[str, Any]:
    """Call *calls_each_s* times a second for *minutes* minutes, and kill a process every *every_s* seconds."""
    outcome, rng = Outcome(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="coordinator-steady-") as folder:
        home = Home(Path(folder) / "up")
        async with run_cluster(home, load(), quiet=True) as cluster, task_group() as group:
            workers = [worker_of(home, cluster.url, number) for number in range(WORKERS)]
            standby = Instance(Path(folder) / "standby", cluster.url)
            keeping = [group.create_task(worker.keep_running()) for worker in workers]
            try:
                await standby.start()
                await standby.stood_by()
                breaking = _Breaking(cluster, home, standby, Killer(cluster, workers, rng), may_restart=bool(restart))
                async with under_calls(outcome, cluster.url, every_s=2 / calls_each_s) as (client, _):
                    await breaking.go_on(client, rng, minutes * 60.0, every_s)
            finally:
                await standby.close()
                for worker in workers:
                    await worker.stop()
                for task in keeping:
                    task.cancel()
    late = sum(call.took_s > WITHIN_S for call in outcome.calls)
    return {
        "minutes": minutes,
        "killed": dict(Counter(victim for _, victim in breaking.kills)),
        "restarted_at_once": bool(restart),
        "within_s": WITHIN_S,
        "target": TARGET,
        "answered_within": round(1 - late / max(1, len(outcome.calls)), 6),
        "late": late,
        "worst_s_after": _worst_after(outcome.calls, breaking.kills),
        **outcome.told(),
        "seed": seed,
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if enough calls were answered in time, and none wrongly."""
    return promises_kept(result) and bool(result["killed"]) and result["answered_within"] >= TARGET


class _Breaking:
    """Kills one process after the other; `kills` has the times and victims."""

    def __init__(self, cluster: Cluster, home: Home, standby: Instance, killer: Killer, *, may_restart: bool) -> None:
        self.kills: list[tuple[float, str]] = []
        self._cluster = cluster
        self._home = home
        self._standby = standby
        self._killer = killer
        self._may_restart = may_restart

    async def go_on(self, client: Client, rng: random.Random, seconds: float, every_s: float) -> None:
        """Kill a process every *every_s* seconds, for *seconds* seconds."""
        began = time.monotonic()
        for number in range(1, int(seconds / every_s) + 1):
            await asyncio.sleep(max(0.0, began + (number - 0.5) * every_s - time.monotonic()))
            victim = rng.choice(VICTIMS)
            self.kills.append((time.monotonic(), victim))
            if victim == "coordinator":
                await self._kill_leader(client)
            else:
                await self._killer.kill(victim)
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))

    async def _kill_leader(self, client: Client) -> None:
        leader = (await client.execute(GetStats(), timeout_s=60.0)).leader
        if leader == self._standby.name:
            await self._standby.kill()
            if not self._may_restart:
                await self._led_by_another(client, leader)
            await self._standby.start()
        elif self._may_restart:
            await self._killer.kill("coordinator")
        else:
            await self._keep_away(client)

    async def _keep_away(self, client: Client) -> None:
        """Freeze its replacement started by `up` until the other leads, and then kill that too."""
        first = self._cluster.programs["coordinator"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(60.0):
            while (again := self._cluster.programs["coordinator"].pid) in (None, first):  # noqa: ASYNC110  # a process
                await asyncio.sleep(0.001)
        assert again is not None
        os.kill(again, signal.SIGSTOP)
        try:
            await led_by(client, self._standby)
        finally:
            with suppress(ProcessLookupError):
                os.kill(again, signal.SIGCONT)

    async def _led_by_another(self, client: Client, leader: str) -> None:
        async with asyncio.timeout(60.0):
            while (await client.execute(GetStats(), timeout_s=60.0)).leader == leader:  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.05)


def _worst_after(calls: list[Call], kills: list[tuple[float, str]]) -> dict[str, float]:
    """Return the longest call that was pending at a kill or began soon after, by kind of process."""
    worst: dict[str, float] = defaultdict(float)
    for moment, victim in kills:
        took = [one.took_s for one in calls if moment - 0.5 <= one.ended_s and one.began_s <= moment + 5.0]
        worst[victim] = round(max(took, default=0.0), 2) if max(took, default=0.0) > worst[victim] else worst[victim]
    return dict(worst)
