"""
The checks of every finished run, made from the journal and the acknowledged answers, never from a live world.

Capacity is counted again here, event by event, because the sums of the fold are checked too.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.cancel_ladder import CancelStep, ReportCancel
from coordinator.commands.container import CreateContainer
from coordinator.commands.pool import AllocatePool, ReleasePool
from coordinator.commands.service import RegisterService
from coordinator.commands.task import CancelTask, ClaimTasks, CompleteTask, FailTask, SubmitTask
from coordinator.commands.task_pause import PauseTask, ResumeTask
from coordinator.deciders.task import DIRECT
from coordinator.diagnostics.derivation import Derivation
from events import codec
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.cancel_ladder import TaskCancelAsked
from events.codec import seconds_of
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerEvent,
    ContainerFailed,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
)
from events.coordinator import CoordinatorCommandRefused, CoordinatorMassSilenceNoticed, CoordinatorStarted, Watched
from events.hold import HoldEvent, HoldExpired, HoldPlaced
from events.inbox import InboxRecorded, InboxRefused
from events.limit import LimitEvent
from events.node import NodeLost
from events.pool import TASKS, PoolAllocated, PoolEvent, PoolReleased, PoolWithdrawn
from events.queue import DEFAULT, QueueDeleted, QueueEvent, QueuePaused, QueueResumed, QueueRouted
from events.schedule import (
    ScheduleDefined,
    ScheduleDeleted,
    ScheduleEvent,
    ScheduleFired,
    ScheduleQueued,
    ScheduleResumed,
    ScheduleSkipped,
)
from events.service import ServiceHealthChanged
from events.subjects import Subjects
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
)
from events.task_pause import TaskPaused, TaskResumed
from events.version import VersionEvent
from events.worker import WorkerDraining, WorkerLeft, WorkerLost, WorkerRegistered
from projections.source import Record
from projections.store.port import KINDS
from projections.world import World
from tests.simulation.actors import NAMESPACE, POOL, SLOTS
from tests.simulation.caught_up import CaughtUp
from tests.simulation.cluster import MEMORY_BYTES, MOST_PENDING, MOST_SHARES
from tests.simulation.fit import Fit
from tests.simulation.holder import FILTERS
from tests.simulation.kept_agents import KeptAgents
from tests.simulation.kept_budgets import KeptBudgets
from tests.simulation.kept_drains import KeptDrains
from tests.simulation.kept_gangs import KeptGangs
from tests.simulation.kept_limits import KeptLimits
from tests.simulation.kept_pools import KeptPools
from tests.simulation.kept_shadows import KeptShadows
from tests.simulation.kept_versions import KeptVersions
from tests.simulation.kept_waits import KeptWaits
from tests.simulation.promises import Promise, Violation
from tests.simulation.streams import header_of
from tests.simulation.task_rules import is_permitted

if TYPE_CHECKING:
    from events.base import Envelope
    from tests.simulation.cluster import Sim

_NOT_RUNNING = (ContainerStopping, ContainerFailed)
COMMITS_TO_SETTLE = 10
"""A turn may be full, so what the end of a task means for others may follow in a later one."""
ENDS_WITHIN_S = 1.0
"""After its grace, a task that was asked to end."""
_LOST: dict[type[Any], Watched] = {
    ServiceHealthChanged: Watched.SERVICE,
    WorkerLost: Watched.WORKER,
    NodeLost: Watched.NODE,
}
CLOCKS_S = 0.001
"""What a time in the journal, in microseconds, may be off."""
TERMINAL = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)


def records(sim: Sim) -> list[Record]:
    """Return the journal of a run; it is empty if no coordinator could begin."""
    stream = sim.broker.streams.get(sim.broker.journal)
    if stream is None:
        return []
    return [
        Record(
            sequence=one.sequence,
            kind="claim" if one.subject.endswith(".epoch") else "commit",
            body=one.data,
            chain=header_of(one.headers, b"Chain"),
            message_id=header_of(one.headers, b"Nats-Msg-Id"),
        )
        for one in stream.messages.values()
    ]


def check(sim: Sim) -> Counter[str]:
    """
    Check a finished run, and return the number of its events by type.

    Raises:
        Violation: a promise was broken; names the promise and the details.
    """
    journal = records(sim)
    derivation = Derivation()
    replayed = derivation.world
    history = History(sim)
    waits = KeptWaits()
    snapshots: dict[int, bytes] = {}
    for record in journal:
        for envelope in derivation.apply_record(record):
            history.take(envelope, record.sequence)
            waits.take(envelope.data, seconds_of(envelope.time))
        if wrong := waits.wrong(replayed):
            _broken(Promise.WAITED, wrong)
        if wrong := history.budgets.differences(replayed):
            _broken(Promise.BUDGET, f"after commit {record.sequence}, {wrong}")
        if record.sequence == len(journal) // 2:
            snapshots[record.sequence] = replayed.snapshot()
        for role, digest in sim.worlds.get((record.sequence, replayed.chain), {}).items():
            history.kinds[f"compared.{role}"] += 1
            if digest != replayed.digest():
                _broken(Promise.REPLAY, f"the world of a {role} at {record.sequence} differs from its replay")
    if derivation.differences:
        _broken(Promise.EXPLAINED, derivation.differences[0])
    history.check()
    _check_snapshot(journal, snapshots, replayed)
    _check_store(sim, journal)
    _check_inboxes(sim, history)
    history.kinds["fed"] = _check_feed(sim, journal)
    return history.kinds


def trace(sim: Sim) -> str:
    """Hash all messages and stored data of a run: equal seeds give equal hashes."""
    journal = b"".join(record.body for record in records(sim))
    sim.broker.log.update(journal)
    return f"{sim.broker.log.hexdigest()[:32]} {sorted(sim.dice.fired.items())}"


@dataclass
class Waits:
    """What a task waits for, and how those have ended that have; `decided` is the commit that decided it, or 0."""

    after: After
    ends: dict[str, type[TaskEvent] | None]
    decided: int = 0

    @property
    def holds(self) -> bool | None:
        """Whether it may begin, by the plain meaning of the words; None while that is open."""
        on_end = self.after.on is AfterOn.END
        held = [None if end is None else on_end or end is TaskCompleted for end in self.ends.values()]
        decides = self.after.join is AfterJoin.ANY
        if decides in held:
            return decides
        return None if None in held else not decides

    @property
    def runs(self) -> bool:
        """Whether it is to begin now."""
        return self.holds is True or (self.holds is False and self.after.otherwise is Otherwise.RUN)


class Slots:
    """The slots of one schedule, as its events tell: which come next, which wait, and which have been fired."""

    def __init__(self) -> None:
        self._every_s = 0
        self._next: int | None = None
        self._queued: list[int] = []
        self._fired = -1
        self._tasks: dict[str, int] = {}

    def submitted(self, event: TaskSubmitted, time: float, *, again: bool = False) -> None:
        """Take the task of a slot, not before its time: each has one, or another if that is forgotten (*again*)."""
        assert event.occurrence is not None
        if again:
            self._tasks.pop(event.task_id, None)
        slot = event.occurrence.slot
        if event.task_id in self._tasks or slot in self._tasks.values() or slot > time:
            _broken(Promise.ONCE_A_SLOT, f"{event} at {time} after {self._tasks}")
        self._tasks[event.task_id] = slot

    def take(self, event: ScheduleEvent) -> None:
        """Take an event of the schedule."""
        match event:
            case ScheduleDefined():
                self._every_s, self._next = event.timing.every_s or 0, event.next_slot
            case ScheduleResumed():
                self._next = event.next_slot
            case ScheduleFired(is_backfill=True):
                self._check(event, is_right=event.task_id in self._tasks)
            case ScheduleFired():
                is_right = self._tasks.get(event.task_id) == event.slot and event.slot > self._fired
                self._check(event, is_right=is_right and event.slot in (self._next, *self._queued[:1]))
                if event.slot == self._next:
                    self._goes_on(event, event.slot, event.next_slot)
                self._fired = event.slot
                self._queued = [slot for slot in self._queued if slot > event.slot]
            case ScheduleQueued():
                self._check(event, is_right=event.slot == self._next)
                self._queued.append(event.slot)
                self._goes_on(event, event.slot, event.next_slot)
            case ScheduleSkipped(reason="forbidden") if event.slot in self._queued:
                self._check(event, is_right=event.slot == event.through == self._queued.pop(0))
            case ScheduleSkipped():
                self._check(event, is_right=event.slot == self._next and event.through >= event.slot)
                self._goes_on(event, event.through, event.next_slot)
            case ScheduleDeleted():
                self._queued.clear()
            case _:
                pass

    def _goes_on(self, event: ScheduleEvent, last: int, then: int | None) -> None:
        self._check(event, is_right=then == last + self._every_s)
        self._next = then

    def _check(self, event: ScheduleEvent, *, is_right: bool) -> None:
        if not is_right:
            _broken(Promise.ONCE_A_SLOT, f"{event}, but slot {self._next} was next, and {self._queued} waited")


class History:
    """The state derived from the journal, event by event; broken promises are recorded as they occur."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.kinds: Counter[str] = Counter()
        self.tasks: dict[str, list[TaskEvent]] = defaultdict(list)
        self._before: dict[str, list[TaskEvent]] = defaultdict(list)
        """The events of tasks that were forgotten, and submitted again."""
        self.facts: dict[str, list[str]] = defaultdict(list)
        self.refused: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.others: list[tuple[Any, str]] = []
        self._commands: dict[tuple[str, str], tuple[int, float]] = {}
        self._ended_at: dict[str, float] = {}
        self._pending: dict[str, set[str]] = defaultdict(set)
        """Waiting tasks, by who submitted them."""
        self._submitter: dict[str, str] = {}
        self._queues: dict[str, str] = {}
        self._paused: set[str] = set()
        self._holds: dict[str, HoldPlaced] = {}
        """Those in force."""
        self._submitted: dict[str, TaskSubmitted] = {}
        self._not_running: set[str] = set()
        self._generations: dict[str, str] = {}
        self._position = ""
        self._sequence, self._time = 0, 0.0
        self._to_end: dict[str, float] = {}
        """The tasks that were asked to end, and when they must have, by commit time."""
        self._waits: dict[str, Waits] = {}
        self._leases: dict[str, str] = {}
        self._claims: dict[str, tuple[int, set[str]]] = {}
        self._claim_of: dict[str, set[str]] = {}
        self._first_starts: dict[str, float] = {}
        self._schedules: dict[str, Slots] = {}
        self._caught_up: dict[str, CaughtUp] = {}
        self._shares: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._memory: dict[str, int] = {}
        self._places: dict[str, str] = {}
        self._noticed: dict[Watched, float] = {}
        """When the last mass silence of a kind was noticed."""
        self.lost: Counter[str] = Counter()
        self._retries = Retries()
        self._limits = KeptLimits()
        self._gangs = KeptGangs()
        self.budgets = KeptBudgets()
        self._pools = KeptPools()
        self._drains = KeptDrains()
        self._fit = Fit()
        self._versions = KeptVersions()
        self._shadows = KeptShadows()
        self._agents = KeptAgents()
        self._leader = ""

    def take(self, envelope: Envelope, sequence: int) -> None:
        """Apply one event."""
        time = seconds_of(envelope.time)
        if sequence != self._sequence:
            self._end_commit()
        self._sequence, self._time = sequence, time
        self.kinds[envelope.type] += 1
        self._position = str(envelope.id)
        event = envelope.data
        if wrong := self.budgets.take(event, time, envelope.tenant, envelope.actor):
            _broken(Promise.BUDGET, wrong)
        if envelope.commandid:
            key = (envelope.actor, envelope.commandid)
            before, at = self._commands.setdefault(key, (sequence, time))
            if before != sequence and time - at <= self.sim.plan.hard_s:
                _broken(Promise.ONCE, f"command {key} led to events in commits {before} and {sequence}: {event}")
        if envelope.actor.startswith("stranger") and not isinstance(event, CoordinatorCommandRefused):
            _broken(Promise.FORBIDDEN, f"{envelope} was caused by someone who may do nothing")
        if wrong := self._pools.take(event, envelope.actor, time, sequence):
            _broken(Promise.POOL, wrong)
        if wrong := self._drains.take(event):
            _broken(Promise.DRAIN, wrong)
        self.kinds["moved"] = self._drains.moved
        if wrong := self._agents.take(event, time, envelope.actor):
            _broken(Promise.AGENTS, wrong)
        self.kinds["given_up"] = self._agents.given_up
        if isinstance(event, QueueEvent) and (wrong := self._shadows.take(event, sequence)):
            _broken(Promise.SHADOW, wrong)
        if isinstance(event, TaskEvent):
            self._count(event, envelope.actor, time)
            self._retries.take(event, time)
            if wrong := self._limits.take(event, time):
                _broken(Promise.LIMIT, wrong)
            if wrong := self._gangs.take(event, time, TERMINAL):
                _broken(Promise.GANG, wrong)
            self._task(event, sequence)
            self._settle(event, sequence)
            self._fits(event, time)
            self._versions.take(event)
            self.kinds["versioned"] = self._versions.checked
        elif isinstance(event, ContainerEvent):
            self._container(event)
        elif isinstance(event, ScheduleEvent):
            self._schedules.setdefault(event.schedule_id, Slots()).take(event)
            caught_up = self._caught_up.setdefault(event.schedule_id, CaughtUp())
            if wrong := caught_up.take(event, time, sequence, self._ended_at):
                _broken(Promise.CAUGHT_UP, wrong)
            self.kinds["caught_up"] += caught_up.take_count()
        elif isinstance(event, LimitEvent):
            self._limits.change(event)
        elif isinstance(event, QueuePaused):
            self._paused.add(event.queue_id)
        elif isinstance(event, QueueResumed | QueueDeleted | QueueRouted):
            self._queue(event)
        elif isinstance(event, VersionEvent):
            self._versions.changed(event)
        elif isinstance(event, HoldEvent):
            self._hold(event, time)
        elif isinstance(event, WorkerRegistered):
            self._fit.registered(event)
            self._versions.registered(event)
        elif isinstance(event, WorkerDraining | WorkerLeft):
            self._fit.stops(event.worker_id)
        elif isinstance(event, InboxRecorded):
            self.facts[event.domain].append(event.event_id)
        elif isinstance(event, InboxRefused):
            self.refused[event.domain].append((event.sequence, event.index))
        else:
            self._other(event, envelope)

    def _queue(self, event: QueueResumed | QueueDeleted | QueueRouted) -> None:
        if not isinstance(event, QueueRouted):
            self._paused.discard(event.queue_id)
        if not isinstance(event, QueueResumed):
            self._versions.routed(event)

    def _hold(self, event: HoldEvent, time: float) -> None:
        if isinstance(event, HoldPlaced):
            self._holds[event.hold_id] = event
            return
        placed = self._holds.pop(event.hold_id)
        if isinstance(event, HoldExpired) and (placed.expires_at is None or time < placed.expires_at):
            _broken(Promise.HOLD, f"{event} at {time}, but {placed}")

    def _count(self, event: TaskEvent, actor: str, time: float) -> None:
        """Check that a task begins once and stays ended while it is remembered, and that no source has too many."""
        task_id = event.task_id
        if isinstance(event, TaskSubmitted):
            if (ended_at := self._ended_at.pop(task_id, None)) is not None:
                if time - ended_at <= self.sim.plan.hard_s:
                    _broken(Promise.ONE_END, f"{task_id} was submitted again {time - ended_at:.1f} s after its end")
                self._before[task_id] += self.tasks[task_id]
                self.tasks[task_id] = []
            user = actor if event.occurrence is None else event.occurrence.source
            if self.sim.plan.has_access and not (event.rule and is_permitted(event.task_name, user, self._leader)):
                _broken(Promise.FORBIDDEN, f"{event} was accepted of {user} while {self._leader} led")
            waiting = self._pending[actor]
            if self.sim.plan.has_access and actor == "client0" and len(waiting) >= MOST_PENDING:
                _broken(Promise.QUOTA, f"{actor} has {MOST_PENDING} waiting tasks and submitted {task_id}")
            self._submitter[task_id] = actor
            self._queues[task_id] = event.queue or DEFAULT
            self._submitted[task_id] = event
            self._first_starts[task_id] = event.not_before or 0.0
            if event.occurrence is not None:
                is_again = ended_at is not None and actor != "coordinator"
                self._schedules[event.occurrence.schedule_id].submitted(event, time, again=is_again)
            waiting.add(task_id)
            self._is_to_wait(event)
            return
        if task_id in self._ended_at and not isinstance(event, TaskReportRefused):
            _broken(Promise.ONE_END, f"{event} came after the end of the task")
        if isinstance(event, TaskStarted) and time < self._first_starts[task_id]:
            _broken(Promise.NOT_BEFORE, f"{event} came {self._first_starts[task_id] - time:.3f} s too early")
        waiting = self._pending[self._submitter[task_id]]
        if isinstance(event, TaskAttemptFailed) or (isinstance(event, TaskPaused) and event.lease):
            waiting.add(task_id)
        elif isinstance(event, (TaskStarted, *TERMINAL)):
            waiting.discard(task_id)
        if isinstance(event, TERMINAL):
            self._ended_at[task_id] = time
            self._to_end.pop(task_id, None)
        elif isinstance(event, TaskCancelAsked):
            self._to_end[task_id] = min(time + event.grace_s + ENDS_WITHIN_S, self._to_end.get(task_id, math.inf))

    def _end_commit(self) -> None:
        """Check what must be true after each commit."""
        for task_id, waits in self._waits.items():
            if waits.decided and waits.decided + COMMITS_TO_SETTLE < self._sequence:
                _broken(Promise.AFTER, f"{task_id} waits after commit {self._sequence}, though {waits} was decided")
        if wrong := self._pools.end(self._sequence):
            _broken(Promise.POOL, wrong)
        if wrong := self._gangs.end():
            _broken(Promise.GANG, wrong)
        self.kinds["gang_begun"] = self._gangs.begun
        late = [task_id for task_id, until in self._to_end.items() if until < self._time]
        if late:
            _broken(Promise.CANCELLED, f"{late} were asked to end, and had not after commit {self._sequence}")

    def _is_to_wait(self, event: TaskSubmitted) -> None:
        """Note what a task waits for; how those have ended that have is known from the events before."""
        if event.after is None:
            return
        ends = {one: next(map(type, filter(_is_end, self.tasks[one])), None) for one in event.after.tasks}
        waits = Waits(event.after, ends)
        left = () if waits.holds is not None else tuple(one for one, end in ends.items() if end is None)
        if event.waits_for != left:
            _broken(Promise.AFTER, f"{event}, but {left} had not ended")
        if not waits.runs:
            self._waits[event.task_id] = waits
            waits.decided = 0 if waits.holds is None else self._sequence

    def _settle(self, event: TaskEvent, sequence: int) -> None:
        """Check what becomes of a task that waits, and note what an end means for those that do."""
        task_id, waits = event.task_id, self._waits.get(event.task_id)
        if isinstance(event, TERMINAL):
            for one in self._waits.values():
                if task_id in one.ends and one.ends[task_id] is None:
                    one.ends[task_id] = type(event)
                    one.decided = one.decided or (0 if one.holds is None else sequence)
        if waits is None:
            return
        if isinstance(event, (TaskStarted, TaskUnblocked)):
            if not waits.runs:
                _broken(Promise.AFTER, f"{event}, but it waits for {waits}")
            del self._waits[task_id]
        elif isinstance(event, TaskCancelled):
            if event.how == "predecessor" and (waits.holds is not False or waits.after.otherwise is Otherwise.RUN):
                _broken(Promise.AFTER, f"{event}, but it waits for {waits}")
            del self._waits[task_id]
        elif isinstance(event, TERMINAL):  # its time is over
            del self._waits[task_id]

    def _task(self, event: TaskEvent, sequence: int) -> None:
        self.tasks[event.task_id].append(event)
        held = self._leases.get(event.task_id, "")
        if isinstance(event, TaskStarted):
            if held:
                _broken(Promise.LEASE, f"{event.task_id} was started under {event.lease} while {held} was held")
            self._leases[event.task_id] = event.lease
            if self._queues[event.task_id] in self._paused and event.claim_id != DIRECT:
                _broken(Promise.PAUSED, f"{event} is of queue {self._queues[event.task_id]!r}, which is paused")
            met = [one for one in self._holds.values() if FILTERS[one.where](self._submitted[event.task_id])]
            if met and event.claim_id != DIRECT:
                _broken(Promise.HOLD, f"{event} meets {met}")
            self._start(event, sequence)
        elif isinstance(event, (TaskCompleted, TaskFailed, TaskAttemptFailed, TaskTimedOut)) or (
            isinstance(event, TaskPaused) and event.lease
        ):
            if event.lease != held:
                _broken(Promise.LEASE, f"{event} was accepted, but {held or 'no lease'} was held")
            self._end(event.task_id)
        elif isinstance(event, TaskCancelled):
            if event.lease not in ("", held):
                _broken(Promise.LEASE, f"{event} ended an attempt under that lease, but {held or 'no lease'} was held")
            self._end(event.task_id)

    def _fits(self, event: TaskEvent, time: float) -> None:
        """Check that a task starts where it may; one that somebody reports on who holds no lease starts nowhere."""
        if isinstance(event, TaskSubmitted):
            self._fit.submitted(event, time)
        elif not (isinstance(event, TaskStarted) and event.claim_id == DIRECT):
            self._fit.take(event, time)
        self.kinds["fitted"] = self._fit.checked
        self.kinds["compared_with_itself"] = self._shadows.equal

    def _start(self, event: TaskStarted, sequence: int) -> None:
        commit, held = self._claims.setdefault(event.claim_id, (sequence, set()))
        if commit != sequence and held:
            _broken(
                Promise.ONCE,
                f"claim {event.claim_id} was decided in commits {commit} and {sequence}, and still holds {held}",
            )
        self._claims[event.claim_id] = (sequence, held)
        held.add(event.task_id)
        self._claim_of[event.task_id] = held
        self._places[event.task_id] = event.worker_id
        count = sum(1 for task_id, lease in self._leases.items() if lease and self._places[task_id] == event.worker_id)
        if count > SLOTS:
            _broken(
                Promise.CAPACITY,
                f"worker {event.worker_id} has {SLOTS} slots and holds {count} tasks with {event.task_id}",
            )

    def _end(self, task_id: str) -> None:
        self._leases[task_id] = ""
        self._claim_of.get(task_id, set()).discard(task_id)

    def _container(self, event: ContainerEvent) -> None:
        memory, places, container_id = self._memory, self._places, event.container_id
        if isinstance(event, _NOT_RUNNING):
            self._not_running.add(container_id)
        if isinstance(event, ContainerStarting):
            self._generations[container_id] = self._position
            self._not_running.discard(container_id)
        elif isinstance(event, ContainerStopped) and event.exit_code == 0 and container_id not in self._not_running:
            key = container_id, self._generations.get(container_id, "")
            if not any(key in machine.finished for machine in self.sim.machines):
                _broken(Promise.REASON, f"{event}, but {key} did not end by itself with 0")
        if isinstance(event, ContainerCreated):
            memory[container_id] = event.resources.memory_bytes
            places[container_id] = event.node_id
        elif isinstance(event, ContainerStarting):
            places[container_id] = event.node_id
        elif isinstance(event, (ContainerStopped, ContainerFailed, ContainerDestroyed)):
            places[container_id] = ""
        if not isinstance(event, (ContainerCreated, ContainerStarting)):
            return
        node_id = places[container_id]
        held = sum(size for other, size in memory.items() if places[other] == node_id)
        if held > MEMORY_BYTES:
            _broken(Promise.CAPACITY, f"{held} bytes of {MEMORY_BYTES} are held on {node_id} with {container_id}")

    def _other(self, event: Any, envelope: Envelope) -> None:
        self.others.append((event, envelope.subject))
        if isinstance(event, PoolEvent) and event.pool_id == TASKS:
            return
        if isinstance(event, PoolAllocated):
            owners = [*self._owners.values(), envelope.actor]
            if self.sim.plan.has_access and owners.count("pooluser0") > MOST_SHARES:
                _broken(Promise.QUOTA, f"pooluser0 holds {self._owners} and got {event.request_id}")
            self._owners[event.request_id] = envelope.actor
            self._shares[event.request_id] = event.resources.cpu_millis
            if sum(self._shares.values()) > POOL.cpu_millis:
                _broken(Promise.CAPACITY, f"{self._shares} is allocated from a pool of {POOL.cpu_millis}")
        elif isinstance(event, PoolReleased):
            self._shares.pop(event.request_id, None)
            if self._owners.pop(event.request_id) != envelope.actor:
                _broken(Promise.FORBIDDEN, f"{envelope.actor} released {event.request_id}, which is another's")
        elif isinstance(event, CoordinatorStarted):
            self._leader = event.instance
        elif isinstance(event, CoordinatorMassSilenceNoticed):
            self._noticed[event.kind] = seconds_of(envelope.time)
        if isinstance(event, WorkerLost):
            self._fit.stops(event.worker_id)
        if (kind := _LOST.get(type(event))) is not None and event.silent_for_s:
            # Silent since before a mass silence of its kind, so it was spared until that ended.
            since = seconds_of(envelope.time) - event.silent_for_s
            self.kinds["lost_after_mass_silence"] += since < self._noticed.get(kind, 0.0)

    def check(self) -> None:
        """Check the acknowledged answers against the journal."""
        sim = self.sim
        self._end_commit()
        if sim.plan.is_lively and (wrong := self._pools.last()):
            _broken(Promise.POOL, wrong)
        for task_id, events in self.tasks.items():
            ends = [event for event in events if isinstance(event, TERMINAL)]
            submits = sum(isinstance(event, TaskSubmitted) for event in events)
            if len(ends) > 1 or submits != 1 or (sim.plan.is_lively and not ends):
                _broken(Promise.ONE_END, f"{task_id} has {len(ends)} terminal events: {events}")
        ids = {subject for _, subject in self.others} | set(self.tasks) | set(self._memory)
        for command, answer in sim.told:
            self._check_told(command, answer, ids)
        for task_id, status in sim.seen_ended.items():
            if not any(isinstance(event, TERMINAL) for event in self._all_of(task_id)):
                _broken(Promise.ACKNOWLEDGED, f"{task_id} was seen to end as {status}, but did not")

    def _all_of(self, task_id: str) -> list[TaskEvent]:
        return [*self._before[task_id], *self.tasks[task_id]]

    def _check_told(self, command: Any, answer: Any, ids: set[str]) -> None:
        kept = True
        match command:
            case ClaimTasks():
                kept = all(_has(self._all_of(task.task_id), TaskStarted, task.lease) for task in answer)
            case SubmitTask():
                kept = answer in ids
            case CreateContainer(container_id=name) | RegisterService(service_id=name):
                kept = name in ids
            case CancelTask():
                asked = (TaskCancelled, TaskCancelAsked) if answer is TaskStatus.RUNNING else TaskCancelled
                kept = any(isinstance(event, asked) for event in self._all_of(command.task_id))
            case CompleteTask():
                kept = _has(self._all_of(command.task_id), TaskCompleted, command.lease)
            case FailTask():
                ended = self._all_of(command.task_id)
                ends = (TaskAttemptFailed, TaskFailed, TaskPaused, TaskCancelled)
                kept = any(_has(ended, kind, command.lease) for kind in ends)
            case ReportCancel(step=CancelStep.ENDED | CancelStep.LEFT_BEHIND):
                kept = any(isinstance(event, TERMINAL) for event in self._all_of(command.task_id))
            case PauseTask():
                kept = any(isinstance(event, TaskPaused) for event in self._all_of(command.task_id))
            case ResumeTask():
                kept = any(isinstance(event, TaskResumed) for event in self._all_of(command.task_id))
            case AllocatePool() if answer:
                kept = any(
                    isinstance(one, PoolAllocated) and one.request_id == command.request_id for one, _ in self.others
                )
            case ReleasePool() if answer:
                kept = any(
                    isinstance(one, PoolReleased | PoolWithdrawn) and one.request_id == command.request_id
                    for one, _ in self.others
                )
        if not kept:
            _broken(Promise.ACKNOWLEDGED, f"{command} was acknowledged but is not in the journal")


