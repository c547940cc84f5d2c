"""
Creates backups: the journal up to one slot, in files, with the world at that slot.

`create` reads while others write: commits never change, so a backup of slots 1 to n is consistent, whatever is
appended after n. It only reads the journal. `verify` needs only the files.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import structlog

from coordinator.archive.manifest import Contents, write_contents, write_snapshot
from coordinator.archive.segments import SegmentWriter
from coordinator.atomic_files import private_folder, sync_folder
from coordinator.clock import SystemClock
from coordinator.journal.replay import check_archived
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.version import __version__
from events.codec import rfc3339
from events.errors import Corrupt, Refused
from projections.source import GENESIS
from projections.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.archive.manifest import Segment
    from coordinator.bus.connection import Bus
    from events.subjects import Subjects

log = structlog.get_logger(__name__)


async def create(bus: Bus, subjects: Subjects, folder: Path, *, replicas: int = 1) -> Contents:
    """
    Write a backup to the new directory *folder*, which gets that name only when it is complete and on disk.

    With more than one of *replicas*, a replica that lags is asked again before the journal is reported as damaged.

    Raises:
        Refused: the directory exists already, or the journal is empty.
        Corrupt: the journal is damaged.
        Unavailable: NATS does not answer.
    """
    partial = _begin(folder)
    contents = await _write(bus, subjects, partial, replicas)
    partial.replace(folder)
    sync_folder(folder.parent)
    log.info("backup_created", folder=str(folder), first=contents.first, last=contents.last)
    return contents


def _begin(folder: Path) -> Path:
    """Create the directory that a backup is written to until it is complete."""
    if folder.exists():
        raise Refused(f"{folder} exists already: name a directory that does not exist", reason="exists")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # left by a backup that was cut off
    private_folder(partial)
    return partial


async def _write(bus: Bus, subjects: Subjects, folder: Path, replicas: int) -> Contents:
    journal, snapshots = NatsJournal(bus, subjects, replicas=replicas), Snapshots(bus, subjects, replicas=replicas)
    world = await snapshots.newest(journal, World.restore) or World()
    first, last = await journal.bounds()
    if world.remembers_since and first == 1:  # a snapshot of an older release, but the journal has all records
        world = World()
    if last < first:
        raise Refused("the journal is empty: there is nothing to back up", reason="empty")
    archived = None
    if first > 1:
        await check_archived(snapshots, first)
        archived = await snapshots.archived()
    segments = await _copy(journal, world, folder, first, last)
    if world.unfoldable:
        msg = (
            f"the journal holds {world.unfoldable}, which this version {__version__} does not know: upgrade to a newer "
            "release"
        )
        raise Refused(msg, reason="unfoldable")
    contents = Contents(
        kind="backup",
        namespace=subjects.namespace,
        version=__version__,
        written_at=rfc3339(SystemClock().wall()),
        generation=world.generation,
        segments=tuple(segments),
        snapshot=write_snapshot(folder, world),
        archived=archived,
    )
    write_contents(folder, contents)
    return contents


async def _copy(journal: NatsJournal, world: World, folder: Path, first: int, last: int) -> list[Segment]:
    """Copy the records from *first* to *last*, and fold those that *world* lacks."""
    begins = world.position.sequence
    if begins < first - 1:
        msg = (
            f"the journal begins at {first}, and there is no usable snapshot of the records before: run "
            "`coordinator archive run`, which makes one from the archive"
        )
        raise Corrupt(msg, reason="no_snapshot")
    beginning = None if first == 1 else await journal.slot(first)
    chain = GENESIS if beginning is None else bytes.fromhex(beginning.chain or "")
    with SegmentWriter(folder, first, chain) as writer:
        async for records in journal.read(first - 1, last):
            for record in records:
                writer.add(record)
                if record.sequence > begins:
                    world.apply_record(record)
                elif record.sequence == begins and writer.chain != world.chain:
                    msg = (
                        f"the snapshot at {world.position} is of another journal: its chain is {world.chain.hex()}, "
                        f"but that of this journal is {writer.chain.hex()}"
                    )
                    raise Corrupt(msg)
            await asyncio.sleep(0)
        return writer.close()
