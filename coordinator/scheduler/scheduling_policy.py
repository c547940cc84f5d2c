"""
Which task goes to which worker: the policies, and the one function that places tasks. Pure.

`schedule` deals ready tasks to waiting claims; it looks at heads of ordered groups (`projections.indexes`) and never at
all tasks. `SchedulingPolicy` offers the same strategies to users over plain lists, and is what they subclass for their
own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Refused
from events.resources import Resources
from events.task import TaskStarted
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from events.coordinator import WaitingClaim
    from projections.indexes import Key
    from projections.task import Task
    from projections.worker import Worker
    from projections.world import World

SCHEDULE_VERSION = 1
"""Raised when the same inputs give other placements."""

CLAIM_BYTES = 512 * 1024
"""A claim that has been given so much is answered: with one task more the answer must still fit into one message."""

_TASK_BYTES = 640
"""What a task takes without its ids, texts and payload, were all its numbers as long as they may be."""

_encode = msgspec.json.Encoder().encode


class SchedulingStrategy(Enum):
    """In which order tasks are taken, and which waiting worker is served first."""

    FIFO = "fifo"
    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"


class PolicyType(Enum):
    """What a `SchedulingPolicy` goes by; CUSTOM is for subclasses."""

    FIFO = "fifo"
    PRIORITY = "priority"
    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"
    CUSTOM = "custom"


# --- placing ----------------------------------------------------------------------------------------------------------


def schedule(
    world: World, claims: Sequence[WaitingClaim], loads: Mapping[str, float], *, most: int
) -> Iterator[TaskStarted]:
    """
    Deal up to *most* ready tasks to waiting claims, one at a time, the worker served least first.

    FIFO, PRIORITY and ROUND_ROBIN serve the claims in turn, LEAST_LOADED the worker with the smallest share of its
    capacity in use, WEIGHTED_ROUND_ROBIN in proportion to slots. PRIORITY takes tasks by priority, higher first, all
    others by age. *loads* are what workers last reported, 0 to 1.
    """
    menus: dict[tuple[str, tuple[str, ...]], _Menu] = {}
    rooms = {worker_id: _room(world, worker_id, loads) for worker_id in {claim.worker_id for claim in claims}}
    seats = [
        (seat.score(), number, seat)
        for number, claim in enumerate(claims)
        if (room := rooms[claim.worker_id]) is not None and (seat := _Seat(claim, room))
    ]
    heapq.heapify(seats)
    taken: set[str] = set()
    while seats and len(taken) < most:
        score, number, seat = seats[0]
        if score < seat.score():  # its worker was served on another claim meanwhile
            heapq.heapreplace(seats, (seat.score(), number, seat))
            continue
        menu_key = (seat.ordering, seat.room.worker.handles)
        menu = menus.get(menu_key)
        if menu is None:
            menu = menus[menu_key] = _Menu(world, *menu_key)
        task = menu.take(seat, taken) if seat and not menu.is_barren(seat) else None
        if task is None:
            heapq.heappop(seats)
            continue
        taken.add(task.task_id)
        yield seat.give(task)
        heapq.heapreplace(seats, (seat.score(), number, seat))


class _Room:
    """What one worker can still take while tasks are dealt; all its claims share it."""

    __slots__ = ("busy", "free", "load", "worker")

    def __init__(self, worker: Worker, busy: int, free: Resources | None, load: float) -> None:
        self.worker = worker
        self.busy = busy
        self.free = free
        self.load = load


class _Seat:
    """A waiting claim while tasks are dealt; false when it can get no more."""

    __slots__ = ("claim", "given", "given_bytes", "ordering", "room")

    def __init__(self, claim: WaitingClaim, room: _Room) -> None:
        self.claim = claim
        self.room = room
        self.given = 0
        self.given_bytes = 0
        self.ordering = "priority" if claim.strategy == "priority" else "fifo"

    def __bool__(self) -> bool:
        slots = self.room.worker.slots
        if self.given >= self.claim.slots or self.given_bytes >= CLAIM_BYTES:
            return False
        return slots is None or self.room.busy < slots

    def score(self) -> float:
        """Say how well served the seat is; the lowest is served next."""
        if self.claim.strategy == "least_loaded":
            return self.room.load + self.room.busy / (self.room.worker.slots or 1)
        if self.claim.strategy == "weighted_round_robin":
            return self.given / (self.room.worker.slots or 1)
        return self.given

    def fits(self, task: Task) -> bool:
        return self.room.free is None or task.resources.fits_in(self.room.free)

    def give(self, task: Task) -> TaskStarted:
        """Give a task under a lease that no other attempt bears: not of this task, not of this claim."""
        self.given += 1
        self.given_bytes += _answer_bytes(task, self.claim)
        self.room.busy += 1
        if self.room.free is not None:
            self.room.free -= task.resources
        attempt = task.attempt + 1
        return TaskStarted(
            task_id=task.task_id,
            worker_id=self.claim.worker_id,
            claim_id=self.claim.claim_id,
            attempt=attempt,
            lease=f"{self.claim.claim_id}.{self.given}.{attempt}",
        )


def _answer_bytes(task: Task, claim: WaitingClaim) -> int:
    """Say how many bytes *task* takes in an answer at most; encoding it would tell exactly, and cost more than it."""
    payload = task.payload
    if payload is None or payload.encoding == "text" or not payload.data.isascii():
        return len(_encode(task))
    ids = len(task.task_id) + len(task.tenant) + 2 * len(claim.claim_id) + len(claim.worker_id) + len(task.ended_by)
    texts = len(task.task_name) + len(task.task_type) + len(task.idempotency_key) + len(payload.ref)
    texts += len(task.error) + len(task.progress_message) + len(task.refused_lease)
    # JSON and base64 hold no control characters, and of the others JSON writes none as more than two bytes.
    return _TASK_BYTES + ids + 6 * texts + 2 * len(payload.data)


def _room(world: World, worker_id: str, loads: Mapping[str, float]) -> _Room | None:
    worker = world.workers.get(worker_id)
    if worker is None or worker.status is not WorkerStatus.ACTIVE:
        return None
    held = world.indexes.held.get(worker_id, {})
    free = worker.resources
    if free is not None:
        for task_id in held:
            free -= world.tasks[task_id].resources
    return _Room(worker, len(held), free, loads.get(worker_id, 0.0))


class _Menu:
    """The ready tasks that workers of some kind may run, in order, over all shapes."""

    def __init__(self, world: World, ordering: str, handles: tuple[str, ...]) -> None:
        self._heads: list[tuple[Key, int, Task, Iterator[tuple[Key, Task]]]] = []
        self._barren: list[Resources] = []
        allowed = frozenset(handles)
        for number, (key, shape) in enumerate(world.indexes.shapes.items()):
            if shape.members and (not allowed or key.task_name in allowed):
                self._push(shape.ordered(ordering), number)

    def is_barren(self, seat: _Seat) -> bool:
        """Whether one with as much room as the seat has found nothing here already."""
        free = seat.room.free
        return free is not None and any(free.fits_in(one) for one in self._barren)

    def take(self, seat: _Seat, taken: set[str]) -> Task | None:
        """Take the first task that fits the seat; what does not fit stays for others."""
        passed = []
        found = None
        while self._heads and found is None:
            key, number, task, rest = heapq.heappop(self._heads)
            if task.task_id in taken:
                self._push(rest, number)
            elif seat.fits(task):
                found = task
                self._push(rest, number)
            else:
                passed.append((key, number, task, rest))
        for head in passed:
            heapq.heappush(self._heads, head)
        if found is None and seat.room.free is not None:
            self._barren.append(seat.room.free)
        return found

    def _push(self, rest: Iterator[tuple[Key, Task]], number: int) -> None:
        for key, task in rest:
            heapq.heappush(self._heads, (key, number, task, rest))
            return


# --- for users --------------------------------------------------------------------------------------------------------


class SchedulingPolicy:
    """
    Choose among tasks and workers at hand; subclass it with `PolicyType.CUSTOM` for an algorithm of your own.

    Tasks are objects or mappings with `priority` (a number, or a label that `priority_weights` ranks); workers are ids,
    or objects or mappings with `worker_id` and perhaps `load` (0 to 1) and `weight`. Both lists are taken in the order
    given, oldest first.
    """

    def __init__(self, policy_type: PolicyType = PolicyType.FIFO) -> None:
        if getattr(policy_type, "name", None) not in PolicyType.__members__:
            msg = f"policy_type {policy_type!r} is none: use PolicyType.{', PolicyType.'.join(PolicyType.__members__)}"
            raise Refused(msg, reason="bad_policy")
        self.policy_type = policy_type
        self._priority_weights: dict[str, float] = {"high": 3, "medium": 2, "low": 1}
        self._worker_weights: dict[str, float] = {}
        self._loads: dict[str, float] = {}
        self._served: dict[str, float] = {}

    def configure(self, options: Mapping[str, Any]) -> None:
        """
        Set `priority_weights` (label → rank, higher first) or `worker_weights` (worker id → share).

        Raises:
            Refused: another option, or a weight that is not a number above 0.
        """
        for name, weights in options.items():
            if name not in ("priority_weights", "worker_weights"):
                msg = f"policy option {name!r} is not known: use priority_weights, worker_weights"
                raise Refused(msg, reason="bad_policy")
            if not isinstance(weights, Mapping):
                msg = f"{name} is {weights!r}: use a mapping such as {{'high': 3}}"
                raise Refused(msg, reason="bad_policy")
            for key, weight in weights.items():
                if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                    msg = f"{name}[{key!r}] is {weight!r}: use a finite number above 0"
                    raise Refused(msg, reason="bad_policy")
        self._priority_weights = dict(options.get("priority_weights", self._priority_weights))
        self._worker_weights = dict(options.get("worker_weights", self._worker_weights))

    def select_task(
        self,
        available_tasks: Sequence[Any],
        available_workers: Sequence[Any],
        **kwargs: Any,  # noqa: ARG002  # whatever a subclass of the user's takes
    ) -> Any:
        """Choose the task to run next, None when there is no task or nobody to run it."""
        if not available_tasks or not available_workers:
            return None
        if self.policy_type is PolicyType.PRIORITY:
            return max(available_tasks, key=self._rank)
        return available_tasks[0]

    def select_worker(self, task: Any, available_workers: Sequence[Any]) -> Any:  # noqa: ARG002  # subclasses look at it
        """Choose the worker that gets *task*, None when there is none."""
        if not available_workers:
            return None
        chosen = min(available_workers, key=self._use)
        worker_id = _worker_id(chosen)
        self._served[worker_id] = self._served.get(worker_id, 0.0) + 1.0
        return chosen

    def update_worker_load(self, worker_id: str, load: float) -> None:
        """Note what share of its capacity a worker has in use, 0 to 1."""
        if not 0.0 <= load <= 1.0:
            msg = f"load {load!r} of worker {worker_id!r} is out of range: use 0 to 1"
            raise Refused(msg, reason="bad_number")
        self._loads[worker_id] = load

    def _rank(self, task: Any) -> float:
        priority = _part(task, "priority", 0)
        if isinstance(priority, str):
            return float(self._priority_weights.get(priority, 0.0))
        return float(priority)

    def _use(self, worker: Any) -> float:
        """Say how much a worker has been used, by what the policy goes by; the least used is chosen."""
        worker_id = _worker_id(worker)
        load = self._loads.get(worker_id, float(_part(worker, "load", 0.0)))
        served = self._served.get(worker_id, 0.0)
        match self.policy_type:
            case PolicyType.ROUND_ROBIN:
                return served
            case PolicyType.WEIGHTED_ROUND_ROBIN:
                weight = self._worker_weights.get(worker_id, float(_part(worker, "weight", 1.0)))
                return (served + 1.0) / weight
            case _:
                return load


def _part(thing: Any, name: str, default: Any) -> Any:
    if isinstance(thing, Mapping):
        return thing.get(name, default)
    return getattr(thing, name, default)


def _worker_id(worker: Any) -> str:
    return worker if isinstance(worker, str) else str(_part(worker, "worker_id", ""))
