"""Events about idempotency keys. A key itself is part of the task that it created."""

from __future__ import annotations

from events.base import Event


class IdempotencyEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about the idempotency keys of one tenant."""

    SUBJECT = "tenant"

    tenant: str


class IdempotencyForgotten(IdempotencyEvent, frozen=True, kw_only=True, gc=False):
    """
    The keys that the tenant used up to the commit time `through`, in seconds, are forgotten to make room.

    Groups of keys are forgotten as a whole: a few that were used before `through` may hold longer.
    """

    through: float
