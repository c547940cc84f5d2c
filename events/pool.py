"""Events about resource pools: named capacities of which requests hold shares."""

from __future__ import annotations

from events.base import Event
from events.resources import NONE, Resources


class PoolEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one pool."""

    SUBJECT = "pool_id"

    pool_id: str


class PoolDefined(PoolEvent, frozen=True, kw_only=True, gc=False):
    """The pool was created with this capacity, or its capacity changed to it."""

    capacity: Resources


class PoolAllocated(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request holds a share of the pool."""

    request_id: str
    resources: Resources = NONE
    priority: int = 0


class PoolReleased(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request returned its share."""

    request_id: str
    reason: str = "requested"
