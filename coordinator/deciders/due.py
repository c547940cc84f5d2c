"""
What is due now: expired leases, attempts past their timeout, silent entities, failed containers whose pause is over.

Pure. `now` (in the context) is commit time, for deadlines recorded in the journal; `heard_now` is the writer's
monotonic clock, for silence. Each event carries the evidence: how long the silence lasted, and its limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.deciders import node, service, silence, supervision, task, worker
from coordinator.deciders.dependents import with_following

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.world import World


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float) -> Iterator[Event]:
    """Yield every event that is due; the caller folds each one before it takes the next."""
    yield from task.due(world, signs, context, heard_now)
    yield from silence.due(world, signs, context, heard_now)
    yield from worker.due(world, signs, context, heard_now)
    yield from service.due(world, signs, context, heard_now)
    yield from with_following(world, node.due(world, signs, context, heard_now), context)
    yield from with_following(world, supervision.due(world, signs, context, heard_now), context)
