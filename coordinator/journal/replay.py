"""
Builds a world: from the newest usable snapshot and the records after it, or else from the journal's first slot.

A journal whose beginning is missing is accepted only if that beginning was archived; otherwise no world is built.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from events.errors import Corrupt
from projections.world import World

if TYPE_CHECKING:
    from coordinator.journal.snapshots import Snapshots
    from coordinator.journal.stream import NatsJournal
    from projections.source import CommitSource


async def begun(journal: NatsJournal, snapshots: Snapshots) -> World:
    """
    Fold everything the journal holds now.

    Raises:
        Corrupt: the journal is damaged, or its beginning is missing.
        Unavailable: NATS does not answer.
    """
    world = await snapshots.newest(journal, World.restore) or World()
    first, last = await journal.bounds()
    if first > 1:
        await check_archived(snapshots, first)
        if world.position.sequence < first - 1:
            msg = (
                f"the journal begins at {first} because the records before were archived, and there is no usable "
                "snapshot of them: run `coordinator archive run`, which makes one from the archive"
            )
            raise Corrupt(msg, reason="no_snapshot")
    await fold(world, journal, last)
    noted = await snapshots.archived()
    if noted is not None and noted.generation > world.generation:
        msg = (
            f"a restore was cut off before generation {noted.generation} began: run `coordinator backup restore` "
            "again, or `coordinator verify --accept` if that was cut off"
        )
        raise Corrupt(msg, reason="half_restored")
    return world


async def fold(world: World, journal: CommitSource, until: int) -> None:
    """Fold into *world* the records of *journal* that it lacks, up to slot *until*."""
    async for records in journal.read(world.position.sequence, until):
        for record in records:
            world.apply_record(record)
        await asyncio.sleep(0)


async def check_archived(snapshots: Snapshots, first: int) -> None:
    """
    Check that the records before slot *first* were archived.

    Raises:
        Corrupt: they were not: they were removed or lost.
    """
    archived = await snapshots.archived()
    through = 0 if archived is None else archived.through
    if through < first - 1:
        msg = (
            f"the journal begins at {first}, but only records up to {through} were archived: records {through + 1} "
            f"to {first - 1} are missing. Restore a backup, or run `coordinator archive run` with the archive that "
            "has them"
        )
        raise Corrupt(msg, reason="beginning_gone")
