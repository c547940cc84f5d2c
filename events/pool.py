"""Events about resource pools: named capacities of which requests hold shares, or wait for some."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from events.base import Event
from events.resources import NONE, Resources

TASKS = "tasks"
"""The pool of the Executors, whose requests a task may name."""


class Placing(Enum):
    """To which part of a pool a share goes, of those that have room: to the fullest, or to the emptiest."""

    PACK = "pack"
    SPREAD = "spread"


class PoolEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one pool."""

    SUBJECT = "pool_id"

    pool_id: str


class PoolDefined(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The pool was created with this capacity, or its capacity changed to it.

    `owned` says that the pool, if it is new, belongs to the `actor` and the `tenant` of this event. With `parts`, such
    as nodes, the capacity is their sum, and a share lies in one of them, as `placing` says. `quotas` are the most that
    a tenant or a source may hold: by `tenant:NAME`, `source:NAME`, or `tenant:*` and `source:*` for each that has none
    of its own. An amount of 0 is not limited.
    """

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {"owned": 2, **dict.fromkeys(("parts", "placing", "quotas"), 3)}

    capacity: Resources
    owned: bool = False
    parts: dict[str, Resources] = {}
    placing: Placing = Placing.PACK
    quotas: dict[str, Resources] = {}


class PoolRequested(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A request waits for a share of the pool, `until` a commit time in seconds, or without an end.

    `owned` says that it belongs to the `actor` and the `tenant` of this event. `owner` is what it ends with, such as
    `worker:worker_1`. It takes the shares of requests with a lower priority if it `preempts`; its own share may be put
    into another part if it is `movable`.
    """

    request_id: str
    resources: Resources = NONE
    priority: int = 0
    owned: bool = False
    owner: str = ""
    until: float | None = None
    preempts: bool = False
    movable: bool = False


class PoolAllocated(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A request holds a share of the pool, in one `part` of it if it has some.

    `owned` says that the share belongs to the `actor` and the `tenant` of this event: only that source may release it.
    The share of a request that waited belongs to whoever asked for it, and ends with the owner of the request.
    """

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {"owned": 2, **dict.fromkeys(("part", "owner", "movable"), 3)}

    request_id: str
    resources: Resources = NONE
    priority: int = 0
    owned: bool = False
    part: str = ""
    owner: str = ""
    movable: bool = False


class PoolBound(PoolEvent, frozen=True, kw_only=True, gc=False):
    """A request, or its share, ends with this owner from now on: a task named it."""

    request_id: str
    owner: str


class PoolMoved(PoolEvent, frozen=True, kw_only=True, gc=False):
    """The share of a request lies in another part of the pool from now on."""

    request_id: str
    part: str


class PoolReleased(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request returned its share; `reason` says so, or how its owner ended."""

    request_id: str
    reason: str = "requested"


class PoolPreempted(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A request lost its share to another one, `by`, with a higher priority; it `waits` for one again if a task named it.

    `worker_id` ran an attempt of that task under `lease`, which has ended.
    """

    request_id: str
    by: str
    waits: bool = False
    worker_id: str = ""
    lease: str = ""


class PoolWithdrawn(PoolEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A request waits no more, without a share: it was released, timed out, or its owner ended (`reason`)."""

    request_id: str
    reason: str = "requested"
