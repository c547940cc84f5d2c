"""Deciders of the task commands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.commands.task import CancelTask, ProgressTask, ReleaseTask, SubmitTask
from coordinator.deciders.dispatch import answer
from coordinator.deciders.retries import backoff_s
from coordinator.deciders.rules import DecisionContext, Rules
from events.base import Event
from events.coordinator import CoordinatorStarted
from events.task import (
    Payload,
    TaskAttemptFailed,
    TaskCancelled,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
)
from projections.world import OUTCOMES
from tests.specification import Given, Said, fold, given, said
from tests.unit.deciders.facts import (
    ABSURD,
    BEGIN,
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    INFINITY,
    NAN,
    attempt_failed,
    claim,
    complete,
    completed,
    fail,
    failed,
    payload,
    resources,
    started,
    submit,
    submitted,
    worker,
)

TIMED_OUT = TaskTimedOut(task_id="t", lease="c.1.1", ran_for_s=9.0, limit_s=5.0)
CANCELLED = TaskCancelled(task_id="t")
LEADS = CoordinatorStarted(instance="i", version="0", retention_s=60.0, ended_kept=10)


def refused_report(lease: str, outcome: str, worker_id: str = "") -> TaskReportRefused:
    return TaskReportRefused(task_id="t", lease=lease, outcome=outcome, worker_id=worker_id)


# --- submitting -------------------------------------------------------------------------------------------------------


def test_a_submitted_task_has_all_it_was_submitted_with() -> None:
    """Missing fields are filled from the rules at submission, so later rules do not change them."""
    order = submit(task_type="batch", priority=5, timeout_s=3600.0, resources=resources(cpu=2000), payload=payload())
    wanted = TaskSubmitted(
        task_id="t",
        task_name="work",
        task_type="batch",
        priority=5,
        timeout_s=3600.0,
        max_retries=7,
        resources=resources(cpu=2000),
        payload=payload(),
    )
    given().when(order, rules=Rules(max_retries=7)).then(wanted).then_answers("t")


def test_a_task_says_which_program_submitted_it() -> None:
    """Another program that submits it again submits no other task."""
    decided = given().when(submit(program="p-1")).then(submitted(program="p-1"))
    assert decided.world.tasks["t"].program == "p-1"
    given(submitted(program="p-1")).when(submit(program="q")).then_nothing()
    given().when(submit(program="a b")).then_refused("bad_id")


def test_retries_can_be_asked_for_or_refused_by_the_submitter() -> None:
    """Zero retries differ from no value."""
    given().when(submit(max_retries=0)).then(submitted(max_retries=0))


@pytest.mark.parametrize("later", [(), (started(),), (started(), completed()), (CANCELLED,)])
def test_submitting_the_same_task_again_is_already_so(later: tuple[Event, ...]) -> None:
    """A repeat records nothing and gets the same id, in any status of the task."""
    given(submitted(payload=payload()), *later).when(submit(payload=payload())).then_nothing().then_answers("t")


@pytest.mark.parametrize(
    ("difference", "named"),
    [
        ({"task_name": "other"}, "task_name"),
        ({"task_type": "other"}, "task_type"),
        ({"priority": 1}, "priority"),
        ({"timeout_s": 5.0}, "timeout_s"),
        ({"max_retries": 9}, "max_retries"),
        ({"resources": resources(cpu=1)}, "resources"),
        ({"payload": payload("[1]")}, "payload"),
        ({"idempotency_key": "k"}, "idempotency_key"),
        ({"requeued_from": "a"}, "requeued_from"),
    ],
)
def test_another_task_under_the_same_id_is_refused(difference: dict[str, Any], named: str) -> None:
    """The refusal names the id and what differs."""
    given(submitted()).when(submit(**difference)).then_refused("id_taken", "'t'", named)


def test_an_idempotency_key_makes_one_task() -> None:
    """A second submission under the key records nothing and gets the id of the first."""
    world = given(submitted("first", idempotency_key="k"))
    world.when(submit("second", idempotency_key="k")).then_nothing().then_answers("first")


def test_an_idempotency_key_belongs_to_its_tenant() -> None:
    """Another tenant's equal key is another key."""
    world = given(said(submitted("first", idempotency_key="k"), tenant="red"))
    world.when(submit("second", idempotency_key="k"), tenant="blue").then(submitted("second", idempotency_key="k"))


