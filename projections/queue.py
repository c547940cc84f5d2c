"""Queues: state, and the fold of their events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.errors import Corrupt
from events.queue import (
    DEFAULT,
    Policy,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicyFailed,
    QueuePolicySet,
    QueueResumed,
    QueueRouted,
    Route,
)
from projections.stamp import Stamp, missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    AnyQueueEvent = (
        QueueDefined | QueuePolicySet | QueuePolicyFailed | QueuePaused | QueueResumed | QueueDeleted | QueueRouted
    )

USUAL = Policy()
"""The policy where none was set."""


class Queue(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One queue; times are commit times in seconds.

    Without a `policy` of its own it follows that of the queue `default`. `paused_at` is None while it is not paused.
    Without a `route` its tasks begin on any version of workers.
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
            return replace(queue, policy=event.policy, policy_by_settings=event.by_settings)
        case QueuePolicyFailed():
            return queue
        case QueuePaused():
            return replace(queue, paused_at=stamp.time, paused_by=stamp.actor, reason=event.reason)
        case QueueResumed():
            return replace(queue, paused_at=None, paused_by="", reason="")
        case QueueRouted():
            return replace(queue, route=event.route)
        case QueueDeleted():
            if queue.queue_id == DEFAULT:
                msg = f"event {stamp.position} deletes the queue {DEFAULT!r}, which always exists"
                raise Corrupt(msg)
            return None
    assert_never(event)
