"""
A process that only writes the feed, for tests that kill it: `python -m tests.feeder URL`.

Its windows are small, so that a kill interrupts it in the middle of one.
"""

from __future__ import annotations

import asyncio
import sys

from coordinator.bus.connection import Bus
from coordinator.follower.feed import Feed, FeedLimits
from coordinator.follower.feed_chain import ChainLimits
from coordinator.journal.stream import NatsJournal
from events.subjects import Subjects

SMALL = FeedLimits(
    chain=ChainLimits(window_messages=20, unacked_messages=60, ack_timeout_s=1.0),
    stand_by_s=0.1,
    first_pause_s=0.01,
    longest_pause_s=0.2,
)


async def feed(url: str) -> None:
    """Write the feed forever."""
    subjects = Subjects()
    async with Bus.open(url, name="feeder", buffered=False) as bus:
        await Feed(bus, subjects, NatsJournal(bus, subjects), SMALL).run()


if __name__ == "__main__":
    asyncio.run(feed(sys.argv[1]))