def test_another_task_under_the_same_idempotency_key_is_refused() -> None:
    """The refusal names the key, because the new id is free."""
    world = given(submitted("first", idempotency_key="k"))
    world.when(submit("second", idempotency_key="k", priority=9)).then_refused("id_taken", "'k'", "priority")


def test_an_idempotency_key_outlives_its_task() -> None:
    """The task was evicted, but its key is still known: nothing is recorded, and the answer is the old id."""
    world = given(submitted("first", idempotency_key="k"), started("first"), completed("first"))
    world.scribe.commit(said(worker("late"), at=BEGIN + 4000.0))
    assert "first" not in world.world.tasks
    world.when(submit("second", idempotency_key="k")).then_nothing().then_answers("first")


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    """Ended and running tasks do not count as pending; a repeat is accepted even then."""
    rules = Rules(max_pending_tasks=1)
    world = given(submitted("a"), started("a"), submitted("b"))
    error = world.when(submit("d"), rules=rules).then_refused("queue_full", "1 tasks", "max_pending_tasks")
    assert error.retry_after_s is not None
    world.when(submit("b"), rules=rules).then_nothing()


def large(size: int, letter: str = "x") -> Payload:
    return payload(letter * size, encoding="text")


def test_the_bytes_of_payloads_are_bounded() -> None:
    """A source has half of what the others leave, of what has not ended; small payloads and repeats do not count."""
    rules, none = Rules(max_pending_bytes=10_000), Rules(max_pending_bytes=1)
    four = [said(submitted(one, payload=large(1000)), actor="ann") for one in "abcd"]
    world = given(*four, started("a"))
    assert world.when(submit("e", payload=large(1000)), rules=rules, actor="ann").events
    told = ("1001 bytes", "ann", "4000", "others 0", "10000", "scheduler.max_pending_bytes")
    error = world.when(submit("e", payload=large(1001)), rules=rules, actor="ann").then_refused("queue_full", *told)
    assert error.retry_after_s is not None
    assert world.when(submit("e", payload=large(256)), rules=none, actor="ann").events
    world.when(submit("d", payload=large(1000)), rules=none, actor="ann").then_nothing()
    assert world.when(submit("e", payload=large(3000)), rules=rules, actor="bob").events
    world.when(submit("e", payload=large(3001)), rules=rules, actor="bob").then_refused("queue_full", "others 4000")
    world = given(*four, started("a"), completed("a"))
    assert world.when(submit("e", payload=large(2000)), rules=rules, actor="ann").events


def test_bytes_of_payloads_are_those_of_utf_8() -> None:
    """Where characters have several."""
    world = given(said(submitted("a", payload=large(1000, "é")), actor="ann"))
    rules = Rules(max_pending_bytes=6000)
    assert world.when(submit("b", payload=large(500, "é")), rules=rules, actor="ann").events
    world.when(submit("b", payload=large(501, "é")), rules=rules, actor="ann").then_refused("queue_full", "1002 bytes")


@pytest.mark.parametrize("task_id", HOSTILE_IDS)
def test_a_task_needs_an_id_that_may_stand_in_subjects(task_id: str) -> None:
    """The refusal states the form of an id."""
    given().when(submit(task_id)).then_refused("bad_id", "task_id", "A-Z a-z 0-9 _ -", code="refused")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("field", ["task_name", "task_type", "idempotency_key"])
