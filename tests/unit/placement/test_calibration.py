"""Estimates are scored when their tasks start, and become as wide as they must be."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.placement.calibration import MARGIN_FIRST, MOMENT_S, OPEN_MOST, Calibration, Expected
from events.hold import HoldPlaced
from events.task import TaskCancelled
from events.task_pause import TaskPaused
from projections.world import World
from tests.specification import BEGIN, fold, said
from tests.unit.deciders.facts import attempt_failed, started, submitted, worker

EXPECTED = Expected(10.0, 20.0, 30.0)
seconds = st.floats(0.0, 1e6)


def scored(*facts: Any, raw: Expected = EXPECTED, at: float = 1.0) -> tuple[int, int]:
    """Return how many estimates of the task *t*, made *at* seconds after the beginning, were right, and of how many."""
    before = fold(worker(), submitted())
    calibration = Calibration()
    calibration.note(before.tasks["t"], BEGIN + at, raw)
    calibration.score(before)
    assert calibration.scored == 0
    calibration.score(fold(worker(), submitted(), *facts))
    calibration.score(fold(worker(), submitted(), *facts))
    return calibration.right, calibration.scored


@pytest.mark.parametrize(("waited_s", "right"), [(20.0, 1), (9.0, 1), (7.0, 0), (31.0, 1), (33.0, 0)])
def test_an_estimate_is_right_if_the_task_starts_between_its_times(waited_s: float, right: int) -> None:
    """With the margin that was told: a tenth of 22.5 s. It is scored once."""
    assert scored(said(started(), at=BEGIN + 1.0 + waited_s)) == (right, 1)


def test_the_next_attempt_is_meant() -> None:
    """Whatever became of it until somebody looked."""
    ran = (said(started(), at=BEGIN + 21.0), said(attempt_failed(), at=BEGIN + 22.0))
    assert scored(*ran) == (1, 1)
    assert scored(*ran, said(started(lease="c.1.2"), at=BEGIN + 90.0)) == (1, 1)


def test_one_that_is_far_too_late_is_wrong() -> None:
    """Before it starts, if it ever does."""
    assert scored(said(submitted("a"), at=BEGIN + 60.0)) == (0, 0)
    assert scored(said(submitted("a"), at=BEGIN + 70.0)) == (0, 1)


@pytest.mark.parametrize(
    "event",
    [
        TaskCancelled(task_id="t"),
        TaskPaused(task_id="t", reason="r"),
        HoldPlaced(hold_id="h", where="true"),
    ],
)
def test_what_somebody_keeps_from_starting_is_not_scored(event: Any) -> None:
    """No estimate can know that."""
    assert scored(said(event, at=BEGIN + 90.0)) == (0, 0)


def test_what_is_not_known_any_more_is_not_scored() -> None:
    """It was evicted."""
    calibration = Calibration()
    calibration.note(fold(submitted()).tasks["t"], BEGIN, EXPECTED)
    calibration.score(World())
    assert calibration.scored == 0


def test_so_many_estimates_are_open_at_most() -> None:
    """The first one of a task counts."""
    calibration, task = Calibration(), fold(submitted()).tasks["t"]
    calibration.note(task, BEGIN, EXPECTED)
    calibration.note(task, BEGIN + 100.0, EXPECTED)
    world = fold(worker(), submitted(), said(started(), at=BEGIN + 20.0))
    for number in range(2 * OPEN_MOST):
        other = fold(submitted(f"t{number}")).tasks[f"t{number}"] if number < 2 else task
        calibration.note(other, BEGIN, EXPECTED)
    calibration.score(world)
    assert (calibration.right, calibration.scored) == (1, 1)


@given(seconds, seconds, seconds, st.lists(seconds, max_size=60))
@settings(max_examples=100)
def test_what_is_told_is_in_order_and_never_negative(one: float, two: float, three: float, waits: list[float]) -> None:
    """Whatever was expected, and however wrong it was before."""
    raw = Expected(*sorted((one, two, three)))
    calibration = calibrated(raw, waits)
    told = calibration.told(raw)
    assert 0.0 <= told.earliest_s <= told.likely_s <= told.latest_s
    assert 0 <= calibration.right <= calibration.scored <= len(waits)


def calibrated(raw: Expected, waits: list[float]) -> Calibration:
    """Return what is known after tasks for which *raw* was expected have waited so long."""
    calibration = Calibration()
    for waited_s in waits:
        at = 1e9 - waited_s - 1.0
        calibration.note(fold(submitted()).tasks["t"], at, raw)
        calibration.score(fold(worker(), submitted(), said(started(), at=1e9 - 1.0)))
    return calibration


def test_estimates_that_are_too_sure_become_wide_enough() -> None:
    """After a while four of five are right, and not many more."""
    dice = Random(7)
    found = calibrated(EXPECTED, [dice.gauss(20.0, 20.0) % 100.0 for _ in range(600)])
    assert found.margin > MARGIN_FIRST
    assert found.scored == 500
    assert found.right / 500 == pytest.approx(0.8, abs=0.06)


def test_estimates_that_are_too_wide_become_narrow() -> None:
    """As far as the middle."""
    found = calibrated(Expected(0.0, 50.0, 1000.0), [50.0] * 40)
    assert found.margin < 0.0
    told = found.told(Expected(0.0, 50.0, 1000.0))
    assert told.latest_s < 1000.0
    narrow = found.told(Expected(20.0, 20.0, 20.0))
    assert narrow == Expected(20.0, 20.0, 20.0)
    assert MOMENT_S > 0.0
