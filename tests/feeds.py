"""The feed as an outside subscriber sees it with plain nats-py, and as it must be according to the journal."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import nats
from nats.errors import TimeoutError as NothingCame

from coordinator.bus.connection import Bus
from coordinator.errors import Unavailable
from coordinator.follower.feed import Feed
from coordinator.journal.search import generation_of
from coordinator.journal.slots import Epoch
from coordinator.journal.stream import NatsJournal
from coordinator.task_groups import task_group
from events import codec
from events.subjects import Subjects
from projections.source import GENESIS, chain_after
from tests.feeder import SMALL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.follower.feed import FeedLimits
    from tests.real_server import RealServer

SUBJECTS = Subjects()
PATIENCE_S = 30.0
CONTENT_TYPE = "application/cloudevents+json"


class Fed(NamedTuple):
    """One message of the feed."""

    message_id: str
    subject: str
    body: bytes


async def due(journal: NatsJournal, after: int = 0) -> list[Fed]:
    """Return the messages that the feed must have for the whole journal after *after*."""
    found = []
    async for records in journal.read(after, (await journal.bounds()).last):
        for record in records:
            if record.kind == "commit":
                for index, (head, raw) in enumerate(codec.split(record.body)):
                    message_id = f"{generation_of(record)}.{record.sequence}.{index}"
                    found.append(Fed(message_id, f"coordination.events.{head.type}", bytes(raw)))
    return found


async def _due(journal: NatsJournal, after: int) -> list[Fed]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await due(journal, after)
            except Unavailable:  # the server was restarted just now
                await asyncio.sleep(0.05)


async def fed(url: str, subject: str = "coordination.events.>") -> list[Fed]:
    """Read the feed as an outside subscriber."""
    connection = await nats.connect(url)
    try:
        jetstream = connection.jetstream()
        info = await jetstream.stream_info("COORDINATION_EVENTS")
        if not info.state.messages:
            return []
        subscription = await jetstream.pull_subscribe(subject, stream="COORDINATION_EVENTS")
        found: list[Fed] = []
        pending = (await subscription.consumer_info()).num_pending or 0
        while len(found) < pending:
            try:
                messages = await subscription.fetch(500, timeout=5)
            except NothingCame:
                break
            for message in messages:
                await message.ack()
                headers = message.headers or {}
                assert headers.get("Content-Type", CONTENT_TYPE) == CONTENT_TYPE
                found.append(Fed(headers.get("Nats-Msg-Id", ""), message.subject, message.data))
        return found
    finally:
        await connection.close()


async def expect_fed(url: str, journal: NatsJournal, after: int = 0) -> None:
    """Wait until the feed has as many events as the journal after *after*, and compare them in order."""
    wanted = await _due(journal, after)
    async with asyncio.timeout(PATIENCE_S):
        async with Bus.open(url, name="look") as bus:
            count = -1
            while count < len(wanted):
                await asyncio.sleep(0.02)
                info = await bus.js_request(f"STREAM.INFO.{SUBJECTS.stream_events}", timeout_s=5)
                count = info["state"]["messages"]
    assert await fed(url) == wanted


@asynccontextmanager
async def feeding(server: RealServer, limits: FeedLimits = SMALL) -> AsyncIterator[Feed]:
    """Write the feed in this process while the block runs."""
    async with Bus.open(server.url, name="feed", buffered=False) as bus, task_group() as tasks:
        feed = Feed(bus, SUBJECTS, NatsJournal(bus, SUBJECTS), limits)
        running = tasks.create_task(feed.run())
        try:
            yield feed
        finally:
            running.cancel()


async def append(journal: NatsJournal, generation: int, *bodies: bytes) -> None:
    """Claim, and commit *bodies* unchanged at the end of the journal."""
    claim = await journal.claim(msgspec.json.encode({"generation": generation, "holder": "t", "time": "2026-01-01"}))
    chain = GENESIS
    async for records in journal.read(0, claim):
        for record in records:
            chain = chain_after(chain, record.sequence, record.body)
    for number, body in enumerate(bodies, claim + 1):
        await journal.commit(number, Epoch(generation, claim), chain, body)
        chain = chain_after(chain, number, body)


def event(event_type: str, position: str, *, seconds: float = 2e9, **data: Any) -> bytes:
    """Encode an event of any type; *seconds* since 1970 is its time, by default one that is never too old."""
    return msgspec.json.encode(
        {
            "type": event_type,
            "specversion": "1.0",
            "id": position,
            "source": "/coordination/1",
            "subject": "thing",
            "time": codec.rfc3339(seconds),
            "dataversion": 1,
            "data": data,
        }
    )