def test_names_of_tasks_are_printable(field: str, text: str) -> None:
    """Control characters would end up in logs and terminals; the message shows them escaped."""
    wrong: dict[str, Any] = {field: text}
    error = given().when(submit(**wrong)).then_refused("bad_text", field, "printable")
    assert error.message.isascii()


@pytest.mark.parametrize(
    ("difference", "named"),
    [
        ({"task_name": ""}, ("task_name", "1 to 128")),
        ({"task_name": "x" * 129}, ("task_name", "129 characters")),
        ({"idempotency_key": "x" * 257}, ("idempotency_key", "257 characters")),
    ],
)
def test_names_of_tasks_have_a_length(difference: dict[str, Any], named: tuple[str, ...]) -> None:
    """The refusal states the length and the allowed length."""
    given().when(submit(**difference)).then_refused("bad_text", *named)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("priority", value) for value in (NAN, INFINITY, -INFINITY, 1_000_001, -1_000_001)],
        *[("timeout_s", value) for value in (NAN, INFINITY, 0.0, -1.0, 367 * 86_400.0)],
        *[("max_retries", value) for value in (NAN, INFINITY, -1, 1001)],
    ],
)
def test_numbers_of_tasks_are_finite_and_in_range(field: str, value: float) -> None:
    """The refusal names the number and the range; NaN is outside of every range."""
    wrong: dict[str, Any] = {field: value}
    given().when(submit(**wrong)).then_refused("bad_number", field, repr(value), "use ")


@pytest.mark.parametrize("asked", ABSURD)
def test_a_task_cannot_ask_for_less_than_nothing(asked: object) -> None:
    """Negative amounts would add room for others."""
    given().when(submit(resources=asked)).then_refused("bad_number", "resources.", "use 0 to ")


@pytest.mark.parametrize(
    ("wrong", "reason", "named"),
    [
        (payload(encoding="pickle"), "bad_payload", "'pickle'"),
        (payload("x" * 65_537), "payload_too_large", "65537 bytes"),
        (payload("ä" * 32_769), "payload_too_large", "65538 bytes"),
        (payload("\ud800" * 65_537), "payload_too_large", "65537 bytes"),
        (payload(digest="0f"), "bad_payload", "SHA-256"),
        (payload(digest="g" * 64), "bad_payload", "SHA-256"),
        (payload(digest="٣" * 64), "bad_payload", "SHA-256"),
        (payload(ref="obj_1"), "bad_payload", "payload.ref 'obj_1' has no effect yet: send the data itself"),
    ],
)
def test_a_payload_must_fit_into_the_journal(wrong: object, reason: str, named: str) -> None:
    """The refusal says what is wrong with it."""
    given().when(submit(payload=wrong)).then_refused(reason, named)


def test_a_payload_of_just_the_limit_is_taken() -> None:
    """Bytes are counted, not characters."""
    given().when(submit(payload=payload("ä" * 32_768))).then(submitted(payload=payload("ä" * 32_768)))


# --- completing -------------------------------------------------------------------------------------------------------


def test_the_holder_of_the_lease_completes() -> None:
    """The event records its result and execution time."""
    order = complete(execution_time_s=120.5, result=payload("[1]"))
    world = given(submitted(), started()).when(order)
    world.then(completed(execution_time_s=120.5, result=payload("[1]"))).then_answers(None)


def test_completing_again_is_already_so() -> None:
    """A repeat changes nothing, with or without the lease, whatever its result."""
    world = given(submitted(), started(), completed())
    world.when(complete()).then_nothing()
    world.when(complete("", result=payload("[9]"))).then_nothing()


def test_a_task_nobody_holds_is_completed_without_a_lease() -> None:
    """This is an attempt that starts and ends at once, by the reporting worker."""
    begun = TaskStarted(task_id="t", worker_id="me", claim_id="direct", attempt=1, lease="direct.1")
    world = given(submitted()).when(complete("", worker_id="me"))
    assert world.then(begun, completed(lease="direct.1")).world.tasks["t"].worker_id == "me"


