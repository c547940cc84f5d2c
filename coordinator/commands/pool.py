"""Commands and questions about resource pools."""

from __future__ import annotations

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import POOL, POOL_EMPTY
from events.resources import Resources
from projections.pool import Pool


class DefinePool(Command[Pool], frozen=True, kw_only=True, gc=False):
    """Create a pool with this capacity, or change its capacity."""

    KIND, VERB = "pool", "define"
    INSTEAD = f"get_pool tells it: {PAGES}"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_resources", "quota", "too_many"})
    EXAMPLE = Example({"pool_id": "pool_1", "capacity": {"cpu_millis": 8000, "gpus": 2}}, POOL_EMPTY)

    pool_id: str
    capacity: Resources


class AllocatePool(Command[bool], frozen=True, kw_only=True, gc=False):
    """Allocate a share of a pool; the answer is False if it does not fit."""

    KIND, VERB = "pool", "allocate"
    REFUSALS = frozenset({"bad_number", "bad_resources", "id_taken", "not_found", "quota", "too_many"})
    EXAMPLE = Example({"pool_id": "pool_1", "request_id": "request_1", "resources": {"gpus": 1}}, True)

    pool_id: str
    request_id: str
    resources: Resources
    priority: int = 0
    """Recorded with the allocation and shown; who asks first is granted first."""


class ReleasePool(Command[bool], frozen=True, kw_only=True, gc=False):
    """Release a share of a pool; the answer is False if the request held none."""

    KIND, VERB, REMEMBERED = "pool", "release", True
    EXAMPLE = Example({"pool_id": "pool_1", "request_id": "request_1"}, True)

    pool_id: str
    request_id: str


class GetPool(Question[Pool], frozen=True, kw_only=True, gc=False):
    """
    Get one pool with all its allocations, oldest first.

    With `limit`, with at most that many of them; with `after`, the id of a request, only with those after that one.
    """

    KIND, VERB = "pool", "get"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number", "not_found"})
    EXAMPLE = Example({"pool_id": "pool_1"}, POOL)

    pool_id: str
    limit: int | None = None
    after: str = ""
