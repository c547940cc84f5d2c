"""
Deciders of the node commands, and the orders of a node. Pure.

A report about another generation than the last started one is about the past and changes nothing. A container that an
outdated report does not name does not change either.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.node import CordonNode, DesiredContainer, NodeOrders, RegisterNode, SyncNode, UncordonNode
from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.deciders import drain
from coordinator.deciders.container import MOST_ENTRIES
from coordinator.deciders.deadlines import NEVER
from coordinator.deciders.rules import ANSWER_BYTES, Decider, Teller
from coordinator.deciders.silence import is_held, patience_s, unless_spared
from coordinator.deciders.supervision import failed, observed
from events.container import ContainerStatus, ExitCause
from events.coordinator import Watched
from events.errors import Refused
from events.ids import DEFAULT_TENANT, checked
from events.node import NodeCordoned, NodeLost, NodeRegistered, NodeRemoved, NodeReturned, NodeUncordoned
from events.resources import NONE
from events.session import SessionClosed
from projections.container import Desired
from projections.node import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coordinator.commands.node import ObservedContainer
    from coordinator.deciders.deadlines import Due
    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.container import Container
    from projections.world import World

_S = ContainerStatus

MOST_NODES = 10_000
"""Recently removed ones included."""

STARTS_A_SYNC = 16
"""A node starts this many containers at a time; the orders name the others once these have started."""

LATER = "later"
"""Desired state of a container that has to wait for its start: the node leaves it as it is."""
_WORD = 2**32
"""No system has larger process ids or exit codes."""
_ORDERS_BYTES = 1024
"""What an answer has beside the containers: lease, ids, epoch, position."""
_ENVELOPE_BYTES = 768
"""What an event has beside its own fields, at most: tenant, trace, cause, actor."""

_encoder = msgspec.json.Encoder()


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
    if known is None and len(world.nodes) >= MOST_NODES:
        msg = f"there are {len(world.nodes)} nodes, the maximum: use the id of a lost node again"
        raise Refused(msg, reason="too_many")
    if known is None or known.is_ended:
        return (offered,)
    drain.check_stays(known)
    if (known.capacity, known.runtime, known.labels) != (command.capacity, command.runtime, command.labels):
        return (offered,)
    return (NodeReturned(node_id=known.node_id),) if known.status is NodeStatus.LOST else ()


def cordon_node(world: World, command: CordonNode, context: DecisionContext) -> Events:
    """Place no new containers on a node."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    node = drain.registered(world, command.node_id)
    return () if node.cordoned else (NodeCordoned(node_id=node.node_id, reason=command.reason),)


def uncordon_node(world: World, command: UncordonNode, context: DecisionContext) -> Events:
    """Place containers on a node again."""
    node = drain.registered(world, command.node_id)
    return (NodeUncordoned(node_id=node.node_id),) if node.cordoned else ()


def sync(world: World, command: SyncNode, context: DecisionContext) -> Events:
    """
    Compare the report of a node with the world, each container once.

    What exceeds `events_bytes` is left for the next report: a node reports what is, not what has changed.
    """
    node = drain.registered(world, command.node_id)
    drain.check_stays(node)
    for bound in (command.after, command.until):
        if bound:
            checked(bound, "container_id")
    for one in command.observed:
        check_number("pid", one.pid, 0, _WORD)
        check_number("exit_code", one.exit_code or 0, -_WORD, _WORD)
    events: list[Event] = [NodeReturned(node_id=node.node_id)] if node.status is NodeStatus.LOST else []
    left = context.events_bytes
    for container, found in _reported(world, command):
        follows = observed(world, container, found, context)
        if not follows:
            continue
        sizes = [_event_size(event) for event in follows]
        if sum(sizes) > left:
            # The sessions of a destroyed container may be many: some are closed now, and the container ends later.
            events += [] if events else _closings(follows, sizes, left)
            break
        left -= sum(sizes)
        events += follows
    return tuple(events)


def _reported(world: World, command: SyncNode) -> Iterator[tuple[Container, ObservedContainer | None]]:
    """Yield the containers that a report is about, with what it says of each; None of one that is gone."""
    seen = {(one.container_id, one.generation): one for one in command.observed}
    for container_id in world.indexes.containers_on.get(command.node_id, ()):
        container = world.containers[container_id]
        if container.is_ended or not container.generation or not command.is_about(container_id):
            continue
        found = seen.get((container_id, container.generation))
        # A container missing in the report may have been started after the node looked, unless the node had the last
        # orders then.
        if found is not None or command.orders_id:
            yield container, found


def _event_size(event: Event) -> int:
    return len(_encoder.encode(event)) + _ENVELOPE_BYTES


def _closings(events: Events, sizes: Sequence[int], left: int) -> Iterator[Event]:
    for event, size in zip(events, sizes, strict=True):
        left -= size
        if left >= 0 and isinstance(event, SessionClosed):
            yield event


def orders(
    world: World, node_id: str, rules: Rules, asked: SyncNode | None = None, most: int = ANSWER_BYTES
) -> NodeOrders:
    """
    Return the orders of a node: its whole desired state; the node removes every container that is not named.

    If it was *asked* for in parts, only as many containers as fit into *most* bytes. Otherwise all of them, with only
    as many launches as fit: the others start later.
    """
    containers = [world.containers[one] for one in world.indexes.containers_on.get(node_id, ())]
    containers = [one for one in containers if one.generation and not one.is_ended]
    left, until = most - _ORDERS_BYTES, ""
    if asked is not None and asked.in_parts:
        named, until = _part(containers, asked, left)
    else:
        named = _whole(containers, left)
    return NodeOrders(
        containers=tuple(named),
        node_lease_s=rules.node_lease_s,
        epoch=(world.generation, world.epoch),
        until=until,
    )