def test_a_task_that_waits_for_its_retry_is_completed_without_a_lease() -> None:
    """The attempt of a direct report has the next number."""
    begun = TaskStarted(task_id="t", worker_id="direct", claim_id="direct", attempt=2, lease="direct.2")
    waiting = given(submitted(), started(), attempt_failed(retry_at=BEGIN + 500.0))
    waiting.when(complete("")).then(begun, completed(lease="direct.2"))


def test_a_task_that_is_held_is_not_completed_without_its_lease() -> None:
    """The refusal names the holder; no event is recorded, because no false lease was used."""
    world = given(submitted(), started()).when(complete(""))
    world.then_refused("stale_lease", "worker 'w'", "pass the lease", code="stale_lease")


REQUEUED = (submitted(), started(), attempt_failed(reason="lease_expired"))


@pytest.mark.parametrize(
    "facts",
    [REQUEUED, (*REQUEUED, started(lease="d.1.2")), (*REQUEUED, started(lease="d.1.2"), completed(lease="d.1.2"))],
)
def test_a_late_completion_is_refused_and_recorded_once(facts: tuple[Event, ...]) -> None:
    """A worker that lost its lease must not overwrite a later attempt; a repeat of the late report records nothing."""
    world = given(*facts)
    late = complete("c.1.1", worker_id="w")
    fact = refused_report("c.1.1", "completed", "w")
    world.when(late).then_refused("stale_lease", "'c.1.1'", "not held", code="stale_lease", facts=(fact,))
    given(*facts, fact).when(late).then_refused("stale_lease", facts=())


def test_a_late_report_changes_nothing_but_the_record() -> None:
    """The refused lease is folded; the holder of the task does not change."""
    task = fold(*REQUEUED, started(lease="d.1.2"), refused_report("c.1.1", "completed")).tasks["t"]
    assert (task.status, task.lease, task.refused_lease) == (TaskStatus.RUNNING, "d.1.2", "c.1.1")


@pytest.mark.parametrize("end", [CANCELLED, TIMED_OUT, failed()])
@pytest.mark.parametrize("lease", ["", "c.1.1"])
def test_a_task_that_ended_otherwise_is_not_completed(end: Event, lease: str) -> None:
    """A task ends once; the refusal states how."""
    error = (
        given(submitted(), started(), end).when(complete(lease)).then_refused("already_ended", "cannot be completed")
    )
    assert fold(submitted(), started(), end).tasks["t"].status.value in error.message


def test_a_lease_never_given_is_refused_before_it_is_written_down() -> None:
    """Text that is too long or unprintable is refused and does not enter the journal."""
    world = given(submitted(), started())
    world.when(complete("x" * 81)).then_refused("bad_text", "lease", "81 characters")
    world.when(complete("\ud800")).then_refused("bad_text", "lease")
    world.when(complete("nonsense", worker_id="a b")).then_refused("bad_id", "worker_id")
    world.when(complete("nonsense")).then_refused("stale_lease", facts=(refused_report("nonsense", "completed"),))


def test_a_pending_task_needs_a_worker_with_an_id() -> None:
    """The worker id of a direct report is checked like any other."""
    given(submitted()).when(complete("", worker_id="a.b")).then_refused("bad_id", "worker_id")


@pytest.mark.parametrize("time_s", [NAN, INFINITY, -0.1])
def test_an_execution_time_is_a_duration(time_s: float) -> None:
    """Not a number, infinite or negative is refused."""
    world = given(submitted(), started())
    world.when(complete(execution_time_s=time_s)).then_refused("bad_number", "execution_time", repr(time_s))


def test_a_result_is_checked_like_a_payload() -> None:
    """The result enters the journal too."""
    world = given(submitted(), started())
    world.when(complete(result=payload(encoding="xml"))).then_refused("bad_payload", "result.encoding")


