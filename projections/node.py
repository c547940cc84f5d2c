"""Nodes: state, legal transitions, and the fold of their events. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeHeartbeat,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.resources import NONE, Resources
from projections.stamp import Stamp, check_legal, missing

if TYPE_CHECKING:
    ChangingNodeEvent = (
        NodeCordoned | NodeUncordoned | NodeDraining | NodeDrained | NodeRemoving | NodeLost | NodeReturned
        | NodeRemoved
    )  # fmt: skip
    AnyNodeEvent = NodeRegistered | NodeHeartbeat | ChangingNodeEvent


class NodeStatus(Enum):
    """Whether a node may get containers."""

    READY = "ready"
    CORDONED = "cordoned"
    LOST = "lost"
    REMOVED = "removed"


_S = NodeStatus
LEGAL: dict[NodeStatus, frozenset[NodeStatus]] = {
    _S.READY: frozenset({_S.CORDONED, _S.LOST, _S.REMOVED}),
    _S.CORDONED: frozenset({_S.READY, _S.LOST, _S.REMOVED}),
    _S.LOST: frozenset({_S.READY, _S.CORDONED, _S.REMOVED}),
    _S.REMOVED: frozenset({_S.READY}),
}


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One node; `cordoned` is kept while the node is lost.

    A node that drains is cordoned, has its containers until the commit time `draining_until` at the latest, and is
    `drained` when nothing runs on it; one that is `removing` is removed when it is lost.
    """

    node_id: str
    status: NodeStatus
    registered: Position
    registered_at: float
    capacity: Resources = NONE
    runtime: str = ""
    labels: dict[str, str] = {}
    cordoned: bool = False
    draining_until: float | None = None
    drained: bool = False
    removing: bool = False
    lost_at: float = 0.0
    reason: str = ""
    ended_at: float | None = None
    ended: Position = START

    @property
    def is_ended(self) -> bool:
        """Whether the node was removed."""
        return self.status is NodeStatus.REMOVED

    @property
    def is_leaving(self) -> bool:
        """Whether nothing may start on the node, not even what it has."""
        return self.draining_until is not None or self.removing


def evolve(node: Node | None, event: AnyNodeEvent, stamp: Stamp) -> Node:
    """Fold one event into the node it is about."""
    if isinstance(event, NodeRegistered):
        return _registered(node, event, stamp)
    if node is None or node.is_ended or isinstance(event, NodeHeartbeat):
        missing(event, stamp)
    if node.status is _S.LOST and isinstance(
        event, NodeCordoned | NodeUncordoned | NodeDraining | NodeDrained | NodeRemoving
    ):
        # Only the node itself can end its LOST status; `cordoned` decides its status when it returns.
        return msgspec.structs.replace(_evolve(node, event, stamp), status=node.status, reason=node.reason)
    after = _evolve(node, event, stamp)
    if node.status is _S.CORDONED and isinstance(event, NodeDraining | NodeDrained | NodeRemoving):
        return after
    check_legal(LEGAL, node.status, after.status, event, stamp)
    return after


def _registered(node: Node | None, event: NodeRegistered, stamp: Stamp) -> Node:
    known = node if node is not None and node.cordoned else None
    return Node(
        node_id=event.node_id,
        status=NodeStatus.READY if known is None else NodeStatus.CORDONED,
        registered=stamp.position,
        registered_at=stamp.time,
        capacity=event.capacity,
        runtime=event.runtime,
        labels=event.labels,
        cordoned=known is not None,
        draining_until=None if known is None else known.draining_until,
        drained=known is not None and known.drained,
        removing=known is not None and known.removing,
    )


def _evolve(node: Node, event: ChangingNodeEvent, stamp: Stamp) -> Node:
    replace = msgspec.structs.replace
    match event:
        case NodeCordoned():
            return replace(node, status=_S.CORDONED, cordoned=True, reason=event.reason)
        case NodeUncordoned():
            return replace(
                node, status=_S.READY, cordoned=False, draining_until=None, drained=False, removing=False, reason=""
            )
        case NodeDraining():
            return replace(
                node,
                status=_S.CORDONED,
                cordoned=True,
                draining_until=event.until,
                drained=False,
                reason=event.reason,
            )
        case NodeDrained():
            return replace(node, drained=True)
        case NodeRemoving():
            return replace(node, status=_S.CORDONED, cordoned=True, removing=True)
        case NodeLost():
            reason = f"silent for {event.silent_for_s:.1f} s, limit {event.limit_s:g} s"
            return replace(node, status=_S.LOST, reason=reason, lost_at=stamp.time)
        case NodeReturned():
            return replace(node, status=_S.CORDONED if node.cordoned else _S.READY, reason="")
        case NodeRemoved():
            return replace(
                node,
                status=_S.REMOVED,
                cordoned=False,
                draining_until=None,
                drained=False,
                removing=False,
                reason=event.reason,
                ended_at=stamp.time,
                ended=stamp.position,
            )
    assert_never(event)
