"""
The ready tasks that a waiting claim may take, in the order of its policy. Pure.

A claim takes from the queues that its filter allows and that are not paused. With several of them, or in a queue that
tenants or keys share, the next task is one of whoever has used least, in proportion to its weight, and of those the
first by the order of the queue. What runs counts as much as an attempt of the same account usually costs.
"""

from __future__ import annotations

import heapq
from functools import partial
from heapq import merge
from itertools import chain, islice
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec.structs import replace

from events.coordinator import ClaimFilter
from events.queue import DEFAULT
from events.resources import NONE
from projections.budget import both_of, has_floor_mark, is_budget, most_for
from projections.prices import need_of, reservation_for
from projections.queue import name_of, policy_of
from projections.ready import FIFO, aged, gang_of
from projections.shares import HALF_LIFE_S, Account, key_of, name_in
from projections.task import of_worker
from projections.time_limits import waits_since
from projections.worker import WorkerStatus
from projections.worker_filters import NONE_MET, condition, facts_of, met

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from events.queue import FairShare, Policy
    from events.resources import Resources
    from events.spend import Reservation, Spend
    from projections.lanes import LaneName, Lanes
    from projections.ready import Key, ReadyTasks, Shape, ShapeKey
    from projections.task import Task
    from projections.worker import WorkerState
    from projections.world import World

_NO_MORE: Iterator[tuple[Key, Shape]] = iter(())
_BY_PRIORITY = frozenset({"priority", "fair", "custom"})
_NEVER = Account("")
PATIENT_LOOKED_AT = 50
"""Tasks of a shape that wait for other workers are looked at so far, whether one has waited long enough."""

TOO_DEAR_LOOKED_AT = 50
"""So many tasks that their budgets could never pay are passed over, before others of their shapes wait for them."""


class Allowed(NamedTuple):
    """
    Which shapes of tasks may go to some workers at all; without a word of names or filters, those of all.

    None of the workers of a turn has more than `room` says, so what does not fit in that is not looked at in this turn.
    With `only` they are the shapes of tasks that stick to one worker. `build_id` is that of all these workers.
    """

    names: frozenset[str] | None
    filters: frozenset[str] | None
    room: Callable[[], Resources | None]
    patience: Patience
    limits: _Limits
    only: str = ""
    build_id: str = ""

    def may_run(self, asked: ShapeKey | Task) -> bool:
        """Return whether the workers meet the filters of a task or a shape, and one may have room for it."""
        if self.only and asked.preference != self.only:
            return False
        if asked.worker_filter and self.filters is not None and asked.worker_filter not in self.filters:
            return False
        if asked.rule_filter and self.filters is not None and asked.rule_filter not in self.filters:
            return False
        if asked.resources is NONE:
            return True
        room = self.room()
        return room is None or asked.resources.fits_in(room)

    def has_build(self, goes_to: str | None) -> bool:
        """Return whether the workers have the build that a task goes to."""
        return goes_to is None or self.filters is None or goes_to == self.build_id

    def prefers(self, asked: ShapeKey | Task) -> bool:
        """Return whether the workers are as good as any other for a task or a shape."""
        preference = asked.preference
        return not preference or self.filters is None or preference == self.only or preference in self.filters


def prefers_for_s(task: Task, now: float) -> float:
    """Return for how long a task still waits for a worker that it prefers, in seconds; 0 or less if no longer."""
    return 0.0 if task.prefer is None else waits_since(task) + task.prefer.for_s - now


