"""Commands and questions about resource pools."""

from __future__ import annotations

from coordinator.commands.command import PAGES, Command, Question
from events.resources import Resources
from projections.pool import Pool


class DefinePool(Command, frozen=True, kw_only=True, gc=False):
    """Create a pool with this capacity, or change its capacity."""

    KIND, VERB, Answer = "pool", "define", Pool
    INSTEAD = f"get_pool tells it: {PAGES}"
    FOR = frozenset()

    pool_id: str
    capacity: Resources


class AllocatePool(Command, frozen=True, kw_only=True, gc=False):
    """Allocate a share of a pool; the answer is False if it does not fit."""

    KIND, VERB, Answer = "pool", "allocate", bool

    pool_id: str
    request_id: str
    resources: Resources
    priority: int = 0
    """Recorded with the allocation and shown; who asks first is granted first."""


class ReleasePool(Command, frozen=True, kw_only=True, gc=False):
    """Release a share of a pool; the answer is False if the request held none."""

    KIND, VERB, Answer, REMEMBERED = "pool", "release", bool, True

    pool_id: str
    request_id: str


class GetPool(Question, frozen=True, kw_only=True, gc=False):
    """
    Get one pool with all its allocations, oldest first.

    With `limit`, with at most that many of them; with `after`, the id of a request, only with those after that one.
    """

    KIND, VERB, Answer = "pool", "get", Pool
    INSTEAD = PAGES

    pool_id: str
    limit: int | None = None
    after: str = ""
