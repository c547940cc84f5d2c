"""
The journal during a reign: after each commit it updates the high-water mark and sends watchers the service events.

One message is sent on `….services` after each commit that has events about services:

    {"epoch": "1.17", "previous": "1040.0", "position": "1042.3", "events": [CloudEvent, …]}

`previous` is the position of the commit in which services last changed. A watcher that has the services as of
`previous` or later and folds the events has them as of `position`. A notice without events is a sign of life, and lets
a watcher detect that the notice before it was lost. Notices are sent over core NATS, so any of them may be lost; they
must never delay a commit or make it fail. A notice leaves before the answers to the commands that caused it, on the
same connection: the caller of a command receives the notice before the answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog

from coordinator.commands.notices import NOTICE_EVERY_S, ServiceNotice
from coordinator.journal.slots import Epoch
from events.codec import join
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from coordinator.journal.slots import Journal
    from projections.source import Bounds, Record
    from projections.world import World

log = structlog.get_logger(__name__)


_HEAD = b'{"type":"service.'
"""How the codec begins an event about a service."""

_parts = msgspec.json.Decoder(list[msgspec.Raw])
_encoder = msgspec.json.Encoder()


class LedJournal:
    """A writer's journal for one reign: *note* is called after each commit, *send* with each service notice."""

    def __init__(
        self, journal: Journal, world: World, *, note: Callable[[], None], send: Callable[[bytes], object]
    ) -> None:
        self._journal = journal
        self._world = world
        self._note = note
        self._send = send
        self._epoch = str(Epoch(world.generation, world.epoch))
        # The last change of services before this reign is unknown, but it cannot be later than the claim.
        self._changed = self._committed = world.position
        self._seen = world.indexes.service_changes

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        await self._journal.commit(sequence, epoch, chain_before, body)
        self._note()
        self._committed = self._world.position
        # Most commits are large and only about tasks: do not search them.
        if self._seen != self._world.indexes.service_changes:
            self._seen = self._world.indexes.service_changes
            self._send_changes(body)

    async def keep_telling(self) -> NoReturn:
        """Send a notice without events every second, so that watchers detect a lost notice."""
        while True:
            self._send_notice(b"[]")
            await asyncio.sleep(NOTICE_EVERY_S)

    def _send_changes(self, body: bytes) -> None:
        about_services = [raw for part in _parts.decode(body) if (raw := bytes(part)).startswith(_HEAD)]
        if about_services:  # otherwise a service that ended long ago was removed from the world
            self._send_notice(join(about_services))
            self._changed = self._committed

    def _send_notice(self, events: bytes) -> None:
        notice = ServiceNotice(
            epoch=self._epoch,
            previous=str(self._changed),
            position=str(self._committed),
            events=msgspec.Raw(events),
        )
        try:
            self._send(_encoder.encode(notice))
        except Refused as error:  # larger than the server accepts: the next notice shows watchers that they missed one
            log.warning("service_notice_failed", why=error.message)

    # --- the other methods, passed through ----------------------------------------------------------------------------

    async def bounds(self) -> Bounds:
        return await self._journal.bounds()

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        return self._journal.read(after, until)

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        return self._journal.follow(after)

    async def claim(self, body: bytes) -> int:
        return await self._journal.claim(body)
