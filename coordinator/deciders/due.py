"""
What time now owes: lapsed leases, attempts that ran too long, the silent, and failed containers whose pause is over.

Pure. `now` (in the context) is commit time, for deadlines that stand in the journal; `heard_now` is the writer's
monotonic clock, for silence. Each event carries the evidence: for how long there was silence, against which limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.deciders import node, service, silence, supervision, task, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import Context
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.world import World


def due(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    """Give everything that is due; each event is to be applied before the next is asked for."""
    yield from task.due(world, signs, context, heard_now)
    yield from silence.due(world, signs, context, heard_now)
    yield from worker.due(world, signs, context, heard_now)
    yield from service.due(world, signs, context, heard_now)
    yield from node.due(world, signs, context, heard_now)
    yield from supervision.due(world, signs, context, heard_now)
