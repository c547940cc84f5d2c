"""
The format of backups and archives: a directory of journal records and its manifest.

    manifest.json                                 lists each file with its sha256; contains its own hash too
    000000000001-000000004096.records.gz          records, see `segments`
    snapshot-000000004096.msgpack.zz              a world at one of the slots

Only files listed in the manifest count. It is written last and replaced as a whole, so a run that was cut off has no
effect. A manifest is untrusted input: no file name in it may lead out of the directory.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Literal, NoReturn

import msgspec

from coordinator.atomic_files import write_whole
from coordinator.journal.snapshots import Archived, Packer, unpacked
from events.base import Position
from events.codec import UNREADABLE
from events.errors import Corrupt, Refused
from projections.snapshot import pieces

if TYPE_CHECKING:
    from pathlib import Path

    from projections.world import World

FORMAT = 1
MANIFEST = "manifest.json"


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One file of records; `chain_before` its first record and `chain_after` its last are hexadecimal."""

    file: str
    first: int
    last: int
    size_bytes: int
    sha256: str
    chain_before: str
    chain_after: str


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file with a world; `digest` is `World.digest`, `sha256` that of the file, both hexadecimal."""

    file: str
    position: Position
    chain: str
    generation: int
    fold_version: int
    size_bytes: int
    digest: str
    sha256: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a directory: the records from *first* to *last*, and a world at or before *last*."""

    kind: Literal["backup", "archive"]
    namespace: str
    version: str
    written_at: str
    generation: int
    segments: tuple[Segment, ...]
    snapshot: SnapshotFile | None = None
    archived: Archived | None = None
    """The archive note: what had been purged from the journal before the first record of a backup."""
    format: int = FORMAT

    @property
    def first(self) -> int:
        """The first slot; 1 if there is none yet."""
        return self.segments[0].first if self.segments else 1

    @property
    def last(self) -> int:
        """The last slot; 0 if there is none yet."""
        return self.segments[-1].last if self.segments else 0

    @property
    def chain(self) -> str:
        """The chain after the last record."""
        return self.segments[-1].chain_after if self.segments else bytes(32).hex()


class _Signed(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    manifest: msgspec.Raw


def read_contents(folder: Path, kind: str) -> Contents | None:
    """
    Read the manifest of a directory; None if there is none.

    Raises:
        Corrupt: it is damaged, or its segments do not follow each other.
        Refused: it is of another kind, or of a later format.
    """
    path = folder / MANIFEST
    try:
        signed = msgspec.json.decode(path.read_bytes(), type=_Signed)
        contents = msgspec.json.decode(signed.manifest, type=Contents)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        msg = f"{path} is damaged: {error}"
        raise Corrupt(msg) from error
    if sha256(signed.manifest).hexdigest() != signed.sha256:
        msg = f"{path} is damaged: its content does not match the sha256 in it"
        raise Corrupt(msg)
    if contents.kind != kind or contents.format > FORMAT:
        msg = f"{folder} holds a {contents.kind} of format {contents.format}, but a {kind} of format {FORMAT} is needed"
        raise Refused(msg, reason="wrong_kind")
    for before, after in zip(contents.segments, contents.segments[1:], strict=False):
        if after.first != before.last + 1 or after.chain_before != before.chain_after:
            msg = f"{path} is damaged: the records of {after.file} do not continue those of {before.file}"
            raise Corrupt(msg)
    return contents


def write_contents(folder: Path, contents: Contents) -> None:
    """Write the manifest atomically; the files it lists must be on disk already."""
    manifest = msgspec.json.encode(contents)
    signed = _Signed(sha256=sha256(manifest).hexdigest(), manifest=msgspec.Raw(manifest))
    write_whole(folder / MANIFEST, msgspec.json.encode(signed))


def write_snapshot(folder: Path, world: World) -> SnapshotFile:
    """Write *world* to a file in *folder*."""
    frozen = world.frozen()
    packer = Packer(pieces(frozen))
    packed = b"".join(iter(packer.next, b""))
    name = f"snapshot-{frozen.position.sequence:012}.msgpack.zz"
    write_whole(folder / name, packed)
    return SnapshotFile(
        file=name,
        position=frozen.position,
        chain=frozen.chain.hex(),
        generation=frozen.generation,
        fold_version=frozen.fold_version,
        size_bytes=packer.size_bytes,
        digest=packer.digest,
        sha256=sha256(packed).hexdigest(),
    )


def read_snapshot(folder: Path, snapshot: SnapshotFile) -> bytes:
    """
    Read the bytes of a world, for `World.restore`.

    Raises:
        Corrupt: the file is damaged or missing.
    """
    path = inside(folder, snapshot.file)
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        msg = f"{path} is missing"
        raise Corrupt(msg) from None
    if sha256(packed).hexdigest() != snapshot.sha256:
        damaged(path, "its sha256 is not the one in the manifest")
    return unpacked(packed, snapshot.size_bytes, snapshot.digest)


def inside(folder: Path, name: str) -> Path:
    """
    Return the path of a file that a manifest lists.

    Raises:
        Corrupt: the path would lead out of the directory.
    """
    if "/" in name or name.startswith("."):
        msg = f"{folder}: the manifest lists the file {name!r}, which is not in the directory"
        raise Corrupt(msg)
    return folder / name


def damaged(path: Path, why: str) -> NoReturn:
    """Raise `Corrupt`: the file *path* is damaged."""
    msg = f"{path} is damaged: {why}"
    raise Corrupt(msg)
