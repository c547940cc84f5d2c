"""
Deciders of the container commands. Pure.

A command changes the *desired* state; only the report of a node (`deciders.node.sync`) changes the actual state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.validation import check_resources, check_text
from coordinator.deciders.agents import agent_of, limits_of
from coordinator.deciders.placement import place, starting, wanted
from coordinator.deciders.rules import Decider, Teller, check_churn, standing
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerPausing,
    ContainerResuming,
    ContainerStatus,
    ContainerStopped,
    ContainerStopping,
    Secret,
)
from events.errors import Refused
from events.ids import checked
from events.resources import NONE
from events.session import SessionBound, SessionClosed
from projections.container import Desired

if TYPE_CHECKING:
    from coordinator.deciders.rules import DecisionContext, Events
    from projections.container import Container
    from projections.world import World


_S = ContainerStatus
MOST_ENTRIES = 256
MOST_SESSIONS = 100_000
ENVIRONMENT_CHARS_MAX = 32_768
ENVIRONMENT_BYTES_MAX = 5 * ENVIRONMENT_CHARS_MAX
"""Bytes of an environment as JSON: enough for so many characters of any text, but not of control characters."""

_INSTEAD_OF_START = {
    _S.PAUSED: "resume it",
    _S.STOPPING: "start it when it has stopped",
    _S.DESTROYED: "create a new one",
}


def create(world: World, command: CreateContainer, context: DecisionContext) -> Events:
    """Create a container on a node that can run it and has room; a repeat is recognized by its id."""
    _check(command)
    known = world.containers.get(command.container_id)
    if known is not None:
        if (known.agent_id, known.agent_type, known.resources, known.environment, known.session_id) == (
            command.agent_id, command.agent_type, command.resources, command.environment, command.session_id,
        ):  # fmt: skip
            return ()
        msg = f"container_id {command.container_id!r} is already used by another container: use a new id"
        raise Refused(msg, reason="id_taken")
    count = len(world.containers) - world.indexes.container_counts.get(_S.DESTROYED, 0)
    if count >= context.rules.max_containers:
        msg = f"there are {count} containers, the limit of container.max_containers: destroy some or raise the limit"
        raise Refused(msg, reason="too_many_containers")
    check_churn(world, world.indexes.owned_containers, "containers", context)
    agent = agent_of(world, command.agent_type, context.rules)
    limits = limits_of(command.agent_type, agent, command.resources, context.rules)
    if command.session_id:
        check_room_for_session(world, command.session_id, context)
    asked = wanted(command.resources, command.agent_type, agent.image, agent.command, agent.node_filter)
    node_id = place(world, command.container_id, asked, context.rules)
    created = ContainerCreated(
        container_id=command.container_id,
        agent_id=command.agent_id,
        agent_type=command.agent_type,
        node_id=node_id,
        resources=command.resources,
        image=agent.image,
        command=agent.command,
        environment=command.environment,
        session_id=command.session_id,
        when_cut_off=agent.when_cut_off,
        stop_grace_s=agent.stop_grace_s,
        restart=agent.restart,
        moves=agent.moves,
        node_filter=agent.node_filter,
        limits=limits if limits != command.resources else NONE,
        traced=bool(context.traceparent),
        owned=bool(context.actor),
    )
    if not command.session_id:
        return (created,)
    bound = SessionBound(
        session_id=command.session_id,
        container_id=command.container_id,
        traced=bool(context.traceparent),
        owned=bool(context.actor),
    )
    return (created, bound)


def _check(command: CreateContainer) -> None:
    checked(command.container_id, "container_id")
    checked(command.agent_id, "agent_id")
    checked(command.agent_type, "agent_type")
    check_resources("resources", command.resources)
    if command.session_id:
        checked(command.session_id, "session_id")
    if len(command.environment) > MOST_ENTRIES:
        msg = f"environment has {len(command.environment)} entries: use at most {MOST_ENTRIES}"
        raise Refused(msg, reason="too_many")
    for name, value in command.environment.items():
        checked(name, "environment name")
        if isinstance(value, Secret):
            checked(value.secret, f"secret of environment {name!r}")
        elif "\0" in value or len(value) > 32_768:  # noqa: PLR2004  # the limit of operating systems
            msg = f"environment {name!r} has {len(value)} characters or contains NUL: use at most 32768, without NUL"
            raise Refused(msg, reason="bad_environment")
    size = sum(len(name) + len(value) for name, value in command.environment.items() if isinstance(value, str))
    if size > ENVIRONMENT_CHARS_MAX:
        msg = (
            f"environment has {size} characters in total: use at most {ENVIRONMENT_CHARS_MAX}, and pass more as a file "
            "or a reference"
        )
        raise Refused(msg, reason="bad_environment")
    encoded = len(msgspec.json.encode(command.environment))
    if encoded > ENVIRONMENT_BYTES_MAX:
        msg = (
            f"environment takes {encoded} bytes as JSON, where a control character takes up to 6: use at most "
            f"{ENVIRONMENT_BYTES_MAX}, and pass binary values as base64, as a file or a reference"
        )
        raise Refused(msg, reason="bad_environment")


def start(world: World, command: StartContainer, context: DecisionContext) -> Events:
    """Set the desired state to RUNNING, on the container's node if it still has room, else on another."""
    container = standing_container(world, command.container_id)
    match container.status:
        case _S.STARTING | _S.RUNNING:
            return ()
        case _S.STOPPING if container.is_moving:
            return ()
        case _S.CREATED | _S.STOPPED | _S.ERROR:
            return starting(world, container, context.rules, "requested", restarts=0)
        case _:
            instead = _INSTEAD_OF_START[container.status]
            msg = f"container {container.container_id!r} is {container.status.value}: {instead}"
            raise Refused(msg, reason="not_startable")


