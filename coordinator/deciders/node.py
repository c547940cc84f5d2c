"""
What a node's registration and reports make of the world, and what the node is to do. Pure.

A report about another generation than the one that was last started is about the past and changes nothing; nor does
what an old report does not name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.node import CordonNode, DesiredContainer, NodeOrders, RegisterNode, SyncNode, UncordonNode
from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.deciders.container import MOST_ENTRIES
from coordinator.deciders.rules import Decider, Teller
from coordinator.deciders.silence import is_held, patience_s
from coordinator.deciders.supervision import failed, observed
from events.container import (
    ContainerStatus,
)
from events.coordinator import Watched
from events.errors import NotFound, Refused
from events.ids import checked
from events.node import NodeCordoned, NodeLost, NodeRegistered, NodeRemoved, NodeReturned, NodeUncordoned
from projections.container import Desired
from projections.node import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import Context, Events, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.container import Container
    from projections.node import Node
    from projections.world import World

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


def due(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    """Give what is due of nodes: the silent are lost, what they ran has failed, and in the end they are removed."""
    limit_s, is_spared = patience_s(Watched.NODE, context.rules), is_held(world, Watched.NODE)
    for node in tuple(world.nodes.values()):
        if node.is_ended:
            continue
        if node.status is not NodeStatus.LOST:
            silent_for_s = signs.silent_for(signs.nodes, node.node_id, heard_now)
            if silent_for_s <= limit_s or is_spared:
                continue
            yield NodeLost(node_id=node.node_id, silent_for_s=silent_for_s, limit_s=limit_s)
        # Not only as it is lost: a commit holds so many events, and a writer may die between two of them.
        for container_id in tuple(world.indexes.containers_on.get(node.node_id, ())):
            yield from _cut_off(world, world.containers[container_id], context)
        lost = world.nodes[node.node_id]
        if (
            lost.status is NodeStatus.LOST
            and context.now - lost.lost_at > context.rules.deregister_after_s
            and not _holds(world, node.node_id)
        ):
            yield NodeRemoved(node_id=node.node_id, reason="lost for too long")


def _holds(world: World, node_id: str) -> bool:
    return any(world.containers[one].holds for one in world.indexes.containers_on.get(node_id, ()))


def _cut_off(world: World, container: Container, context: Context) -> Iterator[Event]:
    """Give what follows for a container whose node is lost: what was to stop has, by the node's own clock."""
    if container.status in (ContainerStatus.STARTING, ContainerStatus.RUNNING, ContainerStatus.PAUSED):
        yield failed(container, f"node {container.node_id} is lost", context)
    elif container.status is ContainerStatus.STOPPING:
        yield from observed(world, container, None, context)


DECIDERS: dict[type[Command], Decider] = {
    RegisterNode: register_node,
    CordonNode: cordon_node,
    UncordonNode: uncordon_node,
    SyncNode: sync,
}
TELLERS: dict[type[Command], Teller] = {
    SyncNode: lambda world, command, context, done: orders(world, command.node_id, context.rules),
}
