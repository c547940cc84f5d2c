"""
What a node's registration and reports make of the world, and what the node is to do. Pure.

A report about another generation than the one that was last started is about the past and changes nothing; nor does
what an old report does not name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.node import DesiredContainer, NodeOrders
from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.deciders.container import MOST_ENTRIES, destroyed, starting
from coordinator.deciders.rules import doubled
from events.container import (
    ContainerFailed,
    ContainerPaused,
    ContainerResumed,
    ContainerStarted,
    ContainerStatus,
    ContainerStopped,
)
from events.errors import NotFound, Refused
from events.ids import checked
from events.node import NodeCordoned, NodeRegistered, NodeReturned, NodeUncordoned
from projections.container import Desired
from projections.node import NodeStatus

if TYPE_CHECKING:
    from coordinator.commands.node import CordonNode, ObservedContainer, RegisterNode, SyncNode, UncordonNode
    from coordinator.deciders.rules import Context, Rules
    from events.base import Event
    from projections.container import Container
    from projections.node import Node
    from projections.world import World

    Events = tuple[Event, ...]

_S = ContainerStatus

STARTS_A_SYNC = 16
"""So many containers at once a node is told to start; the others when these have."""

LATER = "later"
"""Desired of a container whose start is still to come: it is to be left as it is."""
_WORD = 2**32
"""No system gives larger process ids or exit codes."""


def register_node(world: World, command: RegisterNode, context: Context) -> Events:
    """Offer a node; the same again only wakes it when it was lost."""
    checked(command.node_id, "node_id")
    check_resources("capacity", command.capacity)
    check_text("runtime", command.runtime, 64, least=1)
    if len(command.labels) > MOST_ENTRIES:
        msg = f"labels has {len(command.labels)} entries: at most {MOST_ENTRIES}"
        raise Refused(msg, reason="too_many")
    for key, value in command.labels.items():
        check_text("label name", key, 128, least=1)
        check_text(f"label {key!r}", value, 256)
    offered = NodeRegistered(
        node_id=command.node_id, capacity=command.capacity, runtime=command.runtime, labels=command.labels
    )
    known = world.nodes.get(command.node_id)
    if known is None or known.is_ended:
        return (offered,)
    if (known.capacity, known.runtime, known.labels) != (command.capacity, command.runtime, command.labels):
        return (offered,)
    return (NodeReturned(node_id=known.node_id),) if known.status is NodeStatus.LOST else ()


def cordon_node(world: World, command: CordonNode, context: Context) -> Events:
    """Give a node no new containers."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    node = _node(world, command.node_id)
    return () if node.cordoned else (NodeCordoned(node_id=node.node_id, reason=command.reason),)


def uncordon_node(world: World, command: UncordonNode, context: Context) -> Events:
    """Give a node containers again."""
    node = _node(world, command.node_id)
    return (NodeUncordoned(node_id=node.node_id),) if node.cordoned else ()


def _node(world: World, node_id: str) -> Node:
    node = world.nodes.get(checked(node_id, "node_id"))
    if node is None or node.is_ended:
        msg = f"there is no node {node_id!r}: its agent must register it first"
        raise NotFound(msg)
    return node


def sync(world: World, command: SyncNode, context: Context) -> Events:
    """Fold what a node saw into what is known, each container once."""
    node = _node(world, command.node_id)
    for one in command.observed:
        check_number("pid", one.pid, 0, _WORD)
        check_number("exit_code", one.exit_code or 0, -_WORD, _WORD)
    events: list[Event] = [NodeReturned(node_id=node.node_id)] if node.status is NodeStatus.LOST else []
    seen = {(one.container_id, one.generation): one for one in command.observed}
    for container_id in world.indexes.containers_on.get(node.node_id, ()):
        container = world.containers[container_id]
        if not container.is_ended and container.generation:
            found = seen.get((container_id, container.generation))
            # What is missing may have been started since the node looked, unless it had the last orders then.
            if found is not None or command.orders_id:
                events.extend(observed(world, container, found, context))
    return tuple(events)


