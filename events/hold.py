"""Events about holds: conditions on tasks; a task that meets one is given to no worker until the hold has ended."""

from __future__ import annotations

from events.base import Event


class HoldEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one hold."""

    SUBJECT = "hold_id"

    hold_id: str


class HoldPlaced(HoldEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    From here on no pending task that meets `where` is given to a worker, nor one that is submitted later.

    `where` is a filter on the fields of a task. With `queue` only tasks of this queue meet it. It ends at `expires_at`
    (commit time, seconds since 1970), or when it is lifted.
    """

    where: str
    queue: str = ""
    reason: str = ""
    expires_at: float | None = None


class HoldLifted(HoldEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The hold ended because somebody lifted it; tasks that meet no other one are given to workers again."""

    reason: str = ""


class HoldExpired(HoldEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The hold ended because its time was over."""
