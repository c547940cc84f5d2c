"""
The tasks that wait only for a worker, grouped by *shape*: everything that decides which workers may run them.

Each shape has the keys of its tasks in each order that is used, and the shapes have a heap of their first tasks, so
that the first tasks of all are found without looking at every shape. To read in order removes only what is not ready
any more, before the first task, so deciders may read as far as they need.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from functools import lru_cache
from heapq import merge
from itertools import chain, count
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from projections.task import Task

    Key = tuple[float | int | str, ...]
    _Entry = tuple[Key, int, "Shape"]

T = TypeVar("T", bound=tuple[Any, ...])
_SPARE_ENTRIES = 64
EMPTY_SHAPES_KEPT = 256
EXACT = 5000
"""So many tasks before another one are counted one by one."""


def turn_of(task: Task) -> float:
    """Return what tells the attempt that a task waits for from others, and from the same one before a pause."""
    return task.attempt + task.resumes / 2**20


def fifo_key(task: Task) -> Key:
    """Order by submission; every key ends like this one, which identifies the task and its attempt, see `turn_of`."""
    return (*task.submitted, task.attempt if not task.resumes else turn_of(task), task.task_id)


def priority_key(task: Task) -> Key:
    """Order by priority, highest first; equal priorities by submission."""
    return (-task.priority, *task.submitted, task.attempt if not task.resumes else turn_of(task), task.task_id)


FIFO, PRIORITY = "fifo", "priority"
ORDERINGS: dict[str, Callable[[Task], Key]] = {FIFO: fifo_key, PRIORITY: priority_key}
"""The orders in which tasks are taken, and the key of a task in each; there are also those of `aged`."""


def aged(ageing_s: float) -> str:
    """Return the order by priority, in which a task that has waited *ageing_s* seconds longer counts as one higher."""
    return f"{PRIORITY}+{ageing_s!r}" if ageing_s else PRIORITY


@lru_cache(maxsize=1024)
def key_in(ordering: str) -> Callable[[Task], Key]:
    """Return what makes the key of a task in an order; it does not change while the task waits."""
    known = ORDERINGS.get(ordering)
    if known is not None:
        return known
    ageing_s = float(ordering.removeprefix(f"{PRIORITY}+"))

    def aged_key(task: Task) -> Key:
        # Both ages grow alike, so it is as good to say how old a task of priority 0 would be that is due as soon.
        return (task.submitted_at - task.priority * ageing_s, *fifo_key(task))

    return aged_key


class ShapeKey(msgspec.Struct, frozen=True, gc=False):
    """
    What decides which workers may run a task, and whether one may start now.

    Those of the build `goes_to` may, '' for workers without one, None for all: it is that of the lane. `gang` is the
    name of the gang that must begin as a whole.
    """

    task_name: str
    task_type: str
    resources: Resources
    worker_filter: str = ""
    preference: str = ""
    keys: tuple[str, ...] = ()
    rule_filter: str = ""
    goes_to: str | None = None
    gang: str = ""


def gang_of(task: Task) -> str:
    """Return the name of the gang that a task has to begin with, '' if it has none, or has begun."""
    return "" if task.gang is None or task.attempt else f"{task.tenant}/{task.gang.gang_id}"


def shape_of(task: Task, keys: tuple[str, ...], goes_to: str | None = None) -> ShapeKey:
    """Return the shape of a task that has these keys by the limits, and goes to this build."""
    return ShapeKey(
        task.task_name,
        task.task_type,
        task.resources,
        task.worker_filter,
        task.preference,
        keys,
        task.rule_filter,
        goes_to,
        gang_of(task),
    )


class _Order:
    """
    The keys of the ready tasks of one shape, in one order, and a few of tasks that are not ready any more.

    Most tasks come in order and go in order: their keys are a list, whose first `_gone` have gone. The others are a
    heap.
    """

    __slots__ = ("_gone", "_is_live", "_late", "_run", "key_of")

    def __init__(self, keys: list[Key], key_of: Callable[[Task], Key], is_live: Callable[[Key], bool]) -> None:
        self._run = keys
        self.key_of = key_of
        self._gone = 0
        self._late: list[Key] = []
        self._is_live = is_live

    def __len__(self) -> int:
        return len(self._run) - self._gone + len(self._late)

    def add(self, key: Key) -> bool:
        """Add the key of a task that became ready; return whether it is the first here."""
        run, gone, late = self._run, self._gone, self._late
        if not run or run[-1] < key:
            run.append(key)
            return len(run) == gone + 1 and not (late and late[0] < key)
        heapq.heappush(late, key)
        return late[0] is key and not (gone < len(run) and run[gone] < key)

    def removed(self, task_id: str, living: int) -> None:
        """Drop the key of a task if it is the first, and all that are not live once they are most of *living* tasks."""
        run, gone = self._run, self._gone
        if gone < len(run) and run[gone][-1] == task_id:
            self._gone = gone + 1
        if len(run) + len(self._late) > 2 * living + _SPARE_ENTRIES:
            self._drop_gone()
            if len(self) > 2 * living + _SPARE_ENTRIES:
                self.forget_gone()

    def forget_gone(self) -> None:
        """Drop all keys that are not live: the task of such a one may become ready again as it was."""
        self._run = sorted(filter(self._is_live, self))
        self._late.clear()
        self._gone = 0

    def clean(self) -> None:
        """Drop what is not live before the first that is."""
        run, gone, is_live, late = self._run, self._gone, self._is_live, self._late
        while gone < len(run) and not is_live(run[gone]):
            gone += 1
        self._gone = gone
        self._drop_gone()
        while late and not is_live(late[0]):
            heapq.heappop(late)

    def before(self, key: Key, living: int) -> int:
        """
        Return how many live keys come before *key*, of *living* ones.

        Beyond `EXACT` the number may be too low by that of the keys that are not live any more.
        """
        gone = self._gone
        found = bisect_left(self._run, key, gone) - gone
        late = [one for one in self._late if one < key]
        dead = len(self) - living
        if not dead:
            return found + len(late)
        if found + len(late) > EXACT:
            return found + len(late) - dead
        return sum(map(self._is_live, chain(self._run[gone : gone + found], late)))

    def first(self) -> Key | None:
        """Return the first key, None if there is none; it is that of a ready task after `clean`."""
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys in order; nothing may be added or removed meanwhile."""
        run = self._run
        in_order = map(run.__getitem__, range(self._gone, len(run)))
        return merge(in_order, walk(self._late)) if self._late else in_order

    def _drop_gone(self) -> None:
        """Return the memory of the keys that have gone, once they are half of the list."""
        if 2 * self._gone > len(self._run):
            del self._run[: self._gone]
            self._gone = 0


