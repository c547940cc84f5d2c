"""Deciders of the commands about candidate policies, and whether one may be promoted. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.shadow import PromotePolicy, ReportShadow, RollBackPolicy, SetShadow
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders.queue import checked_policy, known_queue, queue_told
from coordinator.deciders.rules import Decider, Teller
from events.errors import Refused
from events.ids import checked
from events.queue import (
    Policy,
    QueuePromoted,
    QueueRolledBack,
    QueueShadowReported,
    QueueShadowSet,
)
from projections.queue import EXAMPLES_KEPT, name_of, policy_of, regret_of

if TYPE_CHECKING:
    from coordinator.deciders.rules import DecisionContext, Events
    from projections.queue import Shadow
    from projections.world import World

TURNS_LEAST = 10
"""Fewer turns say too little of how far the regret may be from the true one."""
DECISIONS_MOST = 10**9
REGRET_MOST_S = 1e9
_COUNT_MOST, _SUM_MOST = 2**53, 1e30


def set_shadow(world: World, command: SetShadow, context: DecisionContext) -> Events:
    """Compare a candidate from now on, or none."""
    queue_id = command.queue_id
    known = known_queue(world, queue_id)
    check_text("reason", command.reason, context.rules.text_chars_max)
    shadow = known.shadow
    if command.policy is None:
        return () if shadow is None else (QueueShadowSet(queue_id=queue_id, reason=command.reason),)
    check_number("regret_max", command.regret_max, -REGRET_MOST_S, REGRET_MOST_S)
    check_number("min_decisions", command.min_decisions, 1, DECISIONS_MOST)
    policy, against = checked_policy(command.policy), policy_of(world.queues, name_of(queue_id))
    _check_candidate(policy, against)
    bounds = (policy, against, command.regret_max, command.min_decisions)
    if shadow is not None and bounds == (shadow.policy, shadow.against, shadow.regret_max, shadow.min_decisions):
        return ()
    return (
        QueueShadowSet(
            queue_id=queue_id,
            policy=policy,
            against=against,
            regret_max=command.regret_max,
            min_decisions=command.min_decisions,
            reason=command.reason,
        ),
    )


def _check_candidate(policy: Policy, live: Policy) -> None:
    """
    Accept a candidate whose decisions follow from the state that the live policy leads to.

    Raises:
        Refused: a process of its own chooses; or shares are counted that the live policy does not count.
    """
    if policy.strategy == "custom":
        msg = (
            "a custom policy cannot be compared: its process chooses for the writer only; use another strategy, or "
            "set it as the policy"
        )
        raise Refused(msg, reason="bad_policy")
    fair, counted = policy.fair, live.fair
    if fair is None:
        return
    if counted is None or (fair.by, fair.cost, fair.half_life_s) != (counted.by, counted.cost, counted.half_life_s):
        what = "does not count who used what" if counted is None else f"counts {counted.cost} by {counted.by}"
        half_life = "" if counted is None else f" with a half-life of {counted.half_life_s:g} s"
        msg = (
            f"candidate fair counts {fair.cost} by {fair.by} with a half-life of {fair.half_life_s:g} s, but the live "
            f"policy {live.strategy} {what}{half_life}: compare one that differs only in its weights"
        )
        raise Refused(msg, reason="bad_policy")


def report(world: World, command: ReportShadow, _: DecisionContext) -> Events:
    """Count what a follower compared; a report that does not follow the last one changes nothing."""
    queue = world.queues.get(checked(command.queue_id, "queue_id"))
    _check_report(command, world.position.sequence)
    if queue is None or queue.shadow is None or queue.shadow.upto != command.after:
        return ()
    return (
        QueueShadowReported(
            queue_id=command.queue_id,
            after=command.after,
            upto=command.upto,
            compared=command.compared,
            examples=command.examples,
        ),
    )


def _check_report(command: ReportShadow, sequence: int) -> None:
    compared = command.compared
    check_number("after", command.after, 0, sequence - 1)
    check_number("upto", command.upto, command.after + 1, sequence)
    check_number("compared.turns", compared.turns, 1, _COUNT_MOST)
    check_number("compared.decisions", compared.decisions, compared.turns, _COUNT_MOST)
    check_number("compared.differing", compared.differing, 0, compared.decisions)
    check_number("compared.skipped", compared.skipped, 0, _COUNT_MOST)
    check_number("compared.decision_squares", compared.decision_squares, compared.decisions, _COUNT_MOST)
    for name in ("regret_s", "regret_by_decisions"):
        check_number(f"compared.{name}", getattr(compared, name), -_SUM_MOST, _SUM_MOST)
    check_number("compared.regret_squares", compared.regret_squares, 0.0, _SUM_MOST)
    if len(command.examples) > EXAMPLES_KEPT:
        msg = f"a report has {len(command.examples)} examples: use at most {EXAMPLES_KEPT}"
        raise Refused(msg, reason="too_many")
    for one in command.examples:
        check_number("sequence of an example", one.sequence, command.after + 1, command.upto)
        for field in ("task_id", "worker_id", "other_task_id", "other_worker_id"):
            if getattr(one, field):
                checked(getattr(one, field), field)


def why_not(world: World, queue_id: str, shadow: Shadow) -> Refused | None:
    """Return the refusal to promote the candidate of a queue now; None if it may be promoted."""
    live, compared = policy_of(world.queues, name_of(queue_id)), shadow.compared
    if live != shadow.against:
        msg = (
            f"the policy of queue {queue_id!r} is {live.strategy} now and was another one when its candidate "
            f"{shadow.policy.strategy} was set: set it again, to compare it with that one"
        )
        return Refused(msg, reason="shadow_outdated")
    if compared.decisions < shadow.min_decisions or compared.turns < TURNS_LEAST:
        msg = (
            f"{compared.decisions} decisions in {compared.turns} turns were compared with the candidate "
            f"{shadow.policy.strategy} of queue {queue_id!r}: wait for {shadow.min_decisions} decisions in at least "
            f"{TURNS_LEAST} turns"
        )
        return Refused(msg, reason="shadow_too_few")
    mean, high = regret_of(compared)
    if not high <= shadow.regret_max:
        msg = (
            f"the regret of the candidate {shadow.policy.strategy} of queue {queue_id!r} is {mean:.3g} weighted "
            f"seconds for each of {compared.decisions} decisions, and may be {high:.3g}: its bound is "
            f"{shadow.regret_max:g}"
        )
        return Refused(msg, reason="shadow_regret")
    return None


def promote(world: World, command: PromotePolicy, context: DecisionContext) -> Events:
    """Make the candidate the policy of its queue."""
    queue_id = command.queue_id
    known = known_queue(world, queue_id)
    check_text("reason", command.reason, context.rules.text_chars_max)
    shadow = known.shadow
    if shadow is None:
        msg = f"queue {queue_id!r} has no candidate policy: set one, and let it be compared with the live one first"
        raise Refused(msg, reason="no_shadow")
    refusal = why_not(world, queue_id, shadow)
    if refusal is not None:
        raise refusal
    mean, high = regret_of(shadow.compared)
    return (
        QueuePromoted(
            queue_id=queue_id,
            policy=shadow.policy,
            before=known.policy,
            decisions=shadow.compared.decisions,
            regret_s=mean,
            regret_high_s=high,
            regret_max=shadow.regret_max,
            reason=command.reason,
        ),
    )


def roll_back(world: World, command: RollBackPolicy, context: DecisionContext) -> Events:
    """Set the policy again that was there before the last promotion."""
    known = known_queue(world, command.queue_id)
    check_text("reason", command.reason, context.rules.text_chars_max)
    promoted = known.promoted
    if promoted is None:
        msg = f"the policy of queue {command.queue_id!r} is not one that was promoted: set another one instead"
        raise Refused(msg, reason="not_promoted")
    return (
        QueueRolledBack(
            queue_id=command.queue_id,
            policy=promoted.before,
            by_settings=promoted.by_settings,
            reason=command.reason,
        ),
    )


DECIDERS: dict[type[Command], Decider] = {
    SetShadow: set_shadow,
    ReportShadow: report,
    PromotePolicy: promote,
    RollBackPolicy: roll_back,
}
TELLERS: dict[type[Command], Teller] = {
    SetShadow: queue_told,
    PromotePolicy: queue_told,
    RollBackPolicy: queue_told,
}
