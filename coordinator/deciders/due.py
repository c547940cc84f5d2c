"""
What is due now: expired leases, tasks past a time limit, silent entities, failed containers whose pause is over.

Pure. `now` (in the context) is commit time, for deadlines recorded in the journal; `heard_now` is the writer's
monotonic clock, for silence. Each event carries the evidence: how long the silence lasted, and its limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.deciders import (
    agents,
    budget,
    cancel_ladder,
    heartbeats,
    hold,
    node,
    pool,
    schedule,
    service,
    silence,
    supervision,
    task,
    worker,
)
from coordinator.deciders.deadlines import Deadlines
from coordinator.deciders.dependents import with_following
from coordinator.deciders.spend import with_spent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.world import World


def due(
    world: World, signs: Signs, context: DecisionContext, heard_now: float, deadlines: Deadlines | None = None
) -> Iterator[Event]:
    """
    Yield every event that is due; the caller folds each one before it takes the next.

    Without *deadlines*, which must have noted all events since they were made, everything is looked at.
    """
    found = _due(world, signs, context, heard_now, Deadlines(world) if deadlines is None else deadlines)
    for event in found:
        yield with_spent(world, (event,))[0] if world.indexes.spending else event


def _due(
    world: World, signs: Signs, context: DecisionContext, heard_now: float, deadlines: Deadlines
) -> Iterator[Event]:
    yield from agents.due(world, context.rules)
    if world.indexes.cancels:
        yield from with_following(world, cancel_ladder.due(world, context), context)
    if world.indexes.keyed.funds.perhaps_over:
        yield from budget.due(world, context)
    if world.holds:
        yield from hold.due(world, context)
    yield from task.due(world, signs, context, heard_now, deadlines.holders)
    yield from schedule.due(world, context)
    yield from heartbeats.due(world, signs, context, heard_now, deadlines.attempts)
    yield from silence.due(world, signs, context, heard_now, deadlines.silences)
    yield from worker.due(world, signs, context, heard_now, deadlines.workers)
    yield from service.due(world, signs, context, heard_now, deadlines.services)
    if deadlines.owners or deadlines.pools or world.indexes.in_pools.waited_for:
        yield from pool.due(world, context, deadlines.owners, deadlines.pools)
    yield from with_following(world, node.due(world, signs, context, heard_now, deadlines.nodes), context)
    yield from with_following(world, supervision.due(world, signs, context, heard_now, deadlines.containers), context)