class Shape:
    """
    The ready tasks of one shape, with their keys in each order that was used.

    It is shut while none of them may start.
    """

    __slots__ = ("group", "is_shut", "key", "members", "orders")

    def __init__(self, key: ShapeKey, group: ReadyTasks) -> None:
        self.key = key
        self.group = group
        self.is_shut = False
        self.members: dict[str, Task] = {}
        self.orders: dict[str, _Order] = {
            ordering: _Order([], key_in(ordering), self._is_live) for ordering in group.orderings
        }

    def remove(self, task_id: str) -> None:
        members = self.members
        del members[task_id]
        for order in self.orders.values():
            order.removed(task_id, len(members))

    def forget_gone(self) -> None:
        """Drop the keys of all tasks that were removed."""
        for order in self.orders.values():
            if len(order) > len(self.members):
                order.forget_gone()

    def turn(self, *, is_shut: bool) -> None:
        """Shut it or open it."""
        self.is_shut = is_shut
        self.group.turned(self)

    def first(self, ordering: str) -> Key | None:
        """Return the key of the first ready task, None if there is none."""
        return self._cleaned(ordering).first()

    def ordered(self, ordering: str) -> Iterator[tuple[Key, Task]]:
        """Yield the ready tasks in order; what is ready does not change meanwhile."""
        members = self.members
        for key in self._cleaned(ordering):
            task = members.get(str(key[-1]))
            if task is not None and is_of(task, key):
                yield key, task

    def ahead_of(self, task: Task, ordering: str) -> int:
        """Return how many ready tasks here come before *task*, which may be one of another shape."""
        order = self._cleaned(ordering)
        return order.before(order.key_of(task), len(self.members))

    def _cleaned(self, ordering: str) -> _Order:
        """Return the keys in an order, which begin with that of a ready task if there is one."""
        order = self.orders.get(ordering)
        if order is None:
            key_of = key_in(ordering)
            order = self.orders[ordering] = _Order(sorted(map(key_of, self.members.values())), key_of, self._is_live)
        else:
            order.clean()
        return order

    def _is_live(self, key: Key) -> bool:
        task = self.members.get(str(key[-1]))
        return task is not None and is_of(task, key)


class _Firsts:
    """
    Shapes in the order of their first tasks.

    Each shape with ready tasks has an entry that is not after its first task; when it is read and is before it, because
    that task is gone, the entry moves.
    """

    def __init__(self, ordering: str, shapes: Iterable[Shape]) -> None:
        self._ordering = ordering
        self._numbers = count()
        self._entry_of: dict[Shape, _Entry] = {}
        self._entries: list[_Entry] = []
        for shape in shapes:
            if (first := shape.first(ordering)) is not None:
                self.note(shape, first)

    def note(self, shape: Shape, key: Key) -> None:
        """Note a task of a shape that became ready."""
        before = self._entry_of.get(shape)
        if before is None or key < before[0]:
            heapq.heappush(self._entries, self._entry(shape, key))
            self._drop_replaced()

    def discard(self, shape: Shape) -> None:
        """Forget a shape without tasks."""
        self._entry_of.pop(shape, None)
        self._drop_replaced()

    def in_order(self) -> Iterator[tuple[Key, Shape]]:
        """Yield shapes with a key that is not after their first task, by these keys."""
        self._clean()
        for entry in walk(self._entries):
            key, _, shape = entry
            if self._entry_of.get(shape) is entry:
                yield key, shape

    def _entry(self, shape: Shape, key: Key) -> _Entry:
        entry = self._entry_of[shape] = (key, next(self._numbers), shape)
        return entry

    def _drop_replaced(self) -> None:
        """Drop the entries that were replaced, once they are many."""
        if len(self._entries) > 2 * len(self._entry_of) + _SPARE_ENTRIES:
            self._entries = list(self._entry_of.values())
            heapq.heapify(self._entries)

    def _clean(self) -> None:
        """Make the first entry true; this does nothing if it has been done since the last change."""
        entries, entry_of = self._entries, self._entry_of
        while entries:
            key, _, shape = entry = entries[0]
            if entry_of.get(shape) is not entry:
                heapq.heappop(entries)
                continue
            first = shape.first(self._ordering)
            if first == key:
                return
            if first is None:
                heapq.heappop(entries)
                del entry_of[shape]
            else:
                heapq.heapreplace(entries, self._entry(shape, first))


