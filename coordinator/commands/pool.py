"""Commands and questions about resource pools."""

from __future__ import annotations

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import POOL, POOL_EMPTY
from events.pool import Placing
from events.resources import Resources
from projections.pool import Pool


class DefinePool(Command[Pool], frozen=True, kw_only=True, gc=False):
    """
    Create a pool with this capacity, or change its capacity; shares that are held already stay.

    With `parts`, such as nodes, the capacity is their sum, and each share lies in one of them: in the fullest that has
    room (`pack`), or in the emptiest (`spread`). `quotas` are the most that a tenant or a source may hold:
    `tenant:NAME`, `source:NAME`, or `tenant:*` and `source:*` for each that has none of its own. An amount of 0 is not
    limited.
    """

    KIND, VERB = "pool", "define"
    INSTEAD = f"get_pool tells it: {PAGES}"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_quota", "bad_resources", "quota", "too_many"})
    EXAMPLE = Example({"pool_id": "pool_1", "capacity": {"cpu_millis": 8000, "gpus": 2}}, POOL_EMPTY)

    pool_id: str
    capacity: Resources
    parts: dict[str, Resources] = {}
    placing: Placing = Placing.PACK
    quotas: dict[str, Resources] = {}


class AllocatePool(Command[bool], frozen=True, kw_only=True, gc=False):
    """
    Allocate a share of a pool; the answer is False if it does not fit, or waits.

    With `wait_s` a request that does not fit waits so long, in the order of priority: one that has waited 60 s longer
    counts as one higher, and none is delayed by those behind it. The same request, sent again, tells whether it was
    granted. If it `preempts`, it takes the shares of requests with a lower priority, the lowest first and only those
    that it needs; a task that named such a request returns to the queue and waits for its share again. The share ends
    with its `owner`: `worker:ID`, `service:ID`, `session:ID` or `container:ID`. A `movable` share may be put into
    another part of the pool.
    """

    KIND, VERB = "pool", "allocate"
    REFUSALS = frozenset({
        "bad_number", "bad_owner", "bad_resources", "id_taken", "not_found", "quota", "too_many", "unknown_owner",
    })  # fmt: skip
    EXAMPLE = Example({"pool_id": "pool_1", "request_id": "request_1", "resources": {"gpus": 1}}, True)

    pool_id: str
    request_id: str
    resources: Resources
    priority: int = 0
    wait_s: float = 0.0
    preempts: bool = False
    owner: str = ""
    movable: bool = False


class MoveShare(Command[None], frozen=True, kw_only=True, gc=False):
    """Put a movable share of a pool into another part of it, which must have room."""

    KIND, VERB = "pool", "move"
    FOR = frozenset()
    REFUSALS = frozenset({"not_found", "not_movable", "part_full"})
    EXAMPLE = Example({"pool_id": "pool_2", "request_id": "request_2", "part": "node_2"})

    pool_id: str
    request_id: str
    part: str


class ReleasePool(Command[bool], frozen=True, kw_only=True, gc=False):
    """
    Release a share of a pool, or withdraw a request that waits; the answer is False if it had neither.

    One that a task named ends with that task.
    """

    KIND, VERB, REMEMBERED = "pool", "release", True
    REFUSALS = frozenset({"request_bound"})
    EXAMPLE = Example({"pool_id": "pool_1", "request_id": "request_1"}, True)

    pool_id: str
    request_id: str


class GetPool(Question[Pool], frozen=True, kw_only=True, gc=False):
    """
    Get one pool with all its allocations, oldest first, and the requests that wait, as they came.

    With `limit`, with at most that many allocations; with `after`, the id of a request, only with those after that one,
    and without requests that wait.
    """

    KIND, VERB = "pool", "get"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number", "not_found"})
    EXAMPLE = Example({"pool_id": "pool_1"}, POOL)

    pool_id: str
    limit: int | None = None
    after: str = ""
