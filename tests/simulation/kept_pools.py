"""What a pool promises, derived from the journal event by event, without the code that is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from events.container import ContainerDestroyed
from events.pool import (
    TASKS,
    PoolAllocated,
    PoolBound,
    PoolDefined,
    PoolEvent,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.task import TaskCancelled, TaskCompleted, TaskFailed, TaskStarted, TaskSubmitted, TaskTimedOut
from events.worker import WorkerLeft, WorkerLost, WorkerRegistered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AGEING_S = 60.0
DIRECT = "direct"
_TASK_ENDS = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)
COMMITS_TO_SETTLE = 10
"""A turn may be full, so what the end of an owner means may follow in a later one."""


@dataclass
class Share:
    """A share, or a request that waits for one."""

    request_id: str
    cpu: int
    priority: int
    came: float
    source: str
    owner: str = ""
    part: str = ""
    until: float | None = None
    number: int = 0
    """Of those that came at one time, the least came first."""

    @property
    def rank(self) -> tuple[float, int]:
        return self.came - self.priority * AGEING_S, self.number


class KeptPools:
    """The pool `tasks`; `take` returns what is wrong with an event, or ''."""

    def __init__(self) -> None:
        self._parts: dict[str, int] = {}
        self._quotas: dict[str, int] = {}
        self._held: dict[str, Share] = {}
        self._waiting: dict[str, Share] = {}
        self._victims: list[Share] = []
        self._requests: dict[str, str] = {}
        self._came = 0
        self._ended: dict[str, int] = {}
        """The owners that have ended, and in which commit."""

    def take(self, event: Any, actor: str, time: float, sequence: int) -> str:
        """Apply an event; return what is wrong with it."""
        if isinstance(event, PoolEvent):
            return self._pool(event, actor, time) if event.pool_id == TASKS else ""
        if isinstance(event, TaskSubmitted) and event.request:
            self._requests[event.task_id] = event.request
        elif isinstance(event, TaskStarted) and event.task_id in self._requests and event.claim_id != DIRECT:
            if self._requests[event.task_id] not in self._held:
                return f"{event} has no share: {self._requests[event.task_id]} does not hold one"
        elif isinstance(event, _TASK_ENDS):
            self._ended[f"task:{event.task_id}"] = sequence
        elif isinstance(event, WorkerLeft | WorkerLost):
            self._ended[f"worker:{event.worker_id}"] = sequence
        elif isinstance(event, WorkerRegistered):
            self._ended.pop(f"worker:{event.worker_id}", None)
        elif isinstance(event, ContainerDestroyed):
            self._ended[f"container:{event.container_id}"] = sequence
        return ""

    def end(self, sequence: int) -> str:
        """Return what is wrong after a commit."""
        for share in (*self._held.values(), *self._waiting.values()):
            ended = self._ended.get(share.owner)
            if ended is not None and sequence > ended + COMMITS_TO_SETTLE:
                return f"{share} is there still, and its owner ended in commit {ended}, before {sequence}"
        return ""

    def last(self) -> str:
        """Return what is wrong when everything has ended: the first in order that may have a share does not fit."""
        for request in sorted(self._waiting.values(), key=lambda one: one.rank):
            if self._is_over_quota(request):
                continue
            fitting = [part for part, has in self._parts.items() if self._cpu_in(part) + request.cpu <= has]
            return f"{request} waits, and {fitting} have room" if fitting else ""
        return ""

    def _pool(self, event: PoolEvent, actor: str, time: float) -> str:
        match event:
            case PoolDefined():
                parts = event.parts or {"": event.capacity}
                self._parts = {part: one.cpu_millis for part, one in parts.items()}
                self._quotas = {whose: one.cpu_millis for whose, one in event.quotas.items()}
            case PoolRequested():
                cpu = event.resources.cpu_millis
                asked = Share(event.request_id, cpu, event.priority, time, actor, event.owner, until=event.until)
                self._wait(asked)
            case PoolAllocated():
                return self._granted(event, actor, time)
            case PoolBound():
                (self._held.get(event.request_id) or self._waiting[event.request_id]).owner = event.owner
            case PoolReleased():
                del self._held[event.request_id]
            case PoolWithdrawn():
                gone = self._waiting.pop(event.request_id)
                if event.reason == "timed_out" and (gone.until is None or gone.until > time):
                    return f"{event} at {time}, but {gone}"
            case PoolPreempted():
                lost = self._held.pop(event.request_id)
                self._victims.append(Share(**vars(lost)))
                if event.waits:
                    lost.part, lost.until = "", None
                    self._wait(lost)
            case _:
                return f"{event} was not asked for"
        return ""

    def _wait(self, share: Share) -> None:
        self._came += 1
        share.number = self._came
        self._waiting[share.request_id] = share

    def _granted(self, event: PoolAllocated, actor: str, time: float) -> str:
        cpu = event.resources.cpu_millis
        share = self._waiting.pop(event.request_id, None) or Share(
            event.request_id, cpu, event.priority, time, actor, event.owner
        )
        mine = Share(**vars(share))
        mine.number = mine.number or self._came + 1
        share.part, share.came, share.until = event.part, time, None
        self._held[event.request_id] = share
        victims, self._victims = self._victims, []
        return next((wrong for wrong in self._wrongs(mine, event.part, victims) if wrong), "")

    def _wrongs(self, mine: Share, part: str, victims: list[Share]) -> Iterator[str]:
        """Yield what is wrong with a share that was just given to a request."""
        if self._cpu_in(part) > self._parts[part]:
            yield f"{self._cpu_in(part)} of {self._parts[part]} is held of {part} with {mine}"
        if self._of_source(mine.source) > self._quotas.get(f"source:{mine.source}", 2**53):
            yield f"{mine.source} holds {self._of_source(mine.source)} with {mine}"
        for victim in victims:
            is_there = victim.part == part and self._cpu_in(part) + victim.cpu > self._parts[part]
            if victim.priority >= mine.priority or not is_there:
                yield f"{victim} was not needed for {mine}"
        lost = {victim.request_id for victim in victims}
        for other in self._waiting.values():
            if other.rank > mine.rank or self._is_over_quota(other, victims) or other.request_id in lost:
                continue
            if victims:
                if other.priority >= mine.priority:
                    yield f"{mine} preempted past {other}"
            elif other.cpu <= self._parts[part] < self._cpu_in(part) + other.cpu:
                yield f"{mine} delays {other}, which waits before it"

    def _cpu_in(self, part: str) -> int:
        return sum(one.cpu for one in self._held.values() if one.part == part)

    def _of_source(self, source: str) -> int:
        return sum(one.cpu for one in self._held.values() if one.source == source)

    def _is_over_quota(self, request: Share, lost: Sequence[Share] = ()) -> bool:
        """Return whether its source may not hold it, with what it holds and what it asked for before."""
        most = self._quotas.get(f"source:{request.source}")
        if most is None:
            return False
        before = [one for one in self._waiting.values() if one.rank < request.rank and one.source == request.source]
        before += [one for one in lost if one.source == request.source]
        return self._of_source(request.source) + sum(one.cpu for one in before) + request.cpu > most
