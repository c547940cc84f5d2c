"""When a task may start first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.task import LATEST_S, CancelTask
from events.base import version_of
from events.task import TaskCancelled, TaskStarted
from tests.specification import BEGIN, Given, given, said, write
from tests.unit.deciders.facts import INFINITY, NAN, complete, completed, fail, submit, submitted


def test_a_time_and_a_delay_are_kept_with_the_task() -> None:
    """A delay begins at the commit time of the submit."""
    decided = given().when(submit(not_before=BEGIN + 60.0), at=BEGIN).then(submitted(not_before=BEGIN + 60.0))
    assert decided.world.tasks["t"].not_before == BEGIN + 60.0
    wanted = submitted(not_before=BEGIN + 60.0, delay_s=60.0)
    given().when(submit(delay_s=60.0), at=BEGIN).then(wanted)
    assert version_of(wanted) == 3
    assert version_of(submitted()) == 1


def test_a_delayed_task_is_ready_when_its_time_comes() -> None:
    """Until then it is parked, pending, and given to nobody; the same after a restore."""
    scribe = write(said(submitted(not_before=BEGIN + 60.0), at=BEGIN))
    for world in (scribe.world, type(scribe.world).restore(scribe.world.snapshot())):
        assert (world.indexes.ready, len(world.indexes.parked_members)) == (0, 1)
        world.indexes.advance(BEGIN + 59.9)
        assert world.indexes.ready == 0
        world.indexes.advance(BEGIN + 60.0)
        assert (world.indexes.ready, len(world.indexes.parked_members)) == (1, 0)


def test_a_time_that_has_passed_means_at_once() -> None:
    """It is recorded as it was given."""
    decided = given().when(submit(not_before=BEGIN - 1.0), at=BEGIN).then(submitted(not_before=BEGIN - 1.0))
    assert decided.world.indexes.ready == 1


@pytest.mark.parametrize(
    ("wrong", "reason", "named"),
    [
        ({"not_before": NAN}, "bad_time", "not_before"),
        ({"not_before": INFINITY}, "bad_time", "not_before"),
        ({"not_before": -1.0}, "bad_time", "not_before"),
        ({"not_before": BEGIN + LATEST_S + 1.0}, "bad_time", "ten years"),
        ({"delay_s": NAN}, "bad_number", "delay_s"),
        ({"delay_s": -1.0}, "bad_number", "delay_s"),
        ({"delay_s": LATEST_S + 1.0}, "bad_number", "delay_s"),
        ({"delay_s": 1.0, "not_before": BEGIN}, "bad_time", "one of them"),
    ],
)
def test_what_is_no_time_within_ten_years_is_refused(wrong: dict[str, Any], reason: str, named: str) -> None:
    """The refusal names the argument."""
    given().when(submit(**wrong), at=BEGIN).then_refused(reason, named)


def test_a_repeat_of_a_delay_is_the_same_task_whenever_it_comes() -> None:
    """Another delay or time is another task, also when the first has ended and was evicted."""
    first = said(submitted(not_before=BEGIN + 60.0, delay_s=60.0), at=BEGIN)
    given(first).when(submit(delay_s=60.0), at=BEGIN + 30.0).then_nothing()
    given(first).when(submit(delay_s=61.0)).then_refused("id_taken", "delay_s")
    given(first).when(submit()).then_refused("id_taken", "delay_s")
    given(submitted()).when(submit(delay_s=60.0)).then_refused("id_taken", "delay_s")
    timed = said(submitted(not_before=BEGIN + 60.0), at=BEGIN)
    given(timed).when(submit(not_before=BEGIN + 60.0)).then_nothing()
    given(timed).when(submit(not_before=BEGIN + 61.0)).then_refused("id_taken", "not_before")


@pytest.mark.parametrize("asked", [{"delay_s": 60.0}, {"not_before": BEGIN + 60.0}])
def test_a_repeat_after_the_task_was_evicted_is_compared_too(asked: dict[str, Any]) -> None:
    """What is remembered of it tells another delay or time."""
    scribe = write(said(submitted(**({"not_before": BEGIN + 60.0} | asked)), at=BEGIN), TaskCancelled(task_id="t"))
    scribe.world.ended_kept = 0
    scribe.commit(submitted("other"))
    assert "t" not in scribe.world.tasks
    evicted = Given(scribe)
    evicted.when(submit(**asked), at=BEGIN + 9.0).then_nothing()
    evicted.when(submit(**{name: value + 1.0 for name, value in asked.items()})).then_refused("id_taken", "content")


def test_a_delayed_task_has_no_outcome_before_its_time() -> None:
    """A report without a lease is an attempt, and none may start yet; to cancel it is allowed."""
    first = said(submitted(not_before=BEGIN + 60.0), at=BEGIN)
    waits = given(first)
    waits.when(complete(lease="", worker_id=""), at=BEGIN + 59.0).then_refused("too_early", "'t'", "completed")
    waits.when(fail(lease="", worker_id=""), at=BEGIN + 59.0).then_refused("too_early", "'t'", "failed")
    waits.when(CancelTask(task_id="t"), at=BEGIN + 1.0).then(TaskCancelled(task_id="t"))
    begun = TaskStarted(task_id="t", worker_id="direct", claim_id="direct", attempt=1, lease="direct.1")
    given(first).when(complete(lease="", worker_id=""), at=BEGIN + 60.0).then(begun, completed(lease="direct.1"))


@for_all(st.floats(0.0, 1e9), st.floats(0.0, 1e9))
def test_no_task_is_ready_before_its_time(ahead_s: float, after_s: float) -> None:
    """Whatever the times: it is ready if and only if its time has come."""
    world = write(said(submitted(not_before=BEGIN + ahead_s), at=BEGIN)).world
    world.indexes.advance(BEGIN + after_s)
    assert bool(world.indexes.ready) is (BEGIN + after_s >= BEGIN + ahead_s)
