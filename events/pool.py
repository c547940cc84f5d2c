"""What happens to resource pools: a named capacity from which requests are granted and given back."""

from __future__ import annotations

from events.base import Event
from events.resources import NONE, Resources


class PoolEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one pool."""

    SUBJECT = "pool_id"

    pool_id: str


class PoolDefined(PoolEvent, frozen=True, kw_only=True, gc=False):
    """The pool exists with this capacity, or has this capacity from now on."""

    capacity: Resources


class PoolAllocated(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request holds a share of the pool."""

    request_id: str
    resources: Resources = NONE
    priority: int = 0


class PoolReleased(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request gave its share back."""

    request_id: str
    reason: str = "requested"
