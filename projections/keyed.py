"""
The tasks of each key of a limit or a budget, and which shapes of ready tasks are shut as a key has no room. Pure.

Every entry follows from the tasks, the limits, the budgets and the uses of keys in the world. Without limits and
budgets, nothing is kept.
"""

from __future__ import annotations

import heapq
from math import inf
from typing import TYPE_CHECKING

from events.task import TaskStatus
from projections.budget import both_of, is_budget
from projections.budget import keys_of as keys_in_budgets
from projections.funds import Funds
from projections.limit import keys_of, limit_of, opens_at, room_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from projections.budget import TaskBudget
    from projections.limit import KeyUse, Limit
    from projections.ready import Shape
    from projections.task import Task

FEW_SHAPES = 100
_NO_TASKS: Mapping[str, None] = {}


def all_keys_of(task: Task, limits: Mapping[str, Limit], budgets: Mapping[str, TaskBudget]) -> tuple[str, ...]:
    """Return the keys of a task by the limits and the budgets."""
    keys = keys_of(task, limits)
    return keys if task.spend is None else keys + keys_in_budgets(task, budgets)


class Keyed:
    """
    The tasks that have keys, by key.

    `limits` and `uses` are those of the world; `is_used` says whether there are limits or budgets. `of` has the keys of
    each task that has some and has not ended. A shape is shut while one of its keys has no room: its tasks are then in
    no order of its group. Only those of keys with few shapes are: a key of all tasks is full and has room again with
    each task, and a turn passes over its shapes. The room of a key of a budget is what is left of that; it may be too
    little for a task.
    """

    def __init__(self) -> None:
        self.limits: Mapping[str, Limit] = {}
        self.uses: Mapping[str, KeyUse] = {}
        self.funds = Funds()
        self.is_used = False
        self.remembers = False
        """Whether a limit depends on when tasks of its keys started or ended."""
        self._most: dict[str, int] = {}
        """How many tasks of a key may run, by limit, for those that depend on nothing else."""
        self.now = 0.0
        self.of: dict[str, tuple[str, ...]] = {}
        self.running: dict[str, dict[str, None]] = {}
        self.pending: dict[str, dict[str, None]] = {}
        self._shapes: dict[str, dict[Shape, None]] = {}
        self._full: set[str] = set()
        self.opening: list[tuple[float, str]] = []
        self._opens: dict[str, float] = {}

    def keys(self, task: Task) -> tuple[str, ...]:
        """Return the keys of a task, which has not ended."""
        return self.of.get(task.task_id, ()) if self.is_used else ()

    def add(self, task: Task) -> None:
        """Note the keys of a new task."""
        if keys := all_keys_of(task, self.limits, self.funds.budgets):
            self.of[task.task_id] = keys

    def leave(self, before: Task, after: Task) -> None:
        """Count a task no longer whose status changes."""
        task_id, is_running = before.task_id, before.status is TaskStatus.RUNNING
        groups = self.running if is_running else self.pending
        for key in self.of.get(task_id, ()):
            group = groups[key]
            del group[task_id]
            if not group:
                del groups[key]
            if is_running:
                if is_budget(key):
                    self.funds.release(key, before)
                    self.look(key)
                else:
                    self._look(key)
        if after.is_ended:
            self.of.pop(task_id, None)
        elif is_running:  # it is a retry from now on
            self.of.pop(task_id, None)
            self.add(after)

    def enter(self, task: Task) -> None:
        """Count a task that is pending or runs from now on."""
        is_running = task.status is TaskStatus.RUNNING
        groups = self.running if is_running else self.pending
        for key in self.of.get(task.task_id, ()):
            groups.setdefault(key, {})[task.task_id] = None
            if is_running:
                if is_budget(key):
                    self.funds.hold(key, task)
                    self.look(key)
                else:
                    self._look(key)

    def spent_more(self, before: Task, after: Task) -> None:
        """Keep what a running attempt has spent, if that is more than was reserved for it."""
        for key in filter(is_budget, self.of.get(after.task_id, ())):
            self.funds.release(key, before)
            self.funds.hold(key, after)
            self.look(key)

    def room(self, key: str) -> float:
        """Return how many tasks of a key may start now, or what they may spend."""
        if is_budget(key):
            return self.funds.left(key)
        limit_id, running = limit_of(key), len(self.running.get(key, _NO_TASKS))
        most = self._most.get(limit_id)
        if most is not None:
            return most - running
        return room_of(self.limits[limit_id].terms, self.uses.get(key), running, self.now)

    def open_due(self) -> None:
        """Open what was shut only for a time that has passed."""
        while self.opening and self.opening[0][0] <= self.now:
            at, key = heapq.heappop(self.opening)
            if self._opens.get(key) == at:
                del self._opens[key]
                self.look(key)

    def look(self, key: str) -> None:
        """Shut the shapes of a key, or open them, as it has room now."""
        if is_budget(key):
            self.funds.look(key)
            for one in both_of(key):
                self._look(one)
        else:
            self._look(key)

    def _look(self, key: str) -> None:
        shapes = self._shapes.get(key)
        if shapes is None:
            return
        is_full = self.room(key) <= 0
        if is_full and limit_of(key) not in self._most:
            self._note_opening(key)
        if is_full is (key in self._full):
            return
        if is_full:
            self._full.add(key)
        else:
            self._full.discard(key)
        if not is_full or len(shapes) <= FEW_SHAPES:
            for shape in shapes:
                if shape.is_shut is not is_full:
                    self._look_at(shape)

    def shape_made(self, shape: Shape) -> None:
        """Keep a new shape, whose key has keys, up to date."""
        for key in shape.key.keys:
            if key in self._shapes:
                self._shapes[key][shape] = None
            else:
                self._shapes[key] = {shape: None}
                self._look(key)
        self._look_at(shape)

    def shape_gone(self, shape: Shape) -> None:
        """Keep a shape no longer."""
        for key in shape.key.keys:
            shapes = self._shapes[key]
            del shapes[shape]
            if not shapes:
                del self._shapes[key]
                self._full.discard(key)

    def begin_anew(self, tasks: Iterable[Task]) -> None:
        """Collect the keys of all tasks, after limits or budgets changed; the caller makes all shapes again."""
        for kept in (self.of, self.running, self.pending, self._shapes, self._opens, self._full):
            kept.clear()
        self.opening.clear()
        self.funds.begin_anew()
        self.look_whether_used()
        if not self.is_used:
            return
        for task in tasks:
            self.add(task)
            self.enter(task)
        self.funds.look_at_all()

    def look_whether_used(self) -> None:
        """Note whether there are limits or budgets, and what they depend on."""
        self.is_used = bool(self.limits or self.funds.budgets)
        terms = {limit_id: limit.terms for limit_id, limit in self.limits.items()}
        self._most = {
            limit_id: one.running
            for limit_id, one in terms.items()
            if one.running is not None and one.starts is None and not one.cooldown_s
        }
        self.remembers = any(one.starts is not None or one.cooldown_s for one in terms.values())
        self.funds.now = self.now

    def _look_at(self, shape: Shape) -> None:
        full, shapes = self._full, self._shapes
        is_shut = any(key in full and len(shapes[key]) <= FEW_SHAPES for key in shape.key.keys)
        if is_shut is not shape.is_shut:
            shape.turn(is_shut=is_shut)

    def _note_opening(self, key: str) -> None:
        """Note when a key has room again, if time alone gives it some."""
        if is_budget(key):
            at = self.funds.span(self.funds.terms_of(key).window).end
        else:
            at = opens_at(self.limits[limit_of(key)].terms, self.uses.get(key))
        if self.now < at < inf and self._opens.get(key) != at:
            self._opens[key] = at
            heapq.heappush(self.opening, (at, key))
