"""
Finds why the ready tasks of each shape wait, and says what has changed since it was last recorded. Pure.

Shapes are looked at one after the other, as many as there is time for at once, so the reason of a shape is as old as a
round over all of them. The codes are those of `explain`.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec.structs import replace

from coordinator.deciders.housing import SERVING, said_of
from coordinator.deciders.rules import present_s
from coordinator.placement.budget_reasons import code_of
from coordinator.placement.gangs import room_kept_for, workers_of
from coordinator.placement.sources import Patience
from events.queue import DEFAULT, QueueBlocked
from events.resources import NONE
from events.task import TaskStatus
from projections.blockage import name_in, shape_id
from projections.budget import budget_of, is_budget, value_of
from projections.limit import limit_of, opens_at
from projections.ready import FIFO, ShapeKey, key_in, shape_of
from projections.time_limits import waits_since
from projections.waits import GATHERS
from projections.worker import WorkerStatus
from projections.worker_filters import condition, facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from coordinator.deciders.rules import Rules
    from coordinator.deciders.signs import Signs
    from events.base import Position
    from events.resources import Resources
    from projections.lanes import Gangs
    from projections.ready import Key
    from projections.task import Task
    from projections.worker import WorkerState
    from projections.world import World

EVENTS_AT_ONCE = 20
"""So many changes are recorded at once at most; the others follow."""
MOST_HOLDERS = 10
COUNTED, MOST_TENANTS = 1000, 10
"""So many waiting tasks of a shape are counted by tenant, and so many tenants are named, those that have most."""
AGAIN_AFTER_S = 10.0
"""While a reason lasts, who waits for whom is recorded again after so long."""

_Found = tuple[str, str, "Iterable[str]"]
"""A cause, '' for none; the key of a limit or a budget; and the ids of tasks that are in the way."""
_What = tuple[str, str, str, "str | None", "Resources"]
"""What decides which workers may ever run tasks of a shape."""


class Blockages:
    """Looks at the ready tasks of one world, round after round."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._round: Iterator[tuple[str, ShapeKey, list[_Tasks]]] = iter(())
        self._began = self._before = world.time
        """When this round began, and the one before."""
        self._seen: set[str] = set()
        self._fleet = _Fleet(world)
        self._fleet_at = -1
        self._regroupings = world.indexes.lanes.regroupings

    def due(self, signs: Signs, rules: Rules, heard_now: float, is_spent: Callable[[], bool]) -> Iterator[QueueBlocked]:
        """
        Yield what has changed, for as long as there is time; each is to be folded before the next one is asked for.

        A round that is at its end begins again with the next call.
        """
        world, made = self._world, 0
        if not world.indexes.ready and not world.indexes.gangs.gathering and not world.blockages:
            self._began = self._before = world.indexes.now
            return
        if self._regroupings != world.indexes.lanes.regroupings:  # the shapes of this round are not those of now
            self._round, self._seen = iter(self._shapes()), set()
        able = _Able(world, signs, heard_now, present_s(rules), self._registered())
        for queue_id, key, shapes in self._round:
            name = name_in(queue_id, shape_id(key))
            self._seen.add(name)
            found = self._change(name, queue_id, key, shapes, able, rules)
            if found is not None:
                made += 1
                yield found
            if made >= EVENTS_AT_ONCE or is_spent():
                return
        yield from islice(self._over(), EVENTS_AT_ONCE)
        self._before, self._began = self._began, world.indexes.now
        self._seen = set()
        self._round = iter(self._shapes())

    def _registered(self) -> _Fleet:
        changes = self._world.indexes.worker_changes
        if changes != self._fleet_at:
            self._fleet_at, self._fleet = changes, _Fleet(self._world)
        return self._fleet

    def _shapes(self) -> list[tuple[str, ShapeKey, list[_Tasks]]]:
        """Return the shapes that have ready tasks, with all lanes of a queue that they are in, and those of gangs."""
        self._regroupings = self._world.indexes.lanes.regroupings
        found: dict[tuple[str, ShapeKey], list[_Tasks]] = {}
        for lane, group in self._world.indexes.lanes.of.items():
            for key, shape in group.shapes.items():
                if shape.members:
                    found.setdefault((lane.queue or DEFAULT, key), []).append(shape)
        indexes = self._world.indexes
        gathering: dict[tuple[str, ShapeKey], dict[str, None]] = {}
        for task in indexes.gangs.tasks():
            lane = indexes.lanes.lane_of(task)
            key = shape_of(task, indexes.keyed.keys(task), lane.goes_to)
            gathering.setdefault((lane.queue or DEFAULT, key), {})[task.task_id] = None
        for (queue_id, key), task_ids in gathering.items():
            found[queue_id, key] = [_Gathering(indexes.gangs, key.gang, task_ids)]
        return [(queue_id, key, shapes) for (queue_id, key), shapes in found.items()]

    def _change(
        self, name: str, queue_id: str, key: ShapeKey, shapes: list[_Tasks], able: _Able, rules: Rules
    ) -> QueueBlocked | None:
        """Return the event that says why a shape waits, if it is not recorded."""
        world, known = self._world, self._world.blockages.get(name)
        queue = world.queues.get(queue_id)
        if queue is not None and queue.paused_at is not None:
            return None  # that is known already, to the moment
        first = min((task for shape in shapes for _, task in islice(shape.ordered(FIFO), 1)), key=_age, default=None)
        if first is None:
            return None
        cause, limit_key, in_the_way = self._cause(key, first, able, rules)
        recorded = "" if known is None else known.cause
        if cause == recorded and (not cause or known is None or world.indexes.now - known.noted_at < AGAIN_AFTER_S):
            return None
        holders = tuple(islice((one for one in in_the_way if one in world.tasks), MOST_HOLDERS))
        waiting = islice(chain.from_iterable(shape.members.values() for shape in shapes), COUNTED)
        return QueueBlocked(
            queue_id=queue_id,
            shape=shape_id(key),
            task_name=key.task_name,
            since=max(self._before, waits_since(first)),
            cause=cause,
            key=limit_key,
            holders=holders,
            held_by=dict(Counter(world.tasks[one].tenant for one in holders)),
            waiting=dict(Counter(task.tenant for task in waiting).most_common(MOST_TENANTS)) if cause else {},
        )

    def _cause(self, key: ShapeKey, first: Task, able: _Able, rules: Rules) -> _Found:
        """Return why the first task of a shape waits."""
        world = self._world
        why = able.never(key)
        if why:
            return why, "", ()
        if key.gang and key.gang not in world.indexes.gangs.gathered:
            return GATHERS, "", ()
        keyed, now = world.indexes.keyed, world.indexes.now
        for one in key.keys:
            if is_budget(one):
                if cause := code_of(world, one, first):
                    return cause, f"{budget_of(one)}:{value_of(one)}", keyed.running.get(one, ())
            elif keyed.room(one) <= 0:
                opens = opens_at(world.limits[limit_of(one)].terms, world.uses.get(one))
                return ("key_rests" if opens > now else "key_full"), one, keyed.running.get(one, ())
        running = world.indexes.tasks[TaskStatus.RUNNING]
        if len(running) >= rules.max_concurrent_tasks:
            return "fleet_full", "", running
        if key.preference and not Patience(world).is_over(first):
            return "prefers", "", ()
        cause = able.now(key)
        if cause == "workers_busy":
            held = world.indexes.held
            return cause, "", chain.from_iterable(held.get(one.worker_id, ()) for one in able.of(key))
        if not cause and world.indexes.gangs.gathered:
            return self._of_gangs(key, able)
        return cause, "", ()

    def _of_gangs(self, key: ShapeKey, able: _Able) -> _Found:
        """Return why nobody takes the first task of a shape although a worker has room: it is kept, or not enough."""
        world = self._world
        if key.gang:
            held = world.indexes.held
            return "gang_waits", "", chain.from_iterable(held.get(one.worker_id, ()) for one in able.of(key))
        members = able.room_kept_for
        if members and able.with_room(key) <= able.room_kept_at:
            return "kept_for_gang", "", [task.task_id for task in members]
        return "", "", ()

    def _over(self) -> Iterator[QueueBlocked]:
        """Yield that those wait no more of which no task is ready."""
        for name, known in list(self._world.blockages.items()):
            if known.cause and name not in self._seen:
                shape = name.removeprefix(f"{known.queue_id}/")
                yield QueueBlocked(
                    queue_id=known.queue_id, shape=shape, task_name=known.task_name, since=self._world.indexes.now
                )


