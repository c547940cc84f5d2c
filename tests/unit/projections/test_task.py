"""Tasks: the state after each event, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from events.base import START, Position
from events.cancel_ladder import TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.errors import Corrupt
from events.resources import Resources
from events.task import (
    Payload,
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
)
from projections.cancelling import Cancelling
from projections.stamp import Stamp
from projections.task import ENDED, LEGAL, Task, evolve
from tests.specification import ACTOR, BEGIN, fold, said, write

if TYPE_CHECKING:
    from events.base import Event

PAYLOAD = Payload(encoding="text", digest="d", data="x")
SUBMITTED = TaskSubmitted(
    task_id="t",
    task_name="n",
    task_type="y",
    priority=3,
    timeout_s=4.0,
    max_retries=2,
    resources=Resources(cpu_millis=5),
    payload=PAYLOAD,
    idempotency_key="k",
)
STARTED = TaskStarted(task_id="t", worker_id="w", claim_id="c", attempt=1, lease="c.1")


def attempt_failed(reason: str, retry_at: float = 7.0) -> TaskAttemptFailed:
    return TaskAttemptFailed(task_id="t", lease="c.1", error="e", reason=reason, retry_at=retry_at)


@pytest.mark.parametrize("asked", [(), (TaskCancelAsked(task_id="t", grace_s=1.0),)])
@pytest.mark.parametrize("kind", [TaskCancelTold, TaskCancelForced])
def test_a_step_of_a_cancellation_that_nobody_asked_for_is_corrupt(asked: tuple[Event, ...], kind: type[Any]) -> None:
    """Or one of another attempt."""
    scribe = write(SUBMITTED, STARTED, *asked)
    more = {"how": "raised"} if kind is TaskCancelForced else {}
    with pytest.raises(Corrupt, match="was not asked for"):
        scribe.commit(kind(task_id="t", lease="c.9" if asked else "c.1", **more))


def test_a_task_that_is_cancelled_step_by_step_says_how_far_it_is() -> None:
    """By whom, when, and until when; the next event names the last step as its cause."""
    steps = (
        said(TaskCancelAsked(task_id="t", grace_s=5.0, reason="r"), actor="ann", causationid="2.0"),
        said(TaskCancelTold(task_id="t", lease="c.1"), causationid="3.0"),
        said(TaskCancelForced(task_id="t", lease="c.1", how="raised"), causationid="4.0"),
    )
    task = fold(SUBMITTED, STARTED, *steps).tasks["t"]
    assert (task.status, task.latest) == (TaskStatus.RUNNING, Position(5, 0))
    assert task.cancelling == Cancelling(
        asked_at=BEGIN + 2, until=BEGIN + 7, by="ann", reason="r", told_at=BEGIN + 3, forced="raised"
    )
    ended = fold(SUBMITTED, STARTED, *steps, TaskCancelled(task_id="t", reason="r", how="ended")).tasks["t"]
    assert (ended.status, ended.ended_by, ended.error) == (TaskStatus.CANCELLED, "ann", "r")


def test_a_submitted_task_is_all_that_was_submitted() -> None:
    """Every field of the event, and where, when and for whom it was accepted."""
    task = fold(said(SUBMITTED, tenant="acme")).tasks["t"]
    assert task == Task(
        task_id="t",
        task_name="n",
        status=TaskStatus.PENDING,
        submitted=Position(1, 0),
        submitted_at=BEGIN,
        task_type="y",
        tenant="acme",
        source=ACTOR,
        priority=3,
        timeout_s=4.0,
        max_retries=2,
        resources=Resources(cpu_millis=5),
        payload=PAYLOAD,
        payload_digest=f"{PAYLOAD.encoding}:{PAYLOAD.digest}",
        idempotency_key="k",
    )
    assert not task.is_ended


def test_a_started_task_runs_under_a_lease() -> None:
    """Worker, start time and number of the attempt; progress of an earlier attempt is reset."""
    before = fold(SUBMITTED).tasks["t"]
    after = fold(SUBMITTED, STARTED).tasks["t"]
    assert after == msgspec.structs.replace(
        before,
        status=TaskStatus.RUNNING,
        worker_id="w",
        claim_id="c",
        attempt=1,
        lease="c.1",
        started_at=BEGIN + 1,
    )
    again = fold(
        SUBMITTED,
        STARTED,
        TaskProgressed(task_id="t", lease="c.1", progress=0.5, message="half"),
        attempt_failed("failed"),
        TaskStarted(task_id="t", worker_id="v", claim_id="d", attempt=2, lease="d.2"),
    ).tasks["t"]
    assert (again.progress, again.progress_message) == (0.0, "")
    assert (again.worker_id, again.claim_id, again.attempt, again.lease) == ("v", "d", 2, "d.2")
    assert again.started_at == BEGIN + 4


@pytest.mark.parametrize("attempt", [0, 1, 3, -2])
def test_attempts_are_counted_without_a_gap(attempt: int) -> None:
    """The number identifies the attempt; a repeated or skipped number is Corrupt."""
    with pytest.raises(Corrupt, match=f"event 4.0 starts attempt {attempt} of 't' after attempt 1"):
        fold(SUBMITTED, STARTED, attempt_failed("released"), msgspec.structs.replace(STARTED, attempt=attempt))


def test_progress_is_kept() -> None:
    """The last report is kept, and nothing else changes."""
    running = fold(SUBMITTED, STARTED).tasks["t"]
    told = fold(SUBMITTED, STARTED, TaskProgressed(task_id="t", lease="c.1", progress=0.25, message="m")).tasks["t"]
    assert told == msgspec.structs.replace(running, progress=0.25, progress_message="m")


def test_attempts_whose_worker_ended_are_counted() -> None:
    """Releases before this count did not say so in the event: what they wrote counts as nothing."""
    lapsed = msgspec.structs.replace(attempt_failed("lease_expired"), worker_ended=True)
    again = msgspec.structs.replace(STARTED, attempt=2, lease="c.2")
    old = fold(SUBMITTED, STARTED, attempt_failed("lease_expired")).tasks["t"]
    assert (old.failures, old.lapses) == (1, 0)
    poison = TaskFailed(task_id="t", lease="c.2", error="enough", reason="poison")
    assert fold(SUBMITTED, STARTED, lapsed).tasks["t"].lapses == 1
    assert fold(SUBMITTED, STARTED, lapsed, again, poison).tasks["t"].lapses == 2


@pytest.mark.parametrize(("reason", "counted"), [("failed", 1), ("lease_expired", 1), ("released", 0)])
def test_a_failed_attempt_waits_again_and_counts_unless_released(reason: str, counted: int) -> None:
    """No worker holds it, and it waits for its retry time; attempt number and lease stay, for late reports."""
    running = fold(SUBMITTED, STARTED).tasks["t"]
    waiting = fold(SUBMITTED, STARTED, attempt_failed(reason)).tasks["t"]
    assert waiting == msgspec.structs.replace(
        running,
        status=TaskStatus.PENDING,
        failures=counted,
        worker_id="",
        claim_id="",
        retry_at=7.0,
        error="e",
    )
    assert (waiting.lease, waiting.attempt, waiting.payload) == ("c.1", 1, PAYLOAD)


def test_a_completed_task_keeps_its_result_and_drops_its_payload() -> None:
    """The payload is dropped, and so is the error of an earlier attempt."""
    result = Payload(encoding="text", digest="r", data="y")
    task = fold(
        SUBMITTED,
        STARTED,
        attempt_failed("failed"),
        TaskStarted(task_id="t", worker_id="w", claim_id="d", attempt=2, lease="d.2"),
        said(TaskCompleted(task_id="t", lease="d.2", execution_time_s=1.5, result=result), actor="w"),
    ).tasks["t"]
    assert task.status is TaskStatus.COMPLETED
    assert (task.result, task.execution_time_s, task.payload, task.error) == (result, 1.5, None, "")
    assert (task.ended_at, task.ended, task.ended_by) == (BEGIN + 4, Position(5, 0), "w")
    assert (task.failures, task.attempt) == (1, 2)


@pytest.mark.parametrize(
    ("event", "status", "error", "failures"),
    [
        (TaskFailed(task_id="t", lease="c.1", error="boom", reason="failed"), TaskStatus.FAILED, "boom", 1),
        (TaskCancelled(task_id="t", reason="no need"), TaskStatus.CANCELLED, "no need", 0),
        (
            TaskTimedOut(task_id="t", lease="c.1", ran_for_s=4.0625, limit_s=4.0),
            TaskStatus.TIMEOUT,
            "ran for 4.062 s, limit 4 s",
            0,
        ),
    ],
    ids=["failed", "cancelled", "timed_out"],
)
def test_a_task_that_ends_badly_says_why(
    event: TaskFailed | TaskCancelled | TaskTimedOut, status: TaskStatus, error: str, failures: int
) -> None:
    """Status, reason, time and actor; the payload is dropped, the last lease and worker are kept."""
    running = fold(SUBMITTED, STARTED).tasks["t"]
    ended = fold(SUBMITTED, STARTED, said(event, actor="me")).tasks["t"]
    assert ended == msgspec.structs.replace(
        running,
        status=status,
        error=error,
        failures=failures,
        payload=None,
        ended_at=BEGIN + 2,
        ended=Position(3, 0),
        ended_by="me",
    )
    assert ended.is_ended


@pytest.mark.parametrize("status", TaskStatus)
def test_a_task_is_ended_where_nothing_leads_on(status: TaskStatus) -> None:
    """`is_ended`, `ENDED` and `LEGAL` agree."""
    task = Task(task_id="t", task_name="n", status=status, submitted=START, submitted_at=0.0)
    assert task.is_ended == (status in ENDED) == (not LEGAL[status])


def test_a_refused_report_is_on_record_and_changes_nothing_else() -> None:
    """Waiting, running or ended: only the refused lease changes."""
    refused = TaskReportRefused(task_id="t", lease="old", outcome="completed", worker_id="w")
    for path in [(SUBMITTED,), (SUBMITTED, STARTED), (SUBMITTED, STARTED, TaskCompleted(task_id="t", lease="c.1"))]:
        before = fold(*path).tasks["t"]
        assert fold(*path, refused).tasks["t"] == msgspec.structs.replace(before, refused_lease="old")


def test_the_fold_of_one_event_depends_on_nothing_else() -> None:
    """Two calls return equal values, and the argument does not change."""
    stamp = Stamp(Position(2, 0), 5.0)
    before = fold(SUBMITTED).tasks["t"]
    copy = msgspec.structs.replace(before)
    assert evolve(before, STARTED, stamp) == evolve(before, STARTED, stamp)
    assert before == copy
