"""`coordinator node`: run a node agent, and show, cordon, drain and remove nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coordinator.cli.connection import REASON, URL, asking, send
from coordinator.cli.output import Number, moment, output_options, show, show_one
from coordinator.cli.run import node_run
from coordinator.client.paging import listed
from coordinator.commands.node import (
    DRAIN_S,
    DRAIN_S_MAX,
    CordonNode,
    DrainNode,
    GetNode,
    ListNodes,
    RemoveNode,
    UncordonNode,
)
from projections.node import NodeStatus

if TYPE_CHECKING:
    from coordinator.cli.output import Column
    from coordinator.commands.node import NodeView
    from events.resources import Resources
    from projections.node import Node


def _amounts(resources: Resources) -> str:
    """Return amounts in as few characters as a table has room for."""
    text = f"{resources.cpu_millis / 1000:g} cores, {resources.memory_bytes / 2**30:.3g} GiB"
    return f"{text}, {resources.gpus} GPUs" if resources.gpus else text


def _state(node: Node) -> str:
    """Return the status of a node, and what goes on besides."""
    more = ""
    if node.removing:
        more = ", removing"
    elif node.draining_until is not None:
        more = ", drained" if node.drained else ", draining"
    elif node.cordoned and node.status is NodeStatus.LOST:
        more = ", cordoned"
    return node.status.value + more


def _labels(node: Node) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))


def _staying(view: NodeView) -> str:
    """Return which containers have not begun to move, and why."""
    return "; ".join(f"{container_id} {why}" for container_id, why in view.staying.items())


_COLUMNS: tuple[Column, ...] = (
    ("id", lambda n: n.node_id),
    ("status", _state),
    ("runtime", lambda n: n.runtime),
    ("capacity", lambda n: _amounts(n.capacity)),
    ("why", lambda n: n.reason),
)
_FACTS: tuple[Column, ...] = (
    ("id", lambda v: v.node.node_id),
    ("status", lambda v: _state(v.node)),
    ("why", lambda v: v.node.reason),
    ("runtime", lambda v: v.node.runtime),
    ("labels", lambda v: _labels(v.node)),
    ("registered", lambda v: moment(v.node.registered_at)),
    ("lost", lambda v: moment(v.node.lost_at) if v.node.status is NodeStatus.LOST else ""),
    ("empty by", lambda v: moment(v.node.draining_until)),
    ("capacity", lambda v: _amounts(v.node.capacity)),
    ("held", lambda v: _amounts(v.held)),
    ("free", lambda v: _amounts(v.free)),
    ("containers", lambda v: ", ".join(f"{count} {status}" for status, count in v.containers.items())),
    ("stay", _staying),
)


@click.group()
def node() -> None:
    """Run a node agent; show, cordon, drain and remove nodes."""


node.add_command(node_run)


@node.command("list")
@URL
@output_options
@click.pass_context
def node_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List nodes, newest first."""
    show(asking(ctx, url, lambda client: listed(client, ListNodes())), _COLUMNS, output=output, as_json=as_json)


@node.command("show")
@click.argument("node_id", metavar="ID")
@URL
@output_options
@click.pass_context
def node_show(ctx: click.Context, node_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a node: what it offers, what its containers hold, what is free, and why some stay."""
    found = asking(ctx, url, lambda client: client.execute(GetNode(node_id=node_id)))
    show_one(found, _FACTS, output=output, as_json=as_json)


@node.command("cordon")
@click.argument("node_id", metavar="ID")
@REASON
@URL
@click.pass_context
def node_cordon(ctx: click.Context, node_id: str, reason: str, url: str | None) -> None:
    """Place no new containers on a node; what it has runs on."""
    send(ctx, url, CordonNode(node_id=node_id, reason=reason))


@node.command("uncordon")
@click.argument("node_id", metavar="ID")
@URL
@click.pass_context
def node_uncordon(ctx: click.Context, node_id: str, url: str | None) -> None:
    """Place containers on a node again; this ends its drain or removal."""
    send(ctx, url, UncordonNode(node_id=node_id))


@node.command("drain")
@click.argument("node_id", metavar="ID")
@click.option(
    "--deadline", "deadline_s", type=Number(0.0, DRAIN_S_MAX, "a number of seconds"), default=DRAIN_S,
    show_default=True, help="Seconds after which what is left is stopped.",
)  # fmt: skip
@REASON
@URL
@click.pass_context
def node_drain(ctx: click.Context, node_id: str, deadline_s: float, reason: str, url: str | None) -> None:
    """
    Move the containers of a node to other nodes.

    Their workers get no new tasks. A container moves when its tasks have ended and
    another node has room. 'coordinator node show' says which stay, and why.
    """
    send(ctx, url, DrainNode(node_id=node_id, reason=reason, deadline_s=deadline_s))


@node.command("remove")
@click.argument("node_id", metavar="ID")
@click.option("--force", is_flag=True, help="Cut it off and end its containers there.")
@URL
@click.pass_context
def node_remove(ctx: click.Context, node_id: str, force: bool, url: str | None) -> None:
    """
    Remove a node that has no containers.

    Stop its node agent first: one that still runs registers the node again.
    """
    send(ctx, url, RemoveNode(node_id=node_id, force=force))
