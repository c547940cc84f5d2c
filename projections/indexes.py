"""
Indexes for policies and views, updated by the fold and rebuilt from the tables after a restore.

Nothing here holds a fact of its own: every entry follows from a task, worker, service or container in the world.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar

from events.resources import NONE
from events.schedule import ScheduleStatus
from events.task import TaskStatus
from projections.cancel_ladder import CancelLadder
from projections.hold import REQUESTS, OnHold
from projections.in_pools import InPools, task_waiting
from projections.keyed import Keyed
from projections.lanes import Gangs, Lanes
from projections.queue import name_of, policy_of
from projections.ready import fifo_key, is_of, prune, walk
from projections.schedule import fires_at
from projections.shares import counted, key_of, name_in
from projections.task import SMALL_CHARS, bytes_of, large_bytes_of
from projections.time_limits import deadline_of
from projections.version import Builds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from events.base import Position
    from events.container import ContainerStatus
    from events.queue import FairShare
    from events.resources import Resources
    from events.service import ServiceStatus
    from projections.container import Container
    from projections.hold import Hold, PastHold
    from projections.pool import Pool
    from projections.queue import Queue
    from projections.ready import Key
    from projections.schedule import Schedule
    from projections.service import Service
    from projections.session import Session
    from projections.task import Task
    from projections.worker import WorkerState, WorkerStatus

Name = TypeVar("Name")

_PENDING, _RUNNING = TaskStatus.PENDING, TaskStatus.RUNNING
_ACTIVE = ScheduleStatus.ACTIVE


def _count(counts: dict[Name, int], name: Name, by: int) -> None:
    """Change the count of a name; names with a count of 0 are removed, because callers may bring ever new names."""
    now = counts.get(name, 0) + by
    if now:
        counts[name] = now
    else:
        del counts[name]


def _take(held: dict[str, Resources], holder: str, resources: Resources) -> None:
    """Add to what a holder has."""
    if resources != NONE:
        held[holder] = held.get(holder, NONE) + resources


def _give_back(held: dict[str, Resources], holder: str, resources: Resources) -> None:
    """Remove from what a holder has, and a holder that has nothing."""
    if resources == NONE:
        return
    left = held[holder] - resources
    if left == NONE:
        del held[holder]
    else:
        held[holder] = left


def _remove(ids: list[str], one: str) -> None:
    """Remove an id from a sorted list that contains it."""
    del ids[bisect_left(ids, one)]


def _drop(groups: dict[str, dict[str, None]], group: str, member: str) -> None:
    """Remove a member from its group, and a group that is empty."""
    members = groups[group]
    del members[member]
    if not members:
        del groups[group]


class _Thing(Protocol):
    """Something that a source and a tenant own."""

    @property
    def source(self) -> str: ...
    @property
    def tenant(self) -> str: ...


class _Mortal(_Thing, Protocol):
    """One that ends."""

    @property
    def ended_at(self) -> float | None: ...


class Owned:
    """
    How many things of one kind each source and each tenant has that have not ended; '' owns nothing.

    `ended` is how many have ended and are still kept, `ended_by_source` how many of them each source had.
    """

    __slots__ = ("by_source", "by_tenant", "ended", "ended_by_source")

    def __init__(self) -> None:
        self.by_source: dict[str, int] = {}
        self.by_tenant: dict[str, int] = {}
        self.ended = 0
        self.ended_by_source: dict[str, int] = {}

    def count(self, thing: _Thing, by: int) -> None:
        """Count a thing that came, or one that ended or went with -1."""
        if thing.source:
            _count(self.by_source, thing.source, by)
        if thing.tenant:
            _count(self.by_tenant, thing.tenant, by)

    def changed(self, before: _Mortal | None, after: _Mortal | None) -> None:
        """Count a thing with its value before and after, None for absent."""
        if (
            before is not None
            and after is not None
            and (before.ended_at is None) is (after.ended_at is None)
            and before.source == after.source
            and before.tenant == after.tenant
        ):
            return
        if before is not None:
            self._count_mortal(before, -1)
        if after is not None:
            self._count_mortal(after, 1)

    def _count_mortal(self, thing: _Mortal, by: int) -> None:
        if thing.ended_at is None:
            self.count(thing, by)
            return
        self.ended += by
        if thing.source:
            _count(self.ended_by_source, thing.source, by)


class Dependants:
    """The tasks that wait for others to end; `of` has those of each of the others, in the order in which they came."""

    __slots__ = ("of", "waiting")

    def __init__(self) -> None:
        self.of: dict[str, dict[str, None]] = {}
        self.waiting: dict[str, Task] = {}

    def add(self, task: Task) -> None:
        """Keep a task that waits; one that is there already has changed, but not what it waits for."""
        if task.task_id not in self.waiting:
            for predecessor in task.waiting_for:
                self.of.setdefault(predecessor, {})[task.task_id] = None
        self.waiting[task.task_id] = task

    def remove(self, task: Task) -> None:
        """Drop a task that waits no more, with its value while it did."""
        del self.waiting[task.task_id]
        for predecessor in task.waiting_for:
            its = self.of[predecessor]
            del its[task.task_id]
            if not its:
                del self.of[predecessor]


class Indexes:
    """
    All indexes of one world.

    Each `…_changed` gets the value before and after, None for absent; of evicted tasks only `tasks` has something.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.shared: dict[str, FairShare] = {}
        """How the queues are shared whose policy says so."""
        self.keyed, self.builds = Keyed(), Builds()
        self.lanes, self.gangs = Lanes(self.shared, self.keyed, self.builds), Gangs()
        self._lanes_of: dict[str, Lanes] | None = None
        self.running_in: dict[str, int] = {}
        """How many tasks of each queue run, by the name of its account, and of each key in a queue that is shared."""
        self.is_accounted = False  # whether there are queues, or shares, to keep accounts for
        self._queues: dict[str, Queue] = {}
        self.shadowed: dict[str, Position] = {}  # those with a candidate policy, and where it was set
        self.parked: list[Key] = []
        self.parked_members: dict[str, Task] = {}
        self.paused: dict[str, None] = {}  # no worker gets them until they are resumed
        self.tasks: dict[TaskStatus, dict[str, None]] = {status: {} for status in TaskStatus}
        self._pending_in: dict[str, int] = {}  # by queue, without the default one
        self.worker_filters: dict[str, int] = {}  # how many pending tasks have each
        self.stuck_to: dict[str, int] = {}  # the same of filters that one worker meets
        self.pending_by_tenant, self.pending_by_source = dict[str, int](), dict[str, int]()
        self.payload_bytes = 0
        """Of all tasks that have not ended, without payloads of at most `SMALL_CHARS`."""
        self.owned_payload_bytes = Owned()
        self.owned_services = Owned()
        self.owned_containers = Owned()
        self.owned_sessions = Owned()
        self.owned_workers = Owned()
        self.owned_pools = Owned()
        self.owned_schedules = Owned()
        self.owned_allocations = Owned()
        self.held: dict[str, dict[str, None]] = {}
        self.held_resources: dict[str, Resources] = {}  # the sum of what the tasks of each worker need, if any
        self.claims: dict[str, dict[str, None]] = {}
        self.deadlines: list[Key] = []
        self.deadline_members: dict[str, Key] = {}
        self.cancels, self.on_hold = CancelLadder(), OnHold()
        self.dependants = Dependants()
        self.spending: dict[str, None] = {}  # those that say what they may spend and have not ended
        self._paused_dependants = 0
        self.schedule_times: list[tuple[float, str]] = []
        self.schedule_members: dict[str, tuple[float, str]] = {}
        self.awaited: dict[str, str] = {}
        self.freed: dict[str, None] = {}
        """The schedules that have slots waiting for the end of a task, by that task; and those whose task has ended."""
        self.services: dict[str, dict[ServiceStatus, dict[str, None]]] = {}
        self.service_ids: list[str] = []  # sorted, so that a page may begin anywhere
        self.service_ids_by_status: dict[ServiceStatus, list[str]] = {}
        self.service_changes = self.worker_changes = 0  # to detect cheaply that there was one
        self.services_in: dict[str, dict[str, None]] = {}
        self.workers_in: dict[str, dict[str, None]] = {}
        self.containers_on: dict[str, dict[str, None]] = {}
        self.sessions_of: dict[str, dict[str, None]] = {}
        """The open sessions of each container."""
        self.container_counts: dict[ContainerStatus, int] = {}
        self.container_starts = self.container_failures = 0
        self.node_held: dict[str, Resources] = {}  # the sum of what the containers on each node hold, if any
        self.worker_counts: dict[WorkerStatus, int] = {}
        self.in_pools, self._tasks_requesting = InPools(), dict[str, None]()  # those whose request waits for a share
        self.rounds: dict[str, float] = {}
        self.round = 0.0  # the highest of them: where the rotation over the workers is

    @property
    def lanes_of(self) -> dict[str, Lanes]:
        """
        The same ready tasks by the program that submitted them; without those of no program.

        Kept from the first time on that it is wanted: without claims that ask for programs, nobody pays for it.
        """
        if self._lanes_of is None:
            self._lanes_of = {}
            for task in self.lanes.tasks():
                self._add_own(self._lanes_of, task)
        return self._lanes_of

    def pending_in(self, queue: str) -> int:
        """Return how many tasks of a queue are pending, '' for the default one."""
        if queue:
            return self._pending_in.get(queue, 0)
        return len(self.tasks[_PENDING]) - sum(self._pending_in.values())

    @property
    def ready(self) -> int:
        """How many tasks wait only for a worker."""
        shut = len(self.paused) + len(self.dependants.waiting) - self._paused_dependants
        return len(self.tasks[_PENDING]) - len(self.parked_members) - shut - self.on_hold.count - self.gangs.apart

    def advance(self, now: float) -> None:
        """Make the parked tasks ready whose retry time has come."""
        self.now = self.keyed.now = max(now, self.now)
        if self.keyed.is_used:
            self.keyed.funds.now = self.now
            self.keyed.open_due()
        while self.parked and float(self.parked[0][0]) <= self.now:
            key = heapq.heappop(self.parked)
            if self._is_parked(key):
                self._ready(self.parked_members.pop(str(key[-1])))

    def task_changed(self, before: Task | None, after: Task) -> None:
        now = after.status
        if before is not None:
            was = before.status
            if was is now:
                if now is _PENDING:
                    self._still_pending(before, after)
                elif after.cancelling is not before.cancelling and after.cancelling is not None:
                    self.cancels.add(after, after.cancelling)
                elif after.extended_s != before.extended_s:
                    self._note_deadline(after)
                elif after.checkpoint is not before.checkpoint:
                    self._checkpoint_changed(before, after)
                if after.spent is not before.spent and self.keyed.is_used:
                    self.keyed.spent_more(before, after)
                return
            del self.tasks[was][before.task_id]
            if was is _PENDING:
                self._not_pending(before)
            else:  # what has ended does not change any more
                self._not_running(before)
            if self.keyed.is_used:
                self.keyed.leave(before, after)
            if after.payload is None and (payload := before.payload) is not None and len(payload.data) > SMALL_CHARS:
                self._count_bytes(before, -bytes_of(payload))
            if after.checkpoint is not before.checkpoint:
                self._checkpoint_changed(before, after)
        elif (payload := after.payload) is not None and len(payload.data) > SMALL_CHARS:
            self._count_bytes(after, bytes_of(payload))
        if before is None:
            if after.checkpoint is not None:
                self._checkpoint_changed(None, after)
            if after.spend is not None and not after.is_ended:
                self.spending[after.task_id] = None
            if self.keyed.is_used and not after.is_ended:
                self.keyed.add(after)
        self.tasks[now][after.task_id] = None
        if now is _PENDING:
            self._pending(after)
        elif now is _RUNNING:
            self._running(after)
        else:
            if self.awaited and (waiting := self.awaited.pop(after.task_id, None)) is not None:
                self.freed[waiting] = None
            if self.spending:
                self.spending.pop(after.task_id, None)
        if self.keyed.is_used:
            self.keyed.enter(after)

    def limits_changed(self, tasks: Mapping[str, Task]) -> None:
        """Limit *tasks* by the limits that there are now, and charge the budgets that there are."""
        self._drop_lanes_of()
        self.keyed.begin_anew(map(tasks.__getitem__, chain(self.tasks[_RUNNING], self.tasks[_PENDING])))
        self.lanes.regroup_all()

    def _drop_lanes_of(self) -> None:
        """Forget the ready tasks by program; they are collected again when they are wanted."""
        for lanes in (self._lanes_of or {}).values():
            lanes.close()
        self._lanes_of = None

    def schedule_changed(self, before: Schedule | None, after: Schedule | None) -> None:
        self.owned_schedules.changed(before, after)
        for one, sign in ((before, -1), (after, 1)):
            if one is not None and one.task is not None and one.task.payload is not None:
                self._count_bytes(one, sign * large_bytes_of(one.task.payload))
        if before is not None:
            self.schedule_members.pop(before.schedule_id, None)
            self.freed.pop(before.schedule_id, None)
            if before.queued:
                self.awaited.pop(before.last_task_id, None)
        if after is not None and after.status is _ACTIVE:
            if after.next_slot is not None:
                entry = (fires_at(after, after.next_slot), after.schedule_id)
                self.schedule_members[after.schedule_id] = entry
                heapq.heappush(self.schedule_times, entry)
            if after.queued:
                last = after.last_task_id
                if last in self.tasks[_PENDING] or last in self.tasks[_RUNNING]:
                    self.awaited[last] = after.schedule_id
                else:
                    self.freed[after.schedule_id] = None
        prune(self.schedule_times, self._is_next, len(self.schedule_members))

    def due_schedules(self, now: float) -> Iterator[str]:
        """Yield the schedules whose next slot is to be fired, or that have one whose wait is over."""
        yield from self.freed
        for entry in walk(self.schedule_times):
            if entry[0] > now:
                return
            if self._is_next(entry) and entry[1] not in self.freed:
                yield entry[1]

    def _is_next(self, entry: tuple[float, str]) -> bool:
        return self.schedule_members.get(entry[1]) is entry

    def queue_changed(self, before: Queue | None, after: Queue | None) -> bool:
        """Change a queue; return whether what runs is to be counted in other accounts from now on."""
        if before is not None:
            del self._queues[before.queue_id]
        if after is not None:
            self._queues[after.queue_id] = after
        was, now = (None if one is None else one.policy for one in (before, after))
        if was != now:
            self.lanes.forget_aged()
            self._drop_lanes_of()
        if self.shadowed or (after is not None and after.shadow is not None):
            self._follow_shadow(before, after)
        self._route(before, after)
        return self._share_again()

    def _follow_shadow(self, before: Queue | None, after: Queue | None) -> None:
        """Note whether a candidate policy is compared in a queue; the orders that it wanted go with it."""
        was, now = (None if one is None or one.shadow is None else one.shadow.set for one in (before, after))
        if was == now:
            return
        if before is not None:
            self.shadowed.pop(before.queue_id, None)
            self.lanes.forget_aged()
            self._drop_lanes_of()
        if after is not None and now is not None:
            self.shadowed[after.queue_id] = now

    def _route(self, before: Queue | None, after: Queue | None) -> None:
        """Put the tasks of a queue into their shapes again if they begin on other versions from now on."""
        route = None if after is None else after.route
        if route == (None if before is None else before.route):
            return
        name = name_of((after or before).queue_id)  # type: ignore[union-attr]  # one of them is a queue
        if route is None:
            del self.builds.routes[name]
        else:
            self.builds.routes[name] = route
        self._drop_lanes_of()
        self.lanes.regroup(name)

    def versions_changed(self) -> None:
        """Put all ready tasks into their shapes again: those of a version may go to another one from now on."""
        self._drop_lanes_of()
        for queue in sorted({lane.queue for lane in self.lanes.of}):
            self.lanes.regroup(queue)

    def _share_again(self) -> bool:
        """
        Put the tasks of the queues that are shared in another way from now on into their lanes.

        Return whether there are other accounts than before.
        """
        names = {"", *map(name_of, self._queues)}
        policies = ((name, policy_of(self._queues, name)) for name in names)
        shared = {name: policy.fair for name, policy in policies if policy.fair is not None}
        moved = [
            name for name in {*self.shared, *shared} if counted(self.shared.get(name)) != counted(shared.get(name))
        ]
        self.shared.clear()
        self.shared.update(shared)
        was_accounted, self.is_accounted = self.is_accounted, bool(shared) or len(names) > 1
        for name in sorted(moved):
            self.lanes.regroup(name)
            self._drop_lanes_of()
        return bool(moved) or was_accounted is not self.is_accounted

    def past_hold_changed(self, _: PastHold | None, after: PastHold) -> None:
        self.on_hold.note_past(after)

    def hold_changed(self, before: Hold | None, after: Hold | None) -> None:
        """Keep the ready tasks that meet a hold which was placed, or make those ready that it kept alone."""
        if before is not None:
            for task in self.on_hold.end(before.hold_id):
                self._ready(task)
        if after is not None:
            meets = self.on_hold.place(after)
            for task in [one for one in chain(self.lanes.tasks(), self.gangs.tasks()) if meets(one)]:
                self._no_longer_wait(task)
                self.on_hold.keep(task, after.hold_id)
            for lanes in (self.lanes, *(self._lanes_of or {}).values()):
                lanes.forget_gone()

    def service_changed(self, before: Service | None, after: Service | None) -> None:
        self.service_changes += 1
        self.owned_services.changed(before, after)
        if before is not None and not before.is_ended:
            if after is None or after.is_ended:
                _remove(self.service_ids, before.service_id)
            _remove(self.service_ids_by_status[before.status], before.service_id)
            if before.container_id:
                _drop(self.services_in, before.container_id, before.service_id)
            group = self.services[before.service_name][before.status]
            del group[before.service_id]
            if not group and not any(self.services[before.service_name].values()):
                del self.services[before.service_name]
        if after is not None and not after.is_ended:
            if before is None or before.is_ended:
                insort(self.service_ids, after.service_id)
            insort(self.service_ids_by_status.setdefault(after.status, []), after.service_id)
            if after.container_id:
                self.services_in.setdefault(after.container_id, {})[after.service_id] = None
            groups = self.services.setdefault(after.service_name, {})
            groups.setdefault(after.status, {})[after.service_id] = None

    def container_changed(self, before: Container | None, after: Container | None) -> None:
        self.owned_containers.changed(before, after)
        if before is not None:
            self.container_counts[before.status] -= 1
            self.container_starts -= before.starts
            self.container_failures -= before.failures
            if not before.is_ended:
                _drop(self.containers_on, before.node_id, before.container_id)
            if before.holds:
                _give_back(self.node_held, before.node_id, before.resources)
        if after is not None:
            self.container_counts[after.status] = self.container_counts.get(after.status, 0) + 1
            self.container_starts += after.starts
            self.container_failures += after.failures
            if after.holds:
                _take(self.node_held, after.node_id, after.resources)
            if not after.is_ended:
                self.containers_on.setdefault(after.node_id, {})[after.container_id] = None

    def pool_changed(self, _: Pool | None, after: Pool) -> None:
        """Add a pool with its allocations and requests; each one that comes or goes has a method of its own."""
        self.owned_pools.count(after, 1)
        for request_id in (*after.allocations, *after.waiting):
            self.request_changed(None, after, request_id, {})

    def request_changed(self, before: Pool | None, after: Pool, request_id: str, tasks: Mapping[str, Task]) -> None:
        """Count what a request had of a pool before, and what it has now; *tasks* are all tasks."""
        had, has = self.in_pools.change(before, after, request_id)
        if had is not None:
            self.owned_allocations.count(had, -1)
        if has is not None:
            self.owned_allocations.count(has, 1)
        was, now = task_waiting(before, request_id), task_waiting(after, request_id)
        if was != now:
            if was:
                self._no_longer_requests(was)
            if now:
                self._requests(now, tasks.get(now))

    def _requests(self, task_id: str, task: Task | None) -> None:
        if not self._tasks_requesting:
            requesting = self._tasks_requesting
            self.on_hold.add(REQUESTS, lambda one: one.task_id in requesting)
        self._tasks_requesting[task_id] = None
        if task is not None and self.on_hold.remove(task_id):
            self.on_hold.keep(task, REQUESTS)
        elif task is not None and (self.lanes.has(task) or self.gangs.waits(task)):
            self._no_longer_wait(task)
            self.on_hold.keep(task, REQUESTS)
            for lanes in (self.lanes, *(self._lanes_of or {}).values()):
                lanes.forget_gone()

    def _no_longer_requests(self, task_id: str) -> None:
        del self._tasks_requesting[task_id]
        task = self.on_hold.of[REQUESTS].get(task_id)
        if task is not None:
            self.on_hold.remove(task_id)
            self._ready(task)
        if not self._tasks_requesting:
            self.on_hold.end(REQUESTS)

    def session_changed(self, before: Session | None, after: Session | None) -> None:
        self.owned_sessions.changed(before, after)
        if before is not None and not before.is_ended:
            _drop(self.sessions_of, before.container_id, before.session_id)
        if after is not None and not after.is_ended:
            self.sessions_of.setdefault(after.container_id, {})[after.session_id] = None

    def worker_changed(self, before: WorkerState | None, after: WorkerState | None) -> None:
        self.owned_workers.changed(before, after)
        if (
            before is None
            or after is None
            or before.status is not after.status
            or before.registered != after.registered
        ):
            self.worker_changes += 1
        if before is not None:
            _count(self.worker_counts, before.status, -1)
        if after is not None:
            _count(self.worker_counts, after.status, 1)
        if before is not None and before.container_id and not before.is_ended:
            _drop(self.workers_in, before.container_id, before.worker_id)
        if after is not None and after.container_id and not after.is_ended:
            self.workers_in.setdefault(after.container_id, {})[after.worker_id] = None
        if after is None:
            if before is not None and self.rounds.pop(before.worker_id, 0.0) == self.round:
                self.round = max(self.rounds.values(), default=0.0)
        elif after.rounds:
            self.rounds[after.worker_id] = after.rounds
            self.round = max(self.round, after.rounds)

    def overdue(self, now: float) -> Iterator[str]:
        """Yield the ids of tasks that have reached a time limit."""
        for key in walk(self.deadlines):
            if float(key[0]) > now:
                return
            if self._is_deadline(key):
                yield str(key[-1])

    def _is_parked(self, key: Key) -> bool:
        task = self.parked_members.get(str(key[-1]))
        return task is not None and is_of(task, key)

    def _note_deadline(self, task: Task) -> None:
        """Note when a task reaches the first of its time limits, instead of what was noted before."""
        at, _ = deadline_of(task)
        if at < inf:
            deadline = (at, task.attempt, task.task_id)
            self.deadline_members[task.task_id] = deadline
            heapq.heappush(self.deadlines, deadline)
            prune(self.deadlines, self._is_deadline, len(self.deadline_members))

    def _no_deadline(self, task_id: str) -> None:
        if self.deadline_members.pop(task_id, None) is not None:
            prune(self.deadlines, self._is_deadline, len(self.deadline_members))

    def _is_deadline(self, deadline: Key) -> bool:
        return self.deadline_members.get(str(deadline[-1])) is deadline

    def _checkpoint_changed(self, before: Task | None, after: Task) -> None:
        """Count the bytes of checkpoints with those of payloads."""
        was = 0 if before is None or before.checkpoint is None else large_bytes_of(before.checkpoint)
        now = 0 if after.checkpoint is None else large_bytes_of(after.checkpoint)
        if was != now:
            self._count_bytes(after, now - was)

    def _count_large(self, task: Task, by: int) -> None:
        """Count the payload of a task, or count it no longer, if it is one that is counted."""
        if (payload := task.payload) is not None and len(payload.data) > SMALL_CHARS:
            self._count_bytes(task, by * bytes_of(payload))

    def _count_bytes(self, thing: _Thing, by: int) -> None:
        self.payload_bytes += by
        if by:
            self.owned_payload_bytes.count(thing, by)

    def _pending(self, task: Task) -> None:
        for counts, name in ((self.pending_by_tenant, task.tenant), (self.pending_by_source, task.source)):
            counts[name] = counts.get(name, 0) + 1  # `_count`, without a call
        if task.queue:
            _count(self._pending_in, task.queue, 1)
        if task.worker_filter or task.preference or task.rule_filter:
            self._count_filters(task, 1)
        if task.build_id:
            _count(self.builds.pinned, task.build_id, 1)
        if task.gang is not None:
            self.gangs.enter(task)
        if task.time_limits is not None or task.gang is not None:
            self._note_deadline(task)
        if task.retry_at > self.now or task.paused_at is not None or task.waiting_for:
            self._wait(task)
        else:
            self._ready(task)

    def _count_filters(self, task: Task, by: int) -> None:
        """Count what a pending task asks of its worker, or prefers."""
        for one in (task.worker_filter, task.rule_filter):
            if one:
                _count(self.worker_filters, one, by)
        if task.preference:
            _count(self.worker_filters if task.sticks_to is None else self.stuck_to, task.preference, by)

    def _wait(self, task: Task) -> None:
        """Add a pending task where it waits."""
        if task.paused_at is not None:
            self.paused[task.task_id] = None
            if task.waiting_for:
                self.dependants.add(task)
                self._paused_dependants += 1
        elif task.waiting_for:
            self.dependants.add(task)
        elif task.retry_at > self.now:
            self.parked_members[task.task_id] = task
            heapq.heappush(self.parked, (task.retry_at, *fifo_key(task)))
        else:
            self._ready(task)

    def _still_pending(self, before: Task, task: Task) -> None:
        """Replace the old value where it waits: a second entry would return the task twice."""
        if task.preference != before.preference:
            self._count_filters(before, -1)
            self._count_filters(task, 1)
        if task.build_id != before.build_id:
            for build_id, by in ((before.build_id, -1), (task.build_id, 1)):
                if build_id:
                    _count(self.builds.pinned, build_id, by)
        if task.payload is not before.payload:
            self._count_large(before, -1)
            self._count_large(task, 1)
        moves = task.paused_at != before.paused_at or bool(task.waiting_for) is not bool(before.waiting_for)
        moves = moves or task.retry_at != before.retry_at
        if moves and task.time_limits is not None:
            self._no_deadline(task.task_id)
            self._note_deadline(task)
        if task.gang is not None and not task.attempt:
            self.gangs.note(task)
        if task.waiting_for:
            self.dependants.add(task)
            self._pause_dependant(before, task)
            return
        if task.paused_at != before.paused_at or before.waiting_for:
            self._no_longer_wait(before)
            self._wait(task)
            return
        if task.paused_at is not None:
            return
        if task.task_id in self.parked_members:
            self.parked_members[task.task_id] = task
            return
        if self.on_hold.tests and self.on_hold.replace(task):
            return
        if task.gang is not None and not task.attempt and self.gangs.replace(task):
            return
        self.lanes.replace(task)
        if task.program and self._lanes_of is not None:
            self._lanes_of[task.program].replace(task)

    def _pause_dependant(self, before: Task, task: Task) -> None:
        """Count a task that waits for others and was paused or resumed; it keeps its place among them."""
        if task.paused_at is not None and before.paused_at is None:
            self.paused[task.task_id] = None
            self._paused_dependants += 1
        elif task.paused_at is None and before.paused_at is not None:
            del self.paused[task.task_id]
            self._paused_dependants -= 1

    def _ready(self, task: Task) -> None:
        if self.on_hold.tests and self.on_hold.keeps(task):
            return
        for one in (task,) if task.gang is None or task.attempt else self.gangs.add(task):
            self.lanes.add(one)
            if self._lanes_of is not None:
                self._add_own(self._lanes_of, one)

    def _add_own(self, lanes_of: dict[str, Lanes], task: Task) -> None:
        """Add a ready task to those of its program, if it has one."""
        if task.program:
            own = lanes_of.get(task.program)
            if own is None:
                own = lanes_of[task.program] = Lanes(self.shared, self.keyed, self.builds, spare=0)
            own.add(task)

    def _not_pending(self, task: Task) -> None:
        _count(self.pending_by_tenant, task.tenant, -1)
        _count(self.pending_by_source, task.source, -1)
        if task.queue:
            _count(self._pending_in, task.queue, -1)
        if task.worker_filter or task.preference or task.rule_filter:
            self._count_filters(task, -1)
        if task.build_id:
            _count(self.builds.pinned, task.build_id, -1)
        if task.time_limits is not None or task.gang is not None:
            self._no_deadline(task.task_id)
        self._no_longer_wait(task)
        if task.gang is not None:
            self.gangs.leave(task)

    def _no_longer_wait(self, task: Task) -> None:
        """Remove a task from where it waits."""
        if task.waiting_for:
            self.dependants.remove(task)
            if task.paused_at is None:
                return
            self._paused_dependants -= 1
        if task.paused_at is not None:
            del self.paused[task.task_id]
            return
        if self.parked_members.pop(task.task_id, None) is not None:
            prune(self.parked, self._is_parked, len(self.parked_members))
            return
        if self.on_hold.tests and self.on_hold.remove(task.task_id):
            return
        if task.gang is None or task.attempt:
            self._from_lanes(task, Lanes.remove)
            return
        for one in self.gangs.remove(task):
            self._from_lanes(one, Lanes.withdraw)

    def _from_lanes(self, task: Task, remove: Callable[[Lanes, Task], None]) -> None:
        remove(self.lanes, task)
        if task.program and self._lanes_of is not None:
            own = self._lanes_of[task.program]
            remove(own, task)
            if own.is_empty:
                del self._lanes_of[task.program]

    def count_running(self, running: Iterable[Task]) -> None:
        """Count what runs in each queue and share, from the beginning."""
        self.running_in.clear()
        if self.is_accounted:
            for task in running:
                self._count_in(task, 1)

    def _count_in(self, task: Task, by: int) -> None:
        """Count a task that began to run, or one that ended with -1, in the accounts that it is for."""
        _count(self.running_in, name_in(task.queue), by)
        share = self.shared.get(task.queue)
        if share is not None:
            _count(self.running_in, name_in(task.queue, key_of(task, share)), by)

    def _running(self, task: Task) -> None:
        self.held.setdefault(task.worker_id, {})[task.task_id] = None
        self.claims.setdefault(task.claim_id, {})[task.task_id] = None
        if self.is_accounted:
            self._count_in(task, 1)
        if task.resources is not NONE:
            _take(self.held_resources, task.worker_id, task.resources)
        if task.timeout_s is not None or task.time_limits is not None:
            self._note_deadline(task)
        if task.gang is not None:
            self.gangs.enter(task)
        if task.cancelling is not None:
            self.cancels.add(task, task.cancelling)

    def _not_running(self, task: Task) -> None:
        if task.cancelling is not None:
            self.cancels.remove(task)
        self._no_deadline(task.task_id)
        if task.gang is not None:
            self.gangs.leave(task)
        if self.is_accounted:
            self._count_in(task, -1)
        held = self.held[task.worker_id]
        del held[task.task_id]
        if not held:
            del self.held[task.worker_id]
        if task.resources is not NONE:
            _give_back(self.held_resources, task.worker_id, task.resources)
        _drop(self.claims, task.claim_id, task.task_id)
