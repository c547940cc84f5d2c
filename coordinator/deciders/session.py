"""Sessions: which container serves which. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.session import BindSession, CloseSession
from coordinator.commands.validation import check_text
from coordinator.deciders.container import standing_container
from coordinator.deciders.rules import Decider, Teller
from events.errors import NotFound, Refused
from events.ids import checked
from events.session import SessionBound, SessionClosed

if TYPE_CHECKING:
    from coordinator.deciders.rules import Context, Events
    from projections.world import World


MOST_SESSIONS = 100_000
SESSIONS_A_CONTAINER = 500
"""They all end with their container, in one commit."""


def bind_session(world: World, command: BindSession, context: Context) -> Events:
    """Let a session be served by a container that stands."""
    checked(command.session_id, "session_id")
    container = standing_container(world, command.container_id)
    if container.is_ended:
        msg = f"container {container.container_id!r} is destroyed and cannot serve a session"
        raise Refused(msg, reason="not_standing")
    known = world.sessions.get(command.session_id)
    if known is not None and not known.is_ended and known.container_id == command.container_id:
        return ()
    if len(world.sessions) >= MOST_SESSIONS:
        msg = f"{len(world.sessions)} sessions are known, the most there may be: close some"
        raise Refused(msg, reason="too_many")
    bound = sum(1 for one in world.sessions.values() if one.container_id == command.container_id and not one.is_ended)
    if bound >= SESSIONS_A_CONTAINER:
        msg = f"container {command.container_id!r} serves {bound} sessions already, the most it may"
        raise Refused(msg, reason="too_many")
    return (SessionBound(session_id=command.session_id, container_id=command.container_id),)


def close_session(world: World, command: CloseSession, context: Context) -> Events:
    """End a session."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    known = world.sessions.get(checked(command.session_id, "session_id"))
    if known is None:
        msg = f"there is no session {command.session_id!r}"
        raise NotFound(msg)
    return () if known.is_ended else (SessionClosed(session_id=known.session_id, reason=command.reason),)


DECIDERS: dict[type[Command], Decider] = {
    BindSession: bind_session,
    CloseSession: close_session,
}
TELLERS: dict[type[Command], Teller] = {}
