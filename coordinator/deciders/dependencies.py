"""
Tasks that begin after others: what a submit may wait for, and what the end of a task means for those that wait for it.

The end of a task is kept in `World.awaited` for as long as a task waits for it. Those tasks are looked at in this turn
and the next ones, `MOST_LOOKED` at a time, so that a task which ten thousand wait for makes no turn long. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from events.after import AfterJoin, AfterOn, Otherwise
from events.errors import NotFound, Refused, shown
from events.ids import checked
from events.task import TaskCancelled, TaskCompleted, TaskFailed, TaskStatus, TaskTimedOut, TaskUnblocked
from projections.task import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from events.after import After
    from events.base import Event
    from events.task import TaskSubmitted
    from projections.task import Task
    from projections.world import World

PREDECESSORS_MAX = 64
MOST_LOOKED = 300
"""Waiting tasks that are looked at in one turn."""
_ENDS = frozenset({TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut})


class Settled(NamedTuple):
    """Whether what a task waits for has come about, and the predecessor that decided it."""

    holds: bool
    by: str
    status: TaskStatus


def check_after(task_id: str, after: After) -> None:
    """
    Accept a list of predecessors, whoever they are.

    Raises:
        Refused: it is empty, too long, has one twice, the task itself, or what is no id.
    """
    if not 1 <= len(after.tasks) <= PREDECESSORS_MAX:
        msg = f"after.tasks has {len(after.tasks)} ids: use 1 to {PREDECESSORS_MAX}"
        raise Refused(msg, reason="bad_after")
    seen: set[str] = set()
    for one in after.tasks:
        checked(one, "after.tasks")
        if one == task_id:
            raise Refused(f"after.tasks names {one!r}, the task itself: name other tasks", reason="bad_after")
        if one in seen:
            raise Refused(f"after.tasks names {one!r} twice: name each task once", reason="bad_after")
        seen.add(one)


def submitted(world: World, event: TaskSubmitted, after: After) -> tuple[TaskSubmitted, TaskCancelled | None]:
    """
    Return the event of a submitted task, which waits or may begin at once; and its end, if it never could begin.

    Raises:
        NotFound: a predecessor does not exist, or ended longer than ten minutes ago.
    """
    statuses = {one: _status_of(world, one) for one in after.tasks}
    ended = {one: status for one, status in statuses.items() if status in ENDED}
    found = settled(after, after.tasks, ended.get)
    if found is None:
        return msgspec.structs.replace(event, waits_for=tuple(one for one in after.tasks if one not in ended)), None
    if found.holds or after.otherwise is Otherwise.RUN:
        return event, None
    return event, _cancelled(event.task_id, found)


def _status_of(world: World, task_id: str) -> TaskStatus:
    task = world.tasks.get(task_id)
    if task is not None:
        return task.status
    ended = world.ended_task(task_id)
    if ended is None:
        msg = f"after.tasks names {shown(task_id)}, which does not exist or ended longer than 10 minutes ago: submit it"
        raise NotFound(f"{msg} first", reason="unknown_predecessor")
    return ended.status


def settled(after: After, ids: Iterable[str], status_of: Callable[[str], TaskStatus | None]) -> Settled | None:
    """Return what the ends of the predecessors *ids* mean so far; None while it depends on others of them."""
    is_all, on_end = after.join is AfterJoin.ALL, after.on is AfterOn.END
    last: Settled | None = None
    is_open = False
    for one in ids:
        status = status_of(one)
        if status is None:
            is_open = True
            continue
        last = Settled(on_end or status is TaskStatus.COMPLETED, one, status)
        if last.holds is not is_all:
            return last
    return None if is_open else last


def following(world: World, task: Task) -> Event | None:
    """Return what the ends of its predecessors mean for a task that waits; None while it depends on others."""
    assert task.after is not None
    found = settled(task.after, task.waiting_for, world.awaited.get)
    if found is None:
        return None
    if found.holds or task.after.otherwise is Otherwise.RUN:
        sticks = task.prefer is not None and task.prefer.sticky_to
        ran_there = ran_on(world, sticks) if sticks else ""
        return TaskUnblocked(
            task_id=task.task_id, predecessor=found.by, otherwise=not found.holds, prefers_worker=ran_there
        )
    return _cancelled(task.task_id, found)


def ran_on(world: World, task_id: str) -> str:
    """Return the worker that ran a task last, '' if none did or it is not known any more."""
    task = world.tasks.get(task_id)
    if task is None:
        return ""
    return task.worker_id or (task.attempts[-1].worker_id if task.attempts else "")


def _cancelled(task_id: str, found: Settled) -> TaskCancelled:
    reason = f"it was to run after task {found.by}, which ended as {found.status.value}"
    return TaskCancelled(task_id=task_id, reason=reason, how="predecessor", predecessor=found.by)


class ToLook:
    """The waiting tasks to look at, because one that they wait for has ended; kept by the writer, not folded."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: deque[str] = deque()
        for ended in world.awaited:
            self._queue.extend(world.indexes.dependants.of[ended])

    def __len__(self) -> int:
        return len(self._queue)

    def note(self, events: Iterable[Event]) -> None:
        """Look at those that wait for what these folded events ended."""
        awaited, dependants = self._world.awaited, self._world.indexes.dependants.of
        for event in events:
            if type(event) in _ENDS and event.subject in awaited:
                self._queue.extend(dependants[event.subject])

    def due(self) -> Iterator[Event]:
        """Yield what follows for the first of them; the caller folds each event before it takes the next."""
        world, queue = self._world, self._queue
        for _ in range(min(len(queue), MOST_LOOKED)):
            task = world.indexes.dependants.waiting.get(queue[0])
            event = None if task is None else following(world, task)
            if event is not None:
                yield event
            queue.popleft()
