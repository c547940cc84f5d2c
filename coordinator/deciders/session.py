"""Deciders of the session commands: which container serves which session. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.session import BindSession, CloseSession
from coordinator.commands.validation import check_text
from coordinator.deciders.container import check_room_for_session, standing_container
from coordinator.deciders.rules import Decider, Teller
from events.errors import NotFound, Refused
from events.ids import checked
from events.session import SessionBound, SessionClosed

if TYPE_CHECKING:
    from coordinator.deciders.rules import DecisionContext, Events
    from projections.world import World


SESSIONS_A_CONTAINER = 500
"""All sessions of a container end with it, in one commit."""


def bind_session(world: World, command: BindSession, context: DecisionContext) -> Events:
    """Bind a session to a container that is not destroyed."""
    checked(command.session_id, "session_id")
    container = standing_container(world, command.container_id)
    if container.is_ended:
        msg = f"container {container.container_id!r} is destroyed: bind the session to another container"
        raise Refused(msg, reason="not_standing")
    known = world.sessions.get(command.session_id)
    if known is not None and not known.is_ended and known.container_id == command.container_id:
        return ()
    check_room_for_session(world, command.session_id, context)
    bound = len(world.indexes.sessions_of.get(command.container_id, ()))
    if bound >= SESSIONS_A_CONTAINER:
        msg = f"container {command.container_id!r} serves {bound} sessions, the maximum: close some, or use another one"
        raise Refused(msg, reason="too_many")
    to_container = SessionBound(
        session_id=command.session_id,
        container_id=command.container_id,
        traced=bool(context.traceparent),
        owned=bool(context.actor),
    )
    return (to_container,)


def close_session(world: World, command: CloseSession, context: DecisionContext) -> Events:
    """Close a session."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    known = world.sessions.get(checked(command.session_id, "session_id"))
    if known is None:
        msg = f"session {command.session_id!r} not found: it was never bound or was closed long ago"
        raise NotFound(msg)
    return () if known.is_ended else (SessionClosed(session_id=known.session_id, reason=command.reason),)


DECIDERS: dict[type[Command], Decider] = {
    BindSession: bind_session,
    CloseSession: close_session,
}
TELLERS: dict[type[Command], Teller] = {}
