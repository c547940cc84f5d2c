"""One journal as several processes see it, in memory or on a real server, for tests of journals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import NamedTuple

from coordinator.bus.connection import Bus
from coordinator.bus.pull_consumer import PullLimits
from coordinator.journal.memory import MemoryJournal, MemoryStream
from coordinator.journal.slots import Epoch, Journal
from coordinator.journal.stream import NatsJournal
from events.subjects import Subjects
from projections.source import GENESIS, CommitSource, Record, chain_after

LIMITS = PullLimits(heartbeat_s=0.4, look_s=0.8, pull_messages=200, answer_timeout_s=1.0)
"""Small and fast, so that a test reaches every branch."""


class World(NamedTuple):
    """`connect` opens one more process's view of the journal; `purge` removes the slots below a sequence."""

    connect: Callable[[], Awaitable[Journal]]
    purge: Callable[[int], Awaitable[None]]


@asynccontextmanager
async def in_memory(*, replicated: bool = False) -> AsyncIterator[World]:
    stream = MemoryStream(replicated=replicated)

    async def connect() -> Journal:
        return MemoryJournal(stream)

    async def purge(before: int) -> None:
        stream.purge(before)

    yield World(connect, purge)


@asynccontextmanager
async def on_server(url: str, namespace: str = "coordination") -> AsyncIterator[World]:
    subjects = Subjects(namespace)
    async with AsyncExitStack() as stack:

        async def connect() -> Journal:
            bus = await stack.enter_async_context(Bus.open(url, name="test", buffered=False))
            journal = NatsJournal(bus, subjects, read_limits=LIMITS)
            await journal.prepare()
            return journal

        async def purge(before: int) -> None:
            async with Bus.open(url, name="archive") as bus:
                await bus.js_request(f"STREAM.PURGE.{subjects.stream_journal}", {"seq": before}, timeout_s=5)

        yield World(connect, purge)


class Writer:
    """A process that has claimed a journal and commits to it, one body after the other."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.epoch = Epoch(1, 0)
        self.sequence = 0
        self.chain = GENESIS

    async def claim(self, body: bytes = b'{"holder":"test"}') -> int:
        """Claim, and read everything before the claim."""
        claimed = await self.journal.claim(body)
        self.epoch = Epoch(1, claimed)
        for record in await read(self.journal, self.sequence, claimed):
            self.sequence = record.sequence
            self.chain = chain_after(self.chain, record.sequence, record.body)
        return claimed

    async def commit(self, body: bytes) -> int:
        """Append *body* in the next slot."""
        sequence = self.sequence + 1
        await self.journal.commit(sequence, self.epoch, self.chain, body)
        self.sequence = sequence
        self.chain = chain_after(self.chain, sequence, body)
        return sequence


async def read(journal: CommitSource, after: int, until: int) -> list[Record]:
    """Read a part of the journal."""
    return [record async for batch in journal.read(after, until) for record in batch]


async def follow(journal: CommitSource, after: int, until: int, into: list[Record]) -> None:
    """Follow the journal into a list, up to a sequence."""
    async with aclosing(journal.follow(after)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            into.extend(batch)
            if batch[-1].sequence >= until:
                return
