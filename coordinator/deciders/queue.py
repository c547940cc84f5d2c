"""Deciders of the queue commands, and what a task's queue and priority mean when it is submitted. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.queue import (
    STRATEGIES,
    DefineQueue,
    DeleteQueue,
    PauseQueue,
    ResumeQueue,
    RouteQueue,
    SetPolicy,
)
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders.rules import Decider, Teller
from coordinator.deciders.version import check_route
from events.errors import NotFound, Refused, shown
from events.ids import checked
from events.queue import (
    DEFAULT,
    FairShare,
    Policy,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicySet,
    QueueResumed,
    QueueRouted,
)
from events.task import TaskStatus
from projections.queue import default_queue, name_of, policy_of

if TYPE_CHECKING:
    from typing import Protocol

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from projections.queue import Queue
    from projections.world import World

    class AboutQueue(Protocol):
        """A command about one queue."""

        @property
        def queue_id(self) -> str: ...


MOST_QUEUES = 1000
MOST_WEIGHTS = 1000
PRIORITY_MOST = 1_000_000
USUAL_LABELS = {"high": 3, "medium": 2, "low": 1}
"""What names of priorities stand for where a policy does not say it."""
_BY, _COSTS = ("tenant", "key"), ("seconds", "tokens", "money")
_WEIGHT_LEAST, _WEIGHT_MOST = 1e-6, 1e6


def define(world: World, command: DefineQueue, _: DecisionContext) -> Events:
    """Create a queue or change its weight."""
    known = world.queues.get(checked(command.queue_id, "queue_id"))
    check_number("weight", command.weight, _WEIGHT_LEAST, _WEIGHT_MOST)
    if known is not None and known.weight == command.weight:
        return ()
    if known is None and len(world.queues) >= MOST_QUEUES:
        msg = f"there are {len(world.queues)} queues, the maximum: use an existing queue, or delete one"
        raise Refused(msg, reason="too_many")
    return (QueueDefined(queue_id=command.queue_id, weight=command.weight),)


def set_policy(world: World, command: SetPolicy, context: DecisionContext) -> Events:
    """Set the policy of a queue."""
    known = known_queue(world, command.queue_id)
    check_text("reason", command.reason, context.rules.text_chars_max)
    policy = None if command.policy is None else checked_policy(command.policy)
    if policy is not None and policy.strategy == "custom":
        policy = _custom(policy, command.queue_id, context.rules)
    if known.policy == policy and not known.policy_by_settings:
        return ()
    return (QueuePolicySet(queue_id=command.queue_id, policy=policy, reason=command.reason),)


def _custom(policy: Policy, queue_id: str, rules: Rules) -> Policy:
    """
    Return the policy with the class of the settings.

    Raises:
        Refused: they name none or another one, or the policy is for another queue than the default one.
    """
    if not rules.custom_policy or policy.custom not in ("", rules.custom_policy):
        known = f"only {rules.custom_policy!r} is" if rules.custom_policy else "none is"
        msg = f"custom policy {shown(policy.custom)} cannot be set: {known} named by scheduler.custom_policy"
        raise Refused(msg, reason="bad_policy")
    if queue_id != DEFAULT:
        msg = f"a custom policy chooses for the queue {DEFAULT!r} and those that follow it, not for {queue_id!r} alone"
        raise Refused(msg, reason="bad_policy")
    return msgspec.structs.replace(policy, custom=rules.custom_policy)


def pause(world: World, command: PauseQueue, context: DecisionContext) -> Events:
    """Pause a queue."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    known = known_queue(world, command.queue_id)
    if known.paused_at is not None and known.reason == command.reason:
        return ()
    return (QueuePaused(queue_id=command.queue_id, reason=command.reason),)


def resume(world: World, command: ResumeQueue, context: DecisionContext) -> Events:
    """Resume a paused queue."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    if known_queue(world, command.queue_id).paused_at is None:
        return ()
    return (QueueResumed(queue_id=command.queue_id, reason=command.reason),)


def route(world: World, command: RouteQueue, context: DecisionContext) -> Events:
    """Begin the tasks of a queue on certain versions of workers, or on any."""
    known = known_queue(world, command.queue_id)
    check_text("reason", command.reason, context.rules.text_chars_max)
    if known.route == command.route:
        return ()
    if command.route is not None:
        check_route(world, command.route, may_wait=command.without_workers)
    return (QueueRouted(queue_id=command.queue_id, route=command.route, reason=command.reason),)


def delete(world: World, command: DeleteQueue, context: DecisionContext) -> Events:
    """Delete a queue without tasks."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    name = checked(command.queue_id, "queue_id")
    if name == DEFAULT:
        msg = f"queue {DEFAULT!r} has the tasks that name no queue: it cannot be deleted; pause it instead"
        raise Refused(msg, reason="queue_in_use")
    if name not in world.queues:
        return ()
    pending, running = tasks_in(world, name)
    if pending or running:
        msg = f"queue {name!r} has {pending} pending and {running} running tasks: let them end, or cancel them, first"
        raise Refused(msg, reason="queue_in_use")
    schedules = [one.schedule_id for one in world.schedules.values() if one.task is not None and one.task.queue == name]
    if schedules:
        msg = f"queue {name!r} is that of {len(schedules)} schedules such as {schedules[0]!r}: change these first"
        raise Refused(msg, reason="queue_in_use")
    return (QueueDeleted(queue_id=name, reason=command.reason),)