@pytest.mark.parametrize("order", [complete(), fail(), CancelTask(task_id="t"), ReleaseTask(task_id="t", lease="l")])
def test_a_task_that_never_was_is_not_found(order: SubmitTask) -> None:
    """The error names it."""
    given().when(order).then_refused("not_found", "'t'", code="not_found")


# --- failing ----------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_goes_back_to_the_queue() -> None:
    """The retry is due after its pause, which starts to double."""
    world = given(submitted(), started())
    decided = world.when(fail(error="no disk"), at=BEGIN + 10.0)
    (event,) = decided.events
    assert isinstance(event, TaskAttemptFailed)
    assert 0.5 < event.retry_at - (BEGIN + 10.0) <= 1.0
    decided.then(attempt_failed(error="no disk", retry_at=event.retry_at)).then_answers(TaskStatus.PENDING)


def test_a_task_fails_when_its_retries_are_used_up() -> None:
    """With two retries there are three attempts."""
    facts: list[Event] = [submitted(max_retries=2)]
    for attempt in (1, 2):
        facts += [started(lease=f"c.1.{attempt}"), attempt_failed(lease=f"c.1.{attempt}")]
    world = given(*facts, started(lease="c.1.3")).when(fail("c.1.3"))
    world.then(failed(lease="c.1.3")).then_answers(TaskStatus.FAILED)


def test_a_task_that_must_not_be_retried_fails_at_once() -> None:
    """The report overrides the count of retries."""
    given(submitted(), started()).when(fail(retry=False)).then(failed())


def test_failing_again_is_already_so() -> None:
    """The task has failed: a report under the same lease adds no further failure."""
    ended = given(submitted(max_retries=0), started(), failed())
    ended.when(fail()).then_nothing().then_answers(TaskStatus.FAILED)
    ended.when(fail("")).then_nothing()


def test_a_failure_of_what_waits_again_is_late() -> None:
    """The lease is refused, as after the start of the next attempt; the command id identifies a repeat."""
    waiting = given(submitted(), started(), attempt_failed(reason="lease_expired"))
    waiting.when(fail()).then_refused("stale_lease", "pending", facts=(refused_report("c.1.1", "failed"),))


def test_a_late_failure_does_not_touch_the_attempt_that_came_after() -> None:
    """The task runs again under another lease; the old one is refused and recorded."""
    world = given(*REQUEUED, started(lease="d.1.2"))
    world.when(fail()).then_refused("stale_lease", facts=(refused_report("c.1.1", "failed"),))


@pytest.mark.parametrize("end", [CANCELLED, TIMED_OUT, completed()])
def test_a_task_that_ended_otherwise_does_not_fail(end: Event) -> None:
    """A task ends once."""
    given(submitted(), started(), end).when(fail()).then_refused("already_ended", "cannot be failed")


def test_a_task_nobody_holds_fails_without_a_lease() -> None:
    """As for a completion, this is an attempt of its own; it counts."""
    begun = TaskStarted(task_id="t", worker_id="direct", claim_id="direct", attempt=1, lease="direct.1")
    given(submitted(max_retries=0)).when(fail("")).then(begun, failed(lease="direct.1"))


def test_an_error_is_cut_to_what_the_journal_takes() -> None:
    """A long error must not make a failure impossible to report; it says that it was cut."""
    world = given(submitted(max_retries=0), started()).when(fail(error="x" * 5000))
    world.then(failed(error=f"{'x' * 1005}… (5000 characters)"))


@for_all(failures=st.integers(0, 5000), task_id=st.text("abc", min_size=1, max_size=8), attempt=st.integers(1, 9))
def test_pauses_double_up_to_a_limit_and_are_the_same_each_time(failures: int, task_id: str, attempt: int) -> None:
    """The jitter takes up to half of the pause and is derived from the id; no count of failures overflows."""
    task = fold(submitted(task_id), started(task_id)).tasks[task_id]
    failing = replace(task, attempt=attempt, failures=failures)
    rules = Rules(retry_backoff_s=2.0, retry_backoff_max_s=60.0)
    most = min(2.0 * 2 ** min(failures, 50), 60.0)
    assert most / 2 <= backoff_s(failing, rules) <= most
    assert backoff_s(failing, rules) == backoff_s(failing, rules)


