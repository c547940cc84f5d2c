"""The time limits of a task besides that of one attempt, and the names of all."""

from __future__ import annotations

import msgspec

TIMEOUT, START_WITHIN, FINISH_WITHIN, HEARTBEAT = "timeout_s", "start_within_s", "finish_within_s", "heartbeat_s"
GANG_DEADLINE = "gang_deadline_s"


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Limits of a task besides the `timeout_s` of one attempt, in seconds; None for no limit.

    `start_within_s`: how long it may wait for a worker, from when it is ready. `finish_within_s`: how long it may take
    with all attempts, from its submit, or from `not_before` if that is later. `heartbeat_s`: how long a running attempt
    may report nothing.
    """

    start_within_s: float | None = None
    finish_within_s: float | None = None
    heartbeat_s: float | None = None


def exceeded_text(exceeded: str, took_s: float, limit_s: float) -> str:
    """Return the error of a task that took longer than a limit."""
    if exceeded == TIMEOUT:
        return f"ran for {took_s:.3f} s, limit {limit_s:g} s"
    if exceeded == GANG_DEADLINE:
        return f"its gang had not begun after {took_s:.3f} s, limit {exceeded} {limit_s:g} s"
    done = "waited for a worker" if exceeded == START_WITHIN else "had not finished"
    return f"{done} for {took_s:.3f} s, limit {exceeded} {limit_s:g} s"
