"""Selects the node for a container. Pure."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from events.container import ContainerStarting
from events.errors import Refused
from events.resources import NONE, Resources
from projections.node import NodeStatus

if TYPE_CHECKING:
    from coordinator.deciders.rules import Events, Rules
    from projections.container import Container
    from projections.node import Node
    from projections.world import World


def place(world: World, resources: Resources, rules: Rules) -> tuple[str, str]:
    """Return the node with room for *resources* that holds the fewest containers; or "" and the reasons if none has."""
    best: tuple[int, str] | None = None
    why_not = []
    for node in world.nodes.values():
        if node.status is not NodeStatus.READY:
            why_not.append(f"node {node.node_id} is {node.status.value}")
            continue
        free = free_on(world, node, rules)
        if lacking := resources.lacking(free):
            why_not.append(f"node {node.node_id} has too few free resources ({lacking})")
            continue
        found = (len(world.indexes.containers_on.get(node.node_id, ())), node.node_id)
        best = found if best is None else min(best, found)
    return (best[1], "") if best else ("", "; ".join(why_not[:5]) or "no node is registered")


def free_on(world: World, node: Node, rules: Rules) -> Resources:
    """Return the free resources of a node: of its memory and GPUs, and of its cores times the overcommit."""
    containers = (world.containers[one] for one in world.indexes.containers_on.get(node.node_id, ()))
    held = reduce(add, (one.resources for one in containers if one.holds), NONE)
    offered = Resources(
        cpu_millis=int(node.capacity.cpu_millis * rules.cpu_overcommit),
        memory_bytes=node.capacity.memory_bytes,
        gpus=node.capacity.gpus,
    )
    return offered - held


def starting(world: World, container: Container, rules: Rules, reason: str, *, restarts: int) -> Events:
    """
    Return the event that starts a container, on its node if that has room, else on another.

    Raises:
        Refused: no node has room.
    """
    node = world.nodes.get(container.node_id)
    if node is not None and node.status in (NodeStatus.READY, NodeStatus.CORDONED):
        free = free_on(world, node, rules) + (container.resources if container.holds else NONE)
        if container.resources.fits_in(free):
            return (
                ContainerStarting(
                    container_id=container.container_id, node_id=node.node_id, reason=reason, restarts=restarts
                ),
            )
    node_id, why_not = place(world, container.resources, rules)
    if not node_id:
        msg = f"no node has room for container {container.container_id!r}: {why_not}"
        raise Refused(msg, reason="no_room")
    return (ContainerStarting(container_id=container.container_id, node_id=node_id, reason=reason, restarts=restarts),)
