"""Commands about candidate policies: they are compared with the live ones, promoted, and rolled back."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import Command, Example
from coordinator.commands.examples import QUEUE_PROMOTED, QUEUE_ROLLED_BACK, QUEUE_SHADOWED, SHADOW_REPORT
from events.queue import DEFAULT, Comparison, OtherDecision, Policy
from projections.queue import Queue


class ShadowView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    How a candidate policy has done so far: `divergence` is the share of decisions that would have been others, 0 to 1.

    `regret_s` is its regret for each decision in weighted seconds, `regret_high_s` what that is at most with 95 %
    certainty, None while too little was compared. Without a `refusal` it may be promoted; else that is the code of the
    reason, and `why_not` says it.
    """

    divergence: float = 0.0
    regret_s: float = 0.0
    regret_high_s: float | None = None
    refusal: str = ""
    why_not: str = ""


class SetShadow(Command[Queue], frozen=True, kw_only=True, gc=False):
    """
    Compare a candidate for the policy of a queue with the live one; without one, stop to do so.

    The followers derive what it would have decided from the same state as what was decided, in a part of the turns. It
    may be promoted after `min_decisions`, while its regret is at most `regret_max` weighted seconds for each decision
    with 95 % certainty. The same candidate again, with the same bounds, goes on; another one begins with nothing.
    """

    KIND, VERB, REMEMBERED = "queue", "set_shadow", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_policy", "bad_text", "not_found", "too_many"})
    EXAMPLE = Example(
        {"policy": {"strategy": "priority", "ageing_s": 60.0}, "regret_max": 0.5, "reason": "urgent tasks wait"},
        QUEUE_SHADOWED,
    )

    queue_id: str = DEFAULT
    policy: Policy | None = None
    regret_max: float = 0.0
    min_decisions: int = 1000
    reason: str = ""


class ReportShadow(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report what was compared of a candidate in the commits after `after` up to `upto`.

    Only a report that goes on where the one before ended is counted, so several followers may send theirs.
    """

    KIND, VERB = "queue", "report_shadow"
    FOR = frozenset({"follower"})
    REFUSALS = frozenset({"bad_number", "too_many"})
    EXAMPLE = Example(SHADOW_REPORT)

    queue_id: str
    after: int
    upto: int
    compared: Comparison
    examples: tuple[OtherDecision, ...] = ()


class PromotePolicy(Command[Queue], frozen=True, kw_only=True, gc=False):
    """
    Take the tasks of a queue by its candidate policy from now on.

    It is refused while its regret may be above its bound, as the reports of the followers say, while too few decisions
    were compared, or if the live policy is not the one any more that it was compared with.
    """

    KIND, VERB, REMEMBERED = "queue", "promote", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "no_shadow", "not_found", "shadow_outdated", "shadow_regret", "shadow_too_few"})
    EXAMPLE = Example({"reason": "urgent tasks begin sooner"}, QUEUE_PROMOTED)

    queue_id: str = DEFAULT
    reason: str = ""


class RollBackPolicy(Command[Queue], frozen=True, kw_only=True, gc=False):
    """Take the tasks of a queue again by the policy that it had before the last promotion."""

    KIND, VERB, REMEMBERED = "queue", "roll_back", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "not_found", "not_promoted"})
    EXAMPLE = Example({"reason": "reports are late"}, QUEUE_ROLLED_BACK)

    queue_id: str = DEFAULT
    reason: str = ""
