"""Reads the journal and prints its events, from some point on, as long as one likes; it never writes."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from coordinator.cli.output import clean, clean_json
from coordinator.groups import task_group
from coordinator.journal_nats import NatsJournal
from events import codec
from events.base import START, Position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.client import Client
    from events.base import Envelope

LOOK_BACK = 200
"""Commits read back at first to find the last few events; further back twice as many, and so on."""

RAW_CHARS = 200
"""So much of another domain's data stands in a line; JSON output has all of it."""

Found = tuple[Position, "Envelope"]


async def tail(
    client: Client, *, last: int, since: Position | None, prefix: str, follow: bool, output: str, as_json: bool
) -> None:
    """Print events; see `coordinator events tail`."""
    journal = NatsJournal(client.bus, client.subjects)
    as_json = as_json or output == "json"
    bounds = await journal.bounds()
    start = START if since is None else since
    async with _while_read():
        if since is None:
            for _, envelope in await _last(journal, bounds.first, bounds.last, last, prefix):
                _print(envelope, as_json=as_json)
        else:
            after = min(max(since.sequence, bounds.first) - 1, bounds.last)
            async for position, envelope in _events(journal, after, bounds.last, prefix):
                if position >= start:
                    _print(envelope, as_json=as_json)
        if follow:
            async for position, envelope in _events(journal, bounds.last, None, prefix):
                if position >= start:
                    _print(envelope, as_json=as_json)


async def _last(journal: NatsJournal, first: int, until: int, count: int, prefix: str) -> list[Found]:
    """Find the last *count* events, reading ever larger pieces from the end backwards."""
    found: list[Found] = []
    piece = max(count, LOOK_BACK)
    while len(found) < count and until >= first:
        after = max(first - 1, until - piece)
        kept = deque[Found](maxlen=count - len(found))
        async for one in _events(journal, after, until, prefix):
            kept.append(one)
        found = [*kept, *found]
        until, piece = after, piece * 2
    return found


async def _events(journal: NatsJournal, after: int, until: int | None, prefix: str) -> AsyncIterator[Found]:
    records = journal.follow(after) if until is None else journal.read(after, until)
    async for batch in records:
        for record in batch:
            if record.kind != "commit":
                continue
            for index, envelope in enumerate(codec.decode(record.body)):
                if envelope.type.startswith(prefix):
                    yield Position(record.sequence, index), envelope


@asynccontextmanager
async def _while_read() -> AsyncIterator[None]:
    """
    Raise BrokenPipeError in the block when nobody reads standard output any more, as after `| head -1`.

    Writing would tell only at the next event, which may be hours away.
    """
    fd = _output_pipe()
    if fd is None:
        yield
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    # A pipe's writing end becomes readable when its reading end is closed.
    loop.add_reader(fd, gone.set)

    async def watch() -> None:
        await gone.wait()
        raise BrokenPipeError

    async with task_group() as tasks:
        watching = tasks.create_task(watch())
        try:
            yield
        finally:
            loop.remove_reader(fd)
            watching.cancel()


def _output_pipe() -> int | None:
    try:
        fd = sys.stdout.fileno()
        return fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
    except (AttributeError, OSError):  # closed, or not a file at all
        return None


def _print(envelope: Envelope, *, as_json: bool) -> None:
    if as_json:
        click.echo(clean_json(codec.encode(envelope).decode()))
        return
    facts = " ".join(f"{name}={value}" for name, value in _facts(envelope).items() if value not in (None, "", (), {}))
    click.echo(clean(f"{envelope.time}  {envelope.id:>10}  {envelope.type:<22} {envelope.subject}  {facts}"))


def _facts(envelope: Envelope) -> dict[str, object]:
    """Give what is worth a line: the event's own fields but its subject, and who did it."""
    data = envelope.data
    facts = {
        name: _plain(getattr(data, name))
        for name in data.__struct_fields__
        if name not in (data.SUBJECT, "payload", "result", "environment", "raw", "claims", "now")
    }
    return {**facts, "actor": envelope.actor}


def _plain(value: object) -> object:
    """Write out what is kept as raw JSON, as much of it as suits a line."""
    if not isinstance(value, msgspec.Raw):
        return value
    text = bytes(value).decode()
    return text if len(text) <= RAW_CHARS else f"{text[:RAW_CHARS]}…"
