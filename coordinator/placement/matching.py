"""Matches ready tasks to waiting claims. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from functools import reduce
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from coordinator.deciders.housing import SERVING
from coordinator.placement.gangs import GangsOfTurn
from coordinator.placement.sources import Sources, custom_queues
from events.coordinator import ANY, ClaimFilter
from events.resources import NONE, Resources
from events.task import TaskStarted
from projections.queue import name_of, policy_of
from projections.ready import gang_of
from projections.task import Task
from projections.worker import WorkerStatus, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from coordinator.placement.sources import Source
    from events.base import Position
    from events.coordinator import WaitingClaim
    from events.spend import Reservation
    from projections.worker import WorkerState
    from projections.world import World


SCHEDULE_VERSION = 4
"""Increase it when the same inputs lead to other placements."""
NOT_ASKED: Mapping[str, str] = {}
CLAIM_BYTES = 512 * 1024
"""A claim whose tasks reach this size is answered: with one more task the answer must still fit into one message."""
_START_BYTES = 400
"""By how much the encoding of a task grows at its start, besides ids: status, attempt, times, positions."""
_encode = msgspec.json.Encoder().encode


def schedule(
    world: World,
    claims: Sequence[WaitingClaim],
    loads: Mapping[str, float],
    filters: Mapping[str, ClaimFilter] = MappingProxyType({}),
    *,
    most: int,
    containers: Mapping[str, str] = NOT_ASKED,
    chosen: Mapping[str, tuple[str, ...]] | None = None,
    note_kept: Callable[[int], None] = lambda _: None,
) -> Iterator[TaskStarted]:
    """
    Assign up to *most* ready tasks to waiting claims, one at a time.

    A claim that names no strategy follows the policies of the queues: that of `default` says which worker is served,
    each queue's own in which order its tasks are taken (see `sources`).

    FIFO, PRIORITY and FAIR serve the claims in turn, the longest waiting first; LEAST_LOADED the worker with the
    smallest share of its capacity in use; ROUND_ROBIN and WEIGHTED_ROUND_ROBIN rotate over the workers, over turns too
    (see `_Rotation`). PRIORITY takes tasks by priority, highest first; FAIR takes those of whoever has used least; all
    others take the oldest first. *loads* are the last reported loads of the workers, 0 to 1; *filters* say by claim id
    which tasks a claim takes.
    *containers* is what `said_of` the workers' containers; a worker whose container does not run gets nothing. Before
    version 2 no containers were asked for. *chosen* are the tasks that a custom policy chose for the claims that follow
    it: these get no others of the queues for which it chooses. If it is None there is no such policy, or it failed, and
    they get tasks by priority. *note_kept* is called with how many of the *most* are not assigned, but kept for a gang:
    with so many as were assigned and kept, the same follows again.
    """
    capacities = _capacities(world, claims, loads, containers)
    sources = Sources(world, with_choice=chosen is not None, room=_Room(capacities))
    taken: set[str] = set()
    left = most
    if chosen is not None:
        for event in _chosen(claims, capacities, filters, chosen, sources):
            if not left:
                return
            taken.add(event.task_id)
            left -= 1
            yield event
    candidates, places, rotation = _candidates(world, claims, capacities)
    gangs = _Gangs(world, sources, _Places(sources, filters, places), rotation, taken, note_kept)
    if chosen is not None:
        left -= yield from gangs.of_custom(left)
    heapq.heapify(candidates)
    is_counted = world.indexes.is_accounted or world.indexes.keyed.is_used
    yield from _in_turn(candidates, filters, sources, gangs, taken, left, is_counted=is_counted)


def _in_turn(
    candidates: list[tuple[float, int, _Candidate | _Rotation]],
    filters: Mapping[str, ClaimFilter],
    sources: Sources,
    gangs: _Gangs,
    taken: set[str],
    left: int,
    *,
    is_counted: bool,
) -> Iterator[TaskStarted]:
    """Assign up to *left* tasks, each to the claim that is served next."""
    while candidates and left:
        score, number, one = candidates[0]
        if score < one.score():  # the worker got a task through another of its claims since
            heapq.heapreplace(candidates, (one.score(), number, one))
            continue
        candidate = one.next()
        source = candidate.source
        if source is None:
            wanted = filters.get(candidate.claim.claim_id, ANY)
            source = candidate.source = sources.of(candidate.claim.strategy, candidate.capacity.worker, wanted)
        task = source.take(candidate, taken) if candidate and not source.has_no_fit(candidate) else None
        if task is None:
            if not one.pass_over():
                heapq.heappop(candidates)
            continue
        if task.gang is not None and not task.attempt:
            left -= yield from gangs.begin(task, left)
            continue
        taken.add(task.task_id)
        left -= 1
        if is_counted:
            sources.note(task)
        yield candidate.assign(task, None if task.spend is None else sources.reservation(task.spend))
        one.note_assigned()
        heapq.heapreplace(candidates, (one.score(), number, one))


def offered(
    world: World, worker_id: str, wanted: ClaimFilter, strategy: str, *, most: int, containers: Mapping[str, str]
) -> Iterator[Task]:
    """
    Yield up to *most* ready tasks that a claim of this worker could get now, each on its own, the first ones first.

    A worker that is not known has no limits. What is yielded is not assigned.
    """
    worker = world.workers.get(worker_id)
    free: Resources | None = None
    if worker is not None:
        capacity = _capacity(world, worker_id, {}, containers)
        if capacity is None:
            return
        free = capacity.free
    sources = Sources(world, room=lambda: free)
    source = sources.of(strategy, unknown(worker_id) if worker is None else worker, wanted)
    onlooker, taken = _Onlooker(free), set[str]()
    given = 0
    while given < most and (task := source.take(onlooker, taken)) is not None:
        taken.add(task.task_id)
        if not gang_of(task):  # who is offered tasks claims one at a time
            given += 1
            sources.note(task)
            yield task


class _Onlooker:
    """Whom tasks are offered to: each must fit on its own."""

    def __init__(self, free: Resources | None) -> None:
        self.free = free

    def fits(self, task: Task) -> bool:
        return self.free is None or task.resources.fits_in(self.free)


def rounds_taken(world: World, claims: Sequence[WaitingClaim], started: Sequence[TaskStarted]) -> dict[str, float]:
    """Return, by worker id, the new `rounds` of the workers that *started*, from *claims* that rotate, in this turn."""
    usual = policy_of(world.queues, "").strategy
    rotating = {claim.claim_id: claim for claim in reversed(claims) if (claim.strategy or usual) in _ROTATING}
    if not rotating:
        return {}
    served: dict[str, int] = {}
    for event in started:
        if event.claim_id in rotating:
            served[event.worker_id] = served.get(event.worker_id, 0) + 1
    first = {claim.worker_id: claim for claim in rotating.values()}
    rounds = {}
    for worker_id, times in served.items():
        worker = world.workers[worker_id]
        weight = _weight(worker, first[worker_id].strategy or usual)
        rounds[worker_id] = (_tasks_taken(world, worker, weight) + times - 1) / weight
    return rounds


def _chosen(
    claims: Sequence[WaitingClaim],
    capacities: Mapping[str, _Capacity | None],
    filters: Mapping[str, ClaimFilter],
    chosen: Mapping[str, tuple[str, ...]],
    sources: Sources,
) -> Iterator[TaskStarted]:
    """Yield the tasks that a custom policy chose, as far as they are ready still and fit."""
    taken: set[str] = set()
    for claim in claims:
        capacity, wanted = capacities[claim.worker_id], chosen.get(claim.claim_id)
        if capacity is None or not wanted or claim.strategy:
            continue
        candidate = _Candidate(claim, capacity, "custom")
        only = msgspec.structs.replace(filters.get(claim.claim_id, ANY), task_ids=wanted)
        source = sources.of("", capacity.worker, only)
        while candidate and (task := source.take(candidate, taken)) is not None:
            taken.add(task.task_id)
            if gang_of(task):
                continue
            sources.note(task)
            yield candidate.assign(task, None if task.spend is None else sources.reservation(task.spend))


def _capacities(
    world: World, claims: Sequence[WaitingClaim], loads: Mapping[str, float], containers: Mapping[str, str]
) -> dict[str, _Capacity | None]:
    return {
        worker_id: _capacity(world, worker_id, loads, containers) for worker_id in {claim.worker_id for claim in claims}
    }


class _Room:
    """What no worker has more of, as far as it is limited; it is found when it is first asked for, and then kept."""

    __slots__ = ("_capacities", "_is_known", "_most")

    def __init__(self, capacities: Mapping[str, _Capacity | None]) -> None:
        self._capacities = capacities
        self._most: Resources | None = NONE
        self._is_known = False

    def __call__(self) -> Resources | None:
        if not self._is_known:
            self._is_known = True
            frees = [one.free for one in self._capacities.values() if one is not None]
            limited = [free for free in frees if free is not None]
            self._most = reduce(Resources.most, limited, NONE) if len(limited) == len(frees) else None
        return self._most


class _Places:
    """The claims of a turn that could take a task at its beginning, as gangs look at them."""

    def __init__(self, sources: Sources, filters: Mapping[str, ClaimFilter], places: Sequence[_Candidate]) -> None:
        self._sources = sources
        self._filters = filters
        self._places = places

    def with_room(self) -> list[_Candidate]:
        """Return those that can take a task now, the one that is served next first."""
        return sorted(filter(None, self._places), key=_Candidate.score)

    def room(self) -> int:
        """Return how many tasks the claims have room for, by slots alone."""
        wanted: dict[_Capacity, int] = {}
        for place in self._places:
            capacity = place.capacity
            wanted[capacity] = wanted.get(capacity, 0) + max(0, place.claim.slots - place.assigned)
        return sum(
            slots if one.worker.slots is None else max(0, min(slots, one.worker.slots - one.busy))
            for one, slots in wanted.items()
        )

    def among(self, place: _Candidate, task_ids: tuple[str, ...]) -> frozenset[str]:
        """Return which of some tasks a claim may take."""
        wanted = self._filters.get(place.claim.claim_id, ANY)
        return self._sources.among(place.claim.strategy, place.capacity.worker, wanted, task_ids)


class _Gangs:
    """
    Lets the gangs of one turn begin, at *places*, of which some are in *rotation*.

    Nothing here refers to what refers to it: in a cycle all objects of a turn would be left to the garbage collector.
    """

    def __init__(
        self,
        world: World,
        sources: Sources,
        places: _Places,
        rotation: _Rotation | None,
        taken: set[str],
        note_kept: Callable[[int], None],
    ) -> None:
        self._world = world
        self._sources = sources
        self._rotation = rotation
        self._taken = taken
        self._note_kept = note_kept
        self._gangs = GangsOfTurn(world, sources, places.with_room, places.among, places.room)

    def begin(self, task: Task, left: int) -> Generator[TaskStarted, None, int]:
        """Assign all tasks of a gang, if they are at most *left*, or keep room for them; return how much of it."""
        self._taken.update(self._world.indexes.gangs.of[gang_of(task)].ready)
        fitted, begins = self._gangs.fitted(task, left)
        if not begins:
            fitted = fitted[:left]
            for one, place in fitted:
                place.take(one)
            self._note_kept(len(fitted))
            return len(fitted)
        for one, place in fitted:
            yield place.assign(one, None if one.spend is None else self._sources.reservation(one.spend))
            if self._rotation is not None and place.strategy in _ROTATING:
                self._rotation.note_given(place)
        return len(fitted)

    def of_custom(self, left: int) -> Generator[TaskStarted, None, int]:
        """Begin gangs in the queues of a custom policy, which chooses one task at a time; return how much they took."""
        queues, gangs = set(map(name_of, custom_queues(self._world))), self._world.indexes.gangs
        taken = 0
        for _, name in sorted((since, name) for name, since in gangs.gathered.items()):
            tasks = gangs.of[name].in_order()
            if left - taken and any(task.queue in queues for task in tasks):
                taken += yield from self.begin(tasks[0], left - taken)
        return taken


def _candidates(
    world: World, claims: Sequence[WaitingClaim], capacities: Mapping[str, _Capacity | None]
) -> tuple[list[tuple[float, int, _Candidate | _Rotation]], list[_Candidate], _Rotation | None]:
    """
    Return the claims that can take a task, each with its score and a number, and all of them.

    Those that rotate are one entry of the first list, which is returned again.
    """
    candidates: list[tuple[float, int, _Candidate | _Rotation]] = []
    places: list[_Candidate] = []
    usual = policy_of(world.queues, "").strategy
    rotation: _Rotation | None = None
    for number, claim in enumerate(claims):
        capacity = capacities[claim.worker_id]
        strategy = claim.strategy or usual
        if capacity is None or not (candidate := _Candidate(claim, capacity, strategy)):
            continue
        places.append(candidate)
        if strategy not in _ROTATING:
            candidates.append((candidate.score(), number, candidate))
            continue
        if rotation is None:
            rotation = _Rotation(world)
            candidates.append((0.0, number, rotation))
        rotation.add(candidate)
    return candidates, places, rotation


class _Capacity:
    """What one worker can still take while tasks are assigned; all its claims share it."""

    __slots__ = ("busy", "free", "load", "worker")

    def __init__(self, worker: WorkerState, busy: int, free: Resources | None, load: float) -> None:
        self.worker = worker
        self.busy = busy
        self.free = free
        self.load = load


class _Candidate:
    """A waiting claim while tasks are assigned; false when it cannot take another task."""

    __slots__ = ("assigned", "assigned_bytes", "capacity", "claim", "source", "strategy")

    def __init__(self, claim: WaitingClaim, capacity: _Capacity, strategy: str) -> None:
        self.claim = claim
        self.capacity = capacity
        self.assigned = 0
        self.assigned_bytes = 0
        self.source: Source | None = None
        self.strategy = strategy

    def __bool__(self) -> bool:
        slots = self.capacity.worker.slots
        if self.assigned >= self.claim.slots or self.assigned_bytes >= CLAIM_BYTES:
            return False
        return slots is None or self.capacity.busy < slots

    def score(self) -> float:
        """Return how well the claim is served; the lowest score is served next."""
        return self.assigned if self.strategy != "least_loaded" else self.rank(0, 0)

    def rank(self, mine: int, of_worker: int) -> float:
        """Return the score that it has with so many more tasks, and so many more of its worker."""
        if self.strategy == "least_loaded":
            return self.capacity.load + (self.capacity.busy + of_worker) / (self.capacity.worker.slots or 1)
        return self.assigned + mine

    def next(self) -> _Candidate:
        return self

    def pass_over(self) -> bool:
        """Return whether any other claim is left here; a claim that found no task has none."""
        return False

    def note_assigned(self) -> None:
        """Do nothing: the claim itself counts what it got."""

    @property
    def free(self) -> Resources | None:
        return self.capacity.free

    @property
    def worker_id(self) -> str:
        return self.claim.worker_id

    def fits(self, task: Task) -> bool:
        return self.capacity.free is None or task.resources.fits_in(self.capacity.free)

    def has_room(self, mine: Sequence[Task], of_worker: Sequence[Task]) -> bool:
        """Return whether it can take some tasks more, while its worker takes those of *of_worker* in all."""
        capacity, slots = self.capacity, self.capacity.worker.slots
        if self.assigned + len(mine) > self.claim.slots:
            return False
        if slots is not None and capacity.busy + len(of_worker) > slots:
            return False
        if self.assigned_bytes + sum(_answer_bytes(one, self.claim) for one in mine[:-1]) >= CLAIM_BYTES:
            return False
        return capacity.free is None or reduce(Resources.__add__, (one.resources for one in of_worker)).fits_in(
            capacity.free
        )

    def take(self, task: Task) -> None:
        """Have less room, by a task."""
        self.assigned += 1
        self.assigned_bytes += _answer_bytes(task, self.claim)
        self.capacity.busy += 1
        if self.capacity.free is not None:
            self.capacity.free -= task.resources

    def assign(self, task: Task, reserved: Reservation | None) -> TaskStarted:
        """Assign a task under a lease that is unique among the attempts of this task and of this claim."""
        self.take(task)
        attempt = task.attempt + 1
        return TaskStarted(
            task_id=task.task_id,
            worker_id=self.claim.worker_id,
            claim_id=self.claim.claim_id,
            attempt=attempt,
            lease=f"{self.claim.claim_id}.{self.assigned}.{attempt}",
            build_id=self.capacity.worker.build_id,
            reserved=reserved,
        )


_ROTATING = frozenset({"round_robin", "weighted_round_robin"})
"""The strategies that rotate over the workers."""


def _weight(worker: WorkerState, strategy: str) -> int:
    """Return how many tasks a worker gets in each round; the first of its claims that rotate decides."""
    return (worker.slots or 1) if strategy == "weighted_round_robin" else 1


def _tasks_taken(world: World, worker: WorkerState, weight: int) -> int:
    """
    Return how many tasks the worker has had in all rounds so far, its own or passed by.

    A worker that is new, or was not there, begins in the round of the worker that was served last. It gets no credit
    for what it missed.
    """
    # `rounds` are multiples of 1 / weight, unless the weight has changed since: then to the nearest.
    mine = round(worker.rounds * weight) + 1 if worker.rounds else 0
    # With a little more, because a quotient times its divisor may be slightly below a whole number.
    return max(mine, math.floor(max(world.indexes.round, 1.0) * weight + 1e-6))


class _Turns:
    """One worker in a rotation: its weight, how many tasks it has had, and its claims, the longest waiting last."""

    __slots__ = ("claims", "registered", "taken", "weight")

    def __init__(self, world: World, first: _Candidate) -> None:
        worker = first.capacity.worker
        self.weight = _weight(worker, first.strategy)
        self.taken = _tasks_taken(world, worker, self.weight)
        self.registered = worker.registered
        self.claims = [first]


class _Rotation:
    """
    Smooth weighted round robin over the workers: in each round every worker gets as many tasks as its weight.

    Task number *n* of a worker of weight *w* is due from round n / w to round (n + 1) / w. The next task goes to the
    worker whose time ends first, among those whose time has begun: the mean of the rounds is now. While the same
    workers wait, each has had, after any number of tasks, its share of them, rounded up or down (as in Stoica et al.,
    "A proportional share resource allocation algorithm", 1996: lags stay below one).

    How far each worker is, is in the world: `WorkerState.rounds`. So it continues in the next turn and the next reign.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._workers: dict[str, _Turns] = {}
        self._later: list[tuple[float, Position, _Turns]] = []
        self._due: list[tuple[float, Position, _Turns]] = []
        self._claims = 0
        self._assigned = 0
        self._taken = 0
        self._weight = 0

    def add(self, candidate: _Candidate) -> None:
        """Add a claim; those of one worker in order of arrival."""
        self._claims += 1
        worker_id = candidate.claim.worker_id
        turns = self._workers.get(worker_id)
        if turns is not None:
            turns.claims.insert(0, candidate)
            return
        turns = self._workers[worker_id] = _Turns(self._world, candidate)
        self._taken += turns.taken
        self._weight += turns.weight
        self._wait(turns)

    def score(self) -> float:
        """Return how well its claims are served, for turns in which other claims do not rotate."""
        return self._assigned // self._claims

    def next(self) -> _Candidate:
        """Return the claim that is served next; a false one if its worker can take no more."""
        while self._later and (not self._due or self._has_begun(self._later[0][2])):
            turns = heapq.heappop(self._later)[2]
            heapq.heappush(self._due, ((turns.taken + 1) / turns.weight, turns.registered, turns))
        claims = self._due[0][2].claims
        while len(claims) > 1 and not claims[-1]:
            claims.pop()
        return claims[-1]

    def pass_over(self) -> bool:
        """Remove the claim that found no task, and a worker without another one; return whether any claim is left."""
        claims = self._due[0][2].claims
        if len(claims) > 1:  # another filter may let it take other tasks
            claims.pop()
            return True
        turns = heapq.heappop(self._due)[2]
        self._taken -= turns.taken
        self._weight -= turns.weight
        return bool(self._due or self._later)

    def note_assigned(self) -> None:
        """Count a task for the worker that was next."""
        turns = heapq.heappop(self._due)[2]
        self._assigned += 1
        self._taken += 1
        turns.taken += 1
        self._wait(turns)

    def note_given(self, candidate: _Candidate) -> None:
        """Count a task for a worker that was not next, as one of a gang; it goes on at its new place in the order."""
        turns = self._workers[candidate.worker_id]
        if not any(turns is one[2] for one in chain(self._due, self._later)):
            return  # it takes no more part in this turn
        self._due = [one for one in self._due if one[2] is not turns]
        self._later = [one for one in self._later if one[2] is not turns]
        heapq.heapify(self._due)
        heapq.heapify(self._later)
        self._assigned += 1
        self._taken += 1
        turns.taken += 1
        self._wait(turns)

    def _wait(self, turns: _Turns) -> None:
        heapq.heappush(self._later, (turns.taken / turns.weight, turns.registered, turns))

    def _has_begun(self, turns: _Turns) -> bool:
        """Whether the round of its next task is not after the mean of all rounds: in whole numbers, to be exact."""
        return turns.taken * self._weight <= turns.weight * self._taken


def _answer_bytes(task: Task, claim: WaitingClaim) -> int:
    """Return an upper bound of the encoded size of *task* when *claim* has it."""
    return len(_encode(task)) + 2 * len(claim.claim_id) + len(claim.worker_id) + _START_BYTES


def _capacity(
    world: World, worker_id: str, loads: Mapping[str, float], containers: Mapping[str, str]
) -> _Capacity | None:
    worker = world.workers.get(worker_id)
    if worker is None or worker.status is not WorkerStatus.ACTIVE:
        return None
    if containers.get(worker.container_id, "running") not in SERVING:
        return None
    if worker.build_id and worker.build_id in world.versions:
        return None
    indexes, free = world.indexes, worker.resources
    if free is not None:
        free -= indexes.held_resources.get(worker_id, NONE)
    return _Capacity(worker, len(indexes.held.get(worker_id, ())), free, loads.get(worker_id, 0.0))
