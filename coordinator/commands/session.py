"""Commands and questions about sessions."""

from __future__ import annotations

from coordinator.commands.command import Command, Example, Question
from coordinator.commands.examples import SESSION
from projections.session import Session


class BindSession(Command[None], frozen=True, kw_only=True, gc=False):
    """Bind a session to the container that serves it."""

    KIND, VERB = "session", "bind"
    REFUSALS = frozenset({"memory_full", "not_found", "not_standing", "quota", "too_many"})
    EXAMPLE = Example({"session_id": "session_1", "container_id": "container_1"})

    session_id: str
    container_id: str


class CloseSession(Command[None], frozen=True, kw_only=True, gc=False):
    """Close a session."""

    KIND, VERB = "session", "close"
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"session_id": "session_1"})

    session_id: str
    reason: str = "requested"


class GetSession(Question[Session], frozen=True, kw_only=True, gc=False):
    """Get a session with the container that serves it."""

    KIND, VERB = "session", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"session_id": "session_1"}, SESSION)

    session_id: str