class Retries:
    """What each task may do next as far as its retries and pauses go, derived event by event."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}
        self._failures: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self._paused: set[str] = set()

    def take(self, event: TaskEvent, time: float) -> None:
        """Apply one event of a task."""
        task_id = event.task_id
        match event:
            case TaskSubmitted():
                self._most[task_id] = event.max_retries
                self._failures[task_id] = 0
                self._paused.discard(task_id)
                self._not_before.pop(task_id, None)
            case TaskStarted():
                if task_id in self._paused:
                    _broken(Promise.TASK_PAUSED, f"{event} came while {task_id} was paused")
                if time < self._not_before.get(task_id, time):
                    _broken(Promise.RETRIES, f"{event} came at {time}, before {self._not_before[task_id]}")
            case TaskAttemptFailed():
                self._not_before[task_id] = event.retry_at
                asked_s = event.retry_after_s or 0.0
                if event.retry_at < time + asked_s - CLOCKS_S:
                    _broken(Promise.RETRIES, f"{event} at {time} does not wait for {asked_s} s")
                if event.reason != "released":
                    if self._failures[task_id] >= self._most[task_id]:
                        _broken(Promise.RETRIES, f"{event} is one retry more than {task_id} has")
                    self._failures[task_id] += 1
            case TaskPaused():
                if event.lease:
                    if self._failures[task_id] < self._most[task_id]:
                        _broken(Promise.RETRIES, f"{event} came although {task_id} had retries left")
                    self._failures[task_id] += 1
                    self._not_before.pop(task_id, None)
                self._paused.add(task_id)
            case TaskResumed():
                if task_id not in self._paused:
                    _broken(Promise.TASK_PAUSED, f"{event} came while {task_id} was not paused")
                self._most[task_id] += event.more_retries
                self._paused.discard(task_id)
            case _:
                pass


def _is_end(event: TaskEvent) -> bool:
    return isinstance(event, TERMINAL)


def _has(events: list[TaskEvent], kind: type[Any], lease: str) -> bool:
    return any(isinstance(event, kind) and event.lease == lease for event in events)


def _check_snapshot(journal: list[Record], snapshots: dict[int, bytes], replayed: World) -> None:
    """Check that a world restored from a snapshot in the middle reaches the same state."""
    for sequence, snapshot in snapshots.items():
        restored = World.restore(snapshot)
        for record in journal[sequence:]:
            restored.apply_record(record)
        if restored.digest() != replayed.digest():
            _broken(Promise.REPLAY, "a world restored from a snapshot differs from one folded from the start")


def _check_store(sim: Sim, journal: list[Record]) -> None:
    """Check that the store has every event up to its position once, and the same states as a replay."""
    position = sim.store.position().position
    behind = World()
    expected = 0
    for record in journal:
        if record.sequence > position.sequence:
            break
        expected += len(behind.apply_record(record))
    if len(sim.store._events) != expected:
        _broken(
            Promise.STORE,
            f"the store at {position} has {len(sim.store._events)} events; the journal has {expected} up to there",
        )
    for kind, where in KINDS.items():
        states = sim.store._rows[kind]
        for entity_id, state in getattr(behind, where.table).items():
            row = states.get(entity_id)
            if row is None or row.state != msgspec.json.encode(state).decode():
                _broken(Promise.STORE, f"the store at {position} has {row} as {kind} {entity_id}, a replay has {state}")


def _check_inboxes(sim: Sim, history: History) -> None:
    """Check that each message read from an inbox had its effect once, in order, and that all are read at the end."""
    for name, stream in sim.broker.streams.items():
        if "_INBOX_" not in name:
            continue
        domain = name.rpartition("_")[2].lower()
        facts: list[str] = []
        nonsense: list[tuple[int, int]] = []
        for one in (*stream.purged, *stream.messages.values()):
            if one.subject.endswith("weather.noted"):
                facts += [event["id"] for event in msgspec.json.decode(one.data)]
            elif one.data == b"nonsense":
                nonsense.append((one.sequence, 0))
        for what, there, here in (
            ("facts", history.facts[domain], facts), ("refusals", history.refused[domain], nonsense),
        ):  # fmt: skip
            if (there if sim.plan.is_lively else there[: len(here)]) != (
                here if sim.plan.is_lively else here[: len(there)]
            ):
                _broken(Promise.INBOX, f"for the inbox of {domain} the {what} {there} are recorded; it holds {here}")


def _check_feed(sim: Sim, journal: list[Record]) -> int:
    """Check that the feed has the events of the journal, each once and in order; return how many it has."""
    stream = sim.broker.streams.get(Subjects(NAMESPACE).stream_events)
    if stream is None:
        return 0
    fed = [one.data for one in stream.messages.values()]
    events = [bytes(raw) for record in journal if record.kind == "commit" for _, raw in codec.split(record.body)]
    wanted = events if sim.plan.is_lively else events[: len(fed)]
    if fed != wanted:
        first = next((at for at, (one, other) in enumerate(zip(fed, wanted, strict=False)) if one != other), None)
        _broken(Promise.FEED, f"it has {len(fed)} events of {len(wanted)}, the first that differs is {first}")
    return len(fed)


def _broken(promise: Promise, what: str) -> None:
    raise Violation(promise, what)