class Patience:
    """Which tasks still wait for a worker that they prefer; workers that are registered and not draining count."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._exists: dict[tuple[str, str], bool] = {}

    def is_over(self, task: Task) -> bool:
        """Return whether a task may go to a worker that it does not prefer."""
        if prefers_for_s(task, self._world.indexes.now) <= 0.0:
            return True
        key = (task.preference, task.task_name)
        exists = self._exists.get(key)
        if exists is None:
            workers, sticks_to = self._world.workers, task.sticks_to
            of_these = workers.values() if sticks_to is None else filter(None, [workers.get(sticks_to)])
            exists = self._exists[key] = any(map(partial(self._is_one, key), of_these))
        return not exists

    def _is_one(self, key: tuple[str, str], worker: WorkerState) -> bool:
        """Return whether a worker meets a preference and handles the name of the task."""
        preference, task_name = key
        if worker.status is not WorkerStatus.ACTIVE or (worker.handles and task_name not in worker.handles):
            return False
        return condition(preference)(facts_of(worker, self._world.containers))


class Candidate(Protocol):
    """A waiting claim, as far as tasks must fit it."""

    @property
    def free(self) -> Resources | None:
        """What its worker has left, None if that is not limited."""

    def fits(self, task: Task) -> bool: ...


class Source(Protocol):
    """Tasks that some claims may take."""

    @property
    def is_empty(self) -> bool: ...

    def has_no_fit(self, candidate: Candidate) -> bool: ...

    def take(self, candidate: Candidate, taken: set[str]) -> Task | None: ...


class Sources:
    """
    The sources of one turn: claims that want the same share one.

    *with_choice* says that a custom policy has chosen: claims get nothing else of the queues for which it does. *room*
    returns what none of its workers has more of, None if that is not limited.
    """

    def __init__(
        self, world: World, *, with_choice: bool = False, room: Callable[[], Resources | None] = lambda: None
    ) -> None:
        self._world = world
        self._room = room
        self._patience = Patience(world)
        self._filters = tuple(world.indexes.worker_filters)
        self._chosen_for = frozenset(map(name_of, custom_queues(world))) if with_choice else frozenset[str]()
        self._of: dict[tuple[str, tuple[str, ...], ClaimFilter, frozenset[str] | None, str, str], Source] = {}
        self._usage = _Usage(world)
        self._limits = _Limits(world)

    def of(self, strategy: str, worker: WorkerState | None, wanted: ClaimFilter) -> Source:
        """
        Return what a claim may take that names *strategy*, '' for the policies of the queues.

        Without a worker it is what any worker may take.
        """
        handles, filters = () if worker is None else worker.handles, self._met(worker)
        build_id = "" if worker is None else worker.build_id
        key = (strategy, handles, wanted, filters, build_id, "")
        found = self._of.get(key)
        if found is None:
            found = self._of[key] = self._made(*key)
        stuck_to = self._world.indexes.stuck_to
        if not stuck_to or worker is None or (own := of_worker(worker.worker_id)) not in stuck_to:
            return found
        key = (strategy, handles, wanted, filters, build_id, own)
        both = self._of.get(key)
        if both is None:
            both = self._of[key] = _Both(self._made(*key), found)
        return both

    def _met(self, worker: WorkerState | None) -> frozenset[str] | None:
        """Return which filters of pending tasks a worker meets: those that meet the same ones share a source."""
        if worker is None:
            return None
        return met(facts_of(worker, self._world.containers), self._filters) if self._filters else NONE_MET

    def note(self, task: Task) -> None:
        """Count a task that was given to a claim in the share that it takes of and in its keys, if there are any."""
        if self._world.indexes.is_accounted:
            self._usage.note(task)
        if self._world.indexes.keyed.is_used:
            self._limits.note(task)

    def among(self, strategy: str, worker: WorkerState, wanted: ClaimFilter, tasks: tuple[str, ...]) -> frozenset[str]:
        """Return which of some ready tasks a claim may take; limits and what its worker has left are not looked at."""
        if wanted.task_ids:
            tasks = tuple(one for one in tasks if one in wanted.task_ids)
        found = self.of(strategy, worker, replace(wanted, task_ids=tasks)) if tasks else None
        return found.task_ids if isinstance(found, _Named | _Both) else frozenset()

    def allows(self, task: Task) -> bool:
        """Return whether limits and budgets let a task start now, after those that were given to claims."""
        keyed = self._world.indexes.keyed
        return not keyed.is_used or self._limits.allows_task(keyed.keys(task), task)

    def mark(self) -> tuple[dict[str, int], dict[str, float]]:
        """Return what was counted so far, for `restore`."""
        return self._usage.counted(), self._limits.counted()

    def restore(self, mark: tuple[dict[str, int], dict[str, float]]) -> None:
        """Count no more than at a mark."""
        self._usage.restore(mark[0])
        self._limits.restore(mark[1])

    def reservation(self, spend: Spend) -> Reservation:
        """Return what budgets keep for an attempt that begins now."""
        return reservation_for(spend, self._world.prices)

    def _made(
        self,
        strategy: str,
        handles: tuple[str, ...],
        wanted: ClaimFilter,
        filters: frozenset[str] | None,
        build_id: str,
        only: str,
    ) -> Source:
        indexes = self._world.indexes
        lanes = [indexes.lanes]
        if wanted.programs:
            of_program = map(indexes.lanes_of.get, dict.fromkeys(wanted.programs))
            lanes = [one for one in of_program if one is not None]
        names: set[str] | None = None
        if handles or wanted.task_names:
            names = set(handles or wanted.task_names)
            if handles and wanted.task_names:
                names.intersection_update(wanted.task_names)
        allowed = Allowed(
            names=None if names is None else frozenset(names),
            filters=filters,
            room=self._room,
            patience=self._patience,
            limits=self._limits,
            only=only,
            build_id=build_id,
        )
        queues = self._grouped(lanes, wanted.queues, allowed, is_live=not strategy and not wanted.task_ids)
        if only:
            queues = _sticking(queues, only)
        if wanted.task_ids:
            return _Named(self._world, wanted.task_ids, lanes, queues, allowed)
        made = {name_in(queue): self._of_queue(queue, groups, strategy, allowed) for queue, groups in queues.items()}
        if len(made) == 1:
            return next(iter(made.values()))
        return _Shared(made, self._usage)

    def _grouped(
        self, lanes: Sequence[Lanes], wanted: tuple[str, ...], allowed: Allowed, *, is_live: bool
    ) -> dict[str, dict[LaneName, list[ReadyTasks]]]:
        """
        Return the groups of ready tasks by queue and lane, without those of queues that are paused or not wanted.

        Nor are there those that go to other builds; the others are in the lanes of their keys.
        A claim that follows the live policies gets nothing of those for which a custom policy chooses, either.
        """
        others = self._chosen_for if is_live else frozenset[str]()
        queues: dict[str, dict[LaneName, list[ReadyTasks]]] = {}
        defined = self._world.queues
        for lane, group in chain.from_iterable(one.of.items() for one in lanes):
            if lane.queue in others or (wanted and (lane.queue or DEFAULT) not in wanted):
                continue
            if lane.goes_to is not None:
                if not allowed.has_build(lane.goes_to):
                    continue
                lane = lane._replace(goes_to=None)  # noqa: PLW2901  # whatever build, it is the same share
            queue = defined.get(lane.queue or DEFAULT)
            if queue is None or queue.paused_at is None:
                queues.setdefault(lane.queue, {}).setdefault(lane, []).append(group)
        return queues

    def _of_queue(
        self, queue: str, lanes: Mapping[LaneName, list[ReadyTasks]], strategy: str, allowed: Allowed
    ) -> Source:
        policy = policy_of(self._world.queues, queue)
        ordering = ordering_of(policy, strategy)
        if len(lanes) == 1 or (strategy or policy.strategy) != "fair":
            return Line([one for groups in lanes.values() for one in groups], ordering, allowed)
        made = {name_in(lane.queue, lane.key): _Later(groups, ordering, allowed) for lane, groups in lanes.items()}
        return _Shared(made, self._usage)


def _sticking(
    queues: Mapping[str, Mapping[LaneName, list[ReadyTasks]]], preference: str
) -> dict[str, dict[LaneName, list[ReadyTasks]]]:
    """Return those of the groups that have tasks with a preference."""
    found: dict[str, dict[LaneName, list[ReadyTasks]]] = {}
    for queue, lanes in queues.items():
        for lane, groups in lanes.items():
            if having := [one for one in groups if preference in one.preferring]:
                found.setdefault(queue, {})[lane] = having
    return found


class _Both:
    """What sticks to a worker, which it takes first, and what it may take as others may."""

    def __init__(self, own: Source, common: Source) -> None:
        self._sources = (own, common)

    @property
    def task_ids(self) -> frozenset[str]:
        """Return the tasks in it, if they were named."""
        return frozenset(chain.from_iterable(one.task_ids for one in self._sources if isinstance(one, _Named)))

    @property
    def is_empty(self) -> bool:
        return all(source.is_empty for source in self._sources)

    def has_no_fit(self, candidate: Candidate) -> bool:
        return all(source.has_no_fit(candidate) for source in self._sources)

    def take(self, candidate: Candidate, taken: set[str]) -> Task | None:
        for source in self._sources:
            found = None if source.has_no_fit(candidate) else source.take(candidate, taken)
            if found is not None:
                return found
        return None


class _Anyone:
    """Whom every task fits."""

    free = None

    def fits(self, _: Task) -> bool:
        return True


def custom_queues(world: World) -> tuple[str, ...]:
    """Return the queues whose tasks a custom policy chooses: the default one, and those that follow it."""
    names = dict.fromkeys((DEFAULT, *world.queues))
    return tuple(queue_id for queue_id in names if policy_of(world.queues, name_of(queue_id)).strategy == "custom")


def ready_for_custom(world: World, most: int) -> Iterator[Task]:
    """Yield up to *most* ready tasks of the queues that follow the default policy, the first ones by priority."""
    source, taken = Sources(world).of("", None, ClaimFilter(queues=custom_queues(world))), set[str]()
    given = 0
    while given < most and (task := source.take(_Anyone(), taken)) is not None:
        taken.add(task.task_id)
        if not gang_of(task):  # the policy chooses one task at a time
            given += 1
            yield task


def ordering_of(policy: Policy, strategy: str) -> str:
    """Return the order in which a claim that names *strategy*, or '', takes tasks of a queue with this policy."""
    return aged(policy.ageing_s) if (strategy or policy.strategy) in _BY_PRIORITY else FIFO


class _Usage:
    """What each account has used in proportion to its weight, with what runs and what was given in this turn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._given: dict[str, int] = {}
        self._known: dict[str, tuple[float, int, float, float]] = {}
        """Of each account what it has used, how many of its tasks run, what one of them costs, and its weight."""

    def of(self, account: str) -> float:
        known = self._known.get(account)
        if known is None:  # nothing is folded before the end of the turn
            known = self._known[account] = self._of(account)
        used, running, mean, weight = known
        return (used + (running + self._given.get(account, 0)) * mean) / weight

    def _of(self, account: str) -> tuple[float, int, float, float]:
        world = self._world
        queue, colon, key = account.partition(":")
        share = world.indexes.shared.get(queue if colon else "")
        known = world.accounts.get(account, _NEVER)
        used = known.used_at(world.indexes.now, HALF_LIFE_S if share is None else share.half_life_s)
        weight = self._weight(queue, key if colon else None, share)
        return used, world.indexes.running_in.get(account, 0), known.mean, weight

    def counted(self) -> dict[str, int]:
        """Return what was given in this turn."""
        return dict(self._given)

    def restore(self, given: dict[str, int]) -> None:
        """Take it that so much was given in this turn."""
        self._given = given

    def note(self, task: Task) -> None:
        self._count(name_in(task.queue))
        share = self._world.indexes.shared.get(task.queue)
        if share is not None:
            self._count(name_in(task.queue, key_of(task, share)))

    def _count(self, account: str) -> None:
        self._given[account] = self._given.get(account, 0) + 1

    def _weight(self, queue: str, key: str | None, share: FairShare | None) -> float:
        if key is None:
            known = self._world.queues.get(queue or DEFAULT)
            return 1.0 if known is None else known.weight
        return 1.0 if share is None else share.weights.get(key, 1.0)


