"""Events about resource pools: named capacities of which requests hold shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from events.base import Event
from events.resources import NONE, Resources


class PoolEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one pool."""

    SUBJECT = "pool_id"

    pool_id: str


class PoolDefined(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The pool was created with this capacity, or its capacity changed to it.

    `owned` says that the pool, if it is new, belongs to the `actor` and the `tenant` of this event.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"owned": 2}

    capacity: Resources
    owned: bool = False


class PoolAllocated(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A request holds a share of the pool.

    `owned` says that the share belongs to the `actor` and the `tenant` of this event: only that source may release it.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"owned": 2}

    request_id: str
    resources: Resources = NONE
    priority: int = 0
    owned: bool = False


class PoolReleased(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request returned its share."""

    request_id: str
    reason: str = "requested"
