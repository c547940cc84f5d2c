"""
Nodes that are to become empty: by a drain, which moves their containers, or by their removal. Pure.

A move is a stop whose container stays desired: it starts on another node only when its node has reported its end, so
it never runs twice, and each step follows from the world, whoever leads then. A container moves when none of its tasks
runs any more and another node has room; at the deadline of the drain it is stopped in any case, and waits for room.

A node that is removed with its containers gets no answer any more. So it ends them by its own clock, is lost like a
silent node, and only then do they start elsewhere.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.node import DRAIN_S_MAX, DrainNode, RemoveNode
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders.placement import RoomLeft
from coordinator.deciders.rules import Decider
from events.container import ContainerStatus, ContainerStopping
from events.errors import NotFound, Refused
from events.ids import checked
from events.node import NodeDrained, NodeDraining, NodeRemoved, NodeRemoving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from events.base import Event
    from projections.container import Container
    from projections.node import Node
    from projections.world import World

_S = ContainerStatus
ON_NODE = frozenset({_S.STARTING, _S.RUNNING, _S.PAUSED, _S.STOPPING})
"""Statuses in which something of a container may run on its node."""
STAYING_MOST = 100
"""Why containers stay is said of so many."""


def drain_node(world: World, command: DrainNode, context: DecisionContext) -> Events:
    """Cordon a node and move its containers; a repeat sets reason and deadline anew."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    check_number("deadline_s", command.deadline_s, 0.0, DRAIN_S_MAX)
    node = registered(world, command.node_id)
    until = context.now + command.deadline_s
    return (NodeDraining(node_id=node.node_id, until=until, reason=command.reason),)


def remove_node(world: World, command: RemoveNode, context: DecisionContext) -> Events:
    """Remove a node that has no containers; with `force` one that has, as if it were lost."""
    node = registered(world, command.node_id)
    there = on_node(world, node.node_id)
    if not there:
        return (NodeRemoved(node_id=node.node_id, reason="removed_by_command"),)
    if command.force:
        return () if node.removing else (NodeRemoving(node_id=node.node_id),)
    count = f"{len(there)} containers" if len(there) > 1 else "1 container"
    msg = f"node {node.node_id!r} has {count}: drain it first, or force its removal, which ends them as on a lost node"
    raise Refused(msg, reason="node_in_use")


def registered(world: World, node_id: str) -> Node:
    """
    Return a node of the cluster.

    Raises:
        NotFound: there is none of this id, or it was removed.
    """
    node = world.nodes.get(checked(node_id, "node_id"))
    if node is None or node.is_ended:
        msg = f"node {node_id!r} not found: its agent must register it first"
        raise NotFound(msg)
    return node


def check_stays(node: Node) -> None:
    """
    Accept what the agent of a node asks for.

    Raises:
        Refused: the node is being removed.
    """
    if node.removing:
        msg = f"node {node.node_id!r} is being removed: its containers end, and its agent may register it again then"
        raise Refused(msg, reason="node_removing")


def on_node(world: World, node_id: str) -> tuple[Container, ...]:
    """Return the containers of which something may run on a node."""
    there = (world.containers[one] for one in world.indexes.containers_on.get(node_id, ()))
    return tuple(one for one in there if one.status in ON_NODE)


def due(world: World, node: Node, context: DecisionContext) -> Iterator[Event]:
    """Yield what a drain of a node that is not lost can do now, or that it is over."""
    if node.draining_until is None or node.removing:
        return
    there = on_node(world, node.node_id)
    if not there and not node.drained:
        yield NodeDrained(node_id=node.node_id)
    is_over = context.now >= node.draining_until
    room: RoomLeft | None = None
    for container in there:
        if container.status is _S.STOPPING:
            continue
        if not is_over:
            if _is_busy(world, container):
                continue
            if room is None:
                room = RoomLeft(world, context.rules)
            if not room.take(container):
                continue
        yield ContainerStopping(
            container_id=container.container_id, move=True, reason=f"node {node.node_id} is draining"
        )


def staying(world: World, node: Node, rules: Rules) -> dict[str, str]:
    """Return why containers of a node that drains have not begun to move, the first of them."""
    if node.draining_until is None:
        return {}
    why: dict[str, str] = {}
    room = RoomLeft(world, rules)
    for container in islice(on_node(world, node.node_id), STAYING_MOST):
        if container.status is _S.STOPPING:
            continue
        if _is_busy(world, container):
            why[container.container_id] = "runs tasks"
        elif not room.take(container):
            stays = "finds no room on another node" if container.moves else "does not move, as its agent type says"
            why[container.container_id] = stays
    return why


def looks_again(world: World, node: Node) -> bool:
    """Return whether a node has to be looked at all the time: the end of a task does not change the node."""
    return node.draining_until is not None and not node.removing and bool(on_node(world, node.node_id))


def _is_busy(world: World, container: Container) -> bool:
    workers = world.indexes.workers_in.get(container.container_id, ())
    return any(worker_id in world.indexes.held for worker_id in workers)


DECIDERS: dict[type[Command], Decider] = {DrainNode: drain_node, RemoveNode: remove_node}