def test_tasks_that_failed_together_do_not_come_back_together() -> None:
    """The pauses of many tasks are spread over the second half of the longest."""
    tasks = fold(*(submitted(f"t{number}") for number in range(50))).tasks.values()
    assert len({backoff_s(task, Rules()) for task in tasks}) == 50


# --- releasing, progress, cancelling ----------------------------------------------------------------------------------


def test_a_released_attempt_does_not_count() -> None:
    """The task is ready again at once, and has as many retries left as before."""
    world = given(submitted(), started())
    decided = world.when(ReleaseTask(task_id="t", lease="c.1.1", reason="too busy"), at=BEGIN + 5.0)
    decided.then(attempt_failed(error="too busy", reason="released", retry_at=BEGIN + 5.0))
    assert (world.world.tasks["t"].failures, world.world.tasks["t"].attempt) == (0, 1)


def test_only_an_attempt_can_be_released_or_make_progress() -> None:
    """Without a lease there is no attempt, so a pause before a retry cannot be cut short by releasing nothing."""
    waiting = given(submitted(), started(), attempt_failed(retry_at=BEGIN + 500.0))
    waiting.when(ReleaseTask(task_id="t", lease="")).then_refused("stale_lease", "pending")
    waiting.when(ProgressTask(task_id="t", lease="", progress=0.5)).then_refused("stale_lease", "pending")


def test_a_late_release_is_refused_and_recorded() -> None:
    """The later attempt stays with its holder."""
    world = given(*REQUEUED, started(lease="d.1.2"))
    fact = refused_report("c.1.1", "released")
    world.when(ReleaseTask(task_id="t", lease="c.1.1")).then_refused("stale_lease", facts=(fact,))


def test_progress_is_recorded_when_it_is_news() -> None:
    """The same progress again changes nothing."""
    order = ProgressTask(task_id="t", lease="c.1.1", progress=0.5, message="half")
    news = TaskProgressed(task_id="t", lease="c.1.1", progress=0.5, message="half")
    given(submitted(), started()).when(order).then(news)
    given(submitted(), started(), news).when(order).then_nothing()


def test_progress_of_a_lost_attempt_is_refused() -> None:
    """The refusal tells the worker that it may stop."""
    order = ProgressTask(task_id="t", lease="c.1.1", progress=0.5)
    given(*REQUEUED).when(order).then_refused("stale_lease", facts=(refused_report("c.1.1", "progress"),))


@pytest.mark.parametrize("progress", [NAN, INFINITY, -0.1, 1.1])
def test_progress_is_a_share(progress: float) -> None:
    """It lies between 0 and 1."""
    order = ProgressTask(task_id="t", lease="c.1.1", progress=progress)
    given(submitted(), started()).when(order).then_refused("bad_number", "progress", repr(progress), "0 to 1")


def test_messages_of_progress_are_printable() -> None:
    """They are shown on terminals."""
    order = ProgressTask(task_id="t", lease="c.1.1", progress=0.1, message="\x1b[2J")
    given(submitted(), started()).when(order).then_refused("bad_text", "message")


@pytest.mark.parametrize("facts", [(), (started(),), (started(), attempt_failed())])
def test_a_task_is_called_off_while_it_has_not_ended(facts: tuple[Event, ...]) -> None:
    """Waiting, running or waiting for its retry."""
    order = CancelTask(task_id="t", reason="not needed")
    wanted = TaskCancelled(task_id="t", reason="not needed")
    given(submitted(), *facts).when(order).then(wanted).then_answers(TaskStatus.CANCELLED)


