"""
Where a world begins: with the newest usable snapshot and the rest of the journal, else with the journal's first slot.

A journal whose beginning is gone is right only when the archive has it; else nothing may begin.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from events.errors import Corrupt
from projections.world import World

if TYPE_CHECKING:
    from coordinator.journal.snapshots import Snapshots
    from coordinator.journal.stream import NatsJournal
    from projections.source import CommitSource

log = structlog.get_logger(__name__)


async def begun(journal: NatsJournal, snapshots: Snapshots) -> World:
    """
    Fold all that the journal holds now.

    Raises:
        Corrupt: the journal is damaged, or its beginning is gone.
        Unavailable: NATS does not answer.
    """
    world = await snapshots.newest(journal, World.restore) or World()
    first, last = await journal.bounds()
    if first > 1:
        await check_archived(snapshots, first)
        if world.position.sequence < first - 1:
            msg = (
                f"the journal begins at {first}, for its beginning was archived, and there is no usable snapshot of "
                "what came before: run `coordinator archive run`, which makes one from the archive"
            )
            raise Corrupt(msg, reason="no_snapshot")
    await fold(world, journal, last)
    noted = await snapshots.archived()
    if noted is not None and noted.generation > world.generation:
        msg = (
            f"a restore was cut off before generation {noted.generation} began: run `backup restore` again; or "
            "`verify --accept`, if it was that"
        )
        raise Corrupt(msg, reason="half_restored")
    return world


async def fold(world: World, journal: CommitSource, until: int) -> None:
    """Fold what *world* lacks of *journal*, up to slot *until*."""
    async for records in journal.read(world.position.sequence, until):
        for record in records:
            world.apply_record(record)
        await asyncio.sleep(0)


async def check_archived(snapshots: Snapshots, first: int) -> None:
    """
    Make sure that what stood before slot *first* was archived.

    Raises:
        Corrupt: nothing says so: it was removed or lost.
    """
    archived = await snapshots.archived()
    through = 0 if archived is None else archived.through
    if through < first - 1:
        msg = (
            f"the journal begins at {first}, but only what stood up to {through} was archived: records {through + 1} "
            f"to {first - 1} are gone. Restore a backup, or archive again with the archive that has them"
        )
        raise Corrupt(msg, reason="beginning_gone")
