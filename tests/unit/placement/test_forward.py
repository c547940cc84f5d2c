"""A queue that is run forward ends where it would end: exactly, or within what was recorded."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.placement.forward import FREE, TIMES, Backlog, left_of, run_forward

seconds = st.integers(1, 100).map(float)
runs = st.lists(seconds, min_size=1, max_size=8).map(lambda found: tuple(sorted(found)))


@given(st.lists(seconds | st.just(0.0), min_size=1, max_size=20), st.lists(seconds, max_size=60))
@settings(max_examples=200)
def test_a_queue_with_known_run_times_is_run_as_it_goes(left: list[float], before: list[float]) -> None:
    """Each slot that is free first takes the next one; no run differs from another."""
    free = sorted(left)
    for run_s in before:
        first = min(free)
        free.remove(first)
        free.append(first + run_s)
    backlog = Backlog([(one,) for one in left], [(one,) for one in before])
    assert run_forward(backlog) == pytest.approx([min(free)] * TIMES)


@given(st.lists(runs | st.just(FREE), min_size=1, max_size=20), st.lists(runs, max_size=60), st.integers(0, 900), runs)
@settings(max_examples=200)
def test_no_run_ends_before_now_or_after_the_worst(
    slots: list[tuple[float, ...]], order: list[tuple[float, ...]], rounds: int, usual: tuple[float, ...]
) -> None:
    """The earliest comes first; the same queue is always run the same way."""
    backlog = Backlog(slots, order, rounds, usual)
    found = run_forward(backlog)
    assert found == sorted(found) == run_forward(backlog)
    assert found[0] >= 0.0
    if not rounds:
        assert found[-1] <= max(map(max, slots)) + sum(map(max, order))


@given(st.integers(1, 8), st.integers(0, 20), seconds)
def test_rounds_of_alike_tasks_are_run_as_if_one_by_one(slots: int, rounds: int, run_s: float) -> None:
    """However many there are before the last ones."""
    left = [(run_s * number / slots,) for number in range(slots)]
    short = Backlog(left, [(run_s,)] * 3, rounds, (run_s,))
    assert run_forward(short) == pytest.approx(run_forward(Backlog(left, [(run_s,)] * (3 + rounds * slots))))


def test_a_long_queue_is_as_sure_as_its_mean() -> None:
    """About the mean of all run times, on all slots."""
    usual = tuple(float(number) for number in range(1, 65))
    found = run_forward(Backlog([usual] * 4, [usual] * 64, 250, usual))
    assert fmean(found) == pytest.approx(266 * fmean(usual), rel=0.05)
    assert 0.05 < (found[-1] - found[0]) / fmean(found) < 0.6


def test_what_is_left_of_a_run_is_what_longer_ones_had_left() -> None:
    """One that is longer than all of them may take as long again."""
    assert left_of((1.0, 2.0, 4.0), 1.5) == (0.5, 2.5)
    assert left_of((1.0, 2.0), 2.0 + 1e-9) == (0.0,)
    assert left_of((1.0,), 8.0) == (2.0, 4.0, 6.0, 8.0)
    assert left_of((), 8.0) == (2.0, 4.0, 6.0, 8.0)
