"""
The one way into the deciders: what a command makes of the world, and what its caller is told. Pure.

Each file of this folder has its own `DECIDERS` and `TELLERS`; here they are only joined. A repeated command finds that
it is already so and is told the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.deciders import container, node, pool, service, session, silence, task, worker

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from coordinator.deciders.rules import Context, Decider, Events, Teller
    from projections.world import World

DECIDERS: dict[type[Command], Decider] = {
    **task.DECIDERS,
    **worker.DECIDERS,
    **service.DECIDERS,
    **container.DECIDERS,
    **session.DECIDERS,
    **node.DECIDERS,
    **pool.DECIDERS,
    **silence.DECIDERS,
}
_TELLERS: dict[type[Command], Teller] = {
    **task.TELLERS,
    **worker.TELLERS,
    **service.TELLERS,
    **container.TELLERS,
    **session.TELLERS,
    **node.TELLERS,
    **pool.TELLERS,
    **silence.TELLERS,
}


def decide(world: World, command: Command, context: Context) -> Events:
    """
    Say what *command* makes of the world; an empty tuple means it is already so.

    Raises:
        CoordinationError: it is not allowed; its `facts` are on record all the same.
    """
    return DECIDERS[type(command)](world, command, context)


def answer(world: World, command: Command, context: Context, events: Events, *, again: bool = False) -> Any:
    """
    Say what the caller of *command* is told, the events it led to being folded.

    *again*: it is a repeat, remembered by its command id; what it led to is in the world since.
    """
    tell = _TELLERS.get(type(command))
    return None if tell is None else tell(world, command, context, bool(events) or again)
