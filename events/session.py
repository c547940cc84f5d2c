"""What happens to sessions: the map from a user's session to the container that serves it."""

from __future__ import annotations

from events.base import Event


class SessionEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one session."""

    SUBJECT = "session_id"

    session_id: str


class SessionBound(SessionEvent, frozen=True, kw_only=True, gc=False):
    """The session is served by this container from now on."""

    container_id: str


class SessionClosed(SessionEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The session is over."""

    reason: str = "requested"
