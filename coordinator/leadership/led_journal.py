"""
The journal of a reign: after each commit it notes how far the journal is, and tells watchers what became of services.

One message goes out on `….services` after each commit that holds events about them:

    {"epoch": "1.17", "previous": "1040.0", "position": "1042.3", "events": [CloudEvent, …]}

`previous` is the position of the commit in which services last changed: whoever holds what they were there, or later,
and folds the events holds what they are at `position`. Without events a notice is a sign of life, which also brings to
light that the one before it was lost. Core NATS carries them, so any of them may be lost; they must never hold up a
commit, let alone fail one. They leave before the answers to what caused them, on the same connection: whoever ordered
a change has the notice of it before the answer.
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
    """A writer's journal for one reign: *note* is called after each commit, *send* with each notice of services."""

    def __init__(
        self, journal: Journal, world: World, *, note: Callable[[], None], send: Callable[[bytes], object]
    ) -> None:
        self._journal = journal
        self._world = world
        self._note = note
        self._send = send
        self._epoch = str(Epoch(world.generation, world.epoch))
        # Where services last changed before this reign is not known: its claim is never before that.
        self._changed = self._committed = world.position
        self._seen = world.indexes.service_changes

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        await self._journal.commit(sequence, epoch, chain_before, body)
        self._note()
        self._committed = self._world.position
        # Most commits are about tasks, and large: they are not even searched.
        if self._seen != self._world.indexes.service_changes:
            self._seen = self._world.indexes.service_changes
            self._tell_changes(body)

    async def keep_telling(self) -> NoReturn:
        """Say every second how far services are known, so that a notice that was lost is missed."""
        while True:
            self._tell(b"[]")
            await asyncio.sleep(NOTICE_EVERY_S)

    def _tell_changes(self, body: bytes) -> None:
        about_services = [raw for part in _parts.decode(body) if (raw := bytes(part)).startswith(_HEAD)]
        if about_services:  # else one that ended long ago has left the world
            self._tell(join(about_services))
            self._changed = self._committed

    def _tell(self, events: bytes) -> None:
        notice = ServiceNotice(
            epoch=self._epoch,
            previous=str(self._changed),
            position=str(self._committed),
            events=msgspec.Raw(events),
        )
        try:
            self._send(_encoder.encode(notice))
        except Refused as error:  # larger than the server takes: the next notice tells watchers that they missed it
            log.warning("service_notice_not_sent", why=error.message)

    # --- the rest of the journal, as it is ----------------------------------------------------------------------------

    async def bounds(self) -> Bounds:
        return await self._journal.bounds()

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        return self._journal.read(after, until)

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        return self._journal.follow(after)

    async def claim(self, body: bytes) -> int:
        return await self._journal.claim(body)
