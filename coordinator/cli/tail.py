"""Reads the journal and prints its events, from some point on, as long as one likes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import click

from coordinator.cli.output import clean
from coordinator.journal_nats import NatsJournal
from events import codec
from events.base import Position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.client import Client
    from events.base import Envelope

LOOK_BACK = 200
"""Commits read back to find the last few events; a commit holds at least one."""


async def tail(
    client: Client, *, last: int, since: str | None, prefix: str, follow: bool, output: str, as_json: bool
) -> None:
    """Print events; see `coordinator events tail`."""
    journal = NatsJournal(client.bus, client.subjects)
    bounds = await journal.bounds()
    start = Position.parse(since) if since else None
    after = start.sequence - 1 if start else max(bounds.first - 1, bounds.last - max(last, LOOK_BACK))
    shown = deque[tuple[Position, "Envelope"]](maxlen=last)
    as_json = as_json or output == "json"
    async for position, envelope in _events(journal, after, bounds.last, prefix):
        if start is None:
            shown.append((position, envelope))
        elif position >= start:
            _print(envelope, as_json=as_json)
    for _, envelope in shown:
        _print(envelope, as_json=as_json)
    if follow:
        async for _, envelope in _events(journal, bounds.last, None, prefix):
            _print(envelope, as_json=as_json)


async def _events(
    journal: NatsJournal, after: int, until: int | None, prefix: str
) -> AsyncIterator[tuple[Position, Envelope]]:
    records = journal.follow(after) if until is None else journal.read(after, until)
    async for batch in records:
        for record in batch:
            if record.kind != "commit":
                continue
            for index, envelope in enumerate(codec.decode(record.body)):
                if envelope.type.startswith(prefix):
                    yield Position(record.sequence, index), envelope


def _print(envelope: Envelope, *, as_json: bool) -> None:
    if as_json:
        click.echo(codec.encode(envelope))
        return
    facts = " ".join(
        f"{name}={clean(str(value))}" for name, value in _facts(envelope).items() if value not in (None, "", (), {})
    )
    click.echo(f"{envelope.time}  {envelope.id:>10}  {envelope.type:<22} {clean(envelope.subject)}  {facts}")


def _facts(envelope: Envelope) -> dict[str, object]:
    """Give what is worth a line: the event's own fields but its subject, and who did it."""
    data = envelope.data
    facts = {
        name: getattr(data, name)
        for name in data.__struct_fields__
        if name not in (data.SUBJECT, "payload", "result", "environment", "raw", "claims", "now")
    }
    return {**facts, "actor": envelope.actor}
