"""How far a running task is that shall be cancelled; all times are commit times in seconds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.cancel_ladder import Escalation, TaskCancelAsked

if TYPE_CHECKING:
    from projections.stamp import Stamp

REPORT_S = 0.25
"""How long after the grace a worker may still report how its attempt ended; then the task ends without a report."""
CONTAINER = "container"
"""`TaskCancelForced.how` when the container of the worker is stopped."""


class Cancelling(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The cancellation of a running task: asked `by` a source at `asked_at`; the grace ends at `until`.

    `told_at` is when its worker reported that the handler knows, `forced` how its end was forced, '' if it was not.
    """

    asked_at: float
    until: float
    by: str = ""
    reason: str = ""
    escalate: Escalation = Escalation.ATTEMPT
    told_at: float | None = None
    forced: str = ""

    @property
    def next_step_at(self) -> float:
        """When the coordinator takes the next step by itself."""
        if self.escalate is Escalation.CONTAINER and self.forced != CONTAINER:
            return self.until
        return self.until + REPORT_S


def asked(before: Cancelling | None, event: TaskCancelAsked, stamp: Stamp) -> Cancelling:
    """Fold a wish to cancel; a further one makes the time shorter and may escalate."""
    until = stamp.time + event.grace_s
    if before is None:
        return Cancelling(
            asked_at=stamp.time, until=until, by=stamp.actor, reason=event.reason, escalate=event.escalate
        )
    return msgspec.structs.replace(before, until=min(until, before.until), escalate=event.escalate)