class ReadyTasks:
    """Ready tasks by shape: those of one lane, of one program or all."""

    def __init__(self) -> None:
        self.shapes: dict[ShapeKey, Shape] = {}
        self._named: dict[str, dict[ShapeKey, Shape]] = {}
        self.preferring: dict[str, dict[ShapeKey, Shape]] = {}
        """The shapes of tasks that prefer a worker, by what they prefer."""
        self._firsts: dict[str, _Firsts] = {}

    @property
    def count(self) -> int:
        """How many tasks there are; it takes a step for each shape."""
        return sum(len(shape.members) for shape in self.shapes.values())

    @property
    def orderings(self) -> Iterable[str]:
        """The orders in which its shapes are kept."""
        return self._firsts.keys()

    def shape(self, key: ShapeKey) -> Shape:
        """Return the shape of a key, a new one if there is none."""
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = Shape(key, self)
            self._named.setdefault(key.task_name, {})[key] = shape
            if key.preference:
                self.preferring.setdefault(key.preference, {})[key] = shape
        return shape

    def add(self, shape: Shape, task: Task) -> None:
        """Add a task to its shape."""
        shape.members[task.task_id] = task
        for ordering, order in shape.orders.items():
            key = order.key_of(task)
            if order.add(key) and not shape.is_shut and (firsts := self._firsts.get(ordering)) is not None:
                firsts.note(shape, key)

    def turned(self, shape: Shape) -> None:
        """Note that a shape was shut or opened."""
        for ordering, firsts in self._firsts.items():
            if shape.is_shut:
                firsts.discard(shape)
            elif (first := shape.first(ordering)) is not None:
                firsts.note(shape, first)

    def discard(self, shape: Shape) -> None:
        """Forget a shape without tasks."""
        key = shape.key
        del self.shapes[key]
        named = self._named[key.task_name]
        del named[key]
        if not named:
            del self._named[key.task_name]
        if key.preference:
            del self.preferring[key.preference][key]
            if not self.preferring[key.preference]:
                del self.preferring[key.preference]
        for firsts in self._firsts.values():
            firsts.discard(shape)

    def forget_aged(self) -> None:
        """Forget the orders by priority and age; one that is wanted is made again."""
        for ordering in [one for one in self._firsts if one not in ORDERINGS]:
            del self._firsts[ordering]
        for shape in self.shapes.values():
            for ordering in [one for one in shape.orders if one not in ORDERINGS]:
                del shape.orders[ordering]

    def of_name(self, task_name: str) -> Iterator[Shape]:
        """Yield the shapes of a task name that are not shut."""
        return (shape for shape in self._named.get(task_name, _NONE).values() if not shape.is_shut)

    def in_order(self, ordering: str) -> Iterator[tuple[Key, Shape]]:
        """
        Yield shapes with a key that is not after their first task, by these keys; only the first are looked at.

        Those that are shut are not among them.
        """
        firsts = self._firsts.get(ordering)
        if firsts is None:
            is_open = (shape for shape in self.shapes.values() if not shape.is_shut)
            firsts = self._firsts[ordering] = _Firsts(ordering, is_open)
        return firsts.in_order()


_NONE: Mapping[ShapeKey, Shape] = {}


def is_of(task: Task, key: Key) -> bool:
    """Whether *key* belongs to this task and attempt: an id may be used again after its first task was evicted."""
    attempt = task.attempt if not task.resumes else turn_of(task)
    return attempt == key[-2] and task.submitted == key[-4:-2]


def prune(heap: list[T], is_live: Callable[[T], bool], living: int) -> None:
    """Drop stale entries where it is cheap: always from the top, everywhere once most entries are stale."""
    while heap and not is_live(heap[0]):
        heapq.heappop(heap)
    if len(heap) > 2 * living + _SPARE_ENTRIES:
        heap[:] = [entry for entry in heap if is_live(entry)]
        heapq.heapify(heap)


def walk(heap: list[T]) -> Iterator[T]:
    """Yield the entries of a heap in order without popping: each entry makes its two children the next candidates."""
    if not heap:
        return
    front = [(heap[0], 0)]
    while front:
        key, at = heapq.heappop(front)
        yield key
        for child in (2 * at + 1, 2 * at + 2):
            if child < len(heap):
                heapq.heappush(front, (heap[child], child))
