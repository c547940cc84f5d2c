"""
Places the tasks of a gang: all of them in one turn, or none. Pure.

A gang takes its turn when one of its tasks is the next one by the policies. If the waiting claims do not have room for
all, none starts, and nothing is held: the next turn looks again, so that two gangs cannot wait for each other. Small
tasks that come all the time would then be faster for ever. So for one gang at a time, the one that is ready for the
longest time, the room that it already finds is left free for the rest of each turn, once it has waited long enough:
what comes before it by the policies may take that room, what comes behind it may not.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from coordinator.placement.sources import Sources
from events.coordinator import ANY
from events.queue import DEFAULT
from events.resources import NONE
from projections.limit import keys_of, limit_of, room_of
from projections.ready import gang_of
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from events.resources import Resources
    from projections.lanes import GangMembers
    from projections.task import Task
    from projections.worker import WorkerState
    from projections.world import World

PATIENCE_S = 10.0
"""Room is kept for a gang that waits for so long, or a quarter of its deadline if that is shorter."""
MOST_TRIED = 3
"""So many gangs that do not fit are tried in a turn; others wait for the next, but the one that room is kept for."""


MOST_LOOKS = 300
"""So many looks at places are taken to assign the tasks of a gang; then it counts as one that does not fit now."""
MOST_CHECKED = 1000
"""So often it is checked whether a task of a gang may go to a place: of more, the first places are looked at."""


class Taker(Protocol):
    """Something that takes tasks: a waiting claim, or a worker that has nothing else to do."""

    @property
    def worker_id(self) -> str: ...

    def has_room(self, mine: Sequence[Task], of_worker: Sequence[Task]) -> bool:
        """Return whether it can take the tasks *mine* while its worker takes those of *of_worker*."""

    def rank(self, mine: int, of_worker: int) -> float:
        """Return how well it is served if it takes so many more, and its worker so many in all; the least is next."""


P = TypeVar("P", bound=Taker)


class Matching(Generic[P]):
    """
    An assignment of tasks to places, as many as possible, by augmenting paths (Kuhn, 1955).

    *may* says which tasks each place may take, apart from its room. Where tasks need amounts of several things, it may
    miss an assignment that exists. If only all of them count (*is_whole*), it ends with the first that has no place.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        places: Iterable[P],
        may: Callable[[P], AbstractSet[str]],
        *,
        is_whole: bool = False,
    ) -> None:
        self.place_of: dict[str, P] = {}
        self._left = MOST_LOOKS
        self._tasks = {task.task_id: task for task in tasks}
        self._on: dict[str, dict[str, P]] = {}
        self._taken: dict[P, int] = {}
        options = _options(tasks, places, may)
        for task in sorted(tasks, key=lambda one: (len(options[one.task_id]), *_need(one))):
            if not self._add(task, options, set()) and is_whole:
                break

    def _add(self, task: Task, options: Mapping[str, Sequence[P]], seen: set[P]) -> bool:
        """Find a place for a task, if need be by moving others; a place is looked at once."""
        if self._left <= 0:
            return False
        for place in sorted(options[task.task_id], key=self._rank):
            if place in seen:
                continue
            seen.add(place)
            self._left -= 1
            if self._has_room(place, task):
                self._put(task, place)
                return True
            for other_id in tuple(self._on.get(place.worker_id, ())):
                other, was = self._tasks[other_id], self.place_of[other_id]
                self._take_out(other)
                if self._has_room(place, task):
                    self._put(task, place)
                    if self._add(other, options, seen):
                        return True
                    self._take_out(task)
                self._put(other, was)
        return False

    def _has_room(self, place: P, task: Task) -> bool:
        on_worker = self._on.get(place.worker_id, {})
        mine = [self._tasks[one] for one, where in on_worker.items() if where is place]
        return place.has_room([*mine, task], [*map(self._tasks.__getitem__, on_worker), task])

    def _rank(self, place: P) -> float:
        return place.rank(self._taken.get(place, 0), len(self._on.get(place.worker_id, ())))

    def _put(self, task: Task, place: P) -> None:
        self.place_of[task.task_id] = place
        self._on.setdefault(place.worker_id, {})[task.task_id] = place
        self._taken[place] = self._taken.get(place, 0) + 1

    def _take_out(self, task: Task) -> None:
        place = self.place_of.pop(task.task_id)
        del self._on[place.worker_id][task.task_id]
        self._taken[place] -= 1