def _whole(containers: Sequence[Container], left: int) -> list[DesiredContainer]:
    """Name all containers; those that start have what their launch needs if it fits into the bytes that are *left*."""
    named = [_later(one) if one.status is _S.STARTING else _desired(one) for one in containers]
    left -= sum(map(_size, named))
    starts = 0
    for index, container in enumerate(containers):
        if container.status is not _S.STARTING:
            continue
        starts += 1
        if starts > STARTS_A_SYNC:
            break
        launch = _desired(container)
        more = _size(launch) - _size(named[index])
        if more <= left:
            named[index] = launch
            left -= more
    return named


def _part(containers: list[Container], asked: SyncNode, left: int) -> tuple[list[DesiredContainer], str]:
    """Name containers in the order of their ids, while they fit; return the last id if others of the part did not."""
    named: list[DesiredContainer] = []
    starts = 0
    for container in sorted(containers, key=_id_of):
        is_starting = container.status is _S.STARTING
        starts += is_starting
        if not asked.is_about(container.container_id):
            continue
        one = _later(container) if is_starting and starts > STARTS_A_SYNC else _desired(container)
        size = _size(one)
        if size > left:
            if named:
                return named, named[-1].container_id
            one = _too_large(container, size, left)
            size = _size(one)
        named.append(one)
        left -= size
    return named, ""


def _id_of(container: Container) -> str:
    return container.container_id


def _size(one: DesiredContainer) -> int:
    return len(_encoder.encode(one)) + 1


def _later(container: Container) -> DesiredContainer:
    return msgspec.structs.replace(_desired(container, launch=False), desired=LATER)


def _too_large(container: Container, size: int, most: int) -> DesiredContainer:
    """Return the orders of a container whose launch no message can have: it fails, and nothing else does."""
    why = f"its command and environment take {size} bytes as JSON, and a message of this server has room for {most}"
    return msgspec.structs.replace(_desired(container, launch=False), refused=f"{why}: make them smaller")


def _desired(container: Container, *, launch: bool = True) -> DesiredContainer:
    # A container in ERROR keeps its exited remains until its next start; until then nothing may run. Nor may a
    # container that is to run on another node.
    desired = Desired.STOPPED if container.status is _S.ERROR or container.is_moving else container.desired
    # The fields that only a start needs are sent only to a container that is to start now: environments are large.
    launch = launch and container.status is _S.STARTING
    return DesiredContainer(
        container_id=container.container_id,
        generation=container.generation,
        desired=desired.value,
        agent_type=container.agent_type,
        image=container.image if launch else "",
        command=container.command if launch else (),
        environment=container.environment if launch else {},
        resources=container.resources,
        limits=container.limits if launch else NONE,
        stop_grace_s=container.stop_grace_s,
        when_cut_off=container.when_cut_off,
        force=container.force,
        tenant=container.tenant if container.tenant != DEFAULT_TENANT else "",
        traceparent=container.traceparent,
    )


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float, nodes: Due) -> Iterator[Event]:
    """Yield what is due for nodes: a silent node is lost, its containers have failed, and it is removed in the end."""
    limit_s, is_spared = patience_s(Watched.NODE, context.rules), is_held(world, Watched.NODE)

    def due_for(node_id: str) -> Iterator[Event]:
        node = world.nodes.get(node_id)
        if node is None or node.is_ended:
            return
        if node.status is not NodeStatus.LOST:
            silent_for_s = signs.silent_for(signs.nodes, node_id, heard_now)
            if silent_for_s <= limit_s or is_spared:
                yield from drain.due(world, node, context)
                return
            yield NodeLost(node_id=node_id, silent_for_s=silent_for_s, limit_s=limit_s)
        yield from _due_for_lost(world, node_id, context)

    def next_look(node_id: str) -> tuple[float, float]:
        node = world.nodes.get(node_id)
        if node is None or node.is_ended:
            return NEVER
        if node.status is NodeStatus.LOST:
            return inf, node.lost_at + context.rules.deregister_after_s
        if drain.looks_again(world, node):
            return heard_now, inf
        at = heard_now - signs.silent_for(signs.nodes, node_id, heard_now) + limit_s
        return unless_spared(at, heard_now, is_spared=is_spared), inf

    return nodes.look(heard_now, context.now, due_for, next_look)


def _due_for_lost(world: World, node_id: str, context: DecisionContext) -> Iterator[Event]:
    # Repeated while the node is lost: a commit is limited in size, and a writer may die between two of them.
    for container_id in tuple(world.indexes.containers_on.get(node_id, ())):
        yield from _cut_off(world, world.containers[container_id], context)
    lost = world.nodes[node_id]
    if lost.status is not NodeStatus.LOST:
        return
    if lost.removing:
        yield NodeRemoved(node_id=node_id, reason="removed_by_force")
    elif context.now - lost.lost_at > context.rules.deregister_after_s and not _holds(world, node_id):
        yield NodeRemoved(node_id=node_id, reason="lost for too long")


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
    **drain.DECIDERS,
    SyncNode: sync,
}
TELLERS: dict[type[Command], Teller] = {
    SyncNode: lambda world, command, context, done: orders(
        world, command.node_id, context.rules, command, context.answer_bytes
    ),
}
