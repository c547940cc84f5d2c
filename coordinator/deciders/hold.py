"""Deciders of the commands that place and lift holds, and when a hold expires. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from math import isclose
from typing import TYPE_CHECKING

from coordinator.commands.hold import HOLD_S_MAX, HoldTasks, LiftHold
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders.queue import check_queue
from events.errors import NotFound, Refused
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from events.ids import checked
from projections.task_fields import lasting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Command
    from coordinator.deciders.rules import Decider, DecisionContext, Events, Teller
    from projections.hold import Hold
    from projections.world import World

MOST_HOLDS = 100


def place(world: World, command: HoldTasks, context: DecisionContext) -> Events:
    """Place a hold."""
    known = world.holds.get(checked(command.hold_id, "hold_id"))
    lasting(command.where)
    check_text("reason", command.reason, context.rules.text_chars_max)
    if command.for_s is not None:
        check_number("for_s", command.for_s, 0.001, HOLD_S_MAX)
    if known is not None:
        if _is_same(known, command):
            return ()
        msg = f"hold {command.hold_id!r} exists with another filter, queue, reason or time: lift it, or use another id"
        raise Refused(msg, reason="id_taken")
    if command.queue:
        check_queue(world, checked(command.queue, "queue"))
    if len(world.holds) >= MOST_HOLDS:
        msg = f"there are {len(world.holds)} holds, the maximum: lift one, or place one with a wider filter"
        raise Refused(msg, reason="too_many")
    return (
        HoldPlaced(
            hold_id=command.hold_id,
            where=command.where,
            queue=command.queue,
            reason=command.reason,
            expires_at=None if command.for_s is None else context.now + command.for_s,
        ),
    )


def _is_same(known: Hold, command: HoldTasks) -> bool:
    if (known.where, known.queue, known.reason) != (command.where, command.queue, command.reason):
        return False
    if known.expires_at is None or command.for_s is None:
        return known.expires_at is command.for_s
    return isclose(known.expires_at - known.placed_at, command.for_s, abs_tol=0.001)


def lift(world: World, command: LiftHold, context: DecisionContext) -> Events:
    """Lift a hold."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    if checked(command.hold_id, "hold_id") not in world.holds:
        near = get_close_matches(command.hold_id, world.holds, n=3)
        right = f"did you mean {' or '.join(near)}?" if near else "`hold list` shows those in force"
        raise NotFound(f"hold {command.hold_id!r} not found, or it has ended: {right}")
    return (HoldLifted(hold_id=command.hold_id, reason=command.reason),)


def due(world: World, context: DecisionContext) -> Iterator[HoldExpired]:
    """Yield the end of each hold whose time is over."""
    for hold in tuple(world.holds.values()):
        if hold.expires_at is not None and hold.expires_at <= context.now:
            yield HoldExpired(hold_id=hold.hold_id)


def _told(_: World, command: HoldTasks, *__: object) -> str:
    return command.hold_id


DECIDERS: dict[type[Command], Decider] = {HoldTasks: place, LiftHold: lift}
TELLERS: dict[type[Command], Teller] = {HoldTasks: _told}
