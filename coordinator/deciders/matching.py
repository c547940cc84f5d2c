"""Matches ready tasks to waiting claims. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from events.coordinator import ClaimFilter
from events.resources import Resources
from events.task import TaskStarted
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from events.coordinator import WaitingClaim
    from projections.indexes import Key
    from projections.task import Task
    from projections.worker import WorkerState
    from projections.world import World


SCHEDULE_VERSION = 1
"""Increase it when the same inputs lead to other placements."""
CLAIM_BYTES = 512 * 1024
"""A claim whose tasks reach this size is answered: with one more task the answer must still fit into one message."""
_TASK_BYTES = 680
"""Size of an encoded task without its ids, texts and payload, with every number at its longest."""
_ANY = ClaimFilter()
_encode = msgspec.json.Encoder().encode


def schedule(
    world: World,
    claims: Sequence[WaitingClaim],
    loads: Mapping[str, float],
    filters: Mapping[str, ClaimFilter] = MappingProxyType({}),
    *,
    most: int,
) -> Iterator[TaskStarted]:
    """
    Assign up to *most* ready tasks to waiting claims, one at a time, least served worker first.

    FIFO, PRIORITY and ROUND_ROBIN serve the claims in turn, LEAST_LOADED the worker with the smallest share of its
    capacity in use, WEIGHTED_ROUND_ROBIN in proportion to slots. PRIORITY takes tasks by priority, highest first; all
    others take the oldest first. *loads* are the last reported loads of the workers, 0 to 1; *filters* say by claim id
    which tasks a claim takes.
    """
    queues: dict[tuple[str, tuple[str, ...], ClaimFilter], _Queue] = {}
    capacities = {worker_id: _capacity(world, worker_id, loads) for worker_id in {claim.worker_id for claim in claims}}
    candidates = [
        (candidate.score(), number, candidate)
        for number, claim in enumerate(claims)
        if (capacity := capacities[claim.worker_id]) is not None and (candidate := _Candidate(claim, capacity))
    ]
    heapq.heapify(candidates)
    taken: set[str] = set()
    while candidates and len(taken) < most:
        score, number, candidate = candidates[0]
        if score < candidate.score():  # the worker got a task through another of its claims since
            heapq.heapreplace(candidates, (candidate.score(), number, candidate))
            continue
        wanted = filters.get(candidate.claim.claim_id, _ANY)
        queue_key = (candidate.ordering, candidate.capacity.worker.handles, wanted)
        queue = queues.get(queue_key)
        if queue is None:
            queue = queues[queue_key] = _Queue(world, *queue_key)
        task = queue.take(candidate, taken) if candidate and not queue.has_no_fit(candidate) else None
        if task is None:
            heapq.heappop(candidates)
            continue
        taken.add(task.task_id)
        yield candidate.assign(task)
        heapq.heapreplace(candidates, (candidate.score(), number, candidate))


class _Capacity:
    """What one worker can still take while tasks are assigned; all its claims share it."""

    __slots__ = ("busy", "free", "load", "worker")

    def __init__(self, worker: WorkerState, busy: int, free: Resources | None, load: float) -> None:
        self.worker = worker
        self.busy = busy
        self.free = free
        self.load = load


class _Candidate:
    """A waiting claim while tasks are assigned; false when it cannot take another task."""

    __slots__ = ("assigned", "assigned_bytes", "capacity", "claim", "ordering")

    def __init__(self, claim: WaitingClaim, capacity: _Capacity) -> None:
        self.claim = claim
        self.capacity = capacity
        self.assigned = 0
        self.assigned_bytes = 0
        self.ordering = "priority" if claim.strategy == "priority" else "fifo"

    def __bool__(self) -> bool:
        slots = self.capacity.worker.slots
        if self.assigned >= self.claim.slots or self.assigned_bytes >= CLAIM_BYTES:
            return False
        return slots is None or self.capacity.busy < slots

    def score(self) -> float:
        """Return how well the claim is served; the lowest score is served next."""
        if self.claim.strategy == "least_loaded":
            return self.capacity.load + self.capacity.busy / (self.capacity.worker.slots or 1)
        if self.claim.strategy == "weighted_round_robin":
            return self.assigned / (self.capacity.worker.slots or 1)
        return self.assigned

    def fits(self, task: Task) -> bool:
        return self.capacity.free is None or task.resources.fits_in(self.capacity.free)

    def assign(self, task: Task) -> TaskStarted:
        """Assign a task under a lease that is unique among the attempts of this task and of this claim."""
        self.assigned += 1
        self.assigned_bytes += _answer_bytes(task, self.claim)
        self.capacity.busy += 1
        if self.capacity.free is not None:
            self.capacity.free -= task.resources
        attempt = task.attempt + 1
        return TaskStarted(
            task_id=task.task_id,
            worker_id=self.claim.worker_id,
            claim_id=self.claim.claim_id,
            attempt=attempt,
            lease=f"{self.claim.claim_id}.{self.assigned}.{attempt}",
        )


def _answer_bytes(task: Task, claim: WaitingClaim) -> int:
    """Return an upper bound of the encoded size of *task*; to encode it costs more than the exact size is worth."""
    payload = task.payload
    if payload is None or payload.encoding == "text" or not payload.data.isascii():
        return len(_encode(task))
    ids = len(task.task_id) + len(task.tenant) + 2 * len(claim.claim_id) + len(claim.worker_id) + len(task.ended_by)
    ids += len(task.program)
    texts = len(task.task_name) + len(task.task_type) + len(task.idempotency_key) + len(payload.ref)
    texts += len(task.error) + len(task.progress_message) + len(task.refused_lease)
    # JSON and base64 contain no control characters; JSON escapes any other ASCII character to at most two bytes.
    return _TASK_BYTES + ids + 6 * texts + 2 * len(payload.data)


def _capacity(world: World, worker_id: str, loads: Mapping[str, float]) -> _Capacity | None:
    worker = world.workers.get(worker_id)
    if worker is None or worker.status is not WorkerStatus.ACTIVE:
        return None
    held = world.indexes.held.get(worker_id, {})
    free = worker.resources
    if free is not None:
        for task_id in held:
            free -= world.tasks[task_id].resources
    return _Capacity(worker, len(held), free, loads.get(worker_id, 0.0))


class _Queue:
    """The ready tasks that claims with the same filter, of workers with the same `handles`, may take, in order."""

    def __init__(self, world: World, ordering: str, handles: tuple[str, ...], wanted: ClaimFilter) -> None:
        self._heads: list[tuple[Key, int, Task, Iterator[tuple[Key, Task]]]] = []
        self._no_fit: list[Resources] = []
        allowed, names = frozenset(handles), frozenset(wanted.task_names)
        shapes, shapes_of = world.indexes.shapes, world.indexes.shapes_of
        kinds = [shapes_of.get(program, {}) for program in dict.fromkeys(wanted.programs)] or [shapes]
        for number, (key, shape) in enumerate(chain.from_iterable(kind.items() for kind in kinds)):
            if shape.members and (not allowed or key.task_name in allowed) and (not names or key.task_name in names):
                self._push(shape.ordered(ordering), number)

    def has_no_fit(self, candidate: _Candidate) -> bool:
        """Whether a claim with at least as much room already found no task here."""
        free = candidate.capacity.free
        return free is not None and any(free.fits_in(one) for one in self._no_fit)

    def take(self, candidate: _Candidate, taken: set[str]) -> Task | None:
        """Take the first task that fits the claim; tasks that do not fit stay for others."""
        passed = []
        found = None
        while self._heads and found is None:
            key, number, task, rest = heapq.heappop(self._heads)
            if task.task_id in taken:
                self._push(rest, number)
            elif candidate.fits(task):
                found = task
                self._push(rest, number)
            else:
                passed.append((key, number, task, rest))
        for head in passed:
            heapq.heappush(self._heads, head)
        if found is None and candidate.capacity.free is not None:
            self._no_fit.append(candidate.capacity.free)
        return found

    def _push(self, rest: Iterator[tuple[Key, Task]], number: int) -> None:
        for key, task in rest:
            heapq.heappush(self._heads, (key, number, task, rest))
            return
