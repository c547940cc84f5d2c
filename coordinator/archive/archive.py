"""
Moves old commits out of the journal into an archive.

    copy → read back and verify → fold → snapshot, stored and loaded back → archive note → purge

Each step starts when the one before is on disk, and all of it can be run again after a crash at any line. A commit is
purged only if this run has read it in the archive's files and a snapshot covers it. The last claim is never purged:
without it no commit is accepted. The purge needs a credential that may purge.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.archive.manifest import Contents, read_contents, read_snapshot, write_contents, write_snapshot
from coordinator.archive.segments import SegmentWriter, read_records
from coordinator.atomic_files import private_folder
from coordinator.bus.jetstream import ApiError
from coordinator.bus.streams import purge_stream
from coordinator.clock import SystemClock
from coordinator.journal.search import first_since
from coordinator.journal.snapshots import Archived, Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.version import __version__
from events.codec import rfc3339
from events.errors import Corrupt, Refused, Unavailable
from projections.source import chain_after
from projections.upgrade import FOLD_VERSION
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordinator.bus.connection import Bus
    from events.subjects import Subjects
    from projections.source import Bounds, Record

log = structlog.get_logger(__name__)

PURGE_TIMEOUT_S = 60.0


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run: the archive now ends at *through*, the journal begins at *first*."""

    copied: int
    through: int
    first: int
    last: int
    purged: int
    took_s: float


