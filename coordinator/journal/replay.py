"""
Builds a world: from the newest usable snapshot and the records after it, or else from the journal's first slot.

A journal whose beginning is missing is accepted only if that beginning was archived; otherwise no world is built. A
snapshot of an older fold lacks what that fold did not keep: then an older world is folded forward instead, if the
records after it can still be read, here or in the archive.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from events.errors import CoordinationError, Corrupt
from projections.memory import HARD_S
from projections.world import World

if TYPE_CHECKING:
    from coordinator.journal.snapshots import Snapshots
    from coordinator.journal.stream import NatsJournal
    from projections.source import CommitSource

log = structlog.get_logger(__name__)


async def begun(journal: NatsJournal, snapshots: Snapshots, archived: CommitSource | None = None) -> World:
    """
    Fold everything the journal holds now; *archived* also reads records that were archived.

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
    if world.remembers_since:
        world = await _remembering(world, journal, snapshots, archived)
    await fold(world, journal, last)
    noted = await snapshots.archived()
    if noted is not None and noted.generation > world.generation:
        msg = (
            f"a restore was cut off before generation {noted.generation} began: run `coordinator backup restore` "
            "again, or `coordinator verify --accept` if that was cut off"
        )
        raise Corrupt(msg, reason="half_restored")
    return world


async def _remembering(
    world: World, journal: NatsJournal, snapshots: Snapshots, archived: CommitSource | None
) -> World:
    """Return *world* with a complete memory, folded from an older one; or *world*, and say what it does not know."""
    source = journal if archived is None else archived
    try:
        older: World | None = world
        while older is not None and world.remembers_since - older.time <= HARD_S:
            older = await snapshots.newest(journal, World.restore, before=older.position.sequence)
        base = older if older is not None else World()
        if (await source.bounds()).first <= base.position.sequence + 1:
            began = base.position
            await fold(base, source, world.position.sequence)
            log.info("memory_folded_again", since=str(began), through=str(world.position))
            return base
    except CoordinationError as error:
        log.warning("memory_not_folded_again", reason=error.message)
    log.warning(
        "memory_incomplete",
        reason="the newest snapshot is of an older release, and the records before it cannot be read here: a repeated "
        f"command about a task that ended in the {HARD_S:g} s before the snapshot is taken for a new one",
        todo="name the archive in follower.archive, or stop all clients for that time before the first start",
    )
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
