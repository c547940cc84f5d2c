"""Commands and questions about nodes, and what a node agent reports and receives."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import NODE, ORDERS
from events.container import Secret
from events.resources import NONE, Resources
from projections.node import Node

DEAD_AFTER = 1.25
"""
Containers that must not run on a node that is cut off are dead after this many times the node's lease.

Counted from when its last answered sync was sent. The coordinator starts them elsewhere after `NODE_LOST_AFTER` leases.
"""
SYNC_TIMEOUT_LEASES = 0.2
"""A sync that is not answered within this part of the lease is sent again."""
SYNCS_A_LEASE = 2
"""So many syncs, each with its pause and its time-out, fit into a lease: a lost message does not cut the node off."""


DRAIN_S, DRAIN_S_MAX = 3600.0, 30 * 86_400.0
"""How long a drain lasts that names no deadline, and the longest."""


class RegisterNode(Command[None], frozen=True, kw_only=True, gc=False):
    """Register a node; registering again replaces its properties. `labels` are only shown, by `list_nodes`."""

    KIND, VERB = "node", "register"
    FOR = frozenset({"node"})
    REFUSALS = frozenset({"bad_number", "bad_resources", "bad_text", "node_removing", "too_many"})
    EXAMPLE = Example(
        {"node_id": "node_1", "capacity": {"cpu_millis": 4000, "memory_bytes": 8589934592}, "runtime": "process"}
    )

    node_id: str
    capacity: Resources
    runtime: str
    labels: dict[str, str] = {}


class ObservedContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a node agent observed of one container.

    `state` is running, paused, exited, failed (could not be started), or busy (changing to another state). `cause` is
    why an exited one ended, an `ExitCause`; "" in reports of releases without causes.
    """

    container_id: str
    generation: str
    state: str
    exit_code: int | None = None
    reason: str = ""
    pid: int = 0
    cause: str = ""


class DesiredContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The desired state of one container on a node; the agent removes containers that are not listed.

    With `refused`, why it cannot be started, the agent reports that its start has failed. `limits` is what it gets at
    most, if that is not `resources`.
    """

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
    tenant: str = ""
    traceparent: str = ""
    refused: str = ""
    limits: Resources = NONE


class NodeOrders(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The answer to a sync: all containers the node is to have, and how long it may continue without another sync.

    With `until` only those with ids up to it: the agent asks for the others, and acts when it has all.
    """

    containers: tuple[DesiredContainer, ...]
    node_lease_s: float
    epoch: tuple[int, int]
    orders_id: str = ""
    until: str = ""


class SyncNode(Command[NodeOrders], frozen=True, kw_only=True, gc=False):
    """
    Report all containers of a node and receive its orders; sent every second and on each notice.

    `orders_id` is that of the orders the agent had when it looked: a container that is missing in a report on older
    orders is not considered gone.

    With `in_parts` report and orders may each come in several parts: they are about the containers with ids after
    `after`, and up to `until` if it is set. Each part has the `orders_id` of the answer before it.
    """

    KIND, VERB = "node", "sync"
    FOR = frozenset({"node"})
    REFUSALS = frozenset({"bad_number", "node_removing", "not_found"})
    EXAMPLE = Example({"node_id": "node_1"}, ORDERS)

    node_id: str
    observed: tuple[ObservedContainer, ...] = ()
    orders_id: str = ""
    in_parts: bool = False
    after: str = ""
    until: str = ""

    def is_about(self, container_id: str) -> bool:
        """Return whether this part of a report, and of the orders, is about a container."""
        return container_id > self.after and (not self.until or container_id <= self.until)


class CordonNode(Command[None], frozen=True, kw_only=True, gc=False):
    """Cordon a node: place no new containers on it."""

    KIND, VERB = "node", "cordon"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"node_id": "node_1", "reason": "maintenance"})

    node_id: str
    reason: str = ""


class UncordonNode(Command[None], frozen=True, kw_only=True, gc=False):
    """Uncordon a node: place containers on it again; this ends a drain, and a removal that is under way."""

    KIND, VERB = "node", "uncordon"
    FOR = frozenset()
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"node_id": "node_1"})

    node_id: str


class DrainNode(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Drain a node: it is cordoned, its workers in containers get no new tasks, and its containers move to other nodes.

    A container moves when its tasks have ended and another node has room; after `deadline_s` it is stopped in any case.
    `uncordon_node` ends the drain; repeating it sets a new deadline.
    """

    KIND, VERB = "node", "drain"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_text", "not_found"})
    EXAMPLE = Example({"node_id": "node_1", "reason": "new kernel", "deadline_s": 600.0})

    node_id: str
    reason: str = ""
    deadline_s: float = DRAIN_S


class RemoveNode(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Remove a node that has no containers.

    With `force` also one that has: it gets no answers any more, so its containers end there as on a lost node, and it
    is removed when they have. A node agent that still runs registers the node again.
    """

    KIND, VERB = "node", "remove"
    FOR = frozenset()
    REFUSALS = frozenset({"node_in_use", "not_found"})
    EXAMPLE = Example({"node_id": "node_1"})

    node_id: str
    force: bool = False


class ListNodes(Question[list[Node]], frozen=True, kw_only=True, gc=False):
    """List nodes, newest first; with `after`, only those after that node."""

    KIND, VERB = "node", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [NODE])

    limit: int = 100
    after: str = ""


class NodeView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A node, what its containers hold of it, what is free for others, and how many containers it has by status.

    The free cores are those of `container.cpu_overcommit`. Of a node that drains, `staying` says why containers have
    not begun to move, at most 100.
    """

    node: Node
    held: Resources = NONE
    free: Resources = NONE
    containers: dict[str, int] = {}
    staying: dict[str, str] = {}


class GetNode(Question[NodeView], frozen=True, kw_only=True, gc=False):
    """Get a node, with what is free on it and what it has."""

    KIND, VERB = "node", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"node_id": "node_1"}, {"node": NODE, "free": NODE["capacity"]})

    node_id: str


class NodeQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    A question to a node about one of its containers.

    Without `generation` about its newest one; with `previous` about the last one before that generation. With `older`,
    the value of it in an answer, about the log lines that had no room in that answer.
    """

    container_id: str
    generation: str = ""
    lines: int = 100
    previous: bool = False
    older: str = ""


LOG_START = "0"
"""The position before the first line of a log."""


class FollowQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    A question to a node about the log lines of a container after a position; it waits for some, at most `wait_s`.

    Without `generation` about the newest one; without `position` about its last `lines`. Of a generation that is not
    there any more, the answer is about the next one that is, from its beginning.
    """

    container_id: str
    generation: str = ""
    position: str = ""
    lines: int = 100
    wait_s: float = 0.0


class FollowedLogs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The answer to a `FollowQuestion`: lines of one generation, and the position to ask on from.

    `is_cut`: the log is bounded, and has dropped what was between the position asked from and these lines. `is_end`:
    the generation has ended and has no more lines; `next` is the one after it on this node, if there is one.
    """

    generation: str
    position: str
    lines: tuple[str, ...] = ()
    is_cut: bool = False
    is_end: bool = False
    next: str = ""
