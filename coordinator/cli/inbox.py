"""The commands for the inboxes of other domains: `inbox add`, `inbox list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.cli.connection import URL, asking, load_settings
from coordinator.cli.output import moment, output_options, show

if TYPE_CHECKING:
    from coordinator.client.client import Client
    from projections.inbox import Inbox


class ListedInbox(msgspec.Struct, frozen=True, kw_only=True):
    """
    One inbox: the size of its stream, the position read, and the counts of messages recorded, refused and missed.

    `max_bytes` is how much the stream holds; -1 if it has no bound.
    """

    domain: str
    stream: str
    messages: int
    bytes: int
    max_bytes: int
    read: int
    lag: int
    recorded: int
    refused: int
    missed: int
    read_at: float | None


_COLUMNS = (
    ("domain", lambda i: i.domain),
    ("messages", lambda i: i.messages),
    ("bytes", lambda i: i.bytes),
    ("max bytes", lambda i: i.max_bytes),
    ("read to", lambda i: i.read),
    ("lag", lambda i: i.lag),
    ("recorded", lambda i: i.recorded),
    ("refused", lambda i: i.refused),
    ("missed", lambda i: i.missed),
    ("last read", lambda i: moment(i.read_at)),
)


@click.group()
def inbox() -> None:
    """Add and list inboxes of other domains."""


@inbox.command("add")
@click.argument("domain")
@URL
@click.pass_context
def inbox_add(ctx: click.Context, domain: str, url: str | None) -> None:
    """
    Create the inbox of DOMAIN and print the subjects it may publish on.

    The coordinator finds the inbox by itself. An existing inbox is kept.
    """
    from coordinator.doors.inbox import ensure_inbox
    from coordinator.processes.coordinator import inbox_limits_of

    limits = inbox_limits_of(load_settings(ctx, log_level="warning"))

    async def add(client: Client) -> str:
        await ensure_inbox(client.bus, client.subjects, domain, limits)
        return client.subjects.inbox_all(domain)

    click.echo(asking(ctx, url, add))


@inbox.command("list")
@URL
@output_options
@click.pass_context
def inbox_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List inboxes with their size, read position and lag."""
    show(asking(ctx, url, _listed), _COLUMNS, output=output, as_json=as_json)


async def _listed(client: Client) -> list[ListedInbox]:
    from coordinator.bus.streams import stream_info
    from coordinator.commands.cluster import ListInboxes
    from coordinator.doors.inbox import ANSWER_TIMEOUT_S, find_inboxes

    known: dict[str, Inbox] = {one.domain: one for one in await client.execute(ListInboxes())}
    streams = await find_inboxes(client.bus, client.subjects)
    listed = []
    for domain in sorted({*known, *streams}):
        info: dict[str, Any] = {"created": "", "config": {}, "state": {"messages": 0, "bytes": 0, "last_seq": 0}}
        if domain in streams:
            info = await stream_info(client.bus, streams[domain], timeout_s=ANSWER_TIMEOUT_S)
        listed.append(_one(domain, streams.get(domain, ""), info, known.get(domain)))
    return listed


def _one(domain: str, stream: str, info: dict[str, Any], known: Inbox | None) -> ListedInbox:
    state = info["state"]
    read = known.sequence if known is not None and known.stream_created == info["created"] else 0
    return ListedInbox(
        domain=domain,
        stream=stream,
        messages=state["messages"],
        bytes=state["bytes"],
        max_bytes=info["config"].get("max_bytes", 0),
        read=read,
        # Messages deleted before they were read do not count.
        lag=min(state["messages"], max(0, state["last_seq"] - read)),
        recorded=known.recorded if known is not None else 0,
        refused=known.refused if known is not None else 0,
        missed=known.missed if known is not None else 0,
        read_at=known.read_at if known is not None else None,
    )