def observed(world: World, container: Container, seen: ObservedContainer | None, context: Context) -> Events:
    """Say what one observation means for one container; None means the node knows nothing of that generation."""
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
        case _S.STOPPING, "exited" if container.desired is Desired.STOPPED:
            return (ContainerStopped(container_id=container_id, exit_code=seen.exit_code if seen else None),)
        case _S.STOPPING, "absent" | "failed":  # what failed to start is not there either
            if container.desired is Desired.DESTROYED:
                return destroyed(world, container)
            return (ContainerStopped(container_id=container_id),)
        case ((_S.STARTING | _S.RUNNING | _S.PAUSED), "exited") if seen and seen.exit_code == 0:
            return (ContainerStopped(container_id=container_id, exit_code=0),)
        case ((_S.STARTING | _S.RUNNING | _S.PAUSED), "exited" | "failed"):
            reason, code = (seen.reason, seen.exit_code) if seen else ("", None)
            return (failed(container, reason or "exited", context, exit_code=code),)
        case ((_S.RUNNING | _S.PAUSED), "absent"):
            return (failed(container, "its node no longer has it", context),)
        case _:
            return ()


def _started(container: Container, seen: ObservedContainer | None) -> ContainerStarted:
    return ContainerStarted(
        container_id=container.container_id, generation=container.generation, pid=seen.pid if seen else 0
    )


def failed(container: Container, reason: str, context: Context, *, exit_code: int | None = None) -> ContainerFailed:
    """Say that a container failed and when it starts again: pauses double, and start over after a good long run."""
    rules = context.rules
    restarts = 0 if _ran_long(container, context.now, rules) else container.restarts
    pause_s = doubled(rules.restart_backoff_s, restarts, rules.restart_backoff_max_s)
    return ContainerFailed(
        container_id=container.container_id,
        generation=container.generation,
        reason=reason[: rules.text_chars_max],
        exit_code=exit_code,
        restart_at=context.now + pause_s,
    )


def restart(world: World, container: Container, context: Context) -> Events:
    """Start a failed container again."""
    failed_at = container.failed_at if container.failed_at is not None else context.now
    restarts = 0 if _ran_long(container, failed_at, context.rules) else container.restarts
    return starting(world, container, context.rules, "restart", restarts=restarts + 1)


def _ran_long(container: Container, until: float, rules: Rules) -> bool:
    return container.started_at is not None and until - container.started_at >= rules.restart_reset_s


def orders(world: World, node_id: str, rules: Rules) -> NodeOrders:
    """Say all that a node is to make true; what is not named there is to be removed."""
    containers = (world.containers[one] for one in world.indexes.containers_on.get(node_id, ()))
    named = []
    starting = 0
    for one in containers:
        if one.generation and not one.is_ended:
            starting += one.status is _S.STARTING
            later = one.status is _S.STARTING and starting > STARTS_A_SYNC
            named.append(msgspec.structs.replace(_desired(one), desired=LATER) if later else _desired(one))
    return NodeOrders(
        containers=tuple(named),
        node_lease_s=rules.node_lease_s,
        epoch=(world.generation, world.epoch),
    )


def _desired(container: Container) -> DesiredContainer:
    # A container in ERROR keeps its exited remains until it starts anew; nothing is to run meanwhile.
    desired = Desired.STOPPED if container.status is _S.ERROR else container.desired
    # What only a start needs is told only while it is to start, lest the orders of a full node outgrow a message.
    is_starting = container.status is _S.STARTING
    return DesiredContainer(
        container_id=container.container_id,
        generation=container.generation,
        desired=desired.value,
        agent_type=container.agent_type,
        image=container.image if is_starting else "",
        command=container.command if is_starting else (),
        environment=container.environment if is_starting else {},
        resources=container.resources,
        stop_grace_s=container.stop_grace_s,
        when_cut_off=container.when_cut_off,
        force=container.force,
    )
