"""
Writes snapshots beside a follower's projector, of the world that it folds anyway.

The world is copied by reference in one piece, which takes a hundredth of a second for a hundred thousand tasks, and is
encoded and compressed in a thread. It must never hold up the projector, and what fails is only tried again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog

from events.errors import CoordinationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.journal.snapshots import Manifest, Snapshots
    from projections.projector import Projector

log = structlog.get_logger(__name__)


class SnapshotLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How often; times in seconds."""

    every_events: int = 100_000
    pause_s: float = 30.0
    """Between two snapshots at least, however fast events come."""
    look_s: float = 1.0
    kept: int = 3


class Snapshotter:
    """Looks at what *projector* gives, None while there is none, and writes its world to *snapshots*."""

    def __init__(
        self, snapshots: Snapshots, projector: Callable[[], Projector | None], limits: SnapshotLimits | None = None
    ) -> None:
        self._snapshots = snapshots
        self._projector = projector
        self._limits = limits if limits is not None else SnapshotLimits()
        self._last: tuple[Projector | None, int, int] = (None, 0, 0)
        """Of whose world, after how many events folded, and where the newest of all was then."""

    async def run(self) -> NoReturn:
        """Write whenever one is due, for ever."""
        while True:
            await asyncio.sleep(self._limits.look_s)
            projector = self._projector()
            if projector is None or not self._is_due(projector):
                continue
            try:
                await self.write(projector)
            except CoordinationError as error:
                log.warning("snapshot_not_written", reason=error.message)
            await asyncio.sleep(self._limits.pause_s)

    async def write(self, projector: Projector) -> Manifest | None:
        """
        Write the projector's world, unless another follower has lately or this release cannot fold all of it.

        Raises:
            CoordinationError: it cannot be written now.
        """
        others = await self._snapshots.manifests()
        newest = others[0].position.sequence if others else 0
        of, _, seen = self._last
        self._last = (projector, projector.folded, newest)
        at = projector.world.position.sequence
        if projector.world.unfoldable or newest >= at or (of is projector and newest > seen):
            return None
        loop = asyncio.get_running_loop()
        began = loop.time()
        frozen = projector.world.frozen()
        held_s = loop.time() - began
        manifest = await self._snapshots.write(frozen)
        self._last = (projector, self._last[1], manifest.position.sequence)
        log.info(
            "snapshot_written",
            position=str(manifest.position),
            size_bytes=manifest.size_bytes,
            chunks=len(manifest.chunks),
            held_s=round(held_s, 4),
            took_s=round(loop.time() - began, 3),
        )
        return manifest

    def _is_due(self, projector: Projector) -> bool:
        of, folded, _ = self._last
        return projector.folded - (folded if of is projector else 0) >= self._limits.every_events
