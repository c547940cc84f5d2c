"""
A cluster under one seed: clients, workers, coordinators that are killed and replaced, a journal that loses things.

The coordinators, the turn, the deciders and the journal's slot rules are the real ones; the network, the clock and the
processes are drawn. Faults stop at a time; from then on everything must come to its end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import msgspec

from coordinator.commands import (
    CancelTask,
    ClaimTasks,
    Command,
    CompleteTask,
    FailTask,
    GetTask,
    HeartbeatService,
    ListInboxes,
    RegisterService,
    SubmitTask,
)
from coordinator.engine import Engine
from coordinator.intake import Caller
from coordinator.journal import Deposed
from coordinator.journal_memory import Lost, MemoryJournal, MemoryStream, Point
from coordinator.limits import Limits
from coordinator.rules import Rules
from events.coordinator import EpochClaim
from events.errors import NotFound, Refused, StaleLease, Unavailable
from projections.task import Task
from projections.world import World
from tests.simulation.inbox import DOMAIN, SimInbox

EPOCH_BEGIN = 1_700_000_000.0
FAULTY_S = 40.0
HEAL_S = 120.0
TASKS = 40
WORKERS = 3
RULES = Rules(lease_s=3.0, worker_timeout_s=8.0, heartbeat_timeout_s=5.0, retry_backoff_s=0.2, max_retries=50)


class SimIds:
    """Ids that count."""

    def __init__(self) -> None:
        self._next = 0

    def new(self, prefix: str) -> str:
        self._next += 1
        return f"{prefix}_{self._next}"


class SimClock:
    """The loop's time; the wall clock of each process is off by a drawn amount and may jump."""

    def __init__(self, offset_s: float) -> None:
        self.offset_s = offset_s

    def wall(self) -> float:
        return EPOCH_BEGIN + self.offset_s + asyncio.get_running_loop().time()

    def heard(self) -> float:
        return asyncio.get_running_loop().time()


class SimFaults:
    """What the journal's network does to a message, drawn each time; `fired` counts what it did."""

    def __init__(self, random: Random, fired: Counter[str], until_s: float) -> None:
        self._random = random
        self._fired = fired
        self._until_s = until_s

    async def at(self, point: Point) -> None:
        random = self._random
        await asyncio.sleep(random.random() * 0.004)
        if asyncio.get_running_loop().time() > self._until_s:
            return
        drawn = random.random()
        if point == "publish" and drawn < 0.03:
            late = random.random() < 0.4
            self._fired["commit_late" if late else "commit_lost"] += 1
            raise Lost(arrives_after_s=random.random() * 2 if late else None)
        if point == "stored" and drawn < 0.04:
            self._fired["ack_lost"] += 1
            raise Lost
        if point == "read" and drawn < 0.03:
            self._fired["read_lost"] += 1
            raise Lost
        if drawn > 0.99:
            self._fired["slow"] += 1
            await asyncio.sleep(random.random() * 1.5)