class _Limits:
    """The room that the keys of limits and budgets have, less what was given to claims in this turn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._keyed = world.indexes.keyed
        self._left: dict[str, float] = {}

    def allows(self, keys: tuple[str, ...]) -> bool:
        """Return whether one more task with these keys may start, unless it is too dear for a budget."""
        return all(self._room(key) > 0 for key in keys)

    def allows_task(self, keys: tuple[str, ...], task: Task) -> bool:
        """Return whether a task with these keys may start."""
        for key in keys:  # `allows`, without a call: this is asked of each task that starts
            if self._room(key) <= 0:
                return False
        spend = task.spend
        return spend is None or all(self._need(key, spend) <= self._room(key) for key in filter(is_budget, keys))

    def could_pay(self, keys: tuple[str, ...], task: Task) -> bool:
        """Return whether the budgets of these keys could pay for a task if nothing else were spent."""
        spend, funds = task.spend, self._keyed.funds
        return spend is None or all(
            self._need(key, spend) <= most_for(funds.terms_of(key), of_floor=has_floor_mark(key))
            for key in filter(is_budget, keys)
        )

    def counted(self) -> dict[str, float]:
        """Return the room that is left, as far as it was asked for."""
        return dict(self._left)

    def restore(self, left: dict[str, float]) -> None:
        """Take it that so much room is left."""
        self._left = left

    def note(self, task: Task) -> None:
        """Count a task that was given to a claim."""
        for key in self._keyed.keys(task):
            if is_budget(key):
                assert task.spend is not None, "only tasks that say what they may spend have such keys"
                self._note_spend(key, int(self._need(key, task.spend)))
            else:
                self._left[key] = self._room(key) - 1

    def _note_spend(self, key: str, amount: int) -> None:
        """Count what was reserved: of a task for which the floor is kept, others have as much less beyond the floor."""
        plain, floored = both_of(key)
        funds = self._keyed.funds
        terms = funds.terms_of(key)
        if not terms.floor_for:
            self._left[key] = self._room(key) - amount
            return
        left = {one: self._room(one) - amount for one in (plain, floored)}
        if has_floor_mark(key):
            kept = left[floored] - left[plain]  # of the floor
            left[plain] += min(kept, amount)
        self._left |= left

    def _need(self, key: str, spend: Spend) -> float:
        need = need_of(spend, self._keyed.funds.terms_of(key).unit, self._world.prices)
        return inf if need is None else need

    def _room(self, key: str) -> float:
        left = self._left.get(key)
        if left is None:
            left = self._left[key] = self._keyed.room(key)
        return left


class _Shared:
    """Several sources, of which the one that has used least gives the next task."""

    def __init__(self, sources: Mapping[str, Source], usage: _Usage) -> None:
        self._usage = usage
        self._sources = sources
        self._order = [(usage.of(account), account) for account in sources]
        heapq.heapify(self._order)
        self._no_fit: list[Resources] = []

    @property
    def is_empty(self) -> bool:
        return not self._order

    def has_no_fit(self, candidate: Candidate) -> bool:
        """Whether a claim with at least as much room already found no task here."""
        return _is_smaller(candidate, self._no_fit)

    def take(self, candidate: Candidate, taken: set[str]) -> Task | None:
        """Take the first task that fits the claim, of the first source that has one."""
        order = self._order
        passed: list[tuple[float, str]] = []
        found = None
        while order:
            used, account = order[0]
            now = self._usage.of(account)
            if now > used:
                heapq.heapreplace(order, (now, account))
                continue
            source = self._sources[account]
            found = None if source.has_no_fit(candidate) else source.take(candidate, taken)
            if found is not None:
                break
            entry = heapq.heappop(order)
            if not source.is_empty:
                passed.append(entry)
        for entry in passed:
            heapq.heappush(order, entry)
        if found is None and candidate.free is not None:
            self._no_fit.append(candidate.free)
        return found


class _Later:
    """A line that is made when it is first wanted: most turns give tasks to few of many tenants."""

    def __init__(self, groups: Sequence[ReadyTasks], ordering: str, allowed: Allowed) -> None:
        self._of = (groups, ordering, allowed)
        self._line: Line | None = None

    @property
    def is_empty(self) -> bool:
        return self._line is not None and self._line.is_empty

    def has_no_fit(self, candidate: Candidate) -> bool:
        return self._line is not None and self._line.has_no_fit(candidate)

    def take(self, candidate: Candidate, taken: set[str]) -> Task | None:
        if self._line is None:
            self._line = Line(*self._of)
        return self._line.take(candidate, taken)


class _Named:
    """Tasks that a claim names, as far as they are ready and it may take them, in the order in which it names them."""

    def __init__(
        self,
        world: World,
        task_ids: Sequence[str],
        lanes: Sequence[Lanes],
        queues: Collection[str],
        allowed: Allowed,
    ) -> None:
        self._keyed, self._limits = world.indexes.keyed, allowed.limits
        goes_to = world.indexes.builds.of
        known = (task for task in map(world.tasks.get, dict.fromkeys(task_ids)) if task is not None)
        self._tasks = [
            task
            for task in known
            if task.queue in queues
            and (allowed.names is None or task.task_name in allowed.names)
            and allowed.may_run(task)
            and allowed.has_build(goes_to(task))
            and (allowed.prefers(task) or allowed.patience.is_over(task))
            and any(one.has(task) for one in lanes)
        ]
        self._task_ids = frozenset(task.task_id for task in self._tasks)

    @property
    def is_empty(self) -> bool:
        return not self._tasks

    @property
    def task_ids(self) -> frozenset[str]:
        """Return those of the tasks that a claim may take, whether or not they fit."""
        return self._task_ids

    def has_no_fit(self, _: Candidate) -> bool:
        """Return False: there are few."""
        return False

    def take(self, candidate: Candidate, taken: set[str]) -> Task | None:
        """Take the first one that fits the claim and was not given to another."""
        return next((task for task in self._tasks if task.task_id not in taken and self._fits(candidate, task)), None)

    def _fits(self, candidate: Candidate, task: Task) -> bool:
        return self._limits.allows_task(self._keyed.keys(task), task) and candidate.fits(task)


def _is_smaller(candidate: Candidate, no_fit: Sequence[Resources]) -> bool:
    if not no_fit:
        return False
    free = candidate.free
    return free is not None and any(free.fits_in(one) for one in no_fit)


class Line:
    """The ready tasks of some groups that claims with the same filter, of workers that may run the same, may take."""

    def __init__(self, groups: Sequence[ReadyTasks], ordering: str, allowed: Allowed) -> None:
        self._ordering = ordering
        self._allowed = allowed
        self._heads: list[tuple[Key, int, Task, tuple[str, ...], Iterator[tuple[Key, Task]]]] = []
        self._opened = 0
        self._too_dear = 0
        self._no_fit: list[Resources] = []
        self._unopened: Iterator[tuple[Key, Shape]] = _NO_MORE
        if allowed.only:
            for shape in chain.from_iterable(group.preferring[allowed.only].values() for group in groups):
                if allowed.names is None or shape.key.task_name in allowed.names:
                    self._open(shape)
        elif allowed.names is None:
            self._unopened = merge(*(group.in_order(ordering) for group in groups), key=itemgetter(0))
        else:
            for shape in chain.from_iterable(group.of_name(name) for group in groups for name in allowed.names):
                self._open(shape)
        self._next = next(self._unopened, None)

    @property
    def is_empty(self) -> bool:
        """Whether no claim will find a task here any more."""
        return not self._heads and self._next is None

    def has_no_fit(self, candidate: Candidate) -> bool:
        """Whether a claim with at least as much room already found no task here."""
        return _is_smaller(candidate, self._no_fit)

    def take(self, candidate: Candidate, taken: set[str]) -> Task | None:
        """Take the first task that fits the claim; tasks that do not fit stay for others."""
        passed = []
        found = None
        while found is None and self._open_first():
            head = heapq.heappop(self._heads)
            _, number, task, keys, rest = head
            if keys and not self._allowed.limits.allows_task(keys, task):
                self._pass_over(task, number, keys, rest)
                continue
            if task.task_id in taken:
                self._push(rest, number, keys)
            elif candidate.fits(task):
                found = task
                self._push(rest, number, keys)
            else:
                passed.append(head)
        for head in passed:
            heapq.heappush(self._heads, head)
        if found is None and candidate.free is not None:
            self._no_fit.append(candidate.free)
        return found

    def _pass_over(self, task: Task, number: int, keys: tuple[str, ...], rest: Iterator[tuple[Key, Task]]) -> None:
        """Look at no more tasks of a shape in this turn, unless the first one is always too dear for its budget."""
        limits = self._allowed.limits
        if limits.allows(keys) and not limits.could_pay(keys, task) and self._too_dear < TOO_DEAR_LOOKED_AT:
            self._too_dear += 1
            self._push(rest, number, keys)

    def _open_first(self) -> bool:
        """Open the shapes that may have the first task; return whether there is a task."""
        heads = self._heads
        while self._next is not None and (not heads or self._next[0] < heads[0][0]):
            self._open(self._next[1])
            self._next = next(self._unopened, None)
        return bool(heads)

    def _open(self, shape: Shape) -> None:
        allowed, key = self._allowed, shape.key
        if not shape.members or shape.is_shut or (key.keys and not allowed.limits.allows(key.keys)):
            return
        if allowed.may_run(key):
            self._opened += 1
            tasks = shape.ordered(self._ordering)
            if not allowed.prefers(key):  # the first ones tell for the others: they have waited longest, or are urgent
                tasks = (one for one in islice(tasks, PATIENT_LOOKED_AT) if allowed.patience.is_over(one[1]))
            self._push(tasks, self._opened, key.keys)

    def _push(self, rest: Iterator[tuple[Key, Task]], number: int, keys: tuple[str, ...]) -> None:
        for key, task in rest:
            heapq.heappush(self._heads, (key, number, task, keys, rest))
            return
