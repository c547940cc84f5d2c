"""
What was refused and matters later, on its way into the journal: limited, so that nobody can fill the journal with it.

Each source has one event for each reason in `PAUSE_S`: the first at once, then one with the number of all since. More
sources than `SOURCES_MOST` share one event for each reason. The counts are memory of this reign: a crash loses those
not yet recorded. This must never hold up an answer, nor record what its caller could make large.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.caller import Caller
from coordinator.commands.task import ClaimTasks
from events.coordinator import CoordinatorCommandRefused, CoordinatorPlacementRefused
from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Command
    from events.base import Event
    from events.errors import CoordinationError
    from projections.world import World

RECORDED = frozenset({
    "forbidden", "quota", "rate_limited",
    "queue_full", "memory_full", "registry_full", "too_many_containers", "no_room", "no_runtime", "no_node",
})  # fmt: skip
"""The reasons that are recorded for every command."""
OF_CLAIMS = frozenset({"id_taken", "overloaded", "too_many", "worker_draining"})
"""The reasons that are recorded for claims too; one that is malformed is between the worker and its answer."""

PAUSE_S = 10.0
SOURCES_MOST = 100
MESSAGE_CHARS = 256

_OTHERS = Caller(actor="coordinator")
_IDS = ("container_id", "service_id", "worker_id", "node_id", "pool_id", "session_id", "schedule_id", "task_id")

Refusal = CoordinatorCommandRefused | CoordinatorPlacementRefused


class _Source:
    """The refusals of one source for one reason: the last one, how many are not recorded yet, and when they may be."""

    __slots__ = ("caller", "count", "last", "next_at")

    def __init__(self, caller: Caller, last: Refusal) -> None:
        self.caller = caller
        self.last = last
        self.count = 0
        self.next_at = -math.inf


class Refusals:
    """The refusals of one reign; times are of the writer's monotonic clock, in seconds."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._sources: dict[tuple[str, str], _Source] = {}
        self._waiting: dict[str, float | None] = {}
        self._next_at = math.inf

    def note(self, caller: Caller, command: Command, error: CoordinationError) -> None:
        """Count a refused command, if its reason is one that is recorded."""
        last = self._refusal(command, error)
        if last is None:
            return
        key = caller.actor, error.reason
        source = self._sources.get(key)
        if source is None:
            if len(self._sources) >= SOURCES_MOST:
                caller, key = _OTHERS, ("", error.reason)
            source = self._sources.setdefault(key, _Source(caller, last))
        if source.caller is not _OTHERS:
            source.caller = caller
        source.last = last
        source.count += 1
        self._next_at = min(self._next_at, source.next_at)

    def is_news(self, event: Event, world: World) -> bool:
        """Whether a due event has to be recorded: that a restart finds no room is yielded in each tick."""
        if type(event) is not CoordinatorPlacementRefused:
            return True
        failed_at = world.containers[event.container_id].failed_at
        return event.container_id not in self._waiting or self._waiting[event.container_id] != failed_at

    def recorded(self, event: Event, world: World) -> None:
        """Remember a due event that was recorded, if it would be yielded again."""
        if type(event) is CoordinatorPlacementRefused:
            if len(self._waiting) > len(world.containers):
                self._waiting = {one: at for one, at in self._waiting.items() if one in world.containers}
            self._waiting[event.container_id] = world.containers[event.container_id].failed_at

    def due(self, heard_now: float) -> Iterator[tuple[Event, Caller]]:
        """
        Yield the events that may be recorded now, each with its source.

        Each counts as recorded when the next one is asked for; an event that did not fit is yielded again.
        """
        if heard_now < self._next_at:
            return
        for key, source in tuple(self._sources.items()):
            if source.next_at > heard_now:
                continue
            if not source.count:
                del self._sources[key]
                continue
            caller = Caller(
                actor=source.caller.actor, tenant=source.caller.tenant, traceparent=source.caller.traceparent
            )
            yield msgspec.structs.replace(source.last, count=source.count), caller
            source.count = 0
            source.next_at = heard_now + PAUSE_S
        self._next_at = min((one.next_at for one in self._sources.values()), default=math.inf)

    def _refusal(self, command: Command, error: CoordinationError) -> Refusal | None:
        for fact in error.facts:
            if type(fact) is CoordinatorPlacementRefused:
                return fact
        if error.reason not in RECORDED and not (isinstance(command, ClaimTasks) and error.reason in OF_CLAIMS):
            return None
        # A lone surrogate, which a caller in this process may send, cannot be written.
        message = error.message[:MESSAGE_CHARS].encode(errors="replace").decode()
        return CoordinatorCommandRefused(
            instance=self._instance,
            command=f"{command.KIND}.{command.VERB}",
            reason=error.reason,
            message=message,
            about=_about(command),
        )


def facts_besides(error: CoordinationError) -> tuple[Event, ...]:
    """Return the facts of *error* that are recorded each time."""
    return tuple(fact for fact in error.facts if type(fact) is not CoordinatorPlacementRefused)


def _about(command: Command) -> str:
    """Return the id of what *command* is about; "" if it has none that is valid."""
    given = next((value for name in _IDS if (value := getattr(command, name, ""))), "")
    try:
        return checked(given)
    except Refused:
        return ""