def stop(world: World, command: StopContainer, context: DecisionContext) -> Events:
    """Set the desired state to STOPPED; a stop in progress may still be forced."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    container = standing_container(world, command.container_id)
    match container.status:
        case _S.CREATED | _S.DESTROYED:
            return ()
        case _S.STOPPED if not container.is_moving:
            return ()
        case _S.ERROR | _S.STOPPED:
            return (ContainerStopped(container_id=container.container_id, exit_code=container.exit_code),)
        case _S.STOPPING if not container.is_moving and (container.force or not command.force):
            return ()
    destroy = container.desired is Desired.DESTROYED
    # A forced stop in progress stays forced.
    force = command.force or container.force
    return (
        ContainerStopping(container_id=container.container_id, force=force, destroy=destroy, reason=command.reason),
    )


def destroy(world: World, command: DestroyContainer, context: DecisionContext) -> Events:
    """Destroy a container; a running one is stopped first."""
    container = standing_container(world, command.container_id)
    match container.status:
        case _S.DESTROYED:
            return ()
        case _S.CREATED | _S.STOPPED | _S.ERROR:
            return destroyed(world, container)
        case _S.STOPPING if container.desired is Desired.DESTROYED and (container.force or not command.force):
            return ()
    # A forced stop in progress stays forced.
    force = command.force or container.force
    return (ContainerStopping(container_id=container.container_id, force=force, destroy=True, reason="destroy"),)


def destroyed(world: World, container: Container) -> Events:
    """Return the events that end a container and the sessions it served."""
    closed = (
        SessionClosed(session_id=session_id, reason="its container was destroyed")
        for session_id in world.indexes.sessions_of.get(container.container_id, ())
    )
    return (ContainerDestroyed(container_id=container.container_id), *closed)


def pause(world: World, command: PauseContainer, context: DecisionContext) -> Events:
    """Set the desired state to PAUSED."""
    container = standing_container(world, command.container_id)
    if container.desired is Desired.PAUSED:
        return ()
    if container.status is not _S.RUNNING:
        msg = (
            f"container {container.container_id!r} is {container.status.value}: only a running container can be paused"
        )
        raise Refused(msg, reason="not_running")
    return (ContainerPausing(container_id=container.container_id),)


def resume(world: World, command: ResumeContainer, context: DecisionContext) -> Events:
    """Set the desired state of a paused container to RUNNING."""
    container = standing_container(world, command.container_id)
    if container.desired is Desired.PAUSED:
        return (ContainerResuming(container_id=container.container_id),)
    if container.desired is Desired.RUNNING:
        return ()
    msg = f"container {container.container_id!r} is {container.status.value}: only a paused one can be resumed"
    raise Refused(msg, reason="not_paused")


def standing_container(world: World, container_id: str) -> Container:
    """
    Return a container, also a destroyed one that is still in memory.

    Raises:
        NotFound: it does not exist, or was destroyed long ago.
    """
    return standing(world.containers, checked(container_id, "container_id"), "container")


def check_room_for_session(world: World, session_id: str, context: DecisionContext) -> None:
    """
    Accept one more session, if it is one.

    Raises:
        Refused: there are too many, recently ended ones included. Unavailable: too many of this source have ended.
    """
    if session_id in world.sessions:
        return
    if len(world.sessions) >= MOST_SESSIONS:
        msg = f"there are {len(world.sessions)} sessions, the maximum: close some"
        raise Refused(msg, reason="too_many")
    check_churn(world, world.indexes.owned_sessions, "sessions", context)


def _state(world: World, command: StartContainer, context: DecisionContext, done: bool) -> Container:
    return standing(world.containers, command.container_id, "container")


DECIDERS: dict[type[Command], Decider] = {
    CreateContainer: create,
    StartContainer: start,
    StopContainer: stop,
    DestroyContainer: destroy,
    PauseContainer: pause,
    ResumeContainer: resume,
}
TELLERS: dict[type[Command], Teller] = {
    CreateContainer: lambda world, command, context, done: command.container_id,
    StartContainer: _state,
    StopContainer: _state,
    DestroyContainer: _state,
    PauseContainer: _state,
    ResumeContainer: _state,
}