class _Tasks(Protocol):
    """Some ready tasks of one shape."""

    @property
    def members(self) -> dict[str, Task]: ...

    def ordered(self, ordering: str) -> Iterator[tuple[Key, Task]]: ...


class _Gathering(NamedTuple):
    """The tasks of one shape that waited for others of their gang when a round began, as far as they are ready now."""

    gangs: Gangs
    gang: str
    task_ids: dict[str, None]

    @property
    def members(self) -> dict[str, Task]:
        ready = self.gangs.of[self.gang].ready if self.gang in self.gangs.of else {}
        return {one: ready[one] for one in self.task_ids if one in ready}

    def ordered(self, ordering: str) -> Iterator[tuple[Key, Task]]:
        key_of = key_in(ordering)
        yield from sorted((key_of(task), task) for task in self.members.values())


def _age(task: Task) -> Position:
    return task.submitted


class _Fleet:
    """The workers that have not ended, by what they handle; made anew when one of them changes."""

    def __init__(self, world: World) -> None:
        self.able: dict[_What, list[WorkerState]] = {}
        """Which of them may ever run a shape, as far as it was asked for."""
        self.by_handles: dict[tuple[str, ...], list[WorkerState]] = {}
        for one in world.workers.values():
            if not one.is_ended:
                self.by_handles.setdefault(one.handles, []).append(one)

    def handling(self, task_name: str) -> Iterator[WorkerState]:
        """Yield those that run tasks of a name."""
        for handles, workers in self.by_handles.items():
            if not handles or task_name in handles:
                yield from workers


