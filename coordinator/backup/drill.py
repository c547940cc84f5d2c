"""
The drill: proves that a backup can be restored.

It backs up the live journal, restores the backup into its own nats-server in a temporary directory, folds the result
from the first slot, and compares it with the world folded from the live journal. It changes nothing in the live system.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from coordinator.archive.source import ArchiveSource
from coordinator.archive.verify import verify_records
from coordinator.backup.create import create
from coordinator.backup.restore import restore
from coordinator.bus.connection import Bus
from coordinator.clock import SystemClock
from coordinator.journal.stream import NatsJournal
from coordinator.nats_server.server import EmbeddedServer
from events.errors import Corrupt
from projections.history import replay_digest

if TYPE_CHECKING:
    from events.subjects import Subjects


class Drilled(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a drill; times in seconds. `same`: the restored world is equal to the live one."""

    same: bool
    last: int
    records: int
    size_bytes: int
    live_digest: str
    restored_digest: str
    create_s: float
    verify_s: float
    restore_s: float
    fold_s: float


async def drill(
    bus: Bus, subjects: Subjects, *, archive: Path | None = None, folder: Path | None = None, replicas: int = 1
) -> Drilled:
    """
    Run the drill in a temporary directory, inside *folder* if that is given.

    Archived records are read from *archive*; *replicas* is the number of replicas of the live journal.

    Raises:
        CoordinationError: a step failed; the message says which.
    """
    clock = SystemClock()
    marks = [clock.heard()]
    with TemporaryDirectory(prefix="drill-", dir=folder) as temporary:
        place = Path(temporary)
        contents = await create(bus, subjects, place / "backup", replicas=replicas)
        marks.append(clock.heard())
        contents, report = await asyncio.to_thread(verify_records, place / "backup", archive=archive, fold=False)
        marks.append(clock.heard())
        async with (
            EmbeddedServer(place / "nats") as server,
            Bus.open(server.url, name="drill", buffered=False) as there,
        ):
            await restore(there, subjects, place / "backup", contents)
            marks.append(clock.heard())
            journal = NatsJournal(there, subjects)
            if contents.first > 1 and archive is None:
                msg = f"the journal was archived up to {contents.first - 1}: name the archive with --archive"
                raise Corrupt(msg, reason="no_archive")
            source = journal if archive is None else ArchiveSource(archive, journal)
            digest = await replay_digest(source, contents.last)
            marks.append(clock.heard())
    took_s = [round(after - before, 3) for before, after in pairwise(marks)]
    return Drilled(
        same=digest == report.digest,
        last=report.last,
        records=report.records,
        size_bytes=report.size_bytes,
        live_digest=report.digest,
        restored_digest=digest,
        create_s=took_s[0],
        verify_s=took_s[1],
        restore_s=took_s[2],
        fold_s=took_s[3],
    )
