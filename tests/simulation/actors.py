"""
The users of the cluster: clients, workers, services, users of containers and pools, and domains with their inboxes.

Each runs as a separate process with the real client. Acknowledged answers go to `told`; nothing is checked here.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.bus.connection import Bus
from coordinator.bus.jetstream import ApiError
from coordinator.client.client import Client
from coordinator.commands.cancel_ladder import CancelStep, ReportCancel
from coordinator.commands.command import Command
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    GetContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.notices import LostLeases
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.requeue import requeued_id
from coordinator.commands.schedule import (
    BackfillSchedule,
    DefineSchedule,
    DeleteSchedule,
    GetSchedule,
    PauseSchedule,
    ResumeSchedule,
)
from coordinator.commands.service import RegisterService
from coordinator.commands.task import (
    CancelTask,
    ClaimTasks,
    CompleteTask,
    ExtendTask,
    FailTask,
    GetTask,
    ProgressTask,
    ReleaseTask,
    SubmitTask,
    WithdrawClaim,
)
from coordinator.commands.task_pause import PauseTask, ResumeTask
from coordinator.commands.wire import WIRE_COMMANDS, encode_command, value_of
from coordinator.commands.worker import LeaveWorker, RegisterWorker
from coordinator.doors.inbox import InboxLimits, inbox_stream
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.container import ContainerStatus
from events.errors import CoordinationError, Forbidden, NotFound, Refused, StaleLease, Unavailable
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.schedule import Catchup, Overlap, TaskContent
from events.subjects import Subjects
from events.task import Scalar, TaskStatus
from events.time_limits import TimeLimits
from tests.simulation.broker import LATE_S
from tests.simulation.fit import LABELS, LICENCES, filter_of, needs_of, prefer_of
from tests.simulation.kept_budgets import drawn_usage, spend_of
from tests.simulation.kept_versions import BUILDS
from tests.simulation.promises import Promise
from tests.simulation.task_rules import SECRET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from coordinator.bus.subscription import Message
    from coordinator.commands.wire import Answer
    from projections.task import Task
    from tests.simulation.cluster import Sim

URL = "nats://sim:4222"
NAMESPACE = "sim"
PATIENCE_S = 600.0
ATTEMPTS_S = (1.0, 1.0, 5.0, 12.0)
"""How long users wait for an answer before they send the command again."""
HURRY_S = 1.0
LATE_SHARE = 0.02
REPEATED_SHARE = 0.2
AGAIN_SHARE = 0.2
CHECKED_SHARE = 0.4
"""A check of what is remembered comes this part of the time after the end: commit times differ from the true ones."""
MIB = 1024 * 1024
SLOTS = 3
AFTER_FROM = 4
"""The first task of a client that may wait for others."""
SUBMITS_MAX = 40
"""How often a task is submitted whose predecessors are not known."""
_RETRY = {
    1: RetryPolicy(first_s=0.2, factor=3.0, most_s=2.0, when_exhausted="pause"),
    2: RetryPolicy(backoff="linear", first_s=0.1, non_retryable=("Never",)),
    3: RetryPolicy(backoff="fixed", first_s=0.3, jitter=1.0, when_exhausted="pause"),
}
"""The retry policies of tasks by their number, modulo 5."""
_MAX_RETRIES = {0: 1, 1: 0, 3: 1}
"""How often tasks may be retried, by their number, modulo 10."""
POOL = Resources(cpu_millis=1000)
WORK = TaskContent(task_name="work")
SCHEDULES = (
    DefineSchedule(schedule_id="", task=WORK, every_s=2, catchup=Catchup.NONE),
    DefineSchedule(
        schedule_id="",
        task=WORK,
        every_s=3,
        catchup=Catchup.ALL,
        catchup_most=3,
        overlap=Overlap.QUEUE,
        jitter_s=2.0,
    ),
    DefineSchedule(schedule_id="", task=WORK, every_s=4, overlap=Overlap.CANCEL),
)
SELDOM = (
    DefineSchedule(schedule_id="", task=WORK, every_s=600),
    DefineSchedule(schedule_id="", task=WORK, every_s=300, catchup=Catchup.NONE, overlap=Overlap.CANCEL),
    DefineSchedule(
        schedule_id="",
        task=WORK,
        every_s=240,
        catchup=Catchup.ALL,
        catchup_most=5,
        overlap=Overlap.QUEUE,
        jitter_s=120.0,
    ),
)
"""Schedules of plans in which hours pass: nothing of them is due before that."""
LIMITS = {
    3: TimeLimits(heartbeat_s=3.0),
    6: TimeLimits(start_within_s=9.0),
    8: TimeLimits(finish_within_s=12.0, heartbeat_s=4.0),
}
"""Time limits of tasks, by the last digit of their number."""


def connect(source: str) -> AbstractAsyncContextManager[Client]:
    """Open the real client, with time-outs longer than any fault."""
    return Client.open(URL, source=source, namespace=NAMESPACE, name=source)


class Actor:
    """One process of a user: `run` does its work, with its own client."""

    def __init__(self, sim: Sim, name: str) -> None:
        self.sim = sim
        self.name = name
        self.random = sim.random
        self.client: Client

    async def main(self) -> None:
        """Connect and run; called again after a kill."""
        async with connect(self.name) as self.client:
            self.client.attempt_timeout_s = self.random.choice(ATTEMPTS_S)
            await self.run()

    async def run(self) -> None:
        """Do the work of the actor; it may be killed and started again."""
        raise NotImplementedError

    async def several(self, at_a_time: int, kind: str, one: Callable[[str], Awaitable[None]]) -> None:
        """Do *one* thing after the other, each with a new id of its kind, so many *at_a_time*, while faults strike."""

        async def again_and_again() -> None:
            while self.sim.dice.on:
                await self.sleep(0.0, 1.0)
                await one(self.sim.new_id(kind))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_a_time):
                tasks.create_task(again_and_again())

    async def ask(self, command: Command) -> Any:
        """Send a command and record the acknowledged answer."""
        answer = await self.look(command)
        self.sim.told.append((command, answer))
        return answer

    async def look(self, command: Command) -> Any:
        """Send a command or a question; the answer is checked, but not recorded."""
        since = self.sim.watch.newest
        answer = await self.client.answer(command, timeout_s=PATIENCE_S)
        self.sim.watch.returned(self.client, command, answer, since)
        return value_of(answer, command)

    async def until_admitted(self, command: Command) -> Any:
        """Send a command and record the answer; again while a quota is used up."""
        while True:
            try:
                return await self.ask(command)
            except Refused as error:
                if error.reason not in ("quota", "queue_full", "unknown_queue", "over_budget", "no_price"):
                    raise
                self.sim.dice.fired["over_quota"] += 1
                await self.sleep(0.5, 2.0)

    async def must_be_refused(
        self, command: Command, error: type[CoordinationError], why: str = "", *, since: float = math.inf
    ) -> None:
        """Send a command that must be refused in this way, if what happened at *since* is still remembered."""
        value: object
        try:
            value = await self.look(command)
        except error as refused:
            if why in ("", refused.reason) or refused.reason == "quota":
                return
            value = refused
        except CoordinationError as refused:
            if self.sim.has_stopped and isinstance(refused, Unavailable):
                return  # it took hours
            value = refused
        if self._is_remembered(since):
            promise = Promise.FORBIDDEN if error is Forbidden else Promise.REMEMBERED
            self.sim.watch.violate(promise, f"{command} was answered {value!r}")

    def _is_remembered(self, since: float) -> bool:
        """Return whether what happened at a time must still be remembered, with room for clocks that are wrong."""
        if self.sim.has_stopped:
            return False  # it may have been answered hours after it was recorded
        return asyncio.get_running_loop().time() - since < CHECKED_SHARE * self.sim.plan.hard_s

    async def sleep(self, least: float, most: float) -> None:
        """Sleep for a random time; users hurry when the faults are over."""
        await asyncio.sleep(self.random.uniform(least, most if self.sim.dice.on else min(most, least + HURRY_S)))


class Submitter(Actor):
    """Submits tasks, cancels some, and waits for the end of each; after a restart it submits the same tasks."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.sim.plan.tasks):
                tasks.create_task(self._one(f"{self.name}-{number}", number))

    async def _one(self, task_id: str, number: int) -> None:
        await self.sleep(0, self.sim.plan.faulty_s * 0.8)
        command = SubmitTask(
            task_id=task_id,
            task_name="work",
            priority=number % 3,
            timeout_s=1.5 if number % 5 == 0 else None,
            max_retries=_MAX_RETRIES.get(number % 10),
            idempotency_key=f"key-{task_id}" if number % 4 == 0 else "",
            queue=("", "", "a", "b")[number % 4] if self.sim.plan.has_queues else "",
            fairness_key="xyz"[number % 3] if self.sim.plan.has_queues else "",
            retry=_RETRY.get(number % 5),
            after=self._after(number),
            delay_s=1.5 if number % 6 == 1 else None,
            time_limits=LIMITS.get(number % 10),
            attributes=self._attributes(number),
            worker_filter=filter_of(number) if self.sim.plan.has_labels else "",
            resources=needs_of(number) if self.sim.plan.has_labels else NONE,
            prefer=prefer_of(number, self.name) if self.sim.plan.has_labels else None,
            pin_version=not (self.sim.plan.has_versions and number % 6 == 5),
            spend=spend_of(number) if self.sim.plan.has_budgets else None,
        )
        try:
            first = await self._until_known(command)
        except NotFound:
            return  # what it was to wait for ended too long ago
        except Refused as error:
            if error.reason == "too_large" and self.sim.plan.has_limits:
                return  # it was to take the place of more tasks than the small commits of a run have room for
            raise
        if self.sim.plan.has_access and number % 5 == 2:
            await self._submit_secret()
        if number % 8 == 6:
            await self._pause(task_id)
        if number % 9 in (4, 7):
            try:
                await self._cancel(task_id)
                self.sim.dice.fired["cancelled"] += 1
            except (Refused, NotFound):
                pass  # it has already ended
        self.sim.seen_ended[task_id] = await self._end_of(task_id)
        if self.random.random() < 0.6:
            await self._repeat(command, first, asyncio.get_running_loop().time())
        if number % 3 == 0 and self.sim.seen_ended[task_id] in (TaskStatus.FAILED, TaskStatus.TIMEOUT):
            await self._requeue(command)

    def _attributes(self, number: int) -> dict[str, Scalar]:
        """Return what filters and limits know of a task."""
        known: dict[str, Scalar] = {"size": number % 4} if self.sim.plan.has_holds else {}
        if self.sim.plan.has_limits and number % 7:
            known["customer"] = number % 3
        return known

    async def _submit_secret(self) -> None:
        """Submit a task that only one of the clients may submit; nobody runs it, so it is cancelled."""
        command = SubmitTask(task_id=self.sim.new_id("secret"), task_name=SECRET)
        if self.name != "client0":
            await self.must_be_refused(command, Forbidden)
            self.sim.dice.fired["task_forbidden"] += 1
            return
        await self.until_admitted(command)
        with suppress(Refused, NotFound):  # a worker got it, and it has ended
            await self._cancel(command.task_id)

    async def _pause(self, task_id: str) -> None:
        """Pause a task that waits, as an operator does; whoever waits for its end resumes it."""
        with suppress(Refused, NotFound):  # it runs, or has ended
            await self.ask(PauseTask(task_id=task_id, reason="drawn"))
            self.sim.dice.fired["paused"] += 1

    async def _requeue(self, command: SubmitTask) -> None:
        """Requeue a task that failed, twice: that makes one new task."""
        again = msgspec.structs.replace(
            command,
            task_id=requeued_id(command.task_id),
            idempotency_key="",
            after=None,
            requeued_from=command.task_id,
        )
        for _ in range(2):
            if await self.until_admitted(again) != again.task_id:
                self.sim.watch.violate(Promise.ONE_ANSWER, f"{again} was answered with another id")
        self.sim.dice.fired["requeued"] += 1
        self.sim.seen_ended[again.task_id] = await self._end_of(again.task_id)

    def _after(self, number: int) -> After | None:
        """Return what a task waits for: some of those before it, the same ones after a restart."""
        if number % 3 or number < AFTER_FROM:
            return None
        before = {number - 1, number - 3, number // 2}
        return After(
            tasks=tuple(f"{self.name}-{one}" for one in sorted(before)),
            on=(AfterOn.SUCCESS, AfterOn.SUCCESS, AfterOn.END)[number % 7 % 3],
            join=(AfterJoin.ALL, AfterJoin.ANY)[number // 3 % 2],
            otherwise=(Otherwise.CANCEL, Otherwise.RUN)[number % 4 == 0],
        )

    async def _until_known(self, command: SubmitTask) -> str:
        """Submit a task; again while those that it is to wait for are not known, and raise `NotFound` at last."""
        for _ in range(SUBMITS_MAX):
            try:
                first: str = await self.until_admitted(command)
            except NotFound:
                self.sim.dice.fired["predecessor_unknown"] += 1
                await self.sleep(0.5, 2.0)
            else:
                return first
        raise NotFound

    async def _cancel(self, task_id: str) -> None:
        """Cancel a task, mostly while it runs: at once, or in steps, and perhaps sooner than was said first."""
        for _ in range(self.random.choice((0, 40, 40))):
            if (await self.look(GetTask(task_id=task_id))).status is not TaskStatus.PENDING:
                break
            await asyncio.sleep(0.2)
        grace_s = self.random.choice((0.0, None, None, 0.5, 4.0))
        await self.ask(CancelTask(task_id=task_id, reason="drawn", grace_s=grace_s))
        while self.random.random() < 0.4:
            await self.sleep(0.0, 1.0)
            await self.ask(CancelTask(task_id=task_id, reason="again", grace_s=self.random.uniform(0.0, 3.0)))

    async def _end_of(self, task_id: str) -> TaskStatus | None:
        """Wait until a task has ended, and resume it if it is paused; None if it was evicted since."""
        try:
            while not (task := await self.look(GetTask(task_id=task_id, wait_s=5.0))).is_ended:
                if task.is_paused:
                    move_to = self.random.choice((None, *BUILDS)) if self.sim.plan.has_versions else None
                    with suppress(Refused):  # it was cancelled, or has no such worker
                        await self.ask(ResumeTask(task_id=task_id, more_retries=1, reason="drawn", move_to=move_to))
                        self.sim.dice.fired["resumed"] += 1
        except NotFound:
            return None
        else:
            status: TaskStatus = task.status
            return status

    async def _repeat(self, command: SubmitTask, first: str, ended_at: float) -> None:
        """Repeat commands about a task that has ended: each gets its first answer, whether it was evicted or not."""
        await self.sleep(0.0, min(8.0, CHECKED_SHARE * self.sim.plan.hard_s))
        task_id, status = command.task_id, self.sim.seen_ended[command.task_id]
        is_evicted = await self._end_of(task_id) is None
        await self._same(command, first, ended_at)
        if command.idempotency_key:
            await self._same(msgspec.structs.replace(command, task_id=f"{task_id}-again"), first, ended_at)
        if self._is_remembered(ended_at):
            other = msgspec.structs.replace(command, priority=int(command.priority) + 1)
            await self.must_be_refused(other, Refused, "id_taken", since=ended_at)
        cancel = CancelTask(task_id=task_id, reason="again")
        if status is TaskStatus.COMPLETED:
            await self.must_be_refused(cancel, Refused, "already_ended", since=ended_at)
        elif status is TaskStatus.CANCELLED:
            await self._same(cancel, TaskStatus.CANCELLED, ended_at)
        self.sim.dice.fired["repeated_after_eviction" if is_evicted else "repeated"] += 1

    async def _same(self, command: Command, first: object, ended_at: float) -> None:
        """Send a command that must be answered as *first*."""
        try:
            value = await self.until_admitted(command)
        except CoordinationError as error:
            value = error
        if value != first and self._is_remembered(ended_at):
            self.sim.watch.violate(Promise.REMEMBERED, f"{command} was answered {value!r} and not {first!r}")


class Worker(Actor):
    """Claims tasks, executes them one after the other, sometimes slowly, and sends heartbeats."""

    def __init__(self, sim: Sim, name: str) -> None:
        super().__init__(sim, name)
        self._leases: list[str] = []
        self._to_cancel: dict[tuple[str, str], float] = {}
        """The attempts that are to end, with their grace in seconds."""

    async def run(self) -> None:
        self._leases = []
        self._to_cancel = {}
        await self.client.bus.subscribe(self.client.subjects.notice("worker", self.name), self._noticed)
        await self._register()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            while True:
                await self._round()

    async def _register(self) -> None:
        command = RegisterWorker(worker_id=self.name, slots=SLOTS)
        if self.sim.plan.has_labels:
            labels = LABELS[int(self.name.removeprefix("worker"))]
            command = msgspec.structs.replace(command, labels=labels, resources=LICENCES)
        if self.sim.plan.has_versions:
            command = msgspec.structs.replace(command, build_id=BUILDS[int(self.name.removeprefix("worker"))])
        await self.ask(command)

    def _noticed(self, message: Message) -> None:
        notice = msgspec.json.decode(message.data, type=LostLeases)
        self._to_cancel.update(((one.task_id, one.lease), one.grace_s) for one in notice.cancel)

    async def _beat(self) -> None:
        while True:
            self.client.beat_worker(self.name, tuple(self._leases), self.random.random())
            await self.sleep(0.5, 1.0)

    async def _give_up(self, claim: ClaimTasks) -> None:
        """Claim tasks, and withdraw the claim soon after."""
        with suppress(TimeoutError, Refused):  # a claim of a worker that has left is refused
            async with asyncio.timeout(self.random.random() * 0.5):
                await self.ask(claim)
        await self.ask(WithdrawClaim(claim_id=claim.claim_id, worker_id=self.name))
        self.sim.dice.fired["withdrawn"] += 1

    async def _round(self) -> None:
        if (self.sim.plan.has_labels or self.sim.plan.has_versions) and self.random.random() < AGAIN_SHARE:
            await self._register()  # what was evicted meanwhile is registered by a claim, without labels and build
        claim = ClaimTasks(
            claim_id=self.sim.new_id("claim"),
            worker_id=self.name,
            slots=self.random.randint(1, SLOTS),
            wait_s=2.0,
            strategy=self.random.choice(("", "", "priority", "round_robin", "least_loaded")),
        )
        if self.sim.plan.has_access and self.name == "worker0" and self.random.random() < 0.1:
            for command in (
                msgspec.structs.replace(claim, worker_id="worker1"),
                LeaveWorker(worker_id="worker1"),
                CompleteTask(task_id=f"client{self.random.randrange(2)}-{self.random.randrange(20)}"),
            ):
                await self.must_be_refused(command, Forbidden)
        try:
            if self.random.random() < 0.15:
                await self._give_up(claim)
                return
            tasks: list[Task] = await self.ask(claim)
        except Refused:
            await self.sleep(0.1, 0.5)
            return
        self._leases = [task.lease for task in tasks]
        for task in tasks:
            await self._execute(task)
            self._forget(task.lease)
        if self.random.random() < 0.02:
            await self.ask(LeaveWorker(worker_id=self.name))

    def _forget(self, lease: str) -> None:
        if lease in self._leases:
            self._leases.remove(lease)

    async def _execute(self, task: Task) -> None:
        await self.sleep(0.0, self.random.choice((0.8, 0.8, 0.8, 3.0)))
        grace_s = self._to_cancel.pop((task.task_id, task.lease), None)
        if grace_s is not None and await self._ends(task, grace_s):
            return
        if self.random.random() < LATE_SHARE:  # its lease ends, and perhaps somebody else has the task by then
            self._forget(task.lease)
            await self.sleep(3.0, 5.0)
        try:
            drawn = self.random.random()
            if drawn < 0.1:
                used = drawn_usage(self.random, task)
                await self.ask(ProgressTask(task_id=task.task_id, lease=task.lease, progress=0.5, usage=used))
            elif drawn < 0.2:
                await self.ask(ExtendTask(task_id=task.task_id, lease=task.lease, by_s=1.0))
            if drawn > 0.95:
                await self.ask(ReleaseTask(task_id=task.task_id, lease=task.lease))
            elif drawn > 0.8:
                await self._twice(
                    FailTask(
                        task_id=task.task_id,
                        error="drawn",
                        lease=task.lease,
                        worker_id=self.name,
                        error_type="drawn.Never" if drawn > 0.93 else "drawn.Often",
                        retry_after_s=1.5 if drawn < 0.85 else None,
                        usage=drawn_usage(self.random, task),
                    )
                )
            else:
                used = drawn_usage(self.random, task)
                await self._twice(CompleteTask(task_id=task.task_id, lease=task.lease, worker_id=self.name, usage=used))
        except StaleLease:
            self.sim.dice.fired["stale_refused"] += 1
        except (Refused, NotFound):
            pass  # cancelled or timed out

    async def _ends(self, task: Task, grace_s: float) -> bool:
        """End an attempt that is to be cancelled: in order, at the last moment, or go on as if nothing was said."""
        drawn = self.random.random()
        if drawn < 0.3:
            await asyncio.sleep(self.random.choice((0.0, grace_s, grace_s + 2.0)))
            return False
        steps = [CancelStep.TOLD, CancelStep.ENDED]
        if drawn > 0.6:
            steps[1:1] = [self.random.choice((CancelStep.RAISED, CancelStep.LEFT_BEHIND))]
        try:
            for step in steps:
                used = drawn_usage(self.random, task) if step is CancelStep.ENDED else None
                await self.ask(ReportCancel(task_id=task.task_id, lease=task.lease, step=step, usage=used))
                self.sim.dice.fired["cancel_steps"] += 1
                if drawn > 0.6:
                    await asyncio.sleep(self.random.uniform(0.0, grace_s))
        except (StaleLease, NotFound):
            self.sim.dice.fired["stale_refused"] += 1
        return True

    async def _twice(self, command: CompleteTask | FailTask) -> None:
        """Report the outcome of an attempt, and at times once more, byte for byte: it gets its first answer."""
        command_id = self.sim.new_id("cmd") if command.REMEMBERED else ""
        encoded = encode_command(WIRE_COMMANDS[type(command)](data=command, id=command_id))
        first = value_of(await self._send(encoded, command), command)
        self.sim.told.append((command, first))
        if self.random.random() >= REPEATED_SHARE:
            return
        told_at = asyncio.get_running_loop().time()
        await self.sleep(0.0, 2.0)
        again = await self._send(encoded, command)
        value: object
        try:
            value = value_of(again, command)
        except CoordinationError as error:
            value = error
        if value != first and self._is_remembered(told_at):
            self.sim.watch.violate(Promise.REMEMBERED, f"{command} was answered {first!r}, its repeat {value!r}")
        self.sim.dice.fired["repeated"] += 1

    async def _send(self, encoded: bytes, command: Command) -> Answer:
        """Send an encoded command until it is answered."""
        loop = asyncio.get_running_loop()
        subject = self.client.subjects.rpc(self.client.source, command.KIND, command.VERB)
        since = self.sim.watch.newest
        while True:
            (answer,) = await self.client.request(subject, [encoded], loop.time() + PATIENCE_S)
            if answer.error is None or answer.error.code != Unavailable.code:
                self.sim.watch.returned(self.client, command, answer, since)
                return answer
            await self.sleep(0.1, 0.5)


class Stranger(Actor):
    """Sends commands that it is not allowed to send."""

    async def run(self) -> None:
        while True:
            await self.sleep(0.5, 2.0)
            task_id = f"client{self.random.randrange(2)}-{self.random.randrange(20)}"
            command = self.random.choice((
                CancelTask(task_id=task_id),
                CompleteTask(task_id=task_id),
                SubmitTask(task_id=self.sim.new_id("strange"), task_name="work"),
                ClaimTasks(claim_id=self.sim.new_id("strange"), worker_id="worker0"),
                StopContainer(container_id="containeruser0-0"),
            ))  # fmt: skip
            await self.must_be_refused(command, Forbidden)
            self.sim.dice.fired["forbidden"] += 1


class Service(Actor):
    """Registers, sends heartbeats, and is sometimes silent for too long."""

    async def run(self) -> None:
        command = RegisterService(
            service_id=self.name,
            service_name="s",
            service_type="agent",
            host="localhost",
            port=1,
            health_check_url="http://localhost:1/" if self.sim.plan.has_checks else "",
        )
        await self.ask(command)
        while True:
            self.client.beat_service(self.name)
            await self.sleep(0.5, 1.5)
            if self.random.random() < 0.01:
                await self.sleep(5, 15)


class ContainerUser(Actor):
    """Takes containers through their life cycle; after a kill it continues with the container as it is."""

    async def run(self) -> None:
        for number in range(2):
            container_id = f"{self.name}-{number}"
            await self.sleep(0.0, 4.0)
            create = CreateContainer(
                container_id=container_id,
                agent_id="a",
                agent_type="task_agent",
                resources=Resources(cpu_millis=100, memory_bytes=(1 + number % 2) * MIB),
            )
            if not await self._until_room(create) or await self._status(container_id) is ContainerStatus.DESTROYED:
                continue  # possibly by this process before it was killed
            for turn in range(2):
                if turn == 0 or self.sim.dice.on:
                    await self._start_and_stop(container_id)
            await self._until_done(DestroyContainer(container_id=container_id))
            await self._until(container_id, ContainerStatus.DESTROYED)

    async def _start_and_stop(self, container_id: str) -> None:
        if not await self._until_room(StartContainer(container_id=container_id)):
            return
        await self._until(container_id, ContainerStatus.RUNNING, least=False)
        await self.sleep(0.0, self.random.choice((4.0, 20.0)))
        if self.random.random() < 0.3:
            await self._until_done(PauseContainer(container_id=container_id))
            await self.sleep(0.0, 3.0)
            await self._until_done(ResumeContainer(container_id=container_id))
            await self.sleep(0.0, 4.0)  # else its node never gets to resume it before it is stopped
        force = self.random.random() < (0.3 if self.sim.dice.on else 0.9)
        await self._until_done(StopContainer(container_id=container_id, force=force))
        await self._until(container_id, ContainerStatus.STOPPED, ContainerStatus.ERROR)

    async def _until_room(self, command: Command) -> bool:
        for _ in range(20):
            try:
                await self.ask(command)
            except Refused as error:
                if error.reason not in ("no_room", "not_startable"):
                    return False
                await self.sleep(0.5, 2.0)
            else:
                return True
        return False

    async def _until_done(self, command: Command) -> None:
        with suppress(Refused, NotFound):
            await self.ask(command)

    async def _status(self, container_id: str) -> ContainerStatus:
        question = GetContainer(container_id=container_id)
        try:
            status: ContainerStatus = (await self.look(question)).status
        except NotFound:
            return ContainerStatus.DESTROYED  # some time ago
        return status

    async def _until(self, container_id: str, *statuses: ContainerStatus, least: bool = True) -> None:
        """Wait until the container has one of *statuses*; unless *least*, only for a while."""
        for turn in range(10_000):
            status = await self._status(container_id)
            if status in statuses or status is ContainerStatus.DESTROYED or (not least and turn > 10):
                return
            await asyncio.sleep(0.5)


class ScheduleUser(Actor):
    """Defines schedules that fire every few seconds, changes, pauses and fills them, and deletes them at the end."""

    async def run(self) -> None:
        has_hours = self.sim.plan.has_hours
        schedules = (*SCHEDULES, *SELDOM) if has_hours else SCHEDULES
        names = [f"{self.name}-{number}" for number in range(len(schedules))]
        for name, command in zip(names, schedules, strict=True):
            await self._until_done(msgspec.structs.replace(command, schedule_id=name))
        self.sim.are_scheduled.set()
        for _ in range(3):
            await self.sleep(0.0, self.sim.plan.faulty_s / 3)
            await self._change(self.random.choice(names[: len(SCHEDULES)]))
        while has_hours and self.sim.dice.on and not self.sim.has_stopped:
            await self.sleep(0.5, 1.0)
        if has_hours:
            await self.sleep(8.0, 12.0)  # until somebody leads and has caught up
        for name in names:
            await self._until_done(DeleteSchedule(schedule_id=name))

    async def _change(self, name: str) -> None:
        drawn = self.random.random()
        if drawn < 0.4:
            await self._until_done(PauseSchedule(schedule_id=name, reason="drawn"))
            await self.sleep(0.0, 4.0)
            await self._until_done(ResumeSchedule(schedule_id=name))
        elif drawn < 0.7:
            command = msgspec.structs.replace(self.random.choice(SCHEDULES), schedule_id=name)
            await self._until_done(command)
        elif not self.sim.plan.forgets:  # a slot whose task was forgotten would be filled again
            with suppress(NotFound):
                schedule = await self.look(GetSchedule(schedule_id=name))
                if schedule.last_slot is not None:
                    since, until = schedule.last_slot - 6.0, schedule.last_slot + 0.0
                    await self._until_done(BackfillSchedule(schedule_id=name, since=since, until=until))

    async def _until_done(self, command: Command) -> None:
        with suppress(Refused, NotFound):
            await self.until_admitted(command)


class PoolUser(Actor):
    """Allocates shares of a pool that is too small for all users, two at a time, and releases them."""

    async def run(self) -> None:
        await self.ask(DefinePool(pool_id="pool", capacity=POOL))
        for _ in range(3):
            await self.sleep(0.0, 5.0)
            held = [
                one for one in (self.sim.new_id("request"), self.sim.new_id("request")) if await self._allocate(one)
            ]
            if held:
                # Longer than a message can be late: a request of that id that arrives after the release is a new one.
                await self.sleep(LATE_S, LATE_S + 3.0)
            for request_id in held:
                await self.ask(ReleasePool(pool_id="pool", request_id=request_id))

    async def _allocate(self, request_id: str) -> bool:
        asked = AllocatePool(pool_id="pool", request_id=request_id, resources=Resources(cpu_millis=400))
        try:
            is_granted: bool = await self.ask(asked)
        except Refused as error:
            if error.reason != "quota":
                raise
            self.sim.dice.fired["over_quota"] += 1
            return False
        return is_granted


class Domain(Actor):
    """Another domain: publishes commands, events and garbage into its inbox, each until acknowledged."""

    async def main(self) -> None:
        async with Bus.open(URL, name=self.name) as bus:
            subjects = Subjects(NAMESPACE)
            config = inbox_stream(subjects, self.name, InboxLimits())
            await self._until_answered(bus.js_request, f"STREAM.CREATE.{config['name']}", config)
            for number in range(12):
                await self.sleep(0.0, self.sim.plan.faulty_s / 10)
                kind, body = self._message(number)
                headers = {"Nats-Msg-Id": f"{self.name}-{number}"}
                await self._until_answered(bus.js_publish, subjects.inbox(self.name, kind), body, headers)
                self.sim.published[self.name].add(number)

    async def _until_answered(self, call: Any, *arguments: Any) -> None:
        while True:
            try:
                await call(*arguments, timeout_s=1.0)
            except (Unavailable, ApiError):
                await self.sleep(0.1, 0.5)
            else:
                return

    def _message(self, number: int) -> tuple[str, bytes]:
        if number % 6 == 5:
            return "task.submitted", b"nonsense"
        if number % 2:
            events = [
                self._event(f"{number}.{index}", "weather.noted", {"n": number}) for index in range(1 + number % 3)
            ]
            return "weather.noted", msgspec.json.encode(events)
        task_id = f"{self.name}-task-{number}"
        return "task.submitted", msgspec.json.encode(
            self._event(str(number), "task.submitted", {"task_id": task_id, "task_name": "work"})
        )

    def _event(self, name: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        return {"specversion": "1.0", "id": name, "source": f"/{self.name}", "type": kind, "data": data}
