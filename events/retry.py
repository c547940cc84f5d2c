"""How a task is retried: a value of its submission, kept with it. What follows from it is decided elsewhere."""

from __future__ import annotations

import msgspec

EXPONENTIAL, LINEAR, FIXED = "exponential", "linear", "fixed"
BACKOFFS = (EXPONENTIAL, LINEAR, FIXED)
FAIL, PAUSE = "fail", "pause"
ENDINGS = (FAIL, PAUSE)
PAUSE_MAX_S = 30 * 86_400.0
"""The longest pause before a retry that may be asked for."""
FACTOR_MAX = 100.0
NON_RETRYABLE_MAX = 32
"""How many types of errors a policy may name."""
ERROR_TYPE_CHARS_MAX = 256
TRACEBACK_CHARS_MAX = 4096


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """
    How long a task waits before each retry, which errors end it at once, and what follows the last retry.

    The pause before the first retry is `first_s`, at most `most_s`. The next ones grow by `factor` each
    (`exponential`), by `first_s` each (`linear`), or not (`fixed`). Without `first_s` and `most_s`, those of the
    settings apply (`scheduler.retry_backoff_s`, `scheduler.retry_backoff_max_s`). `jitter` is the share of a pause, 0
    to 1, by which it may be shorter; how much is derived from the task and the attempt.

    `non_retryable` names types of errors that end the task at once: `ValueError`, or `package.module.Name`. When no
    retry is left, the task fails (`when_exhausted="fail"`), or it is pending and paused (`pause`) until it is resumed.
    """

    backoff: str = EXPONENTIAL
    first_s: float | None = None
    most_s: float | None = None
    factor: float = 2.0
    jitter: float = 0.5
    non_retryable: tuple[str, ...] = ()
    when_exhausted: str = FAIL


def is_named(error_type: str, names: tuple[str, ...]) -> bool:
    """Return whether one of *names* is an error's type, `package.module.Name`, or its last parts, such as `Name`."""
    return bool(error_type) and any(error_type == one or error_type.endswith(f".{one}") for one in names)
