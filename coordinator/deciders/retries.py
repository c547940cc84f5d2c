"""Retries: the checks of a policy, the pause before a retry, and which errors end a task. Pure."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING
from zlib import crc32

from coordinator.commands.validation import check_number, check_text
from coordinator.deciders.rules import doubled
from events.errors import Refused, shown
from events.retry import (
    BACKOFFS,
    ENDINGS,
    ERROR_TYPE_CHARS_MAX,
    FACTOR_MAX,
    FIXED,
    LINEAR,
    NON_RETRYABLE_MAX,
    PAUSE_MAX_S,
    is_named,
)

if TYPE_CHECKING:
    from coordinator.deciders.rules import Rules
    from events.retry import RetryPolicy
    from projections.task import Task

_LARGE = 900.0
"""Powers of two above this one do not fit into a float, or will not after a multiplication."""


def check_policy(policy: RetryPolicy) -> None:
    """
    Accept a retry policy of a task.

    Raises:
        Refused: it names what does not exist, a number is out of range, or the longest pause is shorter than the first.
    """
    _check_word("retry.backoff", policy.backoff, BACKOFFS)
    _check_word("retry.when_exhausted", policy.when_exhausted, ENDINGS)
    check_number("retry.factor", policy.factor, 1, FACTOR_MAX)
    check_number("retry.jitter", policy.jitter, 0, 1)
    first_s, most_s = policy.first_s, policy.most_s
    if first_s is not None:
        check_number("retry.first_s", first_s, 0, PAUSE_MAX_S)
    if most_s is not None:
        check_number("retry.most_s", most_s, 0, PAUSE_MAX_S)
    if first_s is not None and most_s is not None and most_s < first_s:
        msg = f"retry.most_s {most_s:g} is less than retry.first_s {first_s:g}: the longest pause must not be shorter"
        raise Refused(msg, reason="bad_retry")
    if len(policy.non_retryable) > NON_RETRYABLE_MAX:
        msg = f"retry.non_retryable has {len(policy.non_retryable)} names: use at most {NON_RETRYABLE_MAX}"
        raise Refused(msg, reason="too_many")
    for name in policy.non_retryable:
        check_text("retry.non_retryable", name, ERROR_TYPE_CHARS_MAX, least=1)


def _check_word(name: str, value: str, right: tuple[str, ...]) -> None:
    if value not in right:
        msg = f"{name} {shown(value)} does not exist: use {' or '.join(right)}"
        raise Refused(msg, reason="bad_retry")


def is_final(task: Task, error_type: str) -> bool:
    """Return whether an error of this type ends the task, whatever retries are left."""
    return task.retry is not None and is_named(error_type, task.retry.non_retryable)


def backoff_s(task: Task, rules: Rules) -> float:
    """
    Return the pause before a retry: doubling from `retry_backoff_s`, minus a jitter of up to half, or as the task says.

    The jitter spreads the retries of tasks that failed together. It is derived from the task id, so that a replay of
    the decision gets the same pause.
    """
    drawn = crc32(f"{task.task_id}/{task.attempt}".encode()) / 2**32
    policy = task.retry
    if policy is None:
        most = doubled(rules.retry_backoff_s, task.failures, rules.retry_backoff_max_s)
        return float(most * (1.0 - drawn / 2))
    return float(_most_s(policy, task.failures, rules) * (1.0 - drawn * policy.jitter))


def _most_s(policy: RetryPolicy, failures: int, rules: Rules) -> float:
    """Return the pause of a policy after so many failures before this one, without jitter."""
    first_s = rules.retry_backoff_s if policy.first_s is None else policy.first_s
    # A first pause that is longer than the longest of the settings is what the task asks for.
    most_s = max(first_s, rules.retry_backoff_max_s) if policy.most_s is None else policy.most_s
    if policy.backoff == FIXED:
        return min(first_s, most_s)
    if policy.backoff == LINEAR:
        return min(first_s * (failures + 1), most_s)
    if failures * log2(policy.factor) > _LARGE:
        return most_s if first_s else 0.0
    return min(first_s * policy.factor**failures, most_s)
