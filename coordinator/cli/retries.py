"""The options of a retry policy, and what `task get` says about retries and failed attempts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.output import Number, moment
from events.retry import BACKOFFS, ENDINGS, FACTOR_MAX, PAUSE_MAX_S, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.task import FailedAttempt, Task

_SECONDS = "a number of seconds"

_OPTIONS = {
    "backoff": click.option(
        "--backoff", type=click.Choice(BACKOFFS), help="How the pause before a retry grows; default: exponential."
    ),
    "first_s": click.option(
        "--backoff-first",
        "first_s",
        type=Number(0, PAUSE_MAX_S, _SECONDS),
        help="First pause in seconds.",
    ),
    "most_s": click.option(
        "--backoff-most",
        "most_s",
        type=Number(0, PAUSE_MAX_S, _SECONDS),
        help="Longest pause in seconds.",
    ),
    "factor": click.option(
        "--backoff-factor",
        "factor",
        type=Number(1, FACTOR_MAX, "a number"),
        help="Growth of each pause; default: 2.",
    ),
    "jitter": click.option(
        "--jitter", type=Number(0, 1, "a share"), help="Share by which a pause may be shorter; default: 0.5."
    ),
    "non_retryable": click.option(
        "--non-retryable", metavar="TYPE", multiple=True, help="Error type that is not retried. Repeatable."
    ),
    "when_exhausted": click.option(
        "--when-exhausted", type=click.Choice(ENDINGS), help="What follows the last retry; default: fail."
    ),
}
"""The options by the field of `RetryPolicy` that each sets."""


def retry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a retry policy."""
    for option in reversed(_OPTIONS.values()):
        command = option(command)
    return command


def retry_of(options: dict[str, Any]) -> RetryPolicy | None:
    """Return the policy that *options* ask for; None if none of them is given."""
    given = {name: options[name] for name in _OPTIONS if options[name] not in (None, ())}
    return RetryPolicy(**given) if given else None


RETRY_FACTS = (
    ("paused", lambda t: f"since {moment(t.paused_at)}: {t.pause_reason}" if t.is_paused else ""),
    ("error type", lambda t: t.error_type),
    ("not retried", lambda t: ", ".join(t.retry.non_retryable) if t.retry is not None else ""),
)
"""What `task get` says about retries and pauses, besides the attempts that failed."""


def attempt_facts(task: Task) -> tuple[tuple[str, Callable[[Any], str]], ...]:
    """Return a fact for each attempt of *task* that failed, the oldest first."""
    return tuple((f"attempt {one.attempt}", partial(_told, one)) for one in task.attempts)


def _told(one: FailedAttempt, _: object) -> str:
    return f"{moment(one.ended_at)} {one.reason} on {one.worker_id}: {one.error}"
