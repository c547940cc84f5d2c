"""Tasks that begin together: which may join, and how all of them end if they cannot begin in time."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import json

from coordinator.commands.task import CompleteTask
from coordinator.deciders.gang import SIZE_MOST
from coordinator.deciders.rules import Rules
from coordinator.deciders.time_limits import timed_out
from events.retry import RetryPolicy
from events.task import Gang, TaskCancelled, TaskTimedOut
from events.time_limits import GANG_DEADLINE, TimeLimits
from projections.time_limits import deadline_of
from tests.specification import BEGIN, fold, given, said
from tests.unit.deciders.facts import attempt_failed, completed, started, submit, submitted

GANG = Gang(gang_id="g", size=2, deadline_s=60.0)


def member(task_id: str, **others: Any) -> Any:
    return submitted(task_id, **{"gang": GANG, "gang_until": BEGIN + 60.0, **others})


def test_the_first_task_says_by_when_a_gang_has_to_begin() -> None:
    """The others have the same time, whenever they come."""
    given().when(submit("a", gang=GANG), at=BEGIN).then(member("a"))
    given(member("a")).when(submit("b", gang=GANG), at=BEGIN + 50.0).then(member("b"))
    given(member("a")).when(submit("a", gang=GANG)).then_nothing()


def test_a_repeat_names_the_same_gang() -> None:
    """Another one is other content, also of a task that has been evicted."""
    other = Gang(gang_id="h", size=2, deadline_s=60.0)
    given(member("a")).when(submit("a", gang=other)).then_refused("id_taken")
    given(member("a")).when(submit("a")).then_refused("id_taken")


@pytest.mark.parametrize(
    ("gang", "reason"),
    [
        (Gang(gang_id="g", size=3, deadline_s=60.0), "gang_differs"),
        (Gang(gang_id="g", size=2, deadline_s=61.0), "gang_differs"),
        (Gang(gang_id="g", size=1, deadline_s=60.0), "bad_number"),
        (Gang(gang_id="g", size=SIZE_MOST + 1, deadline_s=60.0), "bad_number"),
        (Gang(gang_id="g", size=2, deadline_s=0.0), "bad_number"),
        (Gang(gang_id="g h", size=2, deadline_s=60.0), "bad_id"),
        (Gang(gang_id="large", size=6, deadline_s=60.0), "bad_number"),
    ],
)
def test_a_gang_has_one_size_and_one_deadline(gang: Gang, reason: str) -> None:
    """The error says both; a gang is not larger than what may run at once."""
    given(member("a")).when(submit("b", gang=gang), rules=Rules(max_concurrent_tasks=5)).then_refused(reason)


def test_no_task_joins_a_gang_that_is_full_or_has_begun() -> None:
    """When all of its tasks have ended, the id may be used again; a cancelled one leaves its place."""
    given(member("a"), member("b")).when(submit("c", gang=GANG)).then_refused("gang_full")
    begun = member("a"), member("b"), started("a"), started("b", "c.2.1")
    given(*begun).when(submit("c", gang=GANG)).then_refused("gang_begun")
    given(*begun, attempt_failed("a", retry_at=BEGIN + 9.0)).when(submit("c", gang=GANG)).then_refused("gang_begun")
    ended = completed("a"), completed("b", "c.2.1")
    given(*begun, *ended).when(submit("c", gang=GANG), at=BEGIN + 90.0).then(member("c", gang_until=BEGIN + 150.0))
    given(member("a"), member("b"), TaskCancelled(task_id="b")).when(submit("c", gang=GANG)).then(member("c"))


def test_nobody_reports_a_task_without_a_lease_before_its_gang_has_begun() -> None:
    """It would begin alone."""
    given(member("a"), member("b")).when(CompleteTask(task_id="a")).then_refused("not_ready")
    begun = member("a"), member("b"), started("a"), started("b", "c.2.1"), attempt_failed("a", retry_at=BEGIN)
    then = given(*begun).when(CompleteTask(task_id="a", worker_id="w"))
    assert [type(one).__name__ for one in then.events] == ["TaskStarted", "TaskCompleted"]


def test_at_the_deadline_all_of_them_end() -> None:
    """Each as it would by a limit of its own, which may come before; after the begin there is no deadline."""
    world = fold(member("a"), member("b", time_limits=TimeLimits(start_within_s=5.0)))
    assert deadline_of(world.tasks["a"]) == (BEGIN + 60.0, GANG_DEADLINE)
    assert deadline_of(world.tasks["b"]) == (BEGIN + 1.0 + 5.0, "start_within_s")
    assert list(world.indexes.overdue(BEGIN + 60.0)) == ["b", "a"]
    world = fold(member("a", time_limits=TimeLimits(start_within_s=90.0, finish_within_s=90.0)))
    assert deadline_of(world.tasks["a"]) == (BEGIN + 60.0, GANG_DEADLINE)
    world = fold(member("a"), member("b"), started("a"), started("b", "c.2.1"))
    assert list(world.indexes.overdue(BEGIN + 90.0)) == []
    scribe = fold(member("a"), said(TaskTimedOut(
        task_id="a", lease="", ran_for_s=60.1, limit_s=60.0, exceeded=GANG_DEADLINE
    ), at=BEGIN + 60.1))  # fmt: skip
    task = scribe.tasks["a"]
    assert (task.status.value, task.exceeded) == ("timeout", GANG_DEADLINE)
    assert task.error == "its gang had not begun after 60.100 s, limit gang_deadline_s 60 s"


def test_a_gang_may_have_all_that_tasks_have() -> None:
    """Retries, for example, begin after the gang has."""
    retry = RetryPolicy(first_s=2.0)
    given().when(submit("a", gang=GANG, retry=retry, priority=3), at=BEGIN).then(member("a", retry=retry, priority=3))


def test_the_deadline_is_looked_for_as_other_limits_are() -> None:
    """Each task that has not begun ends with an event of its own."""
    world = fold(member("a"), member("b"))
    world.indexes.advance(BEGIN + 60.5)
    found = list(timed_out(world, BEGIN + 60.5))
    assert [(one.task_id, one.exceeded, one.limit_s) for one in found if isinstance(one, TaskTimedOut)] == [
        ("a", GANG_DEADLINE, 60.0),
        ("b", GANG_DEADLINE, 60.0),
    ]
    assert [round(one.ran_for_s, 3) for one in found if isinstance(one, TaskTimedOut)] == [60.5, 60.5]


def test_a_task_without_a_gang_is_written_as_before() -> None:
    """A read model of an earlier release has the same rows."""
    event = json.decode(json.encode(submitted("a", gang_until=0.0)), type=type(submitted("a")))
    assert b"gang" not in json.encode(fold(event).tasks["a"])
