"""Events about nodes, the machines that run containers, and the heartbeat of their agents."""

from __future__ import annotations

from events.base import Event
from events.resources import NONE, Resources


class NodeEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one node."""

    SUBJECT = "node_id"

    node_id: str


class NodeRegistered(NodeEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A node offers its capacity; `labels` are text for people, and placement does not depend on them."""

    capacity: Resources = NONE
    runtime: str = ""
    labels: dict[str, str] = {}


class NodeCordoned(NodeEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The node gets no new containers."""

    reason: str = ""


class NodeUncordoned(NodeEvent, frozen=True, kw_only=True, gc=False):
    """The node gets containers again; a drain or a removal that was under way is over."""


class NodeDraining(NodeEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The node gets no containers and gives away those that it has, at the latest at the commit time `until`."""

    until: float
    reason: str = ""


class NodeDrained(NodeEvent, frozen=True, kw_only=True, gc=False):
    """Nothing runs any more on a node that drains."""


class NodeRemoving(NodeEvent, frozen=True, kw_only=True, gc=False):
    """The node gets no answers any more, so its containers end; when it is lost it is removed."""


class NodeLost(NodeEvent, frozen=True, kw_only=True, gc=False):
    """The node's agent was silent for longer than the limit."""

    silent_for_s: float
    limit_s: float


class NodeReturned(NodeEvent, frozen=True, kw_only=True, gc=False):
    """The agent of a lost node was heard again."""


class NodeRemoved(NodeEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The node is no longer part of the cluster."""

    reason: str = ""


class NodeHeartbeat(NodeEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A heartbeat on the heartbeat stream, never in the journal; `used` is measured, not reserved.

    Reserved: no agent publishes it yet. The sign of life of a node is its `sync_node`.
    """

    used: Resources = NONE
    containers: int = 0
