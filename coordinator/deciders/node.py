"""
Deciders of the node commands, and the orders of a node. Pure.

A report about another generation than the last started one is about the past and changes nothing. A container that an
outdated report does not name does not change either.
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
from events.container import ContainerStatus, ExitCause
from events.coordinator import Watched
from events.errors import NotFound, Refused
from events.ids import DEFAULT_TENANT, checked
from events.node import NodeCordoned, NodeLost, NodeRegistered, NodeRemoved, NodeReturned, NodeUncordoned
from projections.container import Desired
from projections.node import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.container import Container
    from projections.node import Node
    from projections.world import World

_S = ContainerStatus

STARTS_A_SYNC = 16
"""A node starts this many containers at a time; the orders name the others once these have started."""

LATER = "later"
"""Desired state of a container that has to wait for its start: the node leaves it as it is."""
_WORD = 2**32
"""No system has larger process ids or exit codes."""


def register_node(world: World, command: RegisterNode, context: DecisionContext) -> Events:
    """Register a node; a repeat with the same values only brings a lost node back."""
    checked(command.node_id, "node_id")
    check_resources("capacity", command.capacity)
    check_text("runtime", command.runtime, 64, least=1)
    if len(command.labels) > MOST_ENTRIES:
        msg = f"labels has {len(command.labels)} entries: use at most {MOST_ENTRIES}"
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


def cordon_node(world: World, command: CordonNode, context: DecisionContext) -> Events:
    """Place no new containers on a node."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    node = _node(world, command.node_id)
    return () if node.cordoned else (NodeCordoned(node_id=node.node_id, reason=command.reason),)


def uncordon_node(world: World, command: UncordonNode, context: DecisionContext) -> Events:
    """Place containers on a node again."""
    node = _node(world, command.node_id)
    return (NodeUncordoned(node_id=node.node_id),) if node.cordoned else ()


def _node(world: World, node_id: str) -> Node:
    node = world.nodes.get(checked(node_id, "node_id"))
    if node is None or node.is_ended:
        msg = f"node {node_id!r} not found: its agent must register it first"
        raise NotFound(msg)
    return node


def sync(world: World, command: SyncNode, context: DecisionContext) -> Events:
    """Compare the report of a node with the world, each container once."""
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
            # A container missing in the report may have been started after the node looked, unless the node had the
            # last orders then.
            if found is not None or command.orders_id:
                events.extend(observed(world, container, found, context))
    return tuple(events)


def orders(world: World, node_id: str, rules: Rules) -> NodeOrders:
    """Return the orders of a node: its whole desired state; the node removes every container that is not named."""
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
    # A container in ERROR keeps its exited remains until its next start; until then nothing may run.
    desired = Desired.STOPPED if container.status is _S.ERROR else container.desired
    # The fields that only a start needs are sent only while the container has to start; otherwise the orders of a full
    # node would not fit into one message.
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
        tenant=container.tenant if container.tenant != DEFAULT_TENANT else "",
        traceparent=container.traceparent,
    )


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float) -> Iterator[Event]:
    """Yield what is due for nodes: a silent node is lost, its containers have failed, and it is removed in the end."""
    limit_s, is_spared = patience_s(Watched.NODE, context.rules), is_held(world, Watched.NODE)
    for node in tuple(world.nodes.values()):
        if node.is_ended:
            continue
        if node.status is not NodeStatus.LOST:
            silent_for_s = signs.silent_for(signs.nodes, node.node_id, heard_now)
            if silent_for_s <= limit_s or is_spared:
                continue
            yield NodeLost(node_id=node.node_id, silent_for_s=silent_for_s, limit_s=limit_s)
        # Repeated while the node is lost: a commit is limited in size, and a writer may die between two of them.
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


def _cut_off(world: World, container: Container, context: DecisionContext) -> Iterator[Event]:
    """Yield what follows for a container of a lost node: if it had to stop, it is dead, see `DEAD_AFTER`."""
    if container.status in (ContainerStatus.STARTING, ContainerStatus.RUNNING, ContainerStatus.PAUSED):
        yield failed(container, f"node {container.node_id} is lost", context, cause=ExitCause.CUT_OFF)
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
