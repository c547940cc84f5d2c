"""Deciders of pausing and resuming tasks, and what a paused task is for the others."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.commands.task import CancelTask
from coordinator.commands.task_pause import PauseTask, ResumeTask
from coordinator.deciders.rules import Rules
from coordinator.deciders.task import failed_attempt
from events.retry import RetryPolicy
from events.task import TaskCancelled, TaskFailed, TaskStatus
from events.task_pause import TaskPaused, TaskResumed
from tests.specification import Given, fold, given, said
from tests.unit.deciders.facts import (
    BEGIN,
    attempt_failed,
    complete,
    completed,
    fail,
    payload,
    started,
    submit,
    submitted,
)

PAUSED = TaskPaused(task_id="t", reason="closed")
OTHER = replace(payload("[2]"), digest="2" * 64)
PAUSES = RetryPolicy(when_exhausted="pause", non_retryable=("ValueError",))


def exhausted(lease: str = "c.1.1", **others: Any) -> TaskPaused:
    usual = {"reason": "retries_exhausted", "cause": "failed", "error": "boom", "attempt": int(lease[-1])}
    return TaskPaused(**{"task_id": "t", "lease": lease, **usual, **others})


def last_attempt(**others: Any) -> Given:
    return given(submitted(**{"retry": PAUSES, "max_retries": 0, **others}), started())


# --- by an operator ---------------------------------------------------------------------------------------------------


def test_a_pending_task_is_paused_and_resumed() -> None:
    """It stays pending; to pause it again changes nothing."""
    paused = given(submitted()).when(PauseTask(task_id="t", reason="closed")).then(PAUSED)
    task = paused.world.tasks["t"]
    assert (task.status, task.is_paused, task.pause_reason) == (TaskStatus.PENDING, True, "closed")
    assert paused.world.indexes.ready == 0
    given(submitted(), PAUSED).when(PauseTask(task_id="t", reason="again")).then_nothing()
    resumed = given(submitted(), PAUSED).when(ResumeTask(task_id="t", reason="open"))
    resumed.then(TaskResumed(task_id="t", reason="open"))
    assert (resumed.world.tasks["t"].is_paused, resumed.world.indexes.ready) == (False, 1)


def test_a_running_task_is_not_paused() -> None:
    """What runs is told to stop by a cancellation, not by a pause."""
    given(submitted(), started()).when(PauseTask(task_id="t")).then_refused("not_pending", "'t' is running")


@pytest.mark.parametrize("command", [PauseTask(task_id="t"), ResumeTask(task_id="t")])
def test_what_has_ended_or_never_was_is_neither_paused_nor_resumed(command: Any) -> None:
    """The error says which."""
    given(submitted(), started(), completed()).when(command).then_refused("already_ended", "as completed")
    given().when(command).then_refused("not_found", "'t'")


@pytest.mark.parametrize("then", [(), (started(),), (PAUSED, TaskResumed(task_id="t"))])
def test_what_is_not_paused_is_not_resumed(then: tuple[Any, ...]) -> None:
    """Otherwise a payload that comes with it would be lost in silence."""
    given(submitted(), *then).when(ResumeTask(task_id="t", payload=OTHER)).then_refused(
        "not_paused", "nothing to resume"
    )


def test_a_paused_task_can_be_cancelled() -> None:
    """And leaves every index."""
    cancelled = given(submitted(), PAUSED).when(CancelTask(task_id="t")).then(TaskCancelled(task_id="t"))
    assert not cancelled.world.indexes.paused


@pytest.mark.parametrize("report", [complete(lease=""), fail(lease="")])
def test_a_paused_task_is_not_reported_on_without_a_claim(report: Any) -> None:
    """That would be an attempt, and it has none until it is resumed."""
    given(submitted(), PAUSED).when(report).then_refused("paused", "resume it")


def test_a_resumed_task_waits_for_its_retry_as_before() -> None:
    """A pause of an operator does not shorten the pause before a retry."""
    waiting = (submitted(), started(), attempt_failed(retry_at=BEGIN + 500.0), PAUSED)
    world = given(*waiting).when(ResumeTask(task_id="t"), at=BEGIN + 10.0).fold()
    assert (world.indexes.ready, set(world.indexes.parked_members)) == (0, {"t"})
    world = given(*waiting).when(ResumeTask(task_id="t"), at=BEGIN + 501.0).fold()
    assert world.indexes.ready == 1


# --- when no retry is left --------------------------------------------------------------------------------------------


def test_a_task_that_asks_for_it_is_paused_when_no_retry_is_left() -> None:
    """The event that pauses it ends the attempt, with all that is known of it."""
    decided = last_attempt().when(fail(error_type="OSError", traceback="where"))
    decided.then(exhausted(error_type="OSError", traceback="where")).then_answers(TaskStatus.PENDING)
    task = decided.world.tasks["t"]
    assert (task.status, task.is_paused, task.failures, task.worker_id) == (TaskStatus.PENDING, True, 1, "")
    assert [(one.attempt, one.reason, one.error_type) for one in task.attempts] == [(1, "failed", "OSError")]
    assert not decided.world.indexes.held


@pytest.mark.parametrize("report", [{"retry": False}, {"error_type": "ValueError"}])
def test_an_error_that_is_not_retried_still_ends_it(report: dict[str, Any]) -> None:
    """To try it again as it is would not help."""
    (event,) = last_attempt(max_retries=3).when(fail(**report)).events
    assert isinstance(event, TaskFailed)


def test_a_task_that_ends_its_workers_is_not_paused() -> None:
    """Who resumed it would end the next ones."""
    world = fold(submitted(retry=PAUSES, max_retries=0), started())
    task = world.tasks["t"]
    expired = failed_attempt(task, "c.1.1", "silent", "lease_expired", BEGIN, Rules(poison_after=2))
    assert expired == exhausted(cause="lease_expired", error="silent", worker_ended=True)
    poison = failed_attempt(task, "c.1.1", "silent", "lease_expired", BEGIN, Rules(poison_after=1))
    assert isinstance(poison, TaskFailed)


def test_a_repeat_of_the_report_gets_its_first_answer() -> None:
    """By its command id, after the task was resumed too."""
    world = given(submitted(retry=PAUSES, max_retries=0), started(), said(exhausted(), commandid="cmd"))
    assert world.world.outcome_of("tester", "cmd") == b"p"


def test_a_resumed_task_is_tried_as_often_as_it_was_granted() -> None:
    """Its own limit stays that of its submission, so that a repeat of that is recognised."""
    resumed = TaskResumed(task_id="t", payload=OTHER, more_retries=2)
    facts: list[Any] = [submitted(retry=PAUSES, max_retries=0, payload=payload()), started(), exhausted()]
    decided = given(*facts).when(ResumeTask(task_id="t", payload=OTHER, more_retries=2)).then(resumed)
    task = decided.world.tasks["t"]
    assert (task.payload, task.max_retries, task.retries_most) == (OTHER, 0, 2)
    again = given(*facts, resumed)
    again.when(submit(retry=PAUSES, max_retries=0, payload=payload())).then_nothing()
    again.when(submit(retry=PAUSES, max_retries=0, payload=OTHER)).then_refused("id_taken", "payload")
    facts += [resumed, started(lease="c.2.2"), attempt_failed(lease="c.2.2"), started(lease="c.3.3")]
    given(*facts).when(fail("c.3.3")).then(exhausted("c.3.3"))


def test_what_a_resumed_task_gets_is_checked() -> None:
    """As at its submission."""
    world = given(submitted(), PAUSED)
    world.when(ResumeTask(task_id="t", more_retries=-1)).then_refused("bad_number", "more_retries -1")
    world.when(ResumeTask(task_id="t", more_retries=1001)).then_refused("bad_number", "more_retries 1001")
    world.when(ResumeTask(task_id="t", reason="x" * 5000)).then_refused("bad_text", "reason")
    large = payload('"' + "x" * 1000 + '"')
    world.when(ResumeTask(task_id="t", payload=large), rules=Rules(payload_bytes_max=100)).then_refused(
        "payload_too_large"
    )
    world.when(ResumeTask(task_id="t", payload=large), rules=Rules(max_pending_bytes=1500)).then_refused("queue_full")
    world.when(ResumeTask(task_id="t", payload=large)).then(TaskResumed(task_id="t", payload=large))
    assert world.world.indexes.payload_bytes == 1002