def _options(tasks: Sequence[Task], places: Iterable[P], may: Callable[[P], AbstractSet[str]]) -> dict[str, list[P]]:
    """Return for each task the first places that may take it, of as many workers as there are tasks."""
    options: dict[str, list[P]] = {task.task_id: [] for task in tasks}
    workers: dict[str, set[str]] = {task.task_id: set() for task in tasks}
    alike: dict[Resources, list[Task]] = {}
    for task in tasks:
        alike.setdefault(task.resources, []).append(task)
    most = max(len(tasks), MOST_CHECKED // max(1, len(alike)))
    for place in islice(places, most):
        taken = may(place)
        for first, *others in alike.values():
            if place.has_room([first], [first]):
                for task in (first, *others):
                    found = workers[task.task_id]
                    if len(found) < len(tasks) and task.task_id in taken:
                        options[task.task_id].append(place)
                        found.add(place.worker_id)
    return options


def _need(task: Task) -> tuple[int, int, int]:
    """Return what sorts tasks that need much before those that need little."""
    needs = task.resources
    return -needs.gpus, -needs.memory_bytes, -needs.cpu_millis


class _Free:
    """A worker, and what it has left besides some tasks."""

    def __init__(self, worker: WorkerState, busy: int, held: Resources) -> None:
        self.worker = worker
        self.worker_id = worker.worker_id
        self._slots = None if worker.slots is None else worker.slots - busy
        self._free = None if worker.resources is None else worker.resources - held

    def has_room(self, _: Sequence[Task], of_worker: Sequence[Task]) -> bool:
        if self._slots is not None and len(of_worker) > self._slots:
            return False
        return self._free is None or sum((one.resources for one in of_worker), NONE).fits_in(self._free)

    def rank(self, _: int, of_worker: int) -> float:
        return of_worker


def most_at_once(world: World, tasks: Sequence[Task], *, now: bool = False, is_whole: bool = False) -> int:
    """
    Return how many of the ready tasks of a gang workers could begin at once: *now*, or if they had nothing to do.

    With *is_whole* it is less if not all can.
    """
    sources, indexes = Sources(world), world.indexes
    ids, names = tuple(task.task_id for task in tasks), {task.task_name for task in tasks}
    places = (  # no more are made than are looked at
        _Free(
            one,
            len(indexes.held.get(one.worker_id, ())) if now else 0,
            indexes.held_resources.get(one.worker_id, NONE) if now else NONE,
        )
        for one in world.workers.values()
        if one.status is WorkerStatus.ACTIVE
        and not (one.handles and names.isdisjoint(one.handles))
        and not (one.build_id and one.build_id in world.versions)
    )
    may = Matching(tasks, places, lambda one: sources.among("", one.worker, ANY, ids), is_whole=is_whole)
    return len(may.place_of)


def workers_of(world: World, tasks: Sequence[Task]) -> frozenset[str]:
    """Return the workers that may run one of the ready tasks of a gang, if they have room."""
    sources, ids = Sources(world), tuple(task.task_id for task in tasks)
    return frozenset(one.worker_id for one in world.workers.values() if sources.among("", one, ANY, ids))


def key_too_narrow(world: World, tasks: Sequence[Task]) -> str:
    """Return the key of a limit that never lets so many of some tasks start at once, '' for none."""
    counts = Counter(key for task in tasks for key in keys_of(task, world.limits))
    for key, count in counts.items():
        if room_of(world.limits[limit_of(key)].terms, None, 0, world.indexes.now) < count:
            return key
    return ""


def patience_s(members: GangMembers) -> float:
    """Return how long a gang that is ready waits before room is kept for it."""
    gang = next(iter(members.pending.values())).gang
    assert gang is not None, "it is one of a gang"
    return min(PATIENCE_S, gang.deadline_s / 4)


def room_kept_for(world: World) -> str:
    """
    Return the gang that room is kept for now, '' for none: the one of those that could begin that waits longest.

    If the first `MOST_TRIED` could not, however long they wait, room is kept for none.
    """
    gangs, now = world.indexes.gangs, world.indexes.now
    tried = 0
    for since, name in sorted((since, name) for name, since in gangs.gathered.items()):
        members = gangs.of[name]
        if now - since < patience_s(members) or _is_paused(world, members):
            continue
        tasks = members.in_order()
        if not key_too_narrow(world, tasks) and most_at_once(world, tasks, is_whole=True) == members.size:
            return name
        tried += 1
        if tried == MOST_TRIED:
            break
    return ""


def _is_paused(world: World, members: GangMembers) -> bool:
    """Return whether a task of a gang is in a queue that is paused."""
    queues = (world.queues.get(task.queue or DEFAULT) for task in members.ready.values())
    return any(queue is not None and queue.paused_at is not None for queue in queues)


class GangsOfTurn(Generic[P]):
    """
    The gangs of one turn; *places* are its claims, and *may* says which of some tasks each may take.

    *room* returns how many tasks they have room for at most, when the first gang is looked at.
    """

    def __init__(
        self,
        world: World,
        sources: Sources,
        places: Callable[[], Iterable[P]],
        may: Callable[[P, tuple[str, ...]], AbstractSet[str]],
        room: Callable[[], int],
    ) -> None:
        self._world = world
        self._sources = sources
        self._places = places
        self._may = may
        self._room = room
        self._most: int | None = None
        self._tried = 0
        self._first: str | None = None

    def fitted(self, task: Task, left: int) -> tuple[list[tuple[Task, P]], bool]:
        """
        Return the tasks of a gang with their places, and True if they are all and at most *left*.

        With False it is the room that is to be kept for them, if any is.
        """
        name = gang_of(task)
        members = self._world.indexes.gangs.of[name]
        if self._most is None:
            self._most = self._room()
        is_hopeless = members.size > self._most or self._tried >= MOST_TRIED
        if is_hopeless and name != self._room_kept_for():
            return [], False
        tasks = members.in_order()
        before = self._sources.mark()
        allowed = self._allowed(tasks)
        ids = tuple(one.task_id for one in allowed)
        is_kept = name == self._room_kept_for()
        matching = Matching(allowed, self._places(), lambda place: self._may(place, ids), is_whole=not is_kept)
        place_of = matching.place_of
        if len(place_of) == len(tasks) <= left:
            return [(one, place_of[one.task_id]) for one in tasks], True
        self._tried += 1
        self._sources.restore(before)
        if not is_kept:
            return [], False
        kept = [(one, place_of[one.task_id]) for one in allowed if one.task_id in place_of]
        for one, _ in kept:
            self._sources.note(one)
        return kept, False

    def _allowed(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the first of some tasks, as many as limits and budgets let start together, and count these."""
        found = []
        for task in tasks:
            if not self._sources.allows(task):
                break
            self._sources.note(task)
            found.append(task)
        return found

    def _room_kept_for(self) -> str:
        if self._first is None:
            self._first = room_kept_for(self._world)
        return self._first
