"""
Writes snapshots of the world that a follower's projector folds.

The world is copied by reference in one step, which takes 10 ms for 100,000 tasks, and is encoded and compressed in a
thread. It must never delay the projector; a snapshot that fails is only tried again.
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
    """How often snapshots are written; times in seconds."""

    every_events: int = 100_000
    pause_s: float = 30.0
    """The shortest pause between two snapshots, however fast events come."""
    look_s: float = 1.0
    kept: int = 3


class Snapshotter:
    """Writes the world of the projector that *projector* returns, None while there is none, to *snapshots*."""

    def __init__(
        self, snapshots: Snapshots, projector: Callable[[], Projector | None], limits: SnapshotLimits | None = None
    ) -> None:
        self._snapshots = snapshots
        self._projector = projector
        self._limits = limits if limits is not None else SnapshotLimits()
        self._last: tuple[Projector | None, int, int] = (None, 0, 0)
        """The last snapshot: its projector, the events folded by then, and the newest slot of any snapshot then."""

    async def run(self) -> NoReturn:
        """Write a snapshot whenever one is due, without end."""
        while True:
            await asyncio.sleep(self._limits.look_s)
            projector = self._projector()
            if projector is None or not self._is_due(projector):
                continue
            try:
                await self.write(projector)
            except CoordinationError as error:
                log.warning("snapshot_write_failed", reason=error.message)
            await asyncio.sleep(self._limits.pause_s)

    async def write(self, projector: Projector) -> Manifest | None:
        """
        Write the projector's world; return None if another follower has just done so or this release cannot fold it.

        None also for as long as the world lacks what an older release evicted: it differs from a fold of the journal.

        Raises:
            CoordinationError: the snapshot cannot be written now.
        """
        others = await self._snapshots.manifests()
        newest = others[0].position.sequence if others else 0
        of, _, seen = self._last
        self._last = (projector, projector.folded, newest)
        at = projector.world.position.sequence
        if projector.world.unfoldable or projector.world.remembers_since:
            return None
        if newest >= at or (of is projector and newest > seen):
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
