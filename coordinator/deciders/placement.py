"""Selects the node for a container: one that can run it and has room. Pure."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from events.container import ContainerStarting
from events.coordinator import CoordinatorPlacementRefused
from events.errors import Refused
from events.resources import NONE, Resources
from projections.node import NodeStatus
from projections.node_filters import condition

if TYPE_CHECKING:
    from coordinator.deciders.rules import Events, Rules
    from projections.container import Container
    from projections.node import Node
    from projections.world import World


NEEDS: dict[str, frozenset[str]] = {
    "process": frozenset({"command"}),
    "docker": frozenset({"image"}),
    "oci": frozenset({"image", "command"}),
}
"""What an agent type must have to run on nodes of a runtime; one that is not listed here, such as fake, runs all."""
NODES_NAMED = 5
"""A refusal says of this many nodes why they do not take the container."""


class Wanted(NamedTuple):
    """
    What a container wants of its node: its resources, and a runtime for what its agent type *has*, see `NEEDS`.

    If it has a `node_filter`, the node has to meet it.
    """

    resources: Resources
    agent_type: str
    has: frozenset[str]
    node_filter: str = ""


def wanted(
    resources: Resources, agent_type: str, image: str, command: tuple[str, ...], node_filter: str = ""
) -> Wanted:
    """Return what a container of an agent type with this image and command wants, either of them maybe empty."""
    has = {"image": bool(image), "command": bool(command)}
    return Wanted(resources, agent_type, frozenset(name for name, is_given in has.items() if is_given), node_filter)


NO_ROOM, NO_RUNTIME, NO_NODE = "no_room", "no_runtime", "no_node"


class WhyNot(NamedTuple):
    """
    Why no node takes a container, by node.

    The reason is that none of them has room now, or that none could run it with any room: by its runtime, or by its
    labels.
    """

    by_node: dict[str, str]
    reason: str


NoRoom = dict[Wanted, WhyNot]
"""Why no node takes what is wanted: who places many looks at the nodes once, until one may have more."""


def place(world: World, container_id: str, asked: Wanted, rules: Rules, no_room: NoRoom | None = None) -> str:
    """
    Return the node that can run what is *asked* for and has room for it; of several, the one with fewest containers.

    Raises:
        Refused: there is none, now or by *no_room*; its facts say why. Reason `no_runtime` if no node could ever run
            it, `no_node` if none that could meets its filter, else `no_room`.
    """
    if no_room is not None and asked in no_room:
        raise _refused(container_id, asked, no_room[asked])
    best: tuple[int, str] | None = None
    why_not: dict[str, str] = {}
    unfit: dict[str, str] = {}
    for node in world.nodes.values():
        if not node.is_ended and (why := _unfit(node, asked)):
            unfit[node.node_id] = why
            continue
        if node.status is not NodeStatus.READY:
            why_not[node.node_id] = _away(node)
            continue
        free = free_on(world, node, rules)
        if lacking := asked.resources.lacking(free):
            why_not[node.node_id] = f"has too few free resources ({lacking})"
            continue
        found = (len(world.indexes.containers_on.get(node.node_id, ())), node.node_id)
        best = found if best is None else min(best, found)
    if best is None:
        is_never = bool(unfit) and all(world.nodes[node_id].is_ended for node_id in why_not)
        reason = NO_ROOM
        if is_never:
            reason = NO_RUNTIME if all(_missing(world.nodes[node_id], asked) for node_id in unfit) else NO_NODE
        found_none = WhyNot(unfit if is_never else why_not | unfit, reason)
        if no_room is not None:
            no_room[asked] = found_none
        raise _refused(container_id, asked, found_none)
    return best[1]


def _away(node: Node) -> str:
    if node.status is NodeStatus.CORDONED and node.is_leaving:
        return "is being removed" if node.removing else "is draining"
    return f"is {node.status.value}"


def _missing(node: Node, asked: Wanted) -> frozenset[str]:
    """Return what the agent type must have to run on this node, and has not."""
    return NEEDS.get(node.runtime, frozenset()) - asked.has


def _unfit(node: Node, asked: Wanted) -> str:
    """Return why a node could never run it, '' if it could."""
    missing = _missing(node, asked)
    if not missing:
        meets = not asked.node_filter or condition(asked.node_filter)(node)
        return "" if meets else f"does not meet {asked.node_filter}"
    has = f"only its {_listed(asked.has)}" if asked.has else "neither command nor image"
    return f"has runtime {node.runtime}, which needs {_listed(missing)}, and agent type {asked.agent_type!r} has {has}"


def _listed(names: frozenset[str]) -> str:
    return " and ".join(sorted(names))


def _remedy(asked: Wanted) -> str:
    lacks = " or ".join(sorted(frozenset().union(*NEEDS.values()) - asked.has))
    remedy = f"set the {lacks} of agent type {asked.agent_type!r} before the container is created"
    runtimes = " or ".join(sorted(runtime for runtime, needs in NEEDS.items() if needs <= asked.has))
    return f"{remedy}, or add a node with runtime {runtimes}" if runtimes else remedy


def _labels_remedy(asked: Wanted) -> str:
    return (
        f"label a node with node.labels, or change the node_filter of agent type {asked.agent_type!r} before the "
        "container is created"
    )


def _refused(container_id: str, asked: Wanted, why: WhyNot) -> Refused:
    named = dict(islice(why.by_node.items(), NODES_NAMED))
    each = "; ".join(f"node {node_id} {why}" for node_id, why in named.items()) or "no node is registered"
    if why.reason == NO_ROOM:
        error = Refused(f"no node has room for container {container_id!r}: {each}", reason="no_room")
    elif why.reason == NO_RUNTIME:
        error = Refused(f"no node can run container {container_id!r}: {each}: {_remedy(asked)}", reason="no_runtime")
    else:
        msg = f"no node can run container {container_id!r}: {each}: {_labels_remedy(asked)}"
        error = Refused(msg, reason="no_node")
    error.facts = (
        CoordinatorPlacementRefused(
            container_id=container_id,
            resources=asked.resources,
            reason=error.reason,
            nodes=named,
            others=len(why.by_node) - len(named),
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


def _may_stay(node: Node, asked: Wanted) -> bool:
    if node.status not in (NodeStatus.READY, NodeStatus.CORDONED) or node.is_leaving:
        return False
    return not _unfit(node, asked)


class RoomLeft:
    """The room on all nodes that get containers, after the containers that are on their way to another one."""

    def __init__(self, world: World, rules: Rules) -> None:
        nodes = world.nodes.values()
        on = world.indexes.containers_on
        self._nodes = {one.node_id: one for one in nodes if one.status is NodeStatus.READY}
        self._free = {node_id: free_on(world, node, rules) for node_id, node in self._nodes.items()}
        self._counts = {node_id: len(on.get(node_id, ())) for node_id in self._nodes}
        for node in nodes:
            for container_id in on.get(node.node_id, ()) if node.is_leaving else ():
                if (container := world.containers[container_id]).is_moving:
                    self.take(container)

    def take(self, container: Container) -> bool:
        """Take the room for a container where it would be placed; return whether there is any."""
        if not container.moves:
            return False
        asked = _wanted_by(container)
        fitting = (
            (self._counts[node_id], node_id)
            for node_id, node in self._nodes.items()
            if not _unfit(node, asked) and asked.resources.fits_in(self._free[node_id])
        )
        count, node_id = min(fitting, default=(0, ""))
        if not node_id:
            return False
        self._free[node_id] -= asked.resources
        self._counts[node_id] = count + 1
        return True


def _wanted_by(container: Container) -> Wanted:
    return wanted(container.resources, container.agent_type, container.image, container.command, container.node_filter)


def _stays(world: World, container: Container, asked: Wanted, rules: Rules) -> WhyNot:
    """Return why a container that does not move cannot start on its node."""
    node = world.nodes.get(container.node_id)
    if node is None or node.is_ended:
        why = "is removed"
    elif unfit := _unfit(node, asked):
        why = unfit
    elif node.status not in (NodeStatus.READY, NodeStatus.CORDONED) or node.is_leaving:
        why = _away(node)
    else:
        why = f"has too few free resources ({asked.resources.lacking(free_on(world, node, rules))})"
    return WhyNot({container.node_id: f"{why}, and agent type {asked.agent_type!r} does not move"}, NO_ROOM)


def starting(
    world: World, container: Container, rules: Rules, reason: str, *, restarts: int, no_room: NoRoom | None = None
) -> Events:
    """
    Return the event that starts a container, on its node if that can run it and has room, else on another.

    Raises:
        Refused: no node can run it, or none that can has room.
    """
    asked = _wanted_by(container)
    node = world.nodes.get(container.node_id)
    if node is not None and _may_stay(node, asked):
        free = free_on(world, node, rules) + (container.resources if container.holds else NONE)
        if container.resources.fits_in(free):
            return (
                ContainerStarting(
                    container_id=container.container_id, node_id=node.node_id, reason=reason, restarts=restarts
                ),
            )
    if not container.moves and container.generation:
        raise _refused(container.container_id, asked, _stays(world, container, asked, rules))
    node_id = place(world, container.container_id, asked, rules, no_room)
    return (ContainerStarting(container_id=container.container_id, node_id=node_id, reason=reason, restarts=restarts),)
