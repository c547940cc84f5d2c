"""
What the scenarios on three nats-servers share: coordinators that are restarted, clients, and a judge.

The judge uses only the journal, and folds it, which verifies its chain.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from coordinator.bus.connection import Bus
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import SubmitTask
from coordinator.errors import Corrupt, Unavailable
from coordinator.journal.high_water import FILE
from coordinator.journal.slots import NO_JOURNAL
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.processes.program import Program
from coordinator.task_groups import task_group
from events.base import START
from events.subjects import Subjects
from events.task import TaskCancelled, TaskCompleted, TaskFailed, TaskSubmitted, TaskTimedOut
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.client.client import Client
    from events.base import Event, Position
    from tests.nats_cluster import NatsCluster

SUBJECTS = Subjects()
JOURNAL = SUBJECTS.stream_journal
TERMINAL = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)
LEASE_S = 10
PATIENCE_S = 90.0
"""Time for a cluster to elect its leaders, several times on a busy machine."""
LOOK_S = 0.1

Answer = TypeVar("Answer")


class Keeper:
    """A coordinator in this loop, restarted when NATS is back; `refused` has the reason if it refuses to run."""

    def __init__(self, url: str, folder: Path, tasks: asyncio.TaskGroup) -> None:
        self.refused = ""
        self._instance = Instance(url=url, name="kept", version="0", replicas=3, seen_file=str(folder / FILE))
        self._tasks = tasks
        self._coordinator = Coordinator(self._instance)
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it."""
        self._running = self._tasks.create_task(self._keep_running())

    async def crash(self) -> None:
        """Stop it abruptly, like a crash."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def has_refused(self) -> bool:
        """Wait until it leads or has found damage; return True for damage."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.refused and not self._coordinator.leading.is_set():  # noqa: ASYNC110  # either of two
                await asyncio.sleep(LOOK_S)
        return bool(self.refused)

    async def _keep_running(self) -> None:
        while True:
            self._coordinator = Coordinator(self._instance)
            try:
                await self._coordinator.run()
            except Unavailable:
                await asyncio.sleep(LOOK_S)
            except Corrupt as error:
                self.refused = error.message
                return


@asynccontextmanager
async def programs(url: str, folder: Path, **argv: list[str]) -> AsyncIterator[dict[str, Program]]:
    """Run the named `coordinator …` commands on NATS at *url* while the block runs; restart those that end."""
    started = {}
    async with task_group() as tasks, AsyncExitStack() as stack:
        for name, arguments in argv.items():
            home = folder / name
            home.mkdir()
            env = {
                **os.environ,
                "COORDINATOR_HOME": str(home),
                "COORDINATOR_URL": url,
                "COORDINATOR_NATS__REPLICAS": "3",
                "COORDINATOR_SCHEDULER__LEASE_S": str(LEASE_S),
            }
            command = [sys.executable, "-m", "coordinator.cli", *arguments]
            program = started[name] = Program(name, command, env, folder / f"{name}.log")
            keeping = tasks.create_task(program.keep_running())
            stack.callback(keeping.cancel)
            stack.push_async_callback(program.stop)
        yield started


def worker_argv() -> list[str]:
    """Return the command line of a worker that squares numbers."""
    return ["worker", "run", str(Path(__file__).with_name("handlers.py")), "--slots", "8"]


