"""Print events of the journal from a given point on, and follow it if asked; never writes."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections import deque
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from coordinator.app.subscribe import ALL, Begin, EventFilter, begin_at, events_from
from coordinator.cli.output import clean_json
from coordinator.journal.stream import NatsJournal
from coordinator.task_groups import task_group
from coordinator.terminal import clean
from events import codec
from events.base import START, Envelope, Position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from datetime import datetime

    from coordinator.app.subscribe import Found
    from coordinator.client.client import Client
    from projections.source import Bounds

LOOK_BACK = 200
"""Commits read from the end in the first step of the search for the last events; each further step doubles it."""

RAW_CHARS = 200
"""Characters of another domain's data in a line; JSON output has all of it."""


async def tail(
    client: Client,
    *,
    last: int,
    since: Position | datetime | None,
    kinds: tuple[str, ...],
    prefix: str,
    follow: bool,
    output: str,
    as_json: bool,
) -> None:
    """Print events; see `coordinator events tail`."""
    wanted = EventFilter(kinds or ALL)
    journal = NatsJournal(client.bus, client.subjects)
    as_json = as_json or output == "json"

    async def show(events: AsyncGenerator[Found]) -> None:
        async with aclosing(events) as found:
            async for _, envelope in found:
                if envelope.type.startswith(prefix):
                    _print(envelope, as_json=as_json)

    bounds = await journal.bounds()
    async with while_read():
        if since is None:
            for envelope in await _last(journal, wanted, bounds, last, prefix):
                _print(envelope, as_json=as_json)
            begin = Begin(bounds.last, START)
        else:
            begin = await _from(journal, bounds, since)
        if follow:
            await show(events_from(journal, wanted, begin))
        elif begin.after < bounds.last:
            await show(events_from(journal, wanted, begin, bounds.last))


async def _from(journal: NatsJournal, bounds: Bounds, since: Position | datetime) -> Begin:
    """Begin with the event at *since* or the first one after it; *since* may lie outside the journal."""
    if isinstance(since, Position):
        # The filter skips events up to and including its position, so it gets the position one index lower.
        after = min(max(since.sequence, bounds.first) - 1, max(bounds.last, 0))
        return Begin(after, Position(since.sequence, since.index - 1))
    return await begin_at(journal, since)


async def _last(journal: NatsJournal, wanted: EventFilter, bounds: Bounds, count: int, prefix: str) -> list[Envelope]:
    """Return the last *count* events; reads backwards from the end in ever larger pieces."""
    found: list[Envelope] = []
    piece = max(count, LOOK_BACK)
    until = bounds.last
    while len(found) < count and until >= bounds.first:
        after = max(bounds.first - 1, until - piece)
        kept = deque[Envelope](maxlen=count - len(found))
        async for _, envelope in events_from(journal, wanted, Begin(after, START), until):
            if envelope.type.startswith(prefix):
                kept.append(envelope)
        found = [*kept, *found]
        until, piece = after, piece * 2
    return found


@asynccontextmanager
async def while_read() -> AsyncIterator[None]:
    """
    Raise BrokenPipeError in the block when the reader of standard output is gone, as after `| head -1`.

    A write would fail only at the next event, which may be hours away.
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
    """Return the facts of a line: the event's own fields without its subject, and the actor."""
    data = envelope.data
    facts = {
        name: _plain(getattr(data, name))
        for name in data.__struct_fields__
        if name not in (data.SUBJECT, "payload", "result", "environment", "raw", "claims", "now")
    }
    return {**facts, "actor": envelope.actor}


def _plain(value: object) -> object:
    """Return raw JSON as text, cut to RAW_CHARS; return other values unchanged."""
    if not isinstance(value, msgspec.Raw):
        return value
    text = bytes(value).decode()
    return text if len(text) <= RAW_CHARS else f"{text[:RAW_CHARS]}…"
