"""
What the heartbeat stream remembers of each sender, for a writer that has just begun to listen.

Only what senders said of themselves is of use: when a beat was heard is for the clock of whoever heard it (ADR 0005),
so nothing read here may count as a sign of life. It never fails: without an answer the writer begins knowing nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from coordinator.bus.subscription import Message
from coordinator.errors import CoordinationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.connection import Bus
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

PAGE = 1000
PAGES_MAX = 200
TIMEOUT_S = 2.0
"""For each page; one that does not come ends it."""


async def recall_heartbeats(bus: Bus, subjects: Subjects, take: Callable[[Message], None]) -> int:
    """Hand the last heartbeat of each sender to *take*, oldest first, and say how many there were."""
    taken, sequence = 0, 1
    try:
        for _ in range(PAGES_MAX):
            page = await _page(bus, subjects, sequence)
            for message in page:
                subject = message.header(b"Nats-Subject") or ""
                take(Message(subject, "", message.data))
                sequence = int(message.header(b"Nats-Sequence") or 0) + 1
            taken += len(page)
            if len(page) < PAGE:
                break
    except (CoordinationError, TimeoutError) as error:
        log.warning("heartbeats_not_recalled", taken=taken, reason=str(error) or "no answer")
    return taken


async def _page(bus: Bus, subjects: Subjects, sequence: int) -> list[Message]:
    """Read up to `PAGE` messages from *sequence* on."""
    found: list[Message] = []
    ended = asyncio.Event()

    def receive(message: Message) -> None:
        if message.status:  # 204: the page ends; 404: there is nothing
            ended.set()
        else:
            found.append(message)

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, receive)
    try:
        api = f"DIRECT.GET.{subjects.stream_heartbeats}"
        await bus.js_send(api, {"seq": sequence, "batch": PAGE, "next_by_subj": subjects.heartbeats}, inbox)
        async with asyncio.timeout(TIMEOUT_S):
            await ended.wait()
    finally:
        await subscription.unsubscribe()
    return found