class Archive:
    """The archive in *folder* of the journal that *bus* reaches."""

    def __init__(self, bus: Bus, subjects: Subjects, folder: Path, *, replicas: int = 1) -> None:
        self._bus = bus
        self._subjects = subjects
        self._folder = folder
        self._journal = NatsJournal(bus, subjects, replicas=replicas)
        self._snapshots = Snapshots(bus, subjects, replicas=replicas)

    async def run(self, *, before: int | None = None, before_s: float | None = None) -> Moved:
        """
        Move the records before slot *before*, or committed before *before_s* (seconds since 1970).

        At least the last commit stays in the journal.

        Raises:
            Refused: another process archives into this directory, or the archive is of another journal.
            Corrupt: the journal or the archive is damaged; nothing was purged.
            Unavailable: NATS does not answer; run it again.
        """
        clock = SystemClock()
        began = clock.heard()
        with _locked(self._folder):
            bounds = await self._journal.bounds()
            held = await self._held(bounds)
            through = await self._through(bounds, before, before_s)
            copied = max(0, through - held.last)
            if copied:
                held = await self._copy(held, through)
            # Also when nothing was copied: an earlier run may have ended before it purged, or a snapshot was lost.
            await self._check_files(held, bounds.first)
            purged = await self._purge(held, min(through, held.last)) if held.last else 0
        after = await self._journal.bounds()
        moved = Moved(
            copied=copied,
            through=held.last,
            first=after.first,
            last=after.last,
            purged=purged,
            took_s=round(clock.heard() - began, 3),
        )
        log.info("journal_archived", folder=str(self._folder), **msgspec.structs.asdict(moved))
        return moved

    async def _held(self, bounds: Bounds) -> Contents:
        """Read the archive's manifest, and check that the journal continues where the archive ends."""
        held = read_contents(self._folder, "archive")
        if held is None:
            held = _empty_contents(self._subjects.namespace)
        if held.namespace != self._subjects.namespace:
            msg = f"{self._folder} is the archive of the namespace {held.namespace!r}, not {self._subjects.namespace!r}"
            raise Refused(msg, reason="wrong_namespace")
        if held.last < bounds.first - 1:
            msg = (
                f"the journal begins at {bounds.first}, but the archive {self._folder} ends at {held.last}: the "
                "records between are in another archive; name that one"
            )
            raise Refused(msg, reason="wrong_archive")
        if held.last:
            await self._check_ours(held, bounds.last)
        return held

    async def _check_ours(self, held: Contents, last: int) -> None:
        is_ours = await self._is_ours(held, last)
        if is_ours is None:
            msg = (
                f"the archive {self._folder} ends at slot {held.last}, and no commit after it shows whether it belongs "
                "to this journal: run it again after a coordinator has led"
            )
            raise Refused(msg, reason="wrong_archive")
        if not is_ours:
            msg = f"{self._folder} is the archive of another journal: the chains differ after slot {held.last}"
            raise Refused(msg, reason="wrong_archive")

    async def _is_ours(self, held: Contents, last: int) -> bool | None:
        """Return whether the journal, which ends at *last*, has the archive's chain; None if no commit shows it."""
        if last < held.last:
            return False
        record = await self._journal.slot(held.last)
        if record is not None and record.kind == "commit":
            return _chain_up_to(record) == held.chain
        chain = bytes.fromhex(held.chain)
        for sequence in range(held.last + 1, last + 1):
            record = await self._journal.slot(sequence)
            if record is None or record.kind == "commit":
                return None if record is None else record.chain == chain.hex()
            # A claim carries no chain: it is included in the chain of the next commit.
            chain = chain_after(chain, sequence, record.body)
        return None

    async def _through(self, bounds: Bounds, before: int | None, before_s: float | None) -> int:
        """Return the last slot to archive: a commit follows it, so the journal then begins with a commit."""
        wanted = bounds.last
        if before is not None:
            wanted = min(wanted, before)
        if before_s is not None:
            wanted = min(wanted, await first_since(self._journal, before_s))
        while wanted > bounds.first:
            record = await self._journal.slot(wanted)
            if record is not None and record.kind == "commit":
                break
            wanted -= 1
        return max(wanted, bounds.first) - 1

    async def _copy(self, held: Contents, through: int) -> Contents:
        """Copy up to slot *through*, read it back from the files, fold it, and only then list it in the manifest."""
        _remove_strays(self._folder, held)
        with SegmentWriter(self._folder, held.last + 1, bytes.fromhex(held.chain)) as writer:
            async for records in self._journal.read(held.last, through):
                for record in records:
                    writer.add(record)
                await asyncio.sleep(0)
            segments = (*held.segments, *writer.close())
        contents = msgspec.structs.replace(
            held, segments=segments, version=__version__, written_at=rfc3339(SystemClock().wall())
        )
        world = await self._folded(contents)
        contents = msgspec.structs.replace(
            contents, generation=world.generation, snapshot=write_snapshot(self._folder, world)
        )
        write_contents(self._folder, contents)
        _remove_strays(self._folder, contents)
        return contents

    async def _check_files(self, held: Contents, first: int) -> None:
        """Read back everything still in the journal: files of an earlier run may be damaged or missing by now."""
        reading = read_records(self._folder, held, first - 1)
        try:
            while await asyncio.to_thread(next, reading, None):
                pass
        except Corrupt as error:
            msg = (
                f"{error.message}; nothing was purged. Put back a good copy of the archive {self._folder}; or, if the "
                "journal still has all records of it, archive into a new directory"
            )
            raise Corrupt(msg, reason="archive_damaged") from error

    async def _folded(self, contents: Contents) -> World:
        """Fold the archive from its files, starting with its last snapshot."""
        world, snapshot = World(), contents.snapshot
        if snapshot is not None and snapshot.fold_version == FOLD_VERSION:
            try:
                world = World.restore(read_snapshot(self._folder, snapshot))
            except Corrupt as error:
                log.warning("snapshot_ignored", position=str(snapshot.position), reason=error.message)
        reading = read_records(self._folder, contents, world.position.sequence)
        while batch := await asyncio.to_thread(next, reading, None):
            for record in batch:
                world.apply_record(record)
        if world.unfoldable:
            msg = (
                f"the journal holds {world.unfoldable}, which this version {__version__} does not know: upgrade to a "
                "newer release"
            )
            raise Refused(msg, reason="unfoldable")
        return world

    async def _purge(self, held: Contents, through: int) -> int:
        """Purge what the archive has up to slot *through*, after checking that a snapshot covers it."""
        await self._ensure_snapshot(held)
        noted = await self._snapshots.archived()
        if noted is None or noted.through < held.last:
            generation = 0 if noted is None else noted.generation
            await self._snapshots.note_archived(
                Archived(
                    through=held.last,
                    chain=held.chain,
                    folder=str(self._folder.absolute()),
                    archived_at=rfc3339(SystemClock().wall()),
                    generation=generation,
                )
            )
        claim = await self._journal.last_claim()
        if claim is None:
            msg = (
                "the journal has no claim, but every coordinator begins with one: it was removed or lost. Check the "
                "journal with 'coordinator verify'; nothing was purged"
            )
            raise Corrupt(msg)
        purged = await self._purge_below(self._subjects.journal, through + 1)
        return purged + await self._purge_below(self._subjects.epoch, min(through + 1, claim.sequence))

    async def _ensure_snapshot(self, held: Contents) -> None:
        """Ensure that there is a loadable snapshot of this journal at the archive's end or later."""
        world = await self._snapshots.newest(self._journal, World.restore)
        if world is not None and world.position.sequence >= held.last:
            return
        manifest = await self._snapshots.write((await self._folded(held)).frozen())
        World.restore(await self._snapshots.load(manifest))

    async def _purge_below(self, subject: str, sequence: int) -> int:
        name = self._subjects.stream_journal
        try:
            purged = await purge_stream(self._bus, name, subject, below=sequence, timeout_s=PURGE_TIMEOUT_S)
        except ApiError as error:
            raise Unavailable(f"the journal cannot be purged: {error.message}") from error
        return purged


def _chain_up_to(commit: Record) -> str:
    """Return the chain after *commit*, computed from the chain in its header; '' if that is not hexadecimal."""
    try:
        before = bytes.fromhex(commit.chain or "")
    except ValueError:
        return ""
    return chain_after(before, commit.sequence, commit.body).hex()


def _empty_contents(namespace: str) -> Contents:
    return Contents(kind="archive", namespace=namespace, version=__version__, written_at="", generation=0, segments=())


def _remove_strays(folder: Path, contents: Contents) -> None:
    """Remove the files left by a run that was cut off, and the previous snapshot."""
    named = {one.file for one in contents.segments}
    if contents.snapshot is not None:
        named.add(contents.snapshot.file)
    for pattern in ("*.records.gz", "snapshot-*.msgpack.zz", "*.partial"):
        for path in folder.glob(pattern):
            if path.name not in named:
                path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the directory against other processes; the kernel releases the lock when the process ends."""
    private_folder(folder)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(f"another process archives into {folder}: wait until it ends", reason="in_use") from None
    finally:
        os.close(fd)
