"""
What a candidate policy would decide in a turn, from the same state as the live one, and what that would cost. Pure.

The cost is *regret*, in weighted seconds: what the live policy's choice takes out of the queues less what the
candidate's does. To start a task takes out the seconds that it has waited since it was ready, times its weight: 1 + its
priority, 1 / (1 - its priority) below 0. So with a regret above 0 the candidate leaves tasks behind that wait longer or
are more urgent. It is of one step: what the other choice would have led to later is not followed. Which worker gets a
task has no regret; it is only counted as another decision.
"""

from __future__ import annotations

from copy import copy
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.placement.matching import schedule
from events.queue import DEFAULT, Comparison, OtherDecision
from projections.queue import EXAMPLES_KEPT, name_of, policy_of
from projections.time_limits import waits_since

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from events.coordinator import CoordinatorTurn
    from events.queue import Policy
    from events.task import TaskStarted
    from projections.considered import Considered
    from projections.task import Task
    from projections.world import World


class Compared(NamedTuple):
    """What was compared in one turn, and some of the differences."""

    numbers: Comparison
    examples: tuple[OtherDecision, ...]


def compare(
    world: World,
    queue_id: str,
    candidate: Policy,
    seen: Considered,
    turn: CoordinatorTurn,
    started: Sequence[TaskStarted],
) -> Compared | None:
    """
    Compare what *started* in a turn with what would have by another policy of a queue; None if it is not about that.

    *world* and *seen* are those from before the first start. Claims that name a strategy of their own follow no policy:
    what they got is not counted.
    """
    follows = _followers(world, queue_id)
    chooser = {claim.claim_id for claim in seen.claims.values() if not claim.strategy}
    recorded = {event.task_id: event.worker_id for event in started if event.claim_id in chooser}
    decisions = [task_id for task_id in recorded if world.tasks[task_id].queue in follows]
    if not decisions:
        return None
    instead = {event.task_id: event.worker_id for event in _instead(world, queue_id, candidate, seen, turn)}
    everything = {event.task_id: event.worker_id for event in started}
    differing = [task_id for task_id in decisions if instead.get(task_id) != recorded[task_id]]
    regret_s = sum(_waiting_of(world, task_id) for task_id in everything if task_id not in instead)
    regret_s -= sum(_waiting_of(world, task_id) for task_id in instead if task_id not in everything)
    count = len(decisions)
    numbers = Comparison(
        turns=1,
        decisions=count,
        differing=len(differing),
        regret_s=regret_s,
        regret_squares=regret_s * regret_s,
        regret_by_decisions=regret_s * count,
        decision_squares=count * count,
    )
    return Compared(numbers, _examples(world.position.sequence + 1, recorded, instead, differing))


def weight_of(task: Task) -> float:
    """Return how much a second of waiting of a task counts: more with its priority, and always above 0."""
    priority = task.priority
    return 1.0 + priority if priority >= 0 else 1.0 / (1.0 - priority)


def with_policy(world: World, queue_id: str, policy: Policy) -> World:
    """Return a world that is the same, and shares everything, but for the policy of a queue; it must not be folded."""
    other = copy(world)
    queues = other.queues = dict(world.queues)
    queues[queue_id] = msgspec.structs.replace(queues[queue_id], policy=policy)
    shared = {name: fair for name in {"", *map(name_of, queues)} if (fair := policy_of(queues, name).fair) is not None}
    if shared != world.indexes.shared:  # the same shares are counted, with other weights, or none any more
        other.indexes = copy(world.indexes)
        other.indexes.shared = shared
    return other


def _followers(world: World, queue_id: str) -> set[str]:
    """Return the queues, as tasks call them, whose policy a candidate for this queue would be."""
    if queue_id != DEFAULT:
        return {queue_id}
    return {"", *(one.queue_id for one in world.queues.values() if one.policy is None and one.queue_id != DEFAULT)}


def _instead(
    world: World, queue_id: str, candidate: Policy, seen: Considered, turn: CoordinatorTurn
) -> list[TaskStarted]:
    other = with_policy(world, queue_id, candidate)
    chosen: Mapping[str, tuple[str, ...]] | None = turn.chosen if turn.chosen_by else None
    if chosen is not None:  # a custom policy has no say any more in the queues that would not follow it
        follows = _followers(world, queue_id)
        left = {
            claim_id: tuple(one for one in tasks if one not in world.tasks or world.tasks[one].queue not in follows)
            for claim_id, tasks in chosen.items()
        }
        chosen = None if queue_id == DEFAULT else left
    return list(
        schedule(
            other,
            tuple(seen.claims.values()),
            seen.loads,
            seen.filters,
            most=turn.placed,
            containers=seen.containers,
            chosen=chosen,
        )
    )


def _waiting_of(world: World, task_id: str) -> float:
    """Return for how long a ready task has waited, in weighted seconds."""
    task = world.tasks[task_id]
    return weight_of(task) * max(0.0, world.indexes.now - waits_since(task))


def _examples(
    sequence: int, recorded: Mapping[str, str], instead: Mapping[str, str], differing: Sequence[str]
) -> tuple[OtherDecision, ...]:
    """Return some decisions beside those that would have been made in their place."""
    others = [task_id for task_id, worker_id in instead.items() if recorded.get(task_id) != worker_id]
    pairs = zip_longest(differing[:EXAMPLES_KEPT], others[: len(differing[:EXAMPLES_KEPT])], fillvalue="")
    return tuple(
        OtherDecision(
            sequence=sequence,
            task_id=mine,
            worker_id=recorded[mine],
            other_task_id=other,
            other_worker_id=instead.get(other, ""),
        )
        for mine, other in pairs
    )
