"""
Kills: kill -9 of every process, at random times while tasks run. Nothing acknowledged may be lost.

Everything is real: nats-server with fsync, coordinator, follower, node agent and workers, each in its own process. A
killed process is started again as by `coordinator up`. Checked from the journal: each acknowledged task is there once
and has one end with the right result, the chain is valid, and the read model reaches the end of the journal.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.client.client import Client
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import SubmitTask
from coordinator.home import Home
from coordinator.journal.stream import NatsJournal
from coordinator.processes.program import Program
from coordinator.processes.up import run_cluster
from coordinator.settings.load import load
from coordinator.task_groups import task_group
from events.base import Position
from events.task import TaskCancelled, TaskCompleted, TaskFailed, TaskStarted, TaskSubmitted, TaskTimedOut
from projections.world import World

if TYPE_CHECKING:
    from coordinator.processes.up import Cluster

TERMINAL = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)
WORKERS = 2
ENDED_WITHIN_S = 60.0
CALL_TIMEOUT_S = 120.0
_RUNS_WITHIN_S = 60.0
_POLL_S = 0.01


async def run(
    tasks: int = 5000,
    *,
    coordinators: int = 30,
    workers: int = 30,
    servers: int = 10,
    followers: int = 10,
    nodes: int = 10,
    seconds: int = 240,
    lease_s: int = 10,
    seed: int = 1,
) -> dict[str, Any]:
    """
    Submit *tasks* tasks in *seconds* seconds, kill each kind of process the given number of times, check the journal.

    Victims and times follow from *seed*; what they interrupt depends on the machine.
    """
    kinds = {
        "coordinator": coordinators,
        "worker": workers,
        "nats-server": servers,
        "follower": followers,
        "node": nodes,
    }
    environment = {"COORDINATOR_SCHEDULER__LEASE_S": str(lease_s)}
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="coordinator-faults-") as folder:
        home = Home(Path(folder))
        async with run_cluster(home, load(), environment=environment, quiet=True) as cluster, task_group() as group:
            those = [worker_of(home, cluster.url, number) for number in range(WORKERS)]
            keeping = [group.create_task(worker.keep_running()) for worker in those]
            try:
                async with Client.open(cluster.url, source="faults") as client:
                    client.call_timeout_s = CALL_TIMEOUT_S
                    killer = Killer(cluster, those, rng)
                    result = await _judge(client, killer, killer.planned(kinds, seconds), tasks, seconds)
                    return {**result, "lease_s": lease_s, "seed": seed}
            finally:
                for worker in those:
                    await worker.stop()
                for task in keeping:
                    task.cancel()


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if every promise was kept."""
    broken = ("lost", "submitted_twice", "with_two_ends", "wrong_results", "not_ended")
    return (
        result["acknowledged"] == result["tasks"]
        and not any(result[name] for name in broken)
        and Position.parse(result["read_model_at"]) >= Position.parse(result["chain_verified_to"])
        and bool(result["killed"])
    )


class Killer:
    """Kills processes of *cluster* and *workers* with SIGKILL, by id, each only while it runs."""

    def __init__(self, cluster: Cluster, workers: list[Program], rng: random.Random) -> None:
        self.killed: Counter[str] = Counter()
        self._cluster = cluster
        self._workers = workers
        self._rng = rng
        self._last: dict[str, int] = {}

    def planned(self, kinds: dict[str, int], seconds: float) -> list[tuple[float, str]]:
        """Return the kills of each kind with their times in seconds, in random order."""
        victims = [kind for kind, count in kinds.items() for _ in range(count)]
        self._rng.shuffle(victims)
        moments = sorted(self._rng.uniform(0.05 * seconds, seconds) for _ in victims)
        return list(zip(moments, victims, strict=True))

    async def kill(self, victim: str) -> None:
        """Kill one process of that kind; wait for one that is being restarted."""
        one = self._rng.randrange(len(self._workers))
        key = f"{victim}_{one}" if victim == "worker" else victim
        async with asyncio.timeout(_RUNS_WITHIN_S):
            while not (pid := self._pid(victim, one)) or pid == self._last.get(key):  # noqa: ASYNC110  # a process
                await asyncio.sleep(_POLL_S)
        self._last[key] = pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.killed[victim] += 1

    def _pid(self, victim: str, worker: int) -> int | None:
        if victim == "nats-server":
            return self._cluster.server.pid
        return self._workers[worker].pid if victim == "worker" else self._cluster.programs[victim].pid


