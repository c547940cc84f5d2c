"""Selects the node for a container. Pure."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from events.container import ContainerStarting
from events.coordinator import CoordinatorPlacementRefused
from events.errors import Refused
from events.resources import NONE, Resources
from projections.node import NodeStatus

if TYPE_CHECKING:
    from coordinator.deciders.rules import Events, Rules
    from projections.container import Container
    from projections.node import Node
    from projections.world import World


NODES_NAMED = 5
"""A refusal says of this many nodes why they have no room."""


NoRoom = dict[Resources, dict[str, str]]
"""Why no node has room for some resources: who places many looks at the nodes once, until one may have more."""


def place(world: World, container_id: str, resources: Resources, rules: Rules, no_room: NoRoom | None = None) -> str:
    """
    Return the node with room for *resources* that holds the fewest containers.

    Raises:
        Refused: no node has room, now or by *no_room*; its facts say why.
    """
    if no_room is not None and resources in no_room:
        raise _no_room(container_id, resources, no_room[resources])
    best: tuple[int, str] | None = None
    why_not: dict[str, str] = {}
    for node in world.nodes.values():
        if node.status is not NodeStatus.READY:
            why_not[node.node_id] = f"is {node.status.value}"
            continue
        free = free_on(world, node, rules)
        if lacking := resources.lacking(free):
            why_not[node.node_id] = f"has too few free resources ({lacking})"
            continue
        found = (len(world.indexes.containers_on.get(node.node_id, ())), node.node_id)
        best = found if best is None else min(best, found)
    if best is None:
        if no_room is not None:
            no_room[resources] = why_not
        raise _no_room(container_id, resources, why_not)
    return best[1]


def _no_room(container_id: str, resources: Resources, why_not: dict[str, str]) -> Refused:
    named = dict(islice(why_not.items(), NODES_NAMED))
    why = "; ".join(f"node {node_id} {why}" for node_id, why in named.items()) or "no node is registered"
    error = Refused(f"no node has room for container {container_id!r}: {why}", reason="no_room")
    error.facts = (
        CoordinatorPlacementRefused(
            container_id=container_id,
            resources=resources,
            reason=error.reason,
            nodes=named,
            others=len(why_not) - len(named),
        ),
    )
    return error


def free_on(world: World, node: Node, rules: Rules) -> Resources:
    """Return the free resources of a node: of its memory and GPUs, and of its cores times the overcommit."""
    offered = Resources(
        cpu_millis=int(node.capacity.cpu_millis * rules.cpu_overcommit),
        memory_bytes=node.capacity.memory_bytes,
        gpus=node.capacity.gpus,
    )
    return offered - world.indexes.node_held.get(node.node_id, NONE)


def starting(
    world: World, container: Container, rules: Rules, reason: str, *, restarts: int, no_room: NoRoom | None = None
) -> Events:
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
    node_id = place(world, container.container_id, container.resources, rules, no_room)
    return (ContainerStarting(container_id=container.container_id, node_id=node_id, reason=reason, restarts=restarts),)
