"""Events about sessions: which container serves a user's session."""

from __future__ import annotations

from events.base import Event


class SessionEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one session."""

    SUBJECT = "session_id"

    session_id: str


class SessionBound(SessionEvent, frozen=True, kw_only=True, gc=False):
    """This container serves the session from now on."""

    container_id: str


class SessionClosed(SessionEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The session has ended."""

    reason: str = "requested"