async def _judge(
    client: Client, killer: Killer, plan: list[tuple[float, str]], count: int, seconds: float
) -> dict[str, Any]:
    began = time.monotonic()
    watch = _Watch(client)
    async with task_group() as group:
        watching = group.create_task(watch.follow())
        killing = group.create_task(_kill_all(killer, plan))
        await _submit(client, watch, count, seconds)
        await killing
        last_fault = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDED_WITHIN_S):
                while not watch.acknowledged <= watch.ends.keys():  # noqa: ASYNC110  # told over NATS
                    await asyncio.sleep(_POLL_S)
        ended_after_s = time.monotonic() - last_fault
        watching.cancel()
    return {
        "tasks": count,
        "killed": dict(killer.killed),
        "acknowledged": len(watch.acknowledged),
        "lost": len(watch.acknowledged - watch.submitted.keys()),
        "submitted_twice": sum(times > 1 for times in watch.submitted.values()),
        "with_two_ends": sum(times > 1 for times in watch.ends.values()),
        "wrong_results": watch.wrong_results,
        "not_ended": len(watch.acknowledged - watch.ends.keys()),
        "target_s": ENDED_WITHIN_S,
        "ended_after_last_fault_s": round(ended_after_s, 2),
        "attempts_most": watch.attempts_most,
        "slowest_submit_s": round(watch.slowest_s, 2),
        "chain_verified_to": str(watch.world.position),
        "read_model_at": await _read_model(client, watch.world.position.sequence),
        "took_s": round(time.monotonic() - began, 1),
    }


class _Watch:
    """Folds the journal, which also verifies its chain, and counts what happened to each task."""

    def __init__(self, client: Client) -> None:
        self.world = World()
        self.acknowledged: set[str] = set()
        self.submitted: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.wrong_results = 0
        self.attempts_most = 0
        self.slowest_s = 0.0
        self._journal = NatsJournal(client.bus, client.subjects)

    async def follow(self) -> None:
        """Fold the journal until cancelled."""
        async for records in self._journal.follow(0):
            for record in records:
                for envelope in self.world.apply_record(record):
                    if isinstance(envelope.data, TaskSubmitted):
                        self.submitted[envelope.data.task_id] += 1
                    elif isinstance(envelope.data, TaskStarted):
                        self.attempts_most = max(self.attempts_most, envelope.data.attempt)
                    elif isinstance(envelope.data, TERMINAL):
                        self.ends[envelope.data.task_id] += 1
                        self.wrong_results += not _is_right(envelope.data)


def _is_right(event: TaskCompleted | TaskFailed | TaskCancelled | TaskTimedOut) -> bool:
    number = int(event.task_id.rpartition("_")[2])
    return isinstance(event, TaskCompleted) and value_of(event.result) == {"square": number**2}


async def _submit(client: Client, watch: _Watch, count: int, seconds: float) -> None:
    """Submit at a steady pace; repeat a failed call with the same id, as documented."""
    began = time.monotonic()
    for number in range(count):
        command = SubmitTask(
            task_id=f"task_{number}",
            task_name="square",
            max_retries=50,
            payload=payload_of({"number": number, "takes_s": 0.02 + number % 5 * 0.02}),
        )
        asked = time.monotonic()
        watch.acknowledged.add(await client.execute(command))
        watch.slowest_s = max(watch.slowest_s, time.monotonic() - asked)
        await asyncio.sleep(max(0.0, began + seconds * number / count - time.monotonic()))


async def _kill_all(killer: Killer, plan: list[tuple[float, str]]) -> None:
    began = time.monotonic()
    for moment, victim in plan:
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        await killer.kill(victim)


def worker_of(home: Home, url: str, number: int) -> Program:
    """Return a worker process for the tasks of the fault runs; `keep_running` starts it."""
    handlers = Path(__file__).with_name("handlers.py")
    argv = [sys.executable, "-m", "coordinator.cli", "worker", "run", str(handlers), "--slots", "4"]
    env = {**os.environ, "COORDINATOR_URL": url, "COORDINATOR_HOME": str(home.path)}
    (home.path / "logs").mkdir(exist_ok=True)
    return Program(f"worker_{number}", argv, env, home.path / "logs" / f"worker_{number}.log")


async def _read_model(client: Client, sequence: int) -> str:
    subject = client.subjects.read(client.source, "wait")
    question = msgspec.json.encode({"position": f"{sequence}.0", "timeout_s": 10})
    answer = msgspec.json.decode(await client.bus.request(subject, question, timeout_s=15.0))
    return str(answer.get("ok", answer))