def test_calling_off_again_is_already_so() -> None:
    """The first reason is kept."""
    order = CancelTask(task_id="t", reason="another")
    given(submitted(), CANCELLED).when(order).then_nothing().then_answers(TaskStatus.CANCELLED)


@pytest.mark.parametrize("end", [TIMED_OUT, completed(), TaskFailed(task_id="t", lease="c.1.1", error="", reason="")])
def test_what_has_ended_cannot_be_called_off(end: Event) -> None:
    """The refusal states how the task ended."""
    world = given(submitted(), started(), end)
    world.when(CancelTask(task_id="t")).then_refused("already_ended", world.world.tasks["t"].status.value)


def test_a_reason_for_calling_off_is_short_and_printable() -> None:
    """The reason enters the journal."""
    given(submitted()).when(CancelTask(task_id="t", reason="x" * 1025)).then_refused("bad_text", "1025 characters")


def test_a_claimed_task_survives_the_claim_being_asked_again() -> None:
    """A repeated claim gets its tasks again, under the same lease."""
    given(submitted(), worker(), started()).when(claim()).then_nothing()


def test_a_completed_task_says_who_ended_it() -> None:
    """The end names the actor of the command."""
    decided = given(submitted(), started()).when(complete(), actor="executor")
    assert decided.then(completed()).world.tasks["t"].ended_by == "executor"


# --- repeats long after -----------------------------------------------------------------------------------------------


def test_another_payload_under_a_key_is_refused_after_the_end_too() -> None:
    """The digest is kept with the task, and with the key after the task is evicted."""
    facts = (
        submitted("first", idempotency_key="k", payload=payload("1", digest="1" * 64)),
        started("first"),
        completed("first"),
    )
    other = submit("second", idempotency_key="k", payload=payload("2", digest="2" * 64))
    same = submit("second", idempotency_key="k", payload=payload("1", digest="1" * 64))
    ended = given(*facts)
    ended.when(other).then_refused("id_taken", "payload")
    ended.when(same).then_nothing().then_answers("first")
    gone = given(*facts)
    del gone.world.tasks["first"]
    gone.when(other).then_refused("id_taken", "payload")
    gone.when(same).then_nothing().then_answers("first")


def test_who_leaves_retries_to_the_settings_may_repeat_after_they_changed() -> None:
    """A repeat without a number is accepted; one with another number is refused."""
    facts = given(submitted(max_retries=7))
    facts.when(submit(max_retries=None)).then_nothing()
    facts.when(submit(max_retries=3)).then_refused("id_taken", "max_retries")


def evicted(*facts: Event | Said) -> Given:
    """Say the facts, and evict every task that has ended; its id is remembered."""
    world = given(LEADS, *facts)
    world.scribe.commit(said(submitted("later"), at=BEGIN + 100.0))
    assert set(world.world.tasks) == {"later"}
    return world


def test_a_repeated_submit_makes_no_second_task_after_the_first_was_evicted() -> None:
    """However few ended tasks are kept: the same content is a repeat, another is refused."""
    world = evicted(submitted(priority=3, resources=resources(cpu=10)), started(), completed())
    world.when(submit(priority=3, resources=resources(cpu=10))).then_nothing().then_answers("t")
    for other in (submit(), submit(priority=3, resources=resources(cpu=10), max_retries=9)):
        world.when(other).then_refused("id_taken", "'t'", "ended")


def test_a_repeat_of_an_evicted_task_with_a_key_is_answered_with_the_task_of_the_key() -> None:
    """The id is known by itself, too, when the key has been forgotten."""
    world = evicted(submitted(idempotency_key="k"), started(), completed())
    world.when(submit(idempotency_key="k")).then_nothing().then_answers("t")
    world.scribe.commit(said(submitted("more"), at=BEGIN + 500.0))
    world.world.memory.forget("default", BEGIN + 1e6)
    world.world.memory._open.pop(("key", "default"), None)
    world.when(submit(idempotency_key="k")).then_nothing().then_answers("t")


