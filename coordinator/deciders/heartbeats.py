"""
Attempts whose task has a limit `heartbeat_s`: one that reports nothing for longer than that has failed. Pure.

The reports are signs of life: they are not recorded, and a new writer gives each attempt the whole limit again. They
are commands, and wait with others: an attempt is silent only up to when all commands had been taken up.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from coordinator.deciders.deadlines import NEVER
from coordinator.deciders.housing import is_frozen
from coordinator.deciders.task import failed_attempt
from events.time_limits import HEARTBEAT
from projections.time_limits import heartbeat_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.deadlines import Due
    from coordinator.deciders.rules import DecisionContext
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.task import Task
    from projections.world import World


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float, attempts: Due) -> Iterator[Event]:
    """Yield the failure of each attempt that reported nothing for too long, unless its container is paused."""
    for task_id in attempts.now(heard_now, context.now):
        task = world.tasks.get(task_id)
        limit_s = None if task is None else heartbeat_of(task)
        if task is None or limit_s is None or _waits(world, task):
            attempts.later(task_id, NEVER)
            continue
        silent_for_s = signs.silent_for(signs.reports, task.lease, min(heard_now, signs.taken))
        if silent_for_s <= limit_s:
            attempts.later(task_id, (min(heard_now, signs.taken) - silent_for_s + limit_s, inf))
            continue
        yield failed_attempt(
            task,
            task.lease,
            f"reported nothing for {silent_for_s:.3f} s, limit {HEARTBEAT} {limit_s:g} s",
            "heartbeat",
            context.now,
            context.rules,
            silent_for_s=silent_for_s,
            limit_s=limit_s,
        )


def _waits(world: World, task: Task) -> bool:
    """Return whether the worker cannot report, as its container is paused; it is looked at again when that ends."""
    worker = world.workers.get(task.worker_id)
    return worker is not None and bool(worker.container_id) and is_frozen(world, worker.container_id)
