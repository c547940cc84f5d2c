"""
The baseline of machine and server: acknowledged, fsynced publishes into a separate stream.

Compare every figure that includes a commit with these, from the same run. The only coordinator code involved is its
NATS connection.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

from coordinator.bench.measure import spread, timed
from coordinator.bus.connection import Bus
from coordinator.bus.streams import ensure_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STREAM = "BENCH"
SUBJECT = "bench"
EVENT_BYTES = 400
EVENTS_A_MESSAGE = 100
ROUND = 50
"""Messages of each kind in one round; the kinds alternate, so that a busy moment affects both."""
TIMEOUT_S = 20.0


class Bare:
    """A stream on the server of the measured cluster, to publish into."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._event = b"x" * EVENT_BYTES
        self._packed = self._event * EVENTS_A_MESSAGE

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Bare]:
        """Create the stream at *url*; it is removed with the server's folder."""
        async with Bus.open(url, name="bare", buffered=False) as bus:
            await ensure_stream(bus, {"name": STREAM, "subjects": [SUBJECT]}, timeout_s=TIMEOUT_S)
            yield cls(bus)

    async def publish(self) -> None:
        """Publish one event and wait for the acknowledgement."""
        await self._bus.js_publish(SUBJECT, self._event, timeout_s=TIMEOUT_S)

    async def publish_packed(self) -> None:
        """Publish many events in one message and wait for the acknowledgement."""
        await self._bus.js_publish(SUBJECT, self._packed, timeout_s=TIMEOUT_S)

    async def figures(self, rounds: int = 8) -> dict[str, Any]:
        """Measure single publishes, and events per second in packed messages sent one after the other."""
        await timed(self.publish, ROUND)
        publish_ms: list[float] = []
        rates: list[float] = []
        for _ in range(rounds):
            publish_ms += await timed(self.publish, ROUND)
            began = time.perf_counter()
            await timed(self.publish_packed, ROUND)
            rates.append(ROUND * EVENTS_A_MESSAGE / (time.perf_counter() - began))
        return {"bare_publish_ms": spread(publish_ms), "packed_publish_events_per_s": round(median(rates))}


async def bare_figures(url: str, rounds: int = 8) -> dict[str, Any]:
    """Measure the baseline of the server at *url*; see `Bare.figures`."""
    async with Bare.open(url) as bare:
        return await bare.figures(rounds)
