"""
Ready tasks by lane: by their queue, in a queue that is shared by whose share they take, and by their version. Pure.

A lane has a key only in a queue whose policy shares it, by tenants or by keys; else the key is ''. It has a build only
if its tasks go to the workers with this build id: others pass over all of them at once. The tasks of a gang come into
their lanes when all of them are ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from events.resources import NONE
from projections.ready import EMPTY_SHAPES_KEPT, ReadyTasks, fifo_key, gang_of, shape_of
from projections.shares import key_of
from projections.time_limits import waits_since

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from events.queue import FairShare
    from projections.keyed import Keyed
    from projections.ready import Shape
    from projections.task import Task
    from projections.version import Builds


class LaneName(NamedTuple):
    """A queue, '' for the default one, a key in it, and the build that its tasks go to, None for any."""

    queue: str
    key: str
    goes_to: str | None = None


USUAL = LaneName("", "")


class Lanes:
    """
    The lanes that have ready tasks; the usual one is always there.

    *shared* says how the queues are shared that are, *keyed* which keys tasks have by the limits and the budgets,
    *builds* to which build of workers they go.
    """

    def __init__(
        self, shared: Mapping[str, FairShare], keyed: Keyed, builds: Builds, *, spare: int = EMPTY_SHAPES_KEPT
    ) -> None:
        self.usual = ReadyTasks()
        self.of: dict[LaneName, ReadyTasks] = {USUAL: self.usual}
        self._shared = shared
        self._keyed = keyed
        self._builds, self._routes = builds, builds.routes
        self._spare = spare
        self.regroupings = 0
        """How often the tasks were put into other shapes or lanes, since this was made."""
        self._shapes: dict[str, Shape] = {}
        """The shapes of plain tasks in the usual lane, by task name: it takes long to hash their keys."""
        self._of_others: dict[str, Shape] = {}
        """The shapes of all other tasks, by task id."""

    def shape(self, task: Task) -> Shape:
        """Return the shape of a task in its lane, a new one if there is none."""
        known = self._of_others.get(task.task_id)
        if known is not None:
            return known
        keyed = self._keyed
        if task.queue or self._shared or keyed.is_used or self._routes or task.build_id:
            lane = self.lane_of(task)
            key, group = shape_of(task, keyed.keys(task), lane.goes_to), self._lane(lane)
            shape = group.shapes.get(key)
            if shape is None:
                shape = group.shape(key)
                if key.keys:
                    keyed.shape_made(shape)
            self._of_others[task.task_id] = shape
            return shape
        is_usual = task.resources is NONE and not (
            task.task_type or task.worker_filter or task.preference or task.rule_filter or task.gang
        )
        shape = self._shapes.get(task.task_name) if is_usual else None
        if shape is None:
            shape = self.usual.shape(shape_of(task, ()))
            if is_usual:
                self._shapes[task.task_name] = shape
        return shape

    def has(self, task: Task) -> bool:
        """Return whether a task is ready."""
        lane = self.lane_of(task)
        group = self.of.get(lane)
        shape = None if group is None else group.shapes.get(shape_of(task, self._keyed.keys(task), lane.goes_to))
        return shape is not None and task.task_id in shape.members

    def ahead_of(self, task: Task, ordering: str) -> int:
        """Return how many ready tasks of its queue and share, that could go where it goes, come before a task."""
        return sum(count for _, count in self.ahead_in(task, ordering))

    def ahead_in(self, task: Task, ordering: str) -> Iterator[tuple[Shape, int]]:
        """Yield how many tasks of each shape come before a task, see `ahead_of`."""
        queue, key, goes_to = self.lane_of(task)
        groups = (
            group
            for lane, group in self.of.items()
            if lane.queue == queue
            and lane.key == key
            and (lane.goes_to is None or goes_to is None or lane.goes_to == goes_to)
        )
        for group in groups:
            for shape in group.shapes.values():
                if shape.members and (count := shape.ahead_of(task, ordering)):
                    yield shape, count

    @property
    def is_empty(self) -> bool:
        """Whether there is no lane but the usual one, and not even an empty shape in that."""
        return len(self.of) == 1 and not self.usual.shapes

    def lane_of(self, task: Task) -> LaneName:
        """Return the lane of a task."""
        share = self._shared.get(task.queue)
        return LaneName(task.queue, "" if share is None else key_of(task, share), self._builds.of(task))

    def add(self, task: Task) -> None:
        """Add a task that became ready."""
        shape = self.shape(task)
        shape.group.add(shape, task)

    def replace(self, task: Task) -> None:
        """Replace the old value of a task where it waits: a second entry would return it twice."""
        self.shape(task).members[task.task_id] = task

    def remove(self, task: Task) -> None:
        """Remove a task that is not ready any more."""
        shape = self.shape(task)
        self._of_others.pop(task.task_id, None)
        shape.remove(task.task_id)
        if shape.members:
            return
        group = shape.group
        if len(group.shapes) > self._spare or len(self.of) > self._spare:
            group.discard(shape)
            if shape.key.keys:
                self._keyed.shape_gone(shape)
            if group is self.usual:
                # It may be that of another shape, which is then looked up again.
                self._shapes.pop(task.task_name, None)
            elif not group.shapes:
                del self.of[self.lane_of(task)]

    def withdraw(self, task: Task) -> None:
        """Remove a task that is ready, and may be added again as it was."""
        shape = self.shape(task)
        self.remove(task)
        shape.forget_gone()

    def forget_gone(self) -> None:
        """Drop every trace of the tasks that were removed, so that each may be added again as it was."""
        for group in self.of.values():
            for shape in group.shapes.values():
                shape.forget_gone()

    def tasks(self) -> Iterator[Task]:
        """Yield all ready tasks, in no order."""
        for group in self.of.values():
            for shape in group.shapes.values():
                yield from shape.members.values()

    def regroup(self, queue: str) -> None:
        """Put the tasks of a queue into its lanes again: it is shared in another way from now on."""
        self.regroupings += 1
        moved = [
            task
            for lane, group in self.of.items()
            if lane.queue == queue
            for shape in group.shapes.values()
            for task in shape.members.values()
        ]
        for lane in [lane for lane in self.of if lane.queue == queue]:
            self._forget(self.of.pop(lane))
        if not queue:
            self.usual = self.of[USUAL] = ReadyTasks()
            self._shapes.clear()
        for task in moved:
            self._of_others.pop(task.task_id, None)
            self.add(task)

    def regroup_all(self) -> None:
        """Put all tasks into their shapes again: they have other keys, and the old shapes are forgotten already."""
        tasks = list(self.tasks())
        self.regroupings += 1
        self.usual = ReadyTasks()
        self.of = {USUAL: self.usual}
        self._shapes.clear()
        self._of_others.clear()
        for task in tasks:
            self.add(task)

    def forget_aged(self) -> None:
        """Forget the orders by priority and age: the age may count otherwise from now on."""
        for group in self.of.values():
            group.forget_aged()

    def close(self) -> None:
        """Forget all tasks, for good."""
        for group in self.of.values():
            self._forget(group)

    def _forget(self, group: ReadyTasks) -> None:
        for shape in group.shapes.values():
            if shape.key.keys:
                self._keyed.shape_gone(shape)

    def _lane(self, lane: LaneName) -> ReadyTasks:
        group = self.of.get(lane)
        if group is None:
            group = self.of[lane] = ReadyTasks()
        return group


class GangMembers:
    """The tasks of one gang that have not ended: those that have not begun, which of them are ready, and the others."""

    __slots__ = ("begun", "pending", "ready")

    def __init__(self) -> None:
        self.pending: dict[str, Task] = {}
        self.ready: dict[str, Task] = {}
        self.begun = 0

    @property
    def size(self) -> int:
        """How many tasks begin together; there is one that has not begun."""
        gang = next(iter(self.pending.values())).gang
        assert gang is not None, "only tasks with a gang are here"
        return gang.size

    @property
    def until(self) -> float:
        """By which commit time it has to begin."""
        return next(iter(self.pending.values())).gang_until

    def in_order(self) -> list[Task]:
        """Return those that are ready, by submission."""
        return sorted(self.ready.values(), key=fifo_key)


class Gangs:
    """The gangs of the tasks that have not ended, by tenant and id, and which of them may begin."""

    __slots__ = ("apart", "gathered", "gathering", "of")

    def __init__(self) -> None:
        self.of: dict[str, GangMembers] = {}
        self.gathered: dict[str, float] = {}
        """Those of which all tasks are ready, which are in their lanes, and since when their own times let them be."""
        self.gathering: dict[str, None] = {}
        """Those of which some are."""
        self.apart = 0
        """How many tasks are ready and wait for others of their gangs."""

    def enter(self, task: Task) -> None:
        """Count a task that has not ended among those of its gang."""
        members = self.of.setdefault(name_of_gang(task), GangMembers())
        if task.attempt:
            members.begun += 1
        else:
            members.pending[task.task_id] = task

    def leave(self, task: Task) -> None:
        """Count a task no longer that was in this state until now."""
        name = name_of_gang(task)
        members = self.of[name]
        if task.attempt:
            members.begun -= 1
        else:
            del members.pending[task.task_id]
        if not members.begun and not members.pending:
            del self.of[name]

    def note(self, task: Task) -> None:
        """Replace the old value of a task that has not begun."""
        members = self.of[gang_of(task)]
        members.pending[task.task_id] = task

    def replace(self, task: Task) -> bool:
        """Replace the old value of a task that is ready; return whether it waits for others of its gang."""
        name = gang_of(task)
        self.of[name].ready[task.task_id] = task
        return name in self.gathering

    def waits(self, task: Task) -> bool:
        """Return whether a task is ready and waits for others of its gang."""
        name = gang_of(task)
        return name in self.gathering and task.task_id in self.of[name].ready

    def tasks(self) -> list[Task]:
        """Return those that do, in no order."""
        return [task for name in self.gathering for task in self.of[name].ready.values()]

    def add(self, task: Task) -> list[Task]:
        """Add a task that became ready; return those that may go into their lanes now."""
        name = gang_of(task)
        members = self.of[name]
        members.ready[task.task_id] = task
        if len(members.ready) < members.size:
            self.gathering[name] = None
            self.apart += 1
            return []
        self.gathering.pop(name, None)
        self.gathered[name] = max(map(waits_since, members.ready.values()))
        self.apart -= len(members.ready) - 1
        return members.in_order()

    def remove(self, task: Task) -> list[Task]:
        """Remove a task that is not ready any more; return those that have to leave their lanes."""
        name = gang_of(task)
        members = self.of[name]
        leaving = members.in_order() if name in self.gathered else []
        del members.ready[task.task_id]
        self.gathered.pop(name, None)
        self.apart += len(members.ready) if leaving else -1
        if members.ready:
            self.gathering[name] = None
        else:
            self.gathering.pop(name, None)
        return leaving


def name_of_gang(task: Task) -> str:
    """Return the name of the gang of a task that has one, begun or not."""
    assert task.gang is not None, "it has a gang"
    return f"{task.tenant}/{task.gang.gang_id}"
