"""
Backups: the journal as it stood at one slot, in files, with the world of that slot.

`create` reads while others write: what is committed never changes, so a backup of slots 1 to n is of one moment,
whatever comes behind n. It only reads the journal. `verify` needs nothing but the files.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import structlog

from coordinator import __version__
from coordinator.archive.manifest import Contents, write_contents, write_snapshot
from coordinator.archive.segments import SegmentWriter
from coordinator.atomic_files import sync_folder
from coordinator.clock import SystemClock
from coordinator.journal.replay import check_archived
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
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
    Write a backup into the new directory *folder*; it has that name only when it is whole and on the disk.

    Where NATS keeps *replicas* copies, one that lags is asked again before the journal is called damaged.

    Raises:
        Refused: there is such a directory already, or there is nothing to back up.
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
    """Make the directory that a backup is written into until it is whole."""
    if folder.exists():
        raise Refused(f"{folder} exists already: name a directory that does not", reason="exists")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # of one that was cut off
    partial.mkdir(mode=0o700, parents=True)
    return partial


async def _write(bus: Bus, subjects: Subjects, folder: Path, replicas: int) -> Contents:
    journal, snapshots = NatsJournal(bus, subjects, replicas=replicas), Snapshots(bus, subjects, replicas=replicas)
    world = await snapshots.newest(journal, World.restore) or World()
    first, last = await journal.bounds()
    if last < first:
        raise Refused("the journal is empty: there is nothing to back up", reason="empty")
    archived = None
    if first > 1:
        await check_archived(snapshots, first)
        archived = await snapshots.archived()
    segments = await _copy(journal, world, folder, first, last)
    if world.unfoldable:
        msg = f"the journal holds {world.unfoldable}, which this version {__version__} does not know: upgrade it"
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
    """Copy the records from *first* to *last*, and fold what *world* lacks of them."""
    begins = world.position.sequence
    if begins < first - 1:
        msg = f"the journal begins at {first}, and no usable snapshot is of what came before: run `archive run`"
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
                    msg = f"the snapshot at {world.position} is not of this journal: its chain is {world.chain.hex()}"
                    raise Corrupt(msg)
            await asyncio.sleep(0)
        return writer.close()
