"""Commit time where the wall clock is years off, or is set while a writer reigns: it is said, and deadlines hold."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from coordinator.clock import EARLIEST, CommitClock

YEAR_S = 365 * 86_400.0
NOW = EARLIEST + YEAR_S


class Hands:
    """A clock whose hands are set by the test."""

    def __init__(self, wall: float) -> None:
        self.at = wall
        self.since = 1000.0

    def wall(self) -> float:
        return self.at

    def heard(self) -> float:
        return self.since

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds
        self.since += seconds


@pytest.mark.parametrize("years", [-50, -5, -1, 1, 5, 50])
def test_a_clock_that_is_set_while_a_writer_reigns_changes_no_duration(years: int) -> None:
    """Whichever way, commit time goes on at the pace of elapsed time, and it is logged once per jump."""
    hands = Hands(NOW)
    clock = CommitClock(hands, NOW - 10)
    assert clock.now() == NOW
    with capture_logs() as logs:
        hands.at += years * YEAR_S
        for second in range(1, 6):
            hands.pass_s(1.0)
            assert clock.now() == NOW + second
    assert [line["event"] for line in logs] == ["wall_clock_jumped" if years > 0 else "wall_clock_behind"]


def test_a_reign_begins_with_a_clock_that_is_behind() -> None:
    """Commit time goes on from the last commit, however far behind the clock is, which is said."""
    with capture_logs() as logs:
        hands = Hands(0.0)
        clock = CommitClock(hands, NOW)
        assert clock.now() == NOW
        hands.pass_s(7.0)
        assert clock.now() == NOW + 7
    assert [line["event"] for line in logs] == ["wall_clock_wrong", "wall_clock_behind"]
    assert logs[0]["shows"].startswith("1970-01-01T")


def test_a_reign_begins_with_a_clock_that_is_years_ahead() -> None:
    """It begins with that time, since nobody knows how long there was no writer; it is said."""
    with capture_logs() as logs:
        assert CommitClock(Hands(NOW + YEAR_S), NOW).now() == NOW + YEAR_S
        assert CommitClock(Hands(NOW + 86_400), NOW).now() == NOW + 86_400
    assert [line["event"] for line in logs] == ["wall_clock_far_ahead"]


def test_the_first_commit_of_all_says_only_an_impossible_time() -> None:
    """A new journal has no last commit to compare with."""
    with capture_logs() as logs:
        assert CommitClock(Hands(NOW), 0.0).now() == NOW
        assert not logs
        assert CommitClock(Hands(5.0), 0.0).now() == 5.0
    assert [line["event"] for line in logs] == ["wall_clock_wrong"]
