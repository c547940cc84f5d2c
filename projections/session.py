"""Sessions: which container serves which session, and the fold of their events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.session import SessionBound, SessionClosed
from projections.stamp import Stamp, missing

if TYPE_CHECKING:
    AnySessionEvent = SessionBound | SessionClosed


class Session(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One session and the container that serves it; `source` is who bound it, '' if that is not recorded."""

    session_id: str
    container_id: str
    bound: Position
    bound_at: float
    tenant: str = ""
    traceparent: str = ""
    reason: str = ""
    ended_at: float | None = None
    ended: Position = START
    source: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether the session is closed."""
        return self.ended_at is not None


def evolve(session: Session | None, event: AnySessionEvent, stamp: Stamp) -> Session:
    """Fold one event into the session it is about."""
    match event:
        case SessionBound():
            return Session(
                session_id=event.session_id,
                container_id=event.container_id,
                bound=stamp.position,
                bound_at=stamp.time,
                tenant=stamp.tenant,
                traceparent=stamp.traceparent if event.traced else "",
                source=stamp.owner if event.owned else "",
            )
        case SessionClosed():
            if session is None or session.is_ended:
                missing(event, stamp)
            return msgspec.structs.replace(session, reason=event.reason, ended_at=stamp.time, ended=stamp.position)
    assert_never(event)
