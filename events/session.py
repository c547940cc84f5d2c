"""Events about sessions: which container serves a user's session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from events.base import Event


class SessionEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one session."""

    SUBJECT = "session_id"

    session_id: str


class SessionBound(SessionEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """This container serves the session from now on; `traced`: see `TaskSubmitted`, `owned`: see `ContainerCreated`."""

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"traced": 2, "owned": 2}

    container_id: str
    traced: bool = False
    owned: bool = False


class SessionClosed(SessionEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The session has ended."""

    reason: str = "requested"
