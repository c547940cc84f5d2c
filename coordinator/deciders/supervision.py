"""What follows when a container was observed by its node, has failed, or takes too long to start. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from coordinator.commands.validation import shortened
from coordinator.deciders.container import destroyed
from coordinator.deciders.deadlines import NEVER
from coordinator.deciders.placement import starting
from coordinator.deciders.rules import doubled
from events.container import (
    MOVED,
    NO_FAULT,
    RESTART,
    ContainerFailed,
    ContainerPaused,
    ContainerResumed,
    ContainerStarted,
    ContainerStatus,
    ContainerStopped,
    ExitCause,
)
from events.errors import Refused
from projections.container import Desired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordinator.commands.node import ObservedContainer
    from coordinator.deciders.deadlines import Due
    from coordinator.deciders.placement import NoRoom
    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.container import Container
    from projections.world import World


_S = ContainerStatus

DELAY = "delay"
CAUSE_CHARS = 32
"""A cause that a later release reports is kept, up to this length."""


def observed(world: World, container: Container, seen: ObservedContainer | None, context: DecisionContext) -> Events:
    """Return the events of one observation of a container; None means that the node does not have that generation."""
    container_id = container.container_id
    state = seen.state if seen is not None else "absent"
    match container.status, state:
        case _S.STARTING, "running":
            return (_started(container, seen),)
        case _S.STARTING, "paused":
            return (_started(container, seen), ContainerPaused(container_id=container_id))
        case _S.PAUSED, "running" if container.desired is Desired.RUNNING:
            return (ContainerResumed(container_id=container_id),)
        case _S.RUNNING, "paused" if container.desired is Desired.PAUSED:
            return (ContainerPaused(container_id=container_id),)
        case _S.STOPPING, "exited" if container.desired is not Desired.DESTROYED:
            return (ContainerStopped(container_id=container_id, exit_code=seen.exit_code if seen else None),)
        case _S.STOPPING, "absent" | "failed":  # a container that failed to start does not run either
            if container.desired is Desired.DESTROYED:
                return destroyed(world, container)
            return (ContainerStopped(container_id=container_id),)
        case ((_S.STARTING | _S.RUNNING | _S.PAUSED), "exited") if seen and _has_finished(container, seen):
            return (ContainerStopped(container_id=container_id, exit_code=seen.exit_code),)
        case ((_S.STARTING | _S.RUNNING | _S.PAUSED), "exited" | "failed"):
            reason, code, cause = (seen.reason, seen.exit_code, seen.cause) if seen else ("", None, "")
            return (failed(container, reason or "exited", context, exit_code=code, cause=cause),)
        case ((_S.RUNNING | _S.PAUSED), "absent"):
            return (failed(container, "its node no longer has it", context, cause=ExitCause.UNKNOWN),)
        case _:
            return ()


def _has_finished(container: Container, seen: ObservedContainer) -> bool:
    """Return whether a container ended because it had nothing more to do: by itself, with such an exit code."""
    return seen.exit_code in (0, *container.restart.finished_codes) and seen.cause in (ExitCause.EXITED, "")


def _started(container: Container, seen: ObservedContainer | None) -> ContainerStarted:
    return ContainerStarted(
        container_id=container.container_id, generation=container.generation, pid=seen.pid if seen else 0
    )


def failed(
    container: Container, reason: str, context: DecisionContext, *, exit_code: int | None = None, cause: str = ""
) -> ContainerFailed:
    """
    Return the failure of a container and the time of its restart: pauses double, and reset after a long run.

    There is no pause for a container that ran, if *cause* is no fault of it; and no restart where its policy gives up,
    which counts nothing that is no fault of it, whether it ran or not.
    """
    policy, rules, now = container.restart, context.rules, context.now
    first_s = rules.restart_backoff_s if policy.delay_s is None else policy.delay_s
    most_s = rules.restart_backoff_max_s if policy.delay_max_s is None else policy.delay_max_s
    restarts = 0 if _ran_long(container, now, rules) else container.restarts
    pause_s = 0.0 if _ended_without_fault(container, cause) else doubled(first_s, restarts, max(first_s, most_s))
    restart_at: float | None = now + pause_s
    failures, counted_from = container.recent_failures, container.counted_from
    if policy.attempts is not None and cause not in NO_FAULT:
        failures, counted_from = _counted(container, now)
        if failures > policy.attempts:
            reason = f"{reason}; failure {failures} within {now - counted_from:.0f} s, and {policy.attempts} may be"
            restart_at = None
            if policy.mode == DELAY:
                restart_at = max(now, counted_from + policy.interval_s)
    return ContainerFailed(
        container_id=container.container_id,
        generation=container.generation,
        reason=shortened(reason, rules.text_chars_max),
        exit_code=exit_code,
        restart_at=restart_at,
        cause=cause[:CAUSE_CHARS],
        failures=failures,
        counted_from=counted_from,
    )


def _counted(container: Container, now: float) -> tuple[int, float]:
    """Return the number of a failure within its interval, and when that began."""
    since = container.counted_from
    if since is None or now - since >= container.restart.interval_s:
        return 1, now
    return container.recent_failures + 1, since


def restart(world: World, container: Container, context: DecisionContext, no_room: NoRoom) -> Events:
    """Restart a failed container; the restart of one that ran and ended by no fault of its own is not counted."""
    failed_at = container.failed_at if container.failed_at is not None else context.now
    restarts = 0 if _ran_long(container, failed_at, context.rules) else container.restarts
    counted = not _ended_without_fault(container, container.cause)
    return starting(world, container, context.rules, RESTART, restarts=restarts + counted, no_room=no_room)


def moved(world: World, container: Container, context: DecisionContext, no_room: NoRoom) -> Events:
    """Start a container that has stopped to be moved; this is no restart."""
    return starting(world, container, context.rules, MOVED, restarts=container.restarts, no_room=no_room)


def _ended_without_fault(container: Container, cause: str) -> bool:
    # One that never gets as far as running must not be restarted again and again without a pause, whatever ends it.
    return cause in NO_FAULT and container.started_at is not None


def _ran_long(container: Container, until: float, rules: Rules) -> bool:
    reset_s = rules.restart_reset_s if container.restart.reset_s is None else container.restart.reset_s
    return container.started_at is not None and until - container.started_at >= reset_s


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float, containers: Due) -> Iterator[Event]:
    """
    Yield what is due for containers: starts that took too long, restarts whose pause is over, and starts after a move.

    While no node has room for a start, it stays due, and why is yielded each time: the engine records it once.
    """
    no_room: NoRoom = {}

    def due_for(container_id: str) -> Iterator[Event]:
        container = world.containers.get(container_id)
        if container is None:
            return
        for event in _due(world, container, context, heard_now - signs.since, no_room):
            if type(event) is ContainerFailed:  # it gives back what it held
                no_room.clear()
            yield event

    def next_look(container_id: str) -> tuple[float, float]:
        container = world.containers.get(container_id)
        return NEVER if container is None else _next_look(container, signs, context)

    return containers.look(heard_now, context.now, due_for, next_look)


def _next_look(container: Container, signs: Signs, context: DecisionContext) -> tuple[float, float]:
    if container.status is ContainerStatus.STARTING and container.starting_at is not None:
        limit_s = context.rules.container_start_timeout_s
        if container.starting_at + limit_s > context.now:
            return inf, container.starting_at + limit_s
        return signs.since + limit_s, inf
    if container.status is ContainerStatus.ERROR and container.restart_at is not None:
        return inf, container.restart_at
    return NEVER


def _due(
    world: World, container: Container, context: DecisionContext, led_for_s: float, no_room: NoRoom
) -> Iterator[Event]:
    if container.status is ContainerStatus.STARTING and container.starting_at is not None:
        limit_s = context.rules.container_start_timeout_s
        # The node must have had the time to report to this writer that the container runs.
        if min(context.now - container.starting_at, led_for_s) > limit_s:
            yield failed(container, f"did not start within {limit_s:g} s", context)
    elif (
        container.status is ContainerStatus.ERROR
        and container.desired in (Desired.RUNNING, Desired.PAUSED)
        and container.restart_at is not None
        and container.restart_at <= context.now
    ):
        yield from _where_there_is_room(lambda: restart(world, container, context, no_room))
    elif container.status is ContainerStatus.STOPPED and container.is_moving:
        yield from _where_there_is_room(lambda: moved(world, container, context, no_room))


def _where_there_is_room(start: Callable[[], Events]) -> Events:
    try:
        return start()
    except Refused as error:
        return error.facts