class _Able:
    """What the workers say to a shape: which could ever run it, and why none does now."""

    def __init__(
        self,
        world: World,
        signs: Signs,
        heard_now: float,
        most_silent_s: float,
        fleet: _Fleet,
    ) -> None:
        self._world = world
        self._signs = signs
        self._heard_now = heard_now
        self._most_silent_s = most_silent_s
        self._fleet = fleet
        self._kept: tuple[list[Task], frozenset[str]] | None = None

    @property
    def room_kept_for(self) -> list[Task]:
        """The tasks of the gang that room is kept for, if there is one."""
        return self._room_kept()[0]

    @property
    def room_kept_at(self) -> frozenset[str]:
        """The workers that may run one of them."""
        return self._room_kept()[1]

    def _room_kept(self) -> tuple[list[Task], frozenset[str]]:
        if self._kept is None:
            name = room_kept_for(self._world)
            tasks = self._world.indexes.gangs.of[name].in_order() if name else []
            self._kept = tasks, workers_of(self._world, tasks)
        return self._kept

    def of(self, key: ShapeKey) -> list[WorkerState]:
        """Return the workers that could run tasks of a shape if they had nothing else to do."""
        what = (key.task_name, key.worker_filter, key.rule_filter, key.goes_to, key.resources)
        found = self._fleet.able.get(what)
        if found is None:
            found = self._fleet.able[what] = [
                one for one in self._matching(key) if one.resources is None or key.resources.fits_in(one.resources)
            ]
        return found

    def never(self, key: ShapeKey) -> str:
        """Return why no worker could ever run tasks of a shape, '' if one could."""
        if key.goes_to is not None:
            of_version = self.of(ShapeKey(key.task_name, "", NONE, goes_to=key.goes_to))
            if not any(map(self._is_heard, of_version)):
                return "version_without_workers"
        if self.of(key):
            return ""
        if not self._fleet.by_handles:
            return "no_worker"
        if not any(True for _ in self._fleet.handling(key.task_name)):
            return "no_handler"
        if any(True for _ in self._matching(key)):
            return "too_large"
        return "not_permitted" if any(True for _ in self._matching(replace(key, rule_filter=""))) else "no_match"

    def now(self, key: ShapeKey) -> str:
        """Return why no worker runs tasks of a shape now, '' if one has room for the next one."""
        is_present = is_heard = False
        for worker in self.of(key):
            if not self._is_present(worker):
                continue
            is_present = True
            if not self._is_heard(worker):
                continue
            is_heard = True
            if self._has_room(worker, key):
                return ""
        if is_heard:
            return "workers_busy"
        return "workers_silent" if is_present else "workers_stopping"

    def with_room(self, key: ShapeKey) -> set[str]:
        """Return the workers that have room now for the next task of a shape."""
        able = (one for one in self.of(key) if self._is_present(one) and self._is_heard(one))
        return {one.worker_id for one in able if self._has_room(one, key)}

    def _matching(self, key: ShapeKey) -> Iterator[WorkerState]:
        filters = [condition(one) for one in (key.worker_filter, key.rule_filter) if one]
        for one in self._fleet.handling(key.task_name):
            if key.goes_to is not None and one.build_id != key.goes_to:
                continue
            if not filters or all(meets(facts_of(one, self._world.containers)) for meets in filters):
                yield one

    def _is_present(self, worker: WorkerState) -> bool:
        if worker.status is not WorkerStatus.ACTIVE or worker.build_id in self._world.versions:
            return False
        return not worker.container_id or said_of(self._world, worker.container_id) in SERVING

    def _is_heard(self, worker: WorkerState) -> bool:
        return self._signs.silent_for(self._signs.workers, worker.worker_id, self._heard_now) < self._most_silent_s

    def _has_room(self, worker: WorkerState, key: ShapeKey) -> bool:
        indexes = self._world.indexes
        if worker.slots is not None and len(indexes.held.get(worker.worker_id, ())) >= worker.slots:
            return False
        if worker.resources is None or key.resources == NONE:
            return True
        return key.resources.fits_in(worker.resources - indexes.held_resources.get(worker.worker_id, NONE))
