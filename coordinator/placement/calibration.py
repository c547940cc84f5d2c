"""
How good estimates of starts were, and how wide they must be so that four of five are right. Pure.

An estimate is scored when its task starts. How far the last ones were off, in proportion to what was expected, widens
or narrows the next ones (conformal prediction; Romano et al., "Conformalized Quantile Regression", 2019). Nothing of it
is recorded: it begins anew with each writer, as questions are no events.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from projections.task import Task
    from projections.world import World

CHANCE = 0.8
"""How many of the estimates shall be right."""
OPEN_MOST, SCORED_MOST, MARGIN_FROM = 256, 500, 100
"""So many estimates are open at a time, so many of the last ones count, and so many of these make the margin."""
SCORED_LEAST = 20
"""With fewer scores the margin is the first one."""
MARGIN_FIRST, MARGIN_LEAST = 0.1, -0.4
MOMENT_S, PART = 0.5, 0.1
"""A start may always be off by so much, and by such a part of the time until it: by as much as the margin is of it."""


class Expected(NamedTuple):
    """When a task is expected to start, in seconds from now: between two times, most likely at one."""

    earliest_s: float
    likely_s: float
    latest_s: float

    @property
    def scale_s(self) -> float:
        """Return by how much it may be off."""
        return self.latest_s - self.earliest_s + PART * self.likely_s + MOMENT_S


class _Open(NamedTuple):
    attempt: int
    """That the task has had, so the next one is meant."""
    at: float
    told: Expected
    raw: Expected


class Calibration:
    """The estimates of one writer that are open or were scored."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._right: deque[bool] = deque(maxlen=SCORED_MOST)
        self._scores: deque[float] = deque(maxlen=MARGIN_FROM)
        self.margin = MARGIN_FIRST

    @property
    def right(self) -> int:
        """How many of the estimates that were scored were right."""
        return sum(self._right)

    @property
    def scored(self) -> int:
        """How many of the last estimates were scored."""
        return len(self._right)

    def told(self, raw: Expected) -> Expected:
        """Return what is told of an estimate: as wide as it must be by the scores of those before it."""
        by_s = self.margin * raw.scale_s
        earliest, latest = max(0.0, raw.earliest_s - by_s), raw.latest_s + by_s
        if earliest > latest:
            return Expected(raw.likely_s, raw.likely_s, raw.likely_s)
        return Expected(earliest, min(max(raw.likely_s, earliest), latest), latest)

    def note(self, task: Task, now: float, raw: Expected) -> None:
        """Keep an estimate until its task starts, if there is room and none of it is kept."""
        if task.task_id not in self._open and len(self._open) < OPEN_MOST:
            self._open[task.task_id] = _Open(task.attempt, now, self.told(raw), raw)

    def score(self, world: World) -> None:
        """Score the estimates whose tasks have started, or are twice as late as they were to be at the latest."""
        now = world.indexes.now
        for task_id, one in list(self._open.items()):
            task = world.tasks.get(task_id)
            if task is None or ((began := _began(task, one.attempt)) is None and _is_kept(world, task)):
                del self._open[task_id]  # by whoever ended, paused or held it: no estimate can know that
            elif began is not None or now - one.at > 2.0 * one.told.latest_s + MOMENT_S:
                del self._open[task_id]
                self._note((now if began is None else began) - one.at, one)

    def _note(self, waited_s: float, one: _Open) -> None:
        told, raw = one.told, one.raw
        self._right.append(told.earliest_s <= waited_s <= told.latest_s)
        self._scores.append(max(raw.earliest_s - waited_s, waited_s - raw.latest_s) / raw.scale_s)
        scores = sorted(self._scores)
        if len(scores) >= SCORED_LEAST:
            self.margin = max(MARGIN_LEAST, scores[min(ceil((len(scores) + 1) * CHANCE), len(scores)) - 1])


def _began(task: Task, attempt: int) -> float | None:
    """Return when the attempt behind *attempt* began, None if it has not, or that is not known any more."""
    if task.attempt == attempt + 1 and task.started_at is not None:
        return task.started_at
    return next((one.started_at for one in task.attempts if one.attempt == attempt + 1), None)


def _is_kept(world: World, task: Task) -> bool:
    """Return whether a task will not start before somebody acts."""
    return task.is_ended or task.is_paused or any(True for _ in world.indexes.on_hold.met_by(task))
