"""Queues: state, and the fold of their events. Pure."""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.errors import Corrupt
from events.queue import (
    DEFAULT,
    Comparison,
    OtherDecision,
    Policy,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicyFailed,
    QueuePolicySet,
    QueuePromoted,
    QueueResumed,
    QueueRolledBack,
    QueueRouted,
    QueueShadowReported,
    QueueShadowSet,
    Route,
)
from projections.stamp import Stamp, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    ShadowEvent = QueueShadowSet | QueueShadowReported | QueuePromoted | QueueRolledBack
    AnyQueueEvent = (
        QueueDefined
        | QueuePolicySet
        | QueuePolicyFailed
        | QueuePaused
        | QueueResumed
        | QueueDeleted
        | QueueRouted
        | ShadowEvent
    )

USUAL = Policy()
"""The policy where none was set."""


EXAMPLES_KEPT = 5
CERTAINTY = 1.96
"""So many standard errors on each side hold the true value with 95 % certainty, of normally distributed means."""


class Shadow(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A candidate for the policy of a queue, and what was compared of it since it was set; times are commit times.

    It is compared with the policy `against`, and may replace that after `min_decisions` if its regret is not above
    `regret_max`. What was decided up to the commit `upto` is in `compared`; `examples` are the last differences.
    """

    policy: Policy
    against: Policy
    set: Position
    since: float
    regret_max: float
    min_decisions: int
    set_by: str = ""
    reason: str = ""
    upto: int = 0
    reported_at: float = 0.0
    compared: Comparison = Comparison()
    examples: tuple[OtherDecision, ...] = ()


class Promotion(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What the policy of a queue was before a candidate was promoted, at the commit time `at`."""

    at: float
    before: Policy | None = None
    by_settings: bool = False


class Queue(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One queue; times are commit times in seconds.

    Without a `policy` of its own it follows that of the queue `default`. `paused_at` is None while it is not paused.
    Without a `route` its tasks begin on any version of workers. `promoted` is there while its policy is one that was
    promoted.
    """

    queue_id: str
    defined: Position
    weight: float = 1.0
    policy: Policy | None = None
    policy_by_settings: bool = False
    paused_at: float | None = None
    paused_by: str = ""
    reason: str = ""
    route: Route | None = None
    shadow: Shadow | None = None
    promoted: Promotion | None = None


MOST_PAST = 1000
"""Of so many pauses that are over it is remembered when they were."""


class PastPause(msgspec.Struct, frozen=True, gc=False):
    """A queue was paused from `since` until `until`, commit times in seconds."""

    name: str
    queue_id: str
    since: float
    until: float


def default_queue() -> Queue:
    """Return the queue of tasks that name none, as it is before anything is said of it."""
    return Queue(queue_id=DEFAULT, defined=START)


def name_of(queue_id: str) -> str:
    """Return what a task has as its `queue`: '' for the default one."""
    return "" if queue_id == DEFAULT else queue_id


def policy_of(queues: Mapping[str, Queue], name: str) -> Policy:
    """Return the policy that is in force in the queue that tasks call *name*."""
    own = queues.get(name) if name else None
    if own is not None and own.policy is not None:
        return own.policy
    usual = queues.get(DEFAULT)
    return USUAL if usual is None or usual.policy is None else usual.policy


def evolve(queue: Queue | None, event: AnyQueueEvent, stamp: Stamp) -> Queue | None:
    """Fold one event into the queue it is about; None means that it exists no more."""
    if queue is None:
        if not isinstance(event, QueueDefined) and event.queue_id != DEFAULT:
            missing(event, stamp)
        queue = Queue(queue_id=event.queue_id, defined=stamp.position)
    replace = msgspec.structs.replace
    match event:
        case QueueDefined():
            return replace(queue, weight=event.weight)
        case QueuePolicySet():
            return replace(queue, policy=event.policy, policy_by_settings=event.by_settings, promoted=None)
        case QueuePolicyFailed():
            return queue
        case QueuePaused():
            return replace(queue, paused_at=stamp.time, paused_by=stamp.actor, reason=event.reason)
        case QueueResumed():
            return replace(queue, paused_at=None, paused_by="", reason="")
        case QueueRouted():
            return replace(queue, route=event.route)
        case QueueShadowSet() | QueueShadowReported() | QueuePromoted() | QueueRolledBack():
            return _evolve_shadow(queue, event, stamp)
        case QueueDeleted():
            if queue.queue_id == DEFAULT:
                msg = f"event {stamp.position} deletes the queue {DEFAULT!r}, which always exists"
                raise Corrupt(msg)
            return None
    assert_never(event)


def _evolve_shadow(queue: Queue, event: ShadowEvent, stamp: Stamp) -> Queue:
    replace = msgspec.structs.replace
    match event:
        case QueueShadowSet():
            return replace(queue, shadow=_shadow(event, stamp))
        case QueueShadowReported():
            return replace(queue, shadow=_reported(queue.shadow or missing(event, stamp), event, stamp))
        case QueuePromoted():
            before = Promotion(at=stamp.time, before=queue.policy, by_settings=queue.policy_by_settings)
            return replace(queue, policy=event.policy, policy_by_settings=False, shadow=None, promoted=before)
        case QueueRolledBack():
            return replace(queue, policy=event.policy, policy_by_settings=event.by_settings, promoted=None)
    assert_never(event)


def _shadow(event: QueueShadowSet, stamp: Stamp) -> Shadow | None:
    if event.policy is None:
        return None
    return Shadow(
        policy=event.policy,
        against=USUAL if event.against is None else event.against,
        set=stamp.position,
        since=stamp.time,
        set_by=stamp.actor,
        reason=event.reason,
        regret_max=event.regret_max,
        min_decisions=event.min_decisions,
        upto=stamp.position.sequence,
    )


def _reported(shadow: Shadow, event: QueueShadowReported, stamp: Stamp) -> Shadow:
    return msgspec.structs.replace(
        shadow,
        upto=event.upto,
        reported_at=stamp.time,
        compared=together(shadow.compared, event.compared),
        examples=(*shadow.examples, *event.examples)[-EXAMPLES_KEPT:],
    )


def together(one: Comparison, other: Comparison) -> Comparison:
    """Return what was compared in the turns of both."""
    return Comparison(**{name: getattr(one, name) + getattr(other, name) for name in Comparison.__struct_fields__})


def regret_of(compared: Comparison) -> tuple[float, float]:
    """
    Return the regret for each decision and what it is at most with 95 % certainty, in weighted seconds.

    It is a ratio of sums over turns, and the turns are what was drawn: with fewer than two the error is infinite (W. G.
    Cochran, Sampling Techniques, 1977, 6.3 and 9A.2).
    """
    turns, decisions = compared.turns, compared.decisions
    if not decisions:
        return 0.0, inf
    mean = compared.regret_s / decisions
    if turns < 2:  # noqa: PLR2004
        return mean, inf
    squares = (
        compared.regret_squares - 2 * mean * compared.regret_by_decisions + mean * mean * compared.decision_squares
    )
    error = sqrt(max(0.0, squares) * turns / (turns - 1)) / decisions
    return mean, mean + CERTAINTY * error
