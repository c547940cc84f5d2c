"""
A directory of journal records, and its manifest: what backups and archives are.

    manifest.json                                 what there is, each file with its sha256; it hashes itself too
    000000000001-000000004096.records.gz          records, see `segments`
    snapshot-000000004096.msgpack.zz              a world at one of the slots

A directory is what its manifest says; it is written last and replaced whole, so that what was cut off half-way does not
count. What a manifest names may come from anybody: no name leads out of the directory.
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
    """One file of records; the chain is hexadecimal, before its first record and after its last."""

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
    """What a directory holds: the records from *first* to *last*, and a world at or before *last*."""

    kind: Literal["backup", "archive"]
    namespace: str
    version: str
    written_at: str
    generation: int
    segments: tuple[Segment, ...]
    snapshot: SnapshotFile | None = None
    archived: Archived | None = None
    """What had left the journal before the first record of a backup."""
    format: int = FORMAT

    @property
    def first(self) -> int:
        """The first slot; 1 when there is none yet."""
        return self.segments[0].first if self.segments else 1

    @property
    def last(self) -> int:
        """The last slot; 0 when there is none yet."""
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
    Read the manifest of a directory; None when there is none.

    Raises:
        Corrupt: it is damaged, or does not hang together.
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
        msg = f"{path} is damaged: it does not hash to what it says"
        raise Corrupt(msg)
    if contents.kind != kind or contents.format > FORMAT:
        msg = f"{folder} holds a {contents.kind} of format {contents.format}; a {kind} of format {FORMAT} is wanted"
        raise Refused(msg, reason="wrong_kind")
    for before, after in zip(contents.segments, contents.segments[1:], strict=False):
        if after.first != before.last + 1 or after.chain_before != before.chain_after:
            msg = f"{path}: {after.file} does not follow on {before.file}"
            raise Corrupt(msg)
    return contents


def write_contents(folder: Path, contents: Contents) -> None:
    """Write the manifest, whole or not at all; what it names is on the disk already."""
    manifest = msgspec.json.encode(contents)
    signed = _Signed(sha256=sha256(manifest).hexdigest(), manifest=msgspec.Raw(manifest))
    write_whole(folder / MANIFEST, msgspec.json.encode(signed))


def write_snapshot(folder: Path, world: World) -> SnapshotFile:
    """Write *world* into a file of *folder*."""
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
    Read a world's bytes back, for `World.restore`.

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
        damaged(path, "it does not hash to what the manifest says")
    return unpacked(packed, snapshot.size_bytes, snapshot.digest)


def inside(folder: Path, name: str) -> Path:
    """
    Name a file that a manifest names.

    Raises:
        Corrupt: it would not be in the directory.
    """
    if "/" in name or name.startswith("."):
        msg = f"{folder}: the manifest names the file {name!r}, which is not in the directory"
        raise Corrupt(msg)
    return folder / name


def damaged(path: Path, why: str) -> NoReturn:
    """Tell that a file is not what it was; raises `Corrupt`."""
    msg = f"{path} is damaged: {why}"
    raise Corrupt(msg)
