"""
Kills: kill -9 of every process, once each, while tasks run; nothing acknowledged may be lost.

Everything is real: nats-server with fsync, coordinator, follower, node agent and workers, each a process of its own.
What is killed is started again as `coordinator up` does. Judged from the journal: each acknowledged task is there once
and has one end with the right result, the chain holds, and the read model ends up where the journal does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.client import Client
from coordinator.commands import SubmitTask
from coordinator.groups import task_group
from coordinator.home import Home
from coordinator.journal_nats import NatsJournal
from coordinator.payloads import payload_of, value_of
from coordinator.settings import load
from coordinator.supervise import Program
from coordinator.up import run_cluster
from events.base import Position
from events.task import TaskCancelled, TaskCompleted, TaskFailed, TaskSubmitted, TaskTimedOut
from projections.world import World

if TYPE_CHECKING:
    from coordinator.up import Cluster

VICTIMS = ("worker", "coordinator", "follower", "nats-server", "node")
TERMINAL = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)
LEASE_S = 3
ENDED_WITHIN_S = 60.0
RUN_WITHIN_S = 300.0


async def run(tasks: int) -> dict[str, Any]:
    """Submit *tasks* tasks, kill each kind of process once on the way, and judge what the journal says."""
    environment = {"COORDINATOR_SCHEDULER__LEASE_S": str(LEASE_S)}
    with tempfile.TemporaryDirectory(prefix="coordinator-faults-") as folder:
        home = Home(Path(folder))
        async with run_cluster(home, load(), environment=environment, quiet=True) as cluster, task_group() as group:
            workers = [_worker(home, cluster, number) for number in range(2)]
            keeping = [group.create_task(worker.keep_running()) for worker in workers]
            try:
                async with Client.open(cluster.url, source="faults") as client, asyncio.timeout(RUN_WITHIN_S):
                    client.call_timeout_s = 60.0
                    return await _judge(client, cluster, workers, tasks)
            finally:
                for worker in workers:
                    await worker.stop()
                for task in keeping:
                    task.cancel()


async def _judge(client: Client, cluster: Cluster, workers: list[Program], count: int) -> dict[str, Any]:
    began = time.monotonic()
    watch = _Watch(client)
    async with task_group() as group:
        watching = group.create_task(watch.follow(count))
        killing = group.create_task(_kill_each(cluster, workers, watch, count))
        await _submit(client, watch, count)
        await killing
        last_fault = time.monotonic()
        async with asyncio.timeout(ENDED_WITHIN_S):
            await watch.all_ended.wait()
        ended_after_s = time.monotonic() - last_fault
        watching.cancel()
    ends = Counter(watch.ends.values())
    return {
        "tasks": count,
        "killed": list(VICTIMS),
        "acknowledged": len(watch.acknowledged),
        "lost": len(watch.acknowledged - watch.submitted.keys()),
        "submitted_twice": sum(times > 1 for times in watch.submitted.values()),
        "with_two_ends": sum(times for ends_of, times in ends.items() if ends_of > 1),
        "wrong_results": watch.wrong_results,
        "not_ended": len(watch.acknowledged - watch.ends.keys()),
        "ended_after_last_fault_s": round(ended_after_s, 2),
        "chain_verified_to": str(watch.world.position),
        "read_model_at": await _read_model(client, watch.world.position.sequence),
        "restarts": {name: one.starts - 1 for name, one in cluster.programs.items()},
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
        self.all_ended = asyncio.Event()
        self._journal = NatsJournal(client.bus, client.subjects)

    async def follow(self, count: int) -> None:
        async for records in self._journal.follow(0):
            for record in records:
                for envelope in self.world.apply_record(record):
                    if isinstance(envelope.data, TaskSubmitted):
                        self.submitted[envelope.data.task_id] += 1
                    elif isinstance(envelope.data, TERMINAL):
                        self.ends[envelope.data.task_id] += 1
                        self.wrong_results += not _is_right(envelope.data)
            if len(self.acknowledged) == count and self.acknowledged <= self.ends.keys():
                self.all_ended.set()


def _is_right(event: TaskCompleted | TaskFailed | TaskCancelled | TaskTimedOut) -> bool:
    number = int(event.task_id.rpartition("_")[2])
    return isinstance(event, TaskCompleted) and value_of(event.result) == {"square": number**2}


async def _submit(client: Client, watch: _Watch, count: int) -> None:
    """Submit at a steady pace; a call that fails is made again with the same id, as its docs say."""
    for number in range(count):
        command = SubmitTask(
            task_id=f"task_{number}",
            task_name="square",
            max_retries=20,
            payload=payload_of({"number": number, "takes_s": 0.02 + number % 5 * 0.02}),
        )
        watch.acknowledged.add(await client.execute(command))
        await asyncio.sleep(0.01)


async def _kill_each(cluster: Cluster, workers: list[Program], watch: _Watch, count: int) -> None:
    """Kill one after the other, each when some more of the tasks have ended."""
    for number, victim in enumerate(VICTIMS, 1):
        while len(watch.ends) < count * number / (len(VICTIMS) + 2):  # noqa: ASYNC110  # told over NATS
            await asyncio.sleep(0.01)
        pid = {"worker": workers[0].pid, "nats-server": cluster.server.pid}.get(victim) or cluster.programs[victim].pid
        if pid is None:
            msg = f"{victim} does not run"
            raise RuntimeError(msg)
        os.kill(pid, signal.SIGKILL)


def _worker(home: Home, cluster: Cluster, number: int) -> Program:
    handlers = Path(__file__).with_name("handlers.py")
    argv = [sys.executable, "-m", "coordinator.cli", "worker", "run", str(handlers), "--slots", "4"]
    env = {**os.environ, "COORDINATOR_URL": cluster.url, "COORDINATOR_HOME": str(home.path)}
    return Program(f"worker_{number}", argv, env, home.path / "logs" / f"worker_{number}.log")


async def _read_model(client: Client, sequence: int) -> str:
    subject = client.subjects.read(client.source, "wait")
    question = msgspec.json.encode({"position": f"{sequence}.0", "timeout_s": 10})
    answer = msgspec.json.decode(await client.bus.request(subject, question, timeout_s=15.0))
    return str(answer.get("ok", answer))


def is_kept(result: dict[str, Any]) -> bool:
    """Say whether every promise was kept."""
    broken = ("lost", "submitted_twice", "with_two_ends", "wrong_results", "not_ended")
    return (
        result["acknowledged"] == result["tasks"]
        and not any(result[name] for name in broken)
        and Position.parse(result["read_model_at"]) >= Position.parse(result["chain_verified_to"])
        and all(result["restarts"].values())
    )
