"""
Holds: state, the fold of their events, and the ready tasks that they keep from the workers. Pure.

A hold is decided once for each task, when the task becomes ready or the hold is placed: its condition names only what
stays as it was submitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import Position
from events.errors import Corrupt, Refused
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from projections.queue import name_of
from projections.stamp import Stamp, existing, missing
from projections.task_fields import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from projections.task import Task

    AnyHoldEvent = HoldPlaced | HoldLifted | HoldExpired
    Test = Callable[[Task], bool]


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A hold in force: its condition, who placed it and why; times are commit times in seconds.

    With `queue` it is only about tasks of this queue. Without `expires_at` it ends only when it is lifted.
    """

    hold_id: str
    where: str
    placed: Position
    placed_at: float
    placed_by: str = ""
    queue: str = ""
    reason: str = ""
    expires_at: float | None = None


MOST_PAST = 100
"""Of so many holds that ended it is remembered when they were in force."""


class PastHold(msgspec.Struct, frozen=True, gc=False):
    """A hold that was in force until `until`, a commit time in seconds."""

    name: str
    hold: Hold
    until: float


def evolve(hold: Hold | None, event: AnyHoldEvent, stamp: Stamp) -> Hold | None:
    """Fold one event into the hold it is about; None means that it is not in force."""
    match event:
        case HoldPlaced():
            if hold is not None:
                existing(event, stamp)
            return Hold(
                hold_id=event.hold_id,
                where=event.where,
                placed=stamp.position,
                placed_at=stamp.time,
                placed_by=stamp.actor,
                queue=event.queue,
                reason=event.reason,
                expires_at=event.expires_at,
            )
        case HoldLifted() | HoldExpired():
            if hold is None:
                missing(event, stamp)
            return None
    assert_never(event)


def test_of(hold: Hold) -> Test:
    """
    Return what tells whether a task meets a hold.

    Raises:
        Corrupt: its condition is not one, or of a later release.
    """
    try:
        meets = lasting(hold.where)
    except Refused as error:
        msg = f"event {hold.placed} places a hold that cannot be read: {error.message}"
        raise Corrupt(msg) from error
    if not hold.queue:
        return meets
    queue = name_of(hold.queue)
    return lambda task: task.queue == queue and meets(task)


REQUESTS = "@requests"
"""What keeps the tasks whose request waits for a share of a pool, as a hold does; no hold has such an id."""


class OnHold:
    """The tasks that would be ready without holds: each is kept by the hold placed first of those that it meets."""

    __slots__ = ("_by", "of", "past", "tests")

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Task]] = {}
        """The tasks that each hold keeps."""
        self.tests: dict[str, Test] = {}
        """What tells whether a task meets each hold, in the order of placing; empty while none is in force."""
        self.past: dict[str, Test] = {}
        """What tells whether a task met each of the last holds that ended, by their names."""
        self._by: dict[str, str] = {}

    @property
    def count(self) -> int:
        """How many tasks are kept."""
        return len(self._by)

    def place(self, hold: Hold) -> Test:
        """Note a hold, which keeps no task yet; return its test."""
        test = test_of(hold)
        self.add(hold.hold_id, test)
        return test

    def add(self, hold_id: str, test: Test) -> None:
        """Note what keeps tasks, none yet; requests that wait are asked before all holds."""
        first = {hold_id: test} if hold_id == REQUESTS else {}
        others = {**self.tests, hold_id: test}
        self.tests.clear()
        self.tests.update(first | others)
        self.of[hold_id] = {}

    def end(self, hold_id: str) -> Iterable[Task]:
        """Forget a hold, and return the tasks that it kept: others may keep them."""
        del self.tests[hold_id]
        kept = self.of.pop(hold_id)
        for task_id in kept:
            del self._by[task_id]
        return kept.values()

    def note_past(self, ended: PastHold) -> None:
        """Keep the test of a hold that ended, one of the last `MOST_PAST`."""
        self.past[ended.name] = test_of(ended.hold)
        if len(self.past) > MOST_PAST:
            del self.past[next(iter(self.past))]

    def keeps(self, task: Task) -> bool:
        """Keep a task if it meets a hold; return whether it does."""
        for hold_id, test in self.tests.items():
            if test(task):
                self.keep(task, hold_id)
                return True
        return False

    def keep(self, task: Task, hold_id: str) -> None:
        """Keep a task by a hold that it meets."""
        self._by[task.task_id] = hold_id
        self.of[hold_id][task.task_id] = task

    def met_by(self, task: Task) -> Iterator[str]:
        """Yield the holds that a task meets, by the order of placing."""
        return (hold_id for hold_id, test in self.tests.items() if hold_id != REQUESTS and test(task))

    def replace(self, task: Task) -> bool:
        """Replace the old value of a task that is kept; return whether it is one."""
        hold_id = self._by.get(task.task_id)
        if hold_id is None:
            return False
        self.of[hold_id][task.task_id] = task
        return True

    def remove(self, task_id: str) -> bool:
        """Keep a task no longer; return whether it was kept."""
        hold_id = self._by.pop(task_id, None)
        if hold_id is None:
            return False
        del self.of[hold_id][task_id]
        return True
