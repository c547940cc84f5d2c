"""
When a waiting task may start: its queue, run forward from the live state with the run times that were recorded. Pure.

The work is bounded: of many slots some are looked at, of many tasks before it the last ones one by one. What comes
later is not foreseen: tasks that overtake, workers that come or go.
"""

from __future__ import annotations

from heapq import merge, nlargest
from itertools import islice
from math import ceil
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from coordinator.placement.calibration import Calibration, Expected
from coordinator.placement.forward import FREE, TIMES, Backlog, left_of, run_forward
from coordinator.placement.run_times import RunTimes
from coordinator.placement.sources import ordering_of
from events.queue import DEFAULT
from events.resources import NONE
from events.task import TaskStatus
from projections.keyed import all_keys_of
from projections.limit import keys_of, limit_of, opens_at
from projections.queue import policy_of
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from coordinator.placement.run_times import Runs
    from events.limit import Terms
    from events.resources import Resources
    from projections.lanes import LaneName
    from projections.limit import KeyUse
    from projections.ready import ReadyTasks, Shape
    from projections.task import Task
    from projections.worker import WorkerState
    from projections.world import World

    Ahead = Sequence[tuple[Shape, int]]

SLOTS_RUN, ORDER_RUN = 128, 128
"""So many slots are run forward; so many tasks before it one by one, of more of them at least half as many."""
SHAPES_IN_ORDER, NAMES_PARTED, POOL = 32, 64, 256
"""With so many shapes the order is exact; so many names are told apart; and so many runs drawn from."""
_LOW, _MIDDLE, _HIGH = (round((TIMES - 1) * part) for part in (0.1, 0.5, 0.9))


class Estimates:
    """What one writer knows of run times, and how good its estimates were."""

    def __init__(self) -> None:
        self.run_times = RunTimes()
        self.calibration = Calibration()
        self.looked_at = self.sampled_at = 0.0
        """When a tick looked, and when it sampled a task last, by the clock of heartbeats."""

    def look(self, world: World) -> None:
        """Read what has ended, and score what has started since the last look."""
        self.run_times.look(world)
        self.calibration.score(world)

    def expect(
        self,
        world: World,
        task: Task,
        able: Sequence[WorkerState],
        ahead: Ahead,
        *,
        running_most: int,
        prefers_s: float,
    ) -> Expected | None:
        """
        Return when a task may start; None if too little is known of how long tasks run.

        *able* are the workers that could run it, *ahead* is what `Lanes.ahead_in` says by the policy of its queue,
        *prefers_s* is for how long it may wait for a worker that it prefers.
        """
        queue = _Queue(world, task, able, ahead, self.run_times)
        backlogs = [queue.of_slots(), *queue.of_limits(), *queue.of_fleet(running_most)]
        runs = [run_forward(backlog) for backlog in backlogs if backlog is not None]
        if len(runs) < len(backlogs):
            return None
        ready_in_s = max(0.0, task.retry_at - world.indexes.now, *queue.opens_in())
        times = [max(ready_in_s, *together) for together in zip(*runs, strict=True)]
        return Expected(times[_LOW], times[_MIDDLE], times[_HIGH] + max(0.0, prefers_s))


class _Before(NamedTuple):
    """Tasks of one shape that come before another, and which part of them takes slots that it could have."""

    shape: Shape
    tasks: int
    part: float


