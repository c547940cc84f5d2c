"""Retry policies: what is accepted, the pause before each retry, and which errors end a task."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.deciders.retries import backoff_s
from coordinator.deciders.rules import Rules
from events.coordinator import CoordinatorStarted
from events.retry import BACKOFFS, PAUSE_MAX_S, RetryPolicy
from events.task import TaskAttemptFailed, TaskFailed, TaskStatus
from projections.task import ATTEMPTS_KEPT, Task
from tests.specification import fold, given
from tests.unit.deciders.facts import BEGIN, attempt_failed, fail, failed, started, submit, submitted

POLICIES = st.builds(
    RetryPolicy,
    backoff=st.sampled_from(BACKOFFS),
    first_s=st.none() | st.floats(0, PAUSE_MAX_S),
    most_s=st.none() | st.floats(0, PAUSE_MAX_S),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
).filter(lambda one: one.first_s is None or one.most_s is None or one.first_s <= one.most_s)


def _failing(policy: RetryPolicy | None, failures: int, attempt: int = 1) -> Task:
    task = fold(submitted(retry=policy, max_retries=1000), started()).tasks["t"]
    return replace(task, failures=failures, attempt=attempt)


def _pauses(policy: RetryPolicy, count: int) -> list[float]:
    return [backoff_s(_failing(policy, failures), Rules()) for failures in range(count)]


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        (RetryPolicy(first_s=2.0, most_s=10.0, jitter=0.0), [2.0, 4.0, 8.0, 10.0]),
        (RetryPolicy(first_s=1.0, factor=10.0, jitter=0.0), [1.0, 10.0, 60.0, 60.0]),
        (RetryPolicy(backoff="linear", first_s=2.0, most_s=5.0, jitter=0.0), [2.0, 4.0, 5.0, 5.0]),
        (RetryPolicy(backoff="fixed", first_s=7.0, jitter=0.0), [7.0, 7.0, 7.0, 7.0]),
        (RetryPolicy(backoff="fixed", jitter=0.0), [1.0, 1.0, 1.0, 1.0]),
        (RetryPolicy(first_s=90.0, jitter=0.0), [90.0, 90.0, 90.0, 90.0]),
        (RetryPolicy(first_s=0.0, factor=100.0), [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_pauses_of_each_kind(policy: RetryPolicy, pauses: list[float]) -> None:
    """They grow as the policy says, up to its longest, or to that of the settings."""
    assert _pauses(policy, 4) == pauses


@for_all(policy=POLICIES, failures=st.integers(0, 1000), attempt=st.integers(1, 1000))
def test_a_pause_is_within_its_bounds_and_derived_again(policy: RetryPolicy, failures: int, attempt: int) -> None:
    """The jitter takes at most its share; no factor overflows, and the same attempt always gets the same pause."""
    task, rules = _failing(policy, failures, attempt), Rules()
    exact = backoff_s(replace(task, retry=replace(policy, jitter=0.0)), rules)
    pause_s = backoff_s(task, rules)
    assert exact * (1 - policy.jitter) <= pause_s <= exact < inf
    assert pause_s == backoff_s(task, rules)
    assert exact <= (policy.most_s if policy.most_s is not None else max(policy.first_s or 0.0, 60.0))


@for_all(failures=st.integers(0, 1000), attempt=st.integers(1, 1000))
def test_a_policy_with_nothing_set_is_that_of_the_settings(failures: int, attempt: int) -> None:
    """So a policy may say only what is to be different."""
    rules = Rules(retry_backoff_s=3.0, retry_backoff_max_s=500.0)
    own = backoff_s(_failing(RetryPolicy(), failures, attempt), rules)
    assert own == backoff_s(_failing(None, failures, attempt), rules)


@pytest.mark.parametrize(
    ("policy", "reason", "told"),
    [
        ({"backoff": "cubic"}, "bad_retry", "retry.backoff 'cubic' does not exist: use exponential or linear or fixed"),
        ({"when_exhausted": "stop"}, "bad_retry", "retry.when_exhausted 'stop' does not exist: use fail or pause"),
        ({"first_s": 5.0, "most_s": 4.0}, "bad_retry", "retry.most_s 4 is less than retry.first_s 5"),
        ({"first_s": -1.0}, "bad_number", "retry.first_s -1.0 is out of range: use 0 to 2.592e+06"),
        ({"first_s": nan}, "bad_number", "retry.first_s nan"),
        ({"most_s": PAUSE_MAX_S * 2}, "bad_number", "retry.most_s"),
        ({"factor": 0.5}, "bad_number", "retry.factor 0.5 is out of range: use 1 to 100"),
        ({"jitter": 1.5}, "bad_number", "retry.jitter 1.5 is out of range: use 0 to 1"),
        ({"non_retryable": ("",)}, "bad_text", "retry.non_retryable has 0 characters"),
        ({"non_retryable": ("a\nb",)}, "bad_text", "control characters"),
        ({"non_retryable": ("a",) * 33}, "too_many", "retry.non_retryable has 33 names: use at most 32"),
    ],
)
def test_what_is_not_a_policy_is_refused(policy: dict[str, Any], reason: str, told: str) -> None:
    """With the field, its value, and what is right."""
    given().when(submit(retry=RetryPolicy(**policy))).then_refused(reason, told)


def test_a_policy_is_kept_with_its_task_and_shared_among_tasks() -> None:
    """A repeat must have the same policy; tasks with equal policies share one object."""
    policy = RetryPolicy(backoff="fixed", non_retryable=("ValueError",))
    world = given(submitted("a", retry=policy), submitted("b", retry=replace(policy)))
    assert world.world.tasks["a"].retry is world.world.tasks["b"].retry
    world.when(submit("a", retry=replace(policy))).then_nothing()
    world.when(submit("a")).then_refused("id_taken", "retry")
    given().when(submit(retry=policy)).then(submitted(retry=policy))


def test_another_policy_is_another_content_after_the_eviction_too() -> None:
    """What is remembered of a task that was evicted tells one policy from another."""
    world = given(submitted(retry=RetryPolicy(factor=3.0)), started(), failed(), *_evicting())
    assert "t" not in world.world.tasks
    world.when(submit(retry=RetryPolicy(factor=3.0))).then_nothing()
    world.when(submit(retry=RetryPolicy(factor=4.0))).then_refused("id_taken")
    world.when(submit()).then_refused("id_taken")


def test_a_task_says_which_one_it_does_again() -> None:
    """That is a part of its content, also after its eviction; what is no id is refused."""
    decided = given().when(submit(requeued_from="a")).then(submitted(requeued_from="a"))
    assert decided.world.tasks["t"].requeued_from == "a"
    world = given(submitted(requeued_from="a"), started(), failed(), *_evicting())
    world.when(submit(requeued_from="a")).then_nothing()
    world.when(submit(requeued_from="b")).then_refused("id_taken")
    given().when(submit(requeued_from="a b")).then_refused("bad_id", "requeued_from")


def _evicting() -> tuple[Any, ...]:
    return (CoordinatorStarted(instance="i", version="0", retention_s=60.0, ended_kept=0), submitted("other"))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_type", ["ValueError", "service.errors.Gone", "other.Gone"])
def test_an_error_that_is_named_ends_the_task_at_once(error_type: str) -> None:
    """By its whole name, or by the last part of it; retries that are left do not matter."""
    policy = RetryPolicy(non_retryable=("ValueError", "Gone"))
    world = given(submitted(retry=policy), started())
    expected = failed(reason="non_retryable", error_type=error_type, traceback="where")
    world.when(fail(error_type=error_type, traceback="where")).then(expected).then_answers(TaskStatus.FAILED)
    assert world.world.tasks["t"].error_type == error_type


@pytest.mark.parametrize("error_type", ["", "OSError", "ValueErrors", "Value"])
def test_another_error_is_retried(error_type: str) -> None:
    """An error without a type is never one that is named."""
    world = given(submitted(retry=RetryPolicy(non_retryable=("ValueError", "service.errors.Gone"))), started())
    (event,) = world.when(fail(error_type=error_type)).events
    assert isinstance(event, TaskAttemptFailed)


def test_a_handler_may_ask_for_a_longer_pause() -> None:
    """The retry waits for the longer of the two; the event says what was asked for."""
    policy = RetryPolicy(backoff="fixed", first_s=10.0, jitter=0.0)
    world = given(submitted(retry=policy), started())
    for asked_s, waits_s in ((3.0, 10.0), (30.0, 30.0), (0.0, 10.0)):
        (event,) = world.when(fail(retry_after_s=asked_s), at=BEGIN + 10.0).events
        assert isinstance(event, TaskAttemptFailed)
        assert (event.retry_at, event.retry_after_s) == (BEGIN + 10.0 + waits_s, asked_s)
    for wrong in (-1.0, nan, inf, PAUSE_MAX_S + 1):
        world.when(fail(retry_after_s=wrong)).then_refused("bad_number", "retry_after_s")


def test_an_error_type_and_a_traceback_have_bounds() -> None:
    """A type that is no name is refused; of a long traceback the end is kept, which says what was raised."""
    world = given(submitted(), started())
    world.when(fail(error_type="x" * 257)).then_refused("bad_text", "error_type")
    (event,) = world.when(fail(traceback="frame\n" * 5000 + "ValueError: no")).events
    assert isinstance(event, TaskAttemptFailed)
    assert event.traceback.startswith("(30014 characters) …")
    assert event.traceback.endswith("frame\nValueError: no")
    assert len(event.traceback) == 4096


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_every_failed_attempt_is_kept() -> None:
    """With its number, worker, times and error, also of the one that ended the task."""
    world = fold(
        submitted(),
        started(),
        attempt_failed(error="first", error_type="OSError"),
        started(lease="c.2.2", worker_id="v"),
        attempt_failed(lease="c.2.2", reason="lease_expired", error="second"),
        started(lease="c.3.3"),
        failed(lease="c.3.3", error="third"),
    )
    told = [(one.attempt, one.worker_id, one.started_at, one.ended_at) for one in world.tasks["t"].attempts]
    assert told == [(1, "w", 1001.0, 1002.0), (2, "v", 1003.0, 1004.0), (3, "w", 1005.0, 1006.0)]
    assert [(one.reason, one.error, one.error_type) for one in world.tasks["t"].attempts] == [
        ("failed", "first", "OSError"),
        ("lease_expired", "second", ""),
        ("failed", "third", ""),
    ]


def test_the_last_ten_are_kept_and_their_errors_cut() -> None:
    """What a task remembers has a bound."""
    facts: list[Any] = [submitted(max_retries=1000)]
    for number in range(1, ATTEMPTS_KEPT + 4):
        lease = f"c.{number}.{number}"
        facts += [started(lease=lease), attempt_failed(lease=lease, error="x" * 5000)]
    kept = fold(*facts).tasks["t"].attempts
    assert [one.attempt for one in kept] == list(range(4, ATTEMPTS_KEPT + 4))
    assert {len(one.error) for one in kept} == {1024}


def test_what_did_not_fail_is_no_failed_attempt() -> None:
    """A released attempt is none, nor is one that an older release recorded, without its number."""
    released = attempt_failed(reason="released")
    old = attempt_failed(lease="c.2.2", attempt=0)
    assert fold(submitted(), started(), released, started(lease="c.2.2"), old).tasks["t"].attempts == ()


def test_a_failure_without_a_claim_is_an_attempt_of_its_own() -> None:
    """Its number is that of the attempt that starts and ends with it."""
    decided = given(submitted(max_retries=0)).when(fail(lease=""))
    assert isinstance(decided.events[-1], TaskFailed)
    assert decided.events[-1].attempt == 1
    assert [one.attempt for one in decided.fold().tasks["t"].attempts] == [1]
