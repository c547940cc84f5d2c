"""What may be asked of sessions."""

from __future__ import annotations

from coordinator.commands.command import Command, Question
from projections.session import Session


class BindSession(Command, frozen=True, kw_only=True, gc=False):
    """Let a session be served by a container."""

    KIND, VERB = "session", "bind"

    session_id: str
    container_id: str


class CloseSession(Command, frozen=True, kw_only=True, gc=False):
    """End a session."""

    KIND, VERB = "session", "close"

    session_id: str
    reason: str = "requested"


class GetSession(Question, frozen=True, kw_only=True, gc=False):
    """Ask which container serves a session."""

    KIND, VERB, Answer = "session", "get", Session

    session_id: str