class _Queue:
    """The live state around one task."""

    def __init__(
        self, world: World, task: Task, able: Sequence[WorkerState], ahead: Ahead, run_times: RunTimes
    ) -> None:
        self._world, self._task, self._able, self._run_times = world, task, able, run_times
        self._ordering = ordering_of(policy_of(world.queues, task.queue), "")
        self._ours = _slots_by_handles(world, able)
        active = (one for one in world.workers.values() if one.status is WorkerStatus.ACTIVE)
        self._every = _slots_by_handles(world, active)
        self._parts: dict[str, float] = {}
        keys = all_keys_of(task, world.limits, world.budgets)
        self._own = [
            _Before(shape, count, self._part(shape.key.task_name))
            for shape, count in ahead
            if (not shape.is_shut or shape.key.keys == keys) and self._part(shape.key.task_name)
        ]
        self._others = list(self._of_others(world.indexes.lanes.lane_of(task)))

    def of_slots(self) -> Backlog | None:
        """Return the backlog of the slots of the workers."""
        held = self._world.indexes.held
        busy = [task_id for one in self._able for task_id in held.get(one.worker_id, ())]
        room = sum(_room(self._world, one, self._task.resources) for one in self._able)
        return self._backlog(busy, room, self._own, self._others)

    def of_limits(self) -> Iterator[Backlog | None]:
        """Yield the backlogs of the limits that say how many tasks of its keys may run."""
        for key in keys_of(self._task, self._world.limits):
            most = self._world.limits[limit_of(key)].terms.running
            if most is not None:
                busy = list(self._world.indexes.keyed.running.get(key, ()))
                yield self._backlog(busy, most - len(busy), self._of_key(key))

    def of_fleet(self, running_most: int) -> Iterator[Backlog | None]:
        """Yield the backlog of all tasks that may run at once, if as many run."""
        running = self._world.indexes.tasks[TaskStatus.RUNNING]
        if len(running) >= running_most:
            yield self._backlog(list(running), 0, self._own, self._others)

    def opens_in(self) -> Iterator[float]:
        """Yield in how many seconds limits of starts let it begin, after those of its keys that are before it."""
        world = self._world
        for key in keys_of(self._task, world.limits):
            before = sum(one.tasks for one in self._of_key(key))
            yield _opens_in(world.limits[limit_of(key)].terms, world.uses.get(key), before, world.indexes.now)

    def _of_key(self, key: str) -> list[_Before]:
        return [one._replace(part=1.0) for one in self._own if key in one.shape.key.keys]

    def _of_others(self, own: LaneName) -> Iterator[_Before]:
        """Yield what other shares of its queue, and then other queues, get by their weights until it starts."""
        world, turns = self._world, sum(one.tasks * one.part for one in self._own) + 0.5
        lanes, share = world.indexes.lanes.of, world.indexes.shared.get(own.queue)
        weights: Mapping[str, float] = {} if share is None else share.weights
        taken = turns
        for lane, group in lanes.items():
            if lane.queue == own.queue and lane.key != own.key:
                ratio = weights.get(lane.key, 1.0) / weights.get(own.key, 1.0)
                taken += turns * ratio
                yield from self._meanwhile(group, turns * ratio)
        queues = world.queues
        usual = queues.get(own.queue or DEFAULT)
        for lane, group in lanes.items():
            queue = queues.get(lane.queue or DEFAULT)
            if lane.queue != own.queue and (queue is None or queue.paused_at is None):
                ratio = (1.0 if queue is None else queue.weight) / (1.0 if usual is None else usual.weight)
                yield from self._meanwhile(group, taken * ratio)

    def _meanwhile(self, group: ReadyTasks, starts: float) -> Iterator[_Before]:
        """Yield the tasks of a group, of which *starts* may begin meanwhile."""
        count = group.count
        for shape in group.shapes.values():
            if shape.members and not shape.is_shut:
                part = min(1.0, starts / count) * self._part(shape.key.task_name)
                if part:
                    yield _Before(shape, len(shape.members), part)

    def _part(self, task_name: str) -> float:
        """Return which part of the slots that may run a name is of workers that could run this task."""
        found = self._parts.get(task_name)
        if found is None:
            if len(self._parts) >= NAMES_PARTED:
                return 1.0
            ours, every = (
                sum(slots for handles, slots in of.items() if not handles or task_name in handles)
                for of in (self._ours, self._every)
            )
            found = self._parts[task_name] = min(1.0, ours / every) if every else 0.0
        return found

    def _backlog(
        self, busy: Sequence[str], room: int, before: Sequence[_Before], others: Sequence[_Before] = ()
    ) -> Backlog | None:
        """Return the backlog of a task behind others; None if nothing is known, and it needs to be."""
        count = sum(one.tasks * one.part for one in (*before, *others))
        if room > count:
            return Backlog((FREE,), ())
        if not self._run_times or not (busy or room > 0):
            return None
        step = ceil((len(busy) + max(0, room)) / SLOTS_RUN)
        slots = [*map(self._left, busy[::step]), *(FREE for _ in range(ceil(max(0, room) / step)))]
        is_exact = not others and len(before) <= SHAPES_IN_ORDER and all(one.part == 1.0 for one in before)
        if not count or (is_exact and step == 1 and count <= ORDER_RUN):
            return Backlog(slots, self._in_order(before))
        usual = self._usual((*before, *others))
        left = round(count / step)
        rounds = max(0, (left - ORDER_RUN // 2) // len(slots))
        return Backlog(slots, [usual] * (left - rounds * len(slots)), rounds, usual)

    def _in_order(self, before: Iterable[_Before]) -> list[Runs]:
        """Return the run times of the tasks before it, in the order in which they begin."""
        backlogs = (islice(one.shape.ordered(self._ordering), one.tasks) for one in before)
        return [self._run_times.of(task.task_name) for _, task in merge(*backlogs, key=itemgetter(0))]

    def _usual(self, before: Sequence[_Before]) -> Runs:
        """Return run times of the tasks before it, of the names with most tasks in proportion to these."""
        most = [(one.tasks * one.part, one.shape.key.task_name) for one in before]
        most = nlargest(NAMES_PARTED, most) if len(most) > NAMES_PARTED else most
        count, found = sum(count for count, _ in most), list[float]()
        for its, name in most:
            runs, wanted = self._run_times.of(name), ceil(POOL * its / count)
            found += (runs[int((number + 0.5) / wanted * len(runs))] for number in range(wanted))
        return tuple(found)

    def _left(self, task_id: str) -> Runs:
        task, now = self._world.tasks[task_id], self._world.indexes.now
        return left_of(self._run_times.of(task.task_name), now - (now if task.started_at is None else task.started_at))


def _opens_in(terms: Terms, use: KeyUse | None, before: int, now: float) -> float:
    """Return in how many seconds the past of a key, and *before* starts of it that come first, let a task begin."""
    opens = opens_at(terms, use) - now
    if terms.starts is None:
        return opens
    starts = () if use is None else use.starts
    rounds, number = divmod(before, terms.starts)
    number += len(starts) - terms.starts
    first = starts[number] + terms.per_s - now if number >= 0 else 0.0
    return max(0.0, opens, first) + rounds * terms.per_s


def _slots_by_handles(world: World, workers: Iterable[WorkerState]) -> dict[tuple[str, ...], int]:
    """Return how many slots workers have, by what they handle; one without a limit has as many as it uses."""
    held, found = world.indexes.held, dict[tuple[str, ...], int]()
    for one in workers:
        slots = one.slots or max(1, len(held.get(one.worker_id, ())))
        found[one.handles] = found.get(one.handles, 0) + slots
    return found


def _room(world: World, worker: WorkerState, needs: Resources) -> int:
    """Return how many tasks more a worker could take that need as much; one without limits takes one at a time."""
    busy = len(world.indexes.held.get(worker.worker_id, ()))
    room = max(0, worker.slots - busy) if worker.slots is not None else int(not busy)
    if worker.resources is None or needs == NONE:
        return room
    free = worker.resources - world.indexes.held_resources.get(worker.worker_id, NONE)
    amounts = (
        (needs.cpu_millis, free.cpu_millis),
        (needs.memory_bytes, free.memory_bytes),
        (needs.gpus, free.gpus),
        *((amount, free.named.get(name, 0)) for name, amount in needs.named.items()),
    )
    fitting = max(0, min(has // amount for amount, has in amounts if amount))
    return fitting if worker.slots is None else min(room, fitting)