class Sim:
    """One run; `acked` holds what was promised to clients, for the checks afterwards."""

    def __init__(self, random: Random, *, replicated: bool) -> None:
        self.random = random
        self.stream = MemoryStream(replicated=replicated)
        self.fired: Counter[str] = Counter()
        self.acked_submits: set[str] = set()
        self.acked_completes: dict[str, str] = {}
        self.answers: dict[str, Any] = {}
        self.worlds: list[World] = []
        self.inbox = SimInbox(random, self.fired)
        self._ids = SimIds()
        self._engines: list[Engine] = []
        self._coordinators: list[asyncio.Task[None]] = []
        self._tasks: asyncio.TaskGroup

    @property
    def is_faulty(self) -> bool:
        """Whether faults still happen."""
        return asyncio.get_running_loop().time() < FAULTY_S

    async def run(self) -> None:
        """Play until every promised task has ended, or the time for that is over."""
        async with asyncio.timeout(FAULTY_S + HEAL_S), asyncio.TaskGroup() as self._tasks:
            for number in range(2):
                self._start(f"coordinator_{number}")
            background = [
                self._tasks.create_task(self._kill_coordinators()),
                *(self._tasks.create_task(self._work(f"worker_{number}")) for number in range(WORKERS)),
                self._tasks.create_task(self._serve("service_1")),
            ]
            submitting = [self._tasks.create_task(self._submit(number)) for number in range(TASKS)]
            submitting.append(self._tasks.create_task(self.inbox.publish_all(FAULTY_S)))
            await asyncio.wait(submitting)
            self.acked_submits |= self.inbox.tasks
            await self._until_inbox_read()
            await self._until_all_ended()
            for task in (*background, *self._coordinators):
                task.cancel()

    # --- coordinators -------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        self._coordinators = [task for task in self._coordinators if not task.done()]
        self._coordinators.append(self._tasks.create_task(self._coordinate(name), name=name))

    async def _coordinate(self, name: str) -> None:
        """Be a coordinator: fold, claim, lead; claim again when deposed, after a pause."""
        clock = SimClock(self.random.uniform(-3600, 3600))
        while True:
            journal = MemoryJournal(self.stream, faults=SimFaults(self.random, self.fired, FAULTY_S), ids=self._ids)
            try:
                await self._reign(name, journal, clock)
            except Deposed:
                self.fired["deposed"] += 1
            except Unavailable:
                self.fired["start_failed"] += 1
            # The lease keeps the others out for a while; here a pause does, so that reigns last.
            await asyncio.sleep(self.random.uniform(4, 20))

    async def _reign(self, name: str, journal: MemoryJournal, clock: SimClock) -> None:
        world = World()
        await _fold(world, journal, (await journal.bounds()).last)
        claim = EpochClaim(generation=1, holder=name, time="")
        sequence = await journal.claim(msgspec.json.encode(claim))
        await _fold(world, journal, sequence)
        limits = Limits(turn_commands=7, turn_bytes=6_000, tick_s=0.3, retention_s=1e6, inbox_max=30)
        engine = Engine(
            world=world,
            journal=journal,
            rules=RULES,
            clock=clock,
            instance=name,
            version="sim",
            limits=limits,
            # What the lease gives: whoever was overtaken answers nothing that needs no commit.
            is_fresh=lambda: self.stream.last_claim is not None and self.stream.last_claim.sequence == sequence,
        )
        self._engines.append(engine)
        reading = self._tasks.create_task(self.inbox.read(engine))
        try:
            await engine.run()
        finally:
            reading.cancel()
            self._engines.remove(engine)

    async def _kill_coordinators(self) -> None:
        while self.is_faulty:
            await asyncio.sleep(self.random.uniform(1, 8))
            victim = self.random.choice(self._coordinators)
            victim.cancel()
            await asyncio.wait([victim])
            self.fired["coordinator_killed"] += 1
            self._start(victim.get_name())

    # --- clients and workers ------------------------------------------------------------------------------------------

    async def call(self, command: Command, actor: str) -> Any:
        """Send a command as a client does: the same bytes again, to whoever leads, until there is an answer."""
        caller = Caller(actor=actor, command_id=self._ids.new("cmd"))
        while True:
            try:
                return await self._attempt(command, caller)
            except Unavailable:
                await asyncio.sleep(self.random.uniform(0.01, 0.5))

    async def _attempt(self, command: Command, caller: Caller) -> Any:
        await asyncio.sleep(self.random.random() * 0.01)
        if self.is_faulty and self.random.random() < 0.03:
            self.fired["request_lost"] += 1
            raise Unavailable
        if not self._engines:
            raise Unavailable
        engine = self.random.choice(self._engines)
        try:
            async with asyncio.timeout(2.0 + getattr(command, "wait_s", 0.0)):
                answer = await engine.execute(command, caller)
        except TimeoutError:
            raise Unavailable from None
        if self.is_faulty and self.random.random() < 0.03:
            self.fired["answer_lost"] += 1
            raise Unavailable
        return answer

    async def _submit(self, number: int) -> None:
        await asyncio.sleep(self.random.random() * FAULTY_S * 0.9)
        task_id = f"task_{number}"
        timeout_s = self.random.choice([None, None, None, 1.0])
        command = SubmitTask(task_id=task_id, task_name="n", priority=self.random.randrange(3), timeout_s=timeout_s)
        assert await self.call(command, "client") == task_id
        self.acked_submits.add(task_id)
        if self.random.random() < 0.1:
            try:
                await self.call(CancelTask(task_id=task_id, reason="drawn"), "client")
                self.fired["cancelled"] += 1
            except (Refused, NotFound):
                pass  # it had ended before

    async def _work(self, worker_id: str) -> None:
        """Claim and execute for ever; now and then die without a word and come back as another."""
        while True:
            lives_s = self.random.uniform(2, 15) if self.is_faulty else None
            incarnation = self._ids.new(worker_id)
            try:
                async with asyncio.timeout(lives_s):
                    await self._live(incarnation)
            except TimeoutError:
                self.fired["worker_died"] += 1

    async def _live(self, worker_id: str) -> None:
        while True:
            claim = ClaimTasks(
                claim_id=self._ids.new("claim"),
                worker_id=worker_id,
                slots=self.random.randint(1, 4),
                wait_s=1.0,
                strategy=self.random.choice(["fifo", "priority", "round_robin", "least_loaded"]),
            )
            try:
                tasks: list[Task] = await self.call(claim, worker_id)
            except Refused:
                continue
            for task in tasks:
                await self._execute(task, worker_id)

    async def _execute(self, task: Task, worker_id: str) -> None:
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(self.random.random() * 0.8)
            for engine in self._engines:
                if self.random.random() < 0.9:
                    engine.hear_worker(worker_id, (task.lease,), 0.5)
        if self.is_faulty and self.random.random() < 0.1:
            await asyncio.sleep(RULES.lease_s * 1.5)
            self.fired["worker_paused"] += 1
        try:
            if self.random.random() < 0.15:
                await self.call(FailTask(task_id=task.task_id, error="drawn", lease=task.lease), worker_id)
            else:
                await self.call(CompleteTask(task_id=task.task_id, lease=task.lease, worker_id=worker_id), worker_id)
                self.acked_completes[task.task_id] = task.lease
        except StaleLease:
            self.fired["stale_refused"] += 1
        except (Refused, NotFound):
            self.fired["late_refused"] += 1

    async def _serve(self, service_id: str) -> None:
        """Be a service that registers, beats irregularly, and registers anew when it is not known."""
        command = RegisterService(
            service_id=service_id, service_name="s", service_type="agent", host="localhost", port=1
        )
        await self.call(command, service_id)
        while True:
            await asyncio.sleep(self.random.uniform(0.5, 7))
            try:
                await self.call(HeartbeatService(service_id=service_id), service_id)
            except NotFound:
                await self.call(command, service_id)

    async def _until_inbox_read(self) -> None:
        """Wait until some leader has read all of the inbox and goes on to show it to whoever asks."""
        wanted = len(self.inbox.messages)
        while True:
            inboxes = await self.call(ListInboxes(), "client")
            if any((one.domain, one.sequence) == (DOMAIN, wanted) for one in inboxes):
                return
            await asyncio.sleep(0.5)

    async def _until_all_ended(self) -> None:
        for task_id in sorted(self.acked_submits):
            while not (task := await self.call(GetTask(task_id=task_id, wait_s=1.0), "client")).is_ended:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            self.answers[task_id] = task.status
        self.worlds = [engine.world for engine in self._engines]


async def _fold(world: World, journal: MemoryJournal, until: int) -> None:
    async for records in journal.read(world.position.sequence, until):
        for record in records:
            world.apply_record(record)
