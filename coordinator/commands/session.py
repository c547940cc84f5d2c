"""Commands and questions about sessions."""

from __future__ import annotations

from coordinator.commands.command import Command, Question
from projections.session import Session


class BindSession(Command, frozen=True, kw_only=True, gc=False):
    """Bind a session to the container that serves it."""

    KIND, VERB = "session", "bind"

    session_id: str
    container_id: str


class CloseSession(Command, frozen=True, kw_only=True, gc=False):
    """Close a session."""

    KIND, VERB = "session", "close"

    session_id: str
    reason: str = "requested"


class GetSession(Question, frozen=True, kw_only=True, gc=False):
    """Get a session with the container that serves it."""

    KIND, VERB, Answer = "session", "get", Session

    session_id: str