def test_repeated_reports_of_an_evicted_task_get_their_first_answer() -> None:
    """With the lease that ended it, or without one; another lease is stale, another outcome refused."""
    world = evicted(submitted(), started(), completed())
    for lease in ("", "c.1.1"):
        world.when(complete(lease)).then_nothing()
        world.when(fail(lease)).then_refused("already_ended", "completed")
    for late in (complete("c.9.9"), fail("c.9.9"), ReleaseTask(task_id="t", lease="c.9.9")):
        world.when(late).then_refused("stale_lease", "c.9.9", "ended as completed")
    world.when(ProgressTask(task_id="t", lease="c.1.1", progress=0.5)).then_refused("stale_lease")
    world.when(CancelTask(task_id="t")).then_refused("already_ended", "completed")
    ended = evicted(submitted(max_retries=0), started(), failed())
    ended.when(fail()).then_nothing().then_answers(TaskStatus.FAILED)
    ended.when(complete()).then_refused("already_ended", "failed")
    gone = evicted(submitted(), CANCELLED)
    gone.when(CancelTask(task_id="t")).then_nothing().then_answers(TaskStatus.CANCELLED)


def test_a_repeated_failure_gets_the_status_of_the_first_time() -> None:
    """Whatever became of the task since."""
    world = given(submitted(), started(), completed()).world
    for event, status in ((TaskAttemptFailed, TaskStatus.PENDING), (TaskFailed, TaskStatus.FAILED)):
        context = DecisionContext(BEGIN, Rules(), outcome=OUTCOMES[event])
        assert answer(world, fail(), context, (), again=True) is status
    assert answer(world, fail(), DecisionContext(BEGIN, Rules(), outcome=b"-"), (), again=True) is TaskStatus.COMPLETED


def test_no_task_is_accepted_when_the_memory_is_full() -> None:
    """A repeat is; a new one must wait, for its own end could not be remembered."""
    world = evicted(submitted("a"), started("a"), completed("a"))
    rules = Rules(remembered_max=1)
    error = world.when(submit("new"), rules=rules).then_refused(
        "memory_full", "engine.remembered_max", code="unavailable"
    )
    assert error.retry_after_s is not None
    world.when(submit("a"), rules=rules).then_nothing()
    world.when(CancelTask(task_id="later"), rules=rules).then(TaskCancelled(task_id="later"))


# --- attributes -------------------------------------------------------------------------------------------------------


def test_attributes_are_what_was_given() -> None:
    """Texts, numbers and truth values; a repeat says the same."""
    attributes: dict[str, Any] = {"customer": "acme", "pages": 12, "share": 0.5, "urgent": True}
    decided = given().when(submit(attributes=attributes)).then(submitted(attributes=attributes))
    assert decided.world.tasks["t"].attributes == attributes
    given(submitted(attributes=attributes)).when(submit(attributes=attributes)).then_nothing()
    given(submitted(attributes=attributes)).when(submit()).then_refused("id_taken", "attributes")


@pytest.mark.parametrize(
    ("attributes", "reason", "named"),
    [
        ({f"a{number}": 1 for number in range(17)}, "too_many", "17 names"),
        ({"a b": 1}, "bad_text", "'a b'"),
        ({"1a": 1}, "bad_text", "'1a'"),
        ({"é": 1}, "bad_text", "'é'"),
        ({"a": "x\n"}, "bad_text", "attributes.a"),
        ({"a": "x" * 1025}, "bad_text", "attributes.a"),
        ({"a": NAN}, "bad_number", "attributes.a"),
        ({"a": 2**60}, "bad_number", "attributes.a"),
        ({"a": "x" * 600, "b": "y" * 600}, "bad_attributes", "1202 bytes"),
    ],
)
def test_attributes_that_are_none_are_refused(attributes: dict[str, Any], reason: str, named: str) -> None:
    """With what would be right."""
    given().when(submit(attributes=attributes)).then_refused(reason, named)
