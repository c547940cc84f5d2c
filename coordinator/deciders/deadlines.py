"""
When something may be due for each worker, attempt, service, node and container: `due` looks only at those. Pure.

An index over the world and the signs of life; like these signs it is kept by the writer and is not folded. A deadline
noted here may be too early, never too late: a heartbeat moves nothing here, and who is looked at too early is noted
again. A new index names everything, so `due` finds the same with any index that has noted every event.
"""

from __future__ import annotations

import heapq
from math import inf
from typing import TYPE_CHECKING

from coordinator.deciders import pool_owners
from events.codec import EVENTS
from events.container import ContainerEvent
from events.coordinator import CoordinatorMassSilenceEnded, Watched
from events.node import NodeEvent
from events.pool import PoolEvent
from events.service import ServiceEvent
from events.task import TaskStarted
from events.worker import WorkerEvent
from projections.time_limits import heartbeat_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from events.base import Event
    from projections.world import World

    Times = tuple[float, float]
    """By the writer's monotonic clock, and by commit time; `inf` for never."""

NEVER = (inf, inf)
_EARLY_S = 0.001
"""The exact comparisons of the deciders may round otherwise than a sum that is noted here."""


class Due:
    """The things of one kind that are to be looked at: those that changed, and those whose time has come."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._changed: dict[str, None] = dict.fromkeys(ids)
        self._by_clock = _Queue()
        self._by_commit_time = _Queue()

    def changed(self, one: str) -> None:
        """Look at it the next time."""
        self._changed[one] = None

    def began(self, one: str) -> None:
        """Look at it at the first of its deadlines; now if it has none, as the new one cannot come before another."""
        if one not in self._by_clock:
            self._changed[one] = None

    def now(self, heard_now: float, now: float) -> tuple[str, ...]:
        """Return those to be looked at; each one is named again until `later` is called for it."""
        self._changed |= self._by_clock.until(heard_now)
        self._changed |= self._by_commit_time.until(now)
        return tuple(self._changed)

    def later(self, one: str, times: Times) -> None:
        """Look at it when the first of these times comes."""
        self._changed.pop(one, None)
        by_clock, by_commit_time = times
        self._by_clock.add(one, by_clock)
        self._by_commit_time.add(one, by_commit_time)

    def look(
        self,
        heard_now: float,
        now: float,
        events_of: Callable[[str], Iterator[Event]],
        next_look: Callable[[str], Times],
    ) -> Iterator[Event]:
        """Yield what is due for each; if something is, it is looked at again, as its event may not be folded."""
        for one in self.now(heard_now, now):
            is_quiet = True
            for event in events_of(one):
                is_quiet = False
                yield event
            if is_quiet:
                self.later(one, next_look(one))


class Silent:
    """The entities of one kind that may be in a mass silence: who is watched, and who of them is silent."""

    def __init__(self, ids: Iterable[str]) -> None:
        self.due = Due(ids)
        self.alive: dict[str, None] = {}
        self.silent: dict[str, None] = {}


class Deadlines:
    """The deadlines of one reign."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.holders = Due(world.indexes.held)
        """The workers that hold tasks, by the lease that ends first."""
        held = (task_id for tasks in world.indexes.held.values() for task_id in tasks)
        self.attempts = Due(task_id for task_id in held if heartbeat_of(world.tasks[task_id]) is not None)
        """The tasks whose attempt has to report at least every so often."""
        self.workers = Due(world.workers)
        self.owners: dict[str, None] = dict.fromkeys(world.indexes.in_pools.owners)
        """The owners of shares of pools that may have ended."""
        self.pools = dict(world.indexes.in_pools.waited_for)
        """The pools that have changed while requests wait."""
        self.services = Due(world.services)
        self.nodes = Due(world.nodes)
        self.containers = Due(world.containers)
        self.silences = {
            Watched.SERVICE: Silent(world.services),
            Watched.WORKER: Silent(world.workers),
            Watched.NODE: Silent(world.nodes),
        }
        by_base: dict[type[Event], Callable[[str], None]] = {
            WorkerEvent: self._worker_changed,
            ServiceEvent: self.service_changed,
            NodeEvent: self._node_changed,
            ContainerEvent: self._container_changed,
            PoolEvent: self._pool_changed,
        }
        self._followings: dict[type[Event], Callable[[str], None]] = {
            kind: follow for kind in EVENTS.values() for base, follow in by_base.items() if issubclass(kind, base)
        }

    def note(self, events: Collection[Event]) -> None:
        """Look again at what these folded events are about."""
        followings = self._followings
        if self._world.indexes.in_pools.owners:
            self.owners |= dict.fromkeys(pool_owners.ended(self._world, events))
        for event in events:
            kind = type(event)
            if kind is TaskStarted:
                self.holders.began(event.worker_id)  # type: ignore[attr-defined]  # it is one
                task = self._world.tasks.get(event.subject)
                if task is not None and task.time_limits is not None:
                    self.attempts.changed(task.task_id)
            elif kind is CoordinatorMassSilenceEnded:
                self._no_longer_spared(event.kind)  # type: ignore[attr-defined]  # likewise
            elif kind in followings:
                followings[kind](event.subject)

    def _no_longer_spared(self, kind: Watched) -> None:
        """Look again at everything of a kind: what is overdue was not looked at while it was spared."""
        world = self._world
        of_kind: dict[Watched, tuple[Due, Iterable[str]]] = {
            Watched.SERVICE: (self.services, world.services),
            Watched.WORKER: (self.workers, world.workers),
            Watched.NODE: (self.nodes, world.nodes),
        }
        due, ids = of_kind[kind]
        for one in ids:
            due.changed(one)

    def service_changed(self, service_id: str) -> None:
        """Look again at a service: it changed, or one of its checks was reported, which may shorten its time."""
        self.services.changed(service_id)
        self.silences[Watched.SERVICE].due.changed(service_id)

    def _worker_changed(self, worker_id: str) -> None:
        self.workers.changed(worker_id)
        self.silences[Watched.WORKER].due.changed(worker_id)
        self.holders.changed(worker_id)
        for task_id in self._world.indexes.held.get(worker_id, ()):
            if self._world.tasks[task_id].time_limits is not None:
                self.attempts.changed(task_id)

    def _pool_changed(self, pool_id: str) -> None:
        if pool_id in self._world.indexes.in_pools.waited_for:
            self.pools[pool_id] = None

    def _node_changed(self, node_id: str) -> None:
        self.nodes.changed(node_id)
        self.silences[Watched.NODE].due.changed(node_id)

    def _container_changed(self, container_id: str) -> None:
        """What is in a container, and the node that has it, depend on its state."""
        self.containers.changed(container_id)
        self.nodes.changed(self._world.containers[container_id].node_id)
        indexes = self._world.indexes
        for service_id in indexes.services_in.get(container_id, ()):
            self.service_changed(service_id)
        for worker_id in indexes.workers_in.get(container_id, ()):
            self._worker_changed(worker_id)


class _Queue:
    """Times, the first of them first; one thing has at most one, and an earlier one replaces it."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, str]] = []
        self._times: dict[str, float] = {}

    def __contains__(self, one: str) -> bool:
        return one in self._times

    def add(self, one: str, time: float) -> None:
        time -= _EARLY_S
        if time < self._times.get(one, inf):
            self._times[one] = time
            heapq.heappush(self._entries, (time, one))

    def until(self, now: float) -> dict[str, None]:
        """Remove and return those whose time has come."""
        found: dict[str, None] = {}
        entries, times = self._entries, self._times
        while entries and entries[0][0] <= now:
            time, one = heapq.heappop(entries)
            if times.get(one) == time:
                del times[one]
                found[one] = None
        return found
