"""
The only entry to the deciders: which events a command leads to, and what its caller is answered. Pure.

Each file of this folder has its own `DECIDERS` and `TELLERS`; this file only joins them. A repeated command changes
nothing and gets the same answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.deciders import (
    agents,
    budget,
    cancel_ladder,
    container,
    hold,
    limit,
    node,
    pool,
    queue,
    schedule,
    service,
    session,
    shadow,
    silence,
    task,
    task_pause,
    version,
    worker,
)
from coordinator.deciders.dependents import following
from coordinator.deciders.spend import with_spent

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from coordinator.deciders.rules import Decider, DecisionContext, Events, Teller
    from projections.world import World


def _with_following(decider: Decider) -> Decider:
    """Return the decider of a command that may end or pause containers, for these and for what is in them."""

    def decide(world: World, command: Command, context: DecisionContext) -> Events:
        events = decider(world, command, context)
        return (*events, *following(world, events, context))

    return decide


DECIDERS: dict[type[Command], Decider] = {
    **task.DECIDERS,
    **task_pause.DECIDERS,
    **cancel_ladder.DECIDERS,
    **worker.DECIDERS,
    **service.DECIDERS,
    **{kind: _with_following(decider) for kind, decider in container.DECIDERS.items()},
    **session.DECIDERS,
    **{kind: _with_following(decider) for kind, decider in node.DECIDERS.items()},
    **pool.DECIDERS,
    **schedule.DECIDERS,
    **limit.DECIDERS,
    **version.DECIDERS,
    **budget.DECIDERS,
    **agents.DECIDERS,
    **queue.DECIDERS,
    **shadow.DECIDERS,
    **hold.DECIDERS,
    **silence.DECIDERS,
}
_TELLERS: dict[type[Command], Teller] = {
    **task.TELLERS,
    **agents.TELLERS,
    **worker.TELLERS,
    **service.TELLERS,
    **container.TELLERS,
    **session.TELLERS,
    **node.TELLERS,
    **pool.TELLERS,
    **schedule.TELLERS,
    **limit.TELLERS,
    **budget.TELLERS,
    **queue.TELLERS,
    **shadow.TELLERS,
    **hold.TELLERS,
    **silence.TELLERS,
}


def decide(world: World, command: Command, context: DecisionContext) -> Events:
    """
    Return the events that follow from *command*; an empty tuple when nothing has to change.

    Raises:
        CoordinationError: the command is refused; the events in `facts` of the error are recorded nevertheless.
    """
    events = DECIDERS[type(command)](world, command, context)
    return with_spent(world, events) if world.indexes.spending else events


def answer(world: World, command: Command, context: DecisionContext, events: Events, *, again: bool = False) -> Any:
    """
    Return the answer for the caller of *command*; its events must be folded already.

    *again* marks a repeat, recognized by its command id: its events were folded in an earlier turn.
    """
    tell = _TELLERS.get(type(command))
    return None if tell is None else tell(world, command, context, bool(events) or again)