def tasks_in(world: World, queue_id: str) -> tuple[int, int]:
    """Return how many tasks of a queue are pending and how many run."""
    indexes, name = world.indexes, name_of(queue_id)
    running = indexes.running_in.get(name, 0) if indexes.is_accounted else len(indexes.tasks[TaskStatus.RUNNING])
    return indexes.pending_in(name), running


def policy_by_settings(world: World, rules: Rules) -> Events:
    """
    Return the event that takes over the policy of the settings, if they say another than before.

    A policy that was set by a command stays.
    """
    usual = world.queues.get(DEFAULT)
    wanted = Policy(
        strategy=rules.default_strategy,
        ageing_s=rules.priority_ageing_s,
        fair=FairShare() if rules.default_strategy == "fair" else None,
        custom=rules.custom_policy if rules.default_strategy == "custom" else "",
    )
    is_by_command = usual is not None and usual.policy is not None and not usual.policy_by_settings
    if is_by_command or policy_of(world.queues, "") == wanted:
        return ()
    return (QueuePolicySet(queue_id=DEFAULT, policy=wanted, by_settings=True),)


def checked_policy(policy: Policy) -> Policy:
    """
    Return a policy with everything that follows from it, if it is a valid one.

    Raises:
        Refused: a part of it is unknown or out of range.
    """
    if policy.strategy not in STRATEGIES:
        msg = f"strategy {shown(policy.strategy)} is not known: use {', '.join(STRATEGIES)}"
        raise Refused(msg, reason="bad_policy")
    check_number("ageing_s", policy.ageing_s, 0.0, 366 * 86_400)
    if len(policy.priority_weights) > MOST_WEIGHTS:
        msg = f"priority_weights names {len(policy.priority_weights)} priorities: use at most {MOST_WEIGHTS}"
        raise Refused(msg, reason="too_many")
    for label, priority in policy.priority_weights.items():
        check_text("priority_weights: a name", label, 64, least=1)
        check_number(f"priority_weights[{label!r}]", priority, -PRIORITY_MOST, PRIORITY_MOST)
    if policy.custom and policy.strategy != "custom":
        msg = f"custom is given with the strategy {policy.strategy!r}: it belongs to the strategy 'custom'"
        raise Refused(msg, reason="bad_policy")
    if policy.strategy != "fair":
        if policy.fair is not None:
            msg = f"fair is given with the strategy {policy.strategy!r}: it belongs to the strategy 'fair'"
            raise Refused(msg, reason="bad_policy")
        return policy
    fair = FairShare() if policy.fair is None else policy.fair
    _check_fair(fair)
    return msgspec.structs.replace(policy, fair=fair)


def _check_fair(fair: FairShare) -> None:
    for name, value, allowed in (("by", fair.by, _BY), ("cost", fair.cost, _COSTS)):
        if value not in allowed:
            msg = f"fair.{name} {shown(value)} is not known: use {' or '.join(allowed)}"
            raise Refused(msg, reason="bad_policy")
    check_number("fair.half_life_s", fair.half_life_s, 1.0, 366 * 86_400)
    if len(fair.weights) > MOST_WEIGHTS:
        msg = f"fair.weights names {len(fair.weights)} of them: use at most {MOST_WEIGHTS}; others have the weight 1"
        raise Refused(msg, reason="too_many")
    for key, weight in fair.weights.items():
        check_text("fair.weights: a name", key, 128)
        check_number(f"fair.weights[{key!r}]", weight, _WEIGHT_LEAST, _WEIGHT_MOST)


def check_queue(world: World, queue_id: str) -> None:
    """
    Accept a queue that exists.

    Raises:
        Refused: there is none of this name; the message has the nearest names.
    """
    if queue_id not in world.queues and queue_id != DEFAULT:
        msg = f"queue {shown(queue_id)} does not exist: {_right(world, queue_id)}"
        raise Refused(msg, reason="unknown_queue")


def _right(world: World, queue_id: str) -> str:
    near = get_close_matches(queue_id, {DEFAULT, *world.queues}, n=3)
    return f"did you mean {' or '.join(near)}?" if near else "define it first, or use one that `queue list` shows"


def priority_of(world: World, queue: str, label: str) -> int:
    """
    Return the priority that a name stands for in a queue.

    Raises:
        Refused: its policy does not know the name.
    """
    labels = policy_of(world.queues, queue).priority_weights or USUAL_LABELS
    found = labels.get(label)
    if found is None:
        known = ", ".join(sorted(labels, key=labels.__getitem__, reverse=True))
        msg = f"priority {shown(label)} is not known: use a whole number, or one of {known}"
        raise Refused(msg, reason="bad_priority")
    return found


def known_queue(world: World, queue_id: str) -> Queue:
    """
    Return a queue; the default one is there even if nothing was ever said of it.

    Raises:
        NotFound: there is none of this name; the message has the nearest names.
    """
    known = world.queues.get(checked(queue_id, "queue_id"))
    if known is not None:
        return known
    if queue_id == DEFAULT:
        return default_queue()
    raise NotFound(f"queue {queue_id!r} not found: {_right(world, queue_id)}")


def queue_told(world: World, command: AboutQueue, *_: object) -> Queue:
    """Tell the queue that a command is about."""
    return world.queues.get(command.queue_id) or default_queue()


DECIDERS: dict[type[Command], Decider] = {
    DefineQueue: define,
    SetPolicy: set_policy,
    PauseQueue: pause,
    ResumeQueue: resume,
    RouteQueue: route,
    DeleteQueue: delete,
}
TELLERS: dict[type[Command], Teller] = {
    DefineQueue: queue_told,
    SetPolicy: queue_told,
    PauseQueue: queue_told,
    ResumeQueue: queue_told,
    RouteQueue: queue_told,
}