class Submitters:
    """Client calls, always *at_once* of them; `acknowledged` has the ids of the answered ones."""

    def __init__(self, client: Client, *, at_once: int, pause_s: float = 0.0, timeout_s: float = PATIENCE_S) -> None:
        self.acknowledged: set[str] = set()
        self.given_up = 0
        self.slowest_s = 0.0
        self._client = client
        self._at_once = at_once
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._number = 0
        self._over = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Submit while the block runs; at the end wait for pending calls."""
        async with task_group() as tasks:
            for _ in range(self._at_once):
                tasks.create_task(self._submit())
            try:
                yield
            finally:
                self._over.set()

    async def until(self, count: int) -> None:
        """Wait until *count* more calls are acknowledged."""
        count += len(self.acknowledged)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < count:  # noqa: ASYNC110  # counted by many
                await asyncio.sleep(0.005)

    async def _submit(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._over.is_set():
            number = self._number = self._number + 1
            payload = payload_of({"number": number, "takes_s": 0.02 + number % 5 * 0.02})
            command = SubmitTask(task_id=f"task_{number}", task_name="square", payload=payload, max_retries=20)
            began = loop.time()
            try:
                self.acknowledged.add(await self._client.execute(command, timeout_s=self._timeout_s))
            except Unavailable:
                self.given_up += 1
            self.slowest_s = max(self.slowest_s, loop.time() - began)
            await asyncio.sleep(self._pause_s)


class Judge:
    """Reads the unread part of the journal, and counts the events of each task."""

    def __init__(self, url: str) -> None:
        self.world = World()
        self.submitted: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.wrong_results = 0
        self._url = url

    async def read(self) -> None:
        """
        Read up to the end, and verify the chain.

        Raises:
            Corrupt: the journal is damaged, or shorter than the part already read.
        """
        async with Bus.open(self._url, name="judge") as bus, asyncio.timeout(PATIENCE_S):
            journal = NatsJournal(bus, SUBJECTS)
            end = (await patiently(journal.bounds)).last
            async for records in journal.read(self.world.position.sequence, end):
                for record in records:
                    for envelope in self.world.apply_record(record):
                        self._note(envelope.data)

    async def until_ended(self, tasks: set[str]) -> None:
        """Read until each of *tasks* has an end."""
        async with asyncio.timeout(PATIENCE_S):
            while not tasks <= self.ends.keys():
                await asyncio.sleep(LOOK_S)
                await self.read()

    async def same_on_each_node(self, cluster: NatsCluster) -> bool:
        """Make each node the leader of the journal in turn; return True if each has every slot as read."""
        shown = {await self._shown_by(cluster, name) for name in cluster.nodes}
        return shown == {(self.world.position, self.world.chain.hex())}

    def verdict(self, acknowledged: set[str]) -> dict[str, Any]:
        """Return what happened to the acknowledged tasks."""
        return {
            "acknowledged": len(acknowledged),
            "lost": len(acknowledged - self.submitted.keys()),
            "submitted_twice": sum(times > 1 for times in self.submitted.values()),
            "with_two_ends": sum(times > 1 for times in self.ends.values()),
            "wrong_results": self.wrong_results,
            "chain_verified_to": str(self.world.position),
        }

    def _note(self, event: Event) -> None:
        if isinstance(event, TaskSubmitted):
            self.submitted[event.task_id] += 1
        elif isinstance(event, TERMINAL):
            self.ends[event.task_id] += 1
            number = int(event.task_id.rpartition("_")[2])
            right = isinstance(event, TaskCompleted) and value_of(event.result) == {"square": number**2}
            self.wrong_results += not right

    async def _shown_by(self, cluster: NatsCluster, name: str) -> tuple[Position, str]:
        async with asyncio.timeout(PATIENCE_S):
            while await cluster.leader_of(JOURNAL) != name:
                await cluster.step_down(JOURNAL, name)
        world = World()
        async with Bus.open(self._url, name="judge") as bus, asyncio.timeout(PATIENCE_S):
            journal = NatsJournal(bus, SUBJECTS)
            for sequence in range(1, self.world.position.sequence + 1):
                record = await patiently(partial(journal.slot, sequence))
                if record is None:
                    return START, f"slot {sequence} is empty"
                world.apply_record(record)
        return world.position, world.chain.hex()


async def patiently(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Retry while the cluster elects its leaders; a missing journal is an answer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await ask()
            except Unavailable as error:
                if error.reason == NO_JOURNAL:
                    raise
            await asyncio.sleep(LOOK_S)


def nothing_broken(result: dict[str, Any]) -> bool:
    """Return True if a verdict has no broken promise."""
    return not any(result[name] for name in ("lost", "submitted_twice", "with_two_ends", "wrong_results"))


__all__ = ["Judge", "Keeper", "Submitters", "nothing_broken", "patiently", "programs", "worker_argv"]
