"""Verifies a backup or an archive: its files, digests and chain, and that its world follows from its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from coordinator.archive.manifest import Contents, read_contents, read_snapshot
from coordinator.archive.segments import read_records
from coordinator.clock import SystemClock
from events.errors import Corrupt, NotFound
from projections.upgrade import FOLD_VERSION, READABLE
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from projections.source import Record


class RecordsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup or an archive holds, and whether its records were folded to check its world."""

    first: int
    last: int
    records: int
    size_bytes: int
    generation: int
    digest: str
    folded: bool
    """Whether all records from slot 1 on were folded; otherwise only the chain was checked."""
    took_s: float


def verify_records(
    folder: Path, *, kind: Literal["backup", "archive"] = "backup", archive: Path | None = None, fold: bool = True
) -> tuple[Contents, RecordsReport]:
    """
    Read all of a backup or an archive and check that it is what was written.

    With *fold*, also check that its world follows from its records. If the journal had been archived before the backup,
    the fold needs *archive*, which has the records before it.

    Raises:
        NotFound: there is no complete backup or archive in *folder*.
        Corrupt: something is damaged or missing.
        Refused: it is of a later format.
    """
    clock = SystemClock()
    began = clock.heard()
    contents = read_contents(folder, kind)
    if contents is None or not contents.segments or contents.snapshot is None:
        raise NotFound(f"there is no {kind} in {folder}, or it was not finished: a complete manifest is missing")
    before = [] if archive is None else [(archive, _archive_before(archive, contents))]
    snapshot = contents.snapshot
    data = read_snapshot(folder, snapshot)
    if snapshot.position.sequence != contents.last or snapshot.chain != contents.chain:
        msg = f"{folder} is damaged: its snapshot is of {snapshot.position}, but its records end at {contents.last}"
        raise Corrupt(msg)
    can_fold = fold and (contents.first == 1 or bool(before)) and snapshot.fold_version in READABLE
    world = World()
    count = 0
    for record in _all_records([*before, (folder, contents)], contents.last):
        count += record.sequence >= contents.first
        if can_fold:
            world.apply_record(record)
    if can_fold:
        found, expected = world.digest(), snapshot.digest
        if snapshot.fold_version != FOLD_VERSION:  # the fold of an older release
            found, expected = world.digest_of_living(), World.restore(data).digest_of_living()
        if (found, world.generation) != (expected, contents.generation):
            msg = f"{folder} is damaged: its records fold to the digest {found}, but its snapshot has {expected}"
            raise Corrupt(msg)
    report = RecordsReport(
        first=contents.first,
        last=contents.last,
        records=count,
        size_bytes=sum(one.size_bytes for one in contents.segments) + len(data),
        generation=contents.generation,
        digest=snapshot.digest,
        folded=can_fold,
        took_s=round(clock.heard() - began, 3),
    )
    return contents, report


def _archive_before(archive: Path, contents: Contents) -> Contents:
    """Read the manifest of the archive that has the records before a backup."""
    held = read_contents(archive, "archive")
    last = 0 if held is None else held.last
    if held is None or held.first != 1 or last < contents.first - 1:
        msg = (
            f"the archive {archive} does not have slots 1 to {contents.first - 1}: it ends at {last}, and the backup "
            f"begins at {contents.first}; name the archive that has them"
        )
        raise NotFound(msg)
    return held


def _all_records(parts: list[tuple[Path, Contents]], last: int) -> Iterator[Record]:
    at = 0
    for number, (folder, contents) in enumerate(parts):
        end = last if number == len(parts) - 1 else parts[number + 1][1].first - 1
        for batch in read_records(folder, contents, at):
            for record in batch:
                if record.sequence <= end:
                    at = record.sequence
                    yield record
