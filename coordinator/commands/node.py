"""What may be asked of nodes, and what a node agent reports and is told."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import Command, Question
from events.container import Secret
from events.resources import NONE, Resources
from projections.node import Node


class RegisterNode(Command, frozen=True, kw_only=True, gc=False):
    """Offer a node's capacity; again with other facts replaces them."""

    KIND, VERB = "node", "register"
    FOR = frozenset({"node"})

    node_id: str
    capacity: Resources
    runtime: str
    labels: dict[str, str] = {}


class ObservedContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a node agent saw of one container.

    `state` is running, paused, exited, failed (could not be started), or busy (about to be something else).
    """

    container_id: str
    generation: str
    state: str
    exit_code: int | None = None
    reason: str = ""
    pid: int = 0


class DesiredContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a node agent is to make true of one container; one that is not named is to be removed."""

    container_id: str
    generation: str
    desired: str
    agent_type: str
    image: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str | Secret] = {}
    resources: Resources = NONE
    stop_grace_s: float = 10.0
    when_cut_off: str = "stop"
    force: bool = False


class NodeOrders(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a sync: everything the node is to run, and for how long it may go on without asking again."""

    containers: tuple[DesiredContainer, ...]
    node_lease_s: float
    epoch: tuple[int, int]
    orders_id: str = ""


class SyncNode(Command, frozen=True, kw_only=True, gc=False):
    """
    Report everything a node runs and learn everything it should; repeated each second and on each notice.

    `orders_id` is that of the orders it had when it looked: what an older report does not name is not gone.
    """

    KIND, VERB, Answer = "node", "sync", NodeOrders
    FOR = frozenset({"node"})

    node_id: str
    observed: tuple[ObservedContainer, ...] = ()
    orders_id: str = ""


class CordonNode(Command, frozen=True, kw_only=True, gc=False):
    """Give the node no new containers."""

    KIND, VERB = "node", "cordon"
    FOR = frozenset()

    node_id: str
    reason: str = ""


class UncordonNode(Command, frozen=True, kw_only=True, gc=False):
    """Give the node containers again."""

    KIND, VERB = "node", "uncordon"
    FOR = frozenset()

    node_id: str


class ListNodes(Question, frozen=True, kw_only=True, gc=False):
    """Ask for nodes."""

    KIND, VERB, Answer = "node", "list", list[Node]

    limit: int = 100


class NodeQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be asked of a node about one of its containers; without a generation, about the newest."""

    container_id: str
    generation: str = ""
    lines: int = 100
