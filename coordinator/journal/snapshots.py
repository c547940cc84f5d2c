"""
Snapshots of the world on NATS: chunks, followed by the manifest that makes them a snapshot.

    <ns>.snapshot.chunk, … , <ns>.snapshot.manifest      stream <NS>_SNAPSHOTS; the oldest are removed

A write that was cut off has no manifest and is never seen. A snapshot only saves folding: one that is damaged, of
another fold version, or of another journal is skipped and logged, and an older one is used, or none. A snapshot must
never be used before its digest and the chain of the journal were checked.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from coordinator.bus.jetstream import NO_MESSAGE, NO_STREAM, ApiError
from coordinator.bus.streams import delete_message, ensure_stream, purge_stream, stored_message
from coordinator.clock import SystemClock
from coordinator.journal.reader import STALE_LEADER_S
from events.base import Position
from events.codec import UNREADABLE, rfc3339
from events.errors import Corrupt, Unavailable
from projections.snapshot import SealedPiece, pieces
from projections.source import chain_after
from projections.upgrade import FOLD_VERSION, READABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordinator.bus.connection import Bus
    from coordinator.journal.search import SearchableJournal
    from events.subjects import Subjects
    from projections.snapshot import Snapshot

log = structlog.get_logger(__name__)

CHUNK_BYTES = 512 * 1024
ANSWER_TIMEOUT_S = 10.0
ASK_AGAIN_S = 1.0
KEPT = 3
PART_BYTES = 64 * 1024
"""A sealed slice smaller than this is no part of its own."""
MOST_REUSED = 8
MOST_LISTED = 100
"""How many manifests are read at most; fewer are ever kept."""

_Made = TypeVar("_Made")


class PackedPart(msgspec.Struct, frozen=True, array_like=True):
    """
    A part of a snapshot that is packed by itself: the next *chunks* of its chunks.

    A sealed slice of the memory is a part of its own: the next snapshots refer to its chunks, up to `MOST_REUSED`
    times, as chunks are only removed from the front of the stream.
    """

    chunks: int
    size_bytes: int
    digest: str
    reused: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot: which world it is of, and the chunks that hold it; `digest` is `World.digest` of that world."""

    position: Position
    chain: str
    generation: int
    fold_version: int
    digest: str
    size_bytes: int
    chunks: list[int]
    """Their sequences in the stream."""
    written_at: str = ""
    parts: list[PackedPart] = []
    """How the chunks are packed; empty: as one part."""


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """
    The archive note: all records up to slot *through* are in an archive; the chain after that slot is *chain*.

    A restore notes here the *generation* that it will begin when it ends; no coordinator may lead until then.
    """

    through: int
    chain: str
    folder: str = ""
    """The directory of the archive, as seen by the process that archived; for people."""
    archived_at: str = ""
    generation: int = 0


def snapshot_stream(subjects: Subjects, *, replicas: int = 1) -> dict[str, Any]:
    """Return the configuration of the stream of snapshots; the process that writes one removes the oldest."""
    return {
        "name": subjects.stream_snapshots,
        "subjects": [subjects.snapshots_all, subjects.archive],
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
    }


class Snapshots:
    """The snapshots of one cluster, reached over *bus*."""

    def __init__(self, bus: Bus, subjects: Subjects, *, replicas: int = 1, kept: int = KEPT) -> None:
        self._bus = bus
        self._subjects = subjects
        self._stream = subjects.stream_snapshots
        self._replicas = replicas
        self._kept = kept

    async def manifests(self) -> list[Manifest]:
        """
        Return the stored manifests, the newest world first; empty if there is no stream.

        Raises:
            Unavailable: JetStream does not answer.
        """
        found: list[Manifest] = []
        after = 0
        for _ in range(MOST_LISTED):
            message = await self._get({"seq": after + 1, "next_by_subj": self._subjects.snapshot_manifest})
            if message is None:
                break
            after, body = message
            try:
                found.append(msgspec.json.decode(body, type=Manifest))
            except UNREADABLE as error:
                log.warning("snapshot_ignored", manifest=after, reason=f"its manifest is unreadable: {error}")
        return sorted(found, key=lambda one: (one.generation, one.position), reverse=True)

    async def write(self, frozen: Snapshot) -> Manifest:
        """
        Store *frozen* and remove the oldest snapshot; encoding runs in a thread, a millisecond at a time.

        Raises:
            Unavailable: JetStream does not answer, or has no room.
            Refused: the stream has another configuration.
        """
        return await self.put(pieces(frozen), frozen)

    async def put(self, encoded: Iterator[bytes], of: Snapshot) -> Manifest:
        """Store an *encoded* snapshot, perhaps of an older fold, of the world *of*; raises as `write` does."""
        await ensure_stream(self._bus, snapshot_stream(self._subjects, replicas=self._replicas))
        before = (await self.manifests())[:1]
        known = {one.digest: (one, chunks) for manifest in before for one, chunks in _parts_of(manifest)}
        hashing = _Hashing(encoded)
        parts: list[PackedPart] = []
        chunks: list[int] = []
        for digest, pieces_of_one in groupby(hashing, key=_digest_of_sealed):
            part, stored = known.get(digest, (None, []))
            if part is not None and part.reused < MOST_REUSED:
                part = msgspec.structs.replace(part, reused=part.reused + 1)
            else:
                packer, stored = Packer(pieces_of_one), []
                while chunk := await asyncio.to_thread(packer.next):
                    stored.append(await self._put(self._subjects.snapshot_chunk, chunk))
                part = PackedPart(len(stored), packer.size_bytes, packer.digest)
            parts.append(part)
            chunks += stored
        manifest = Manifest(
            position=of.position,
            chain=of.chain.hex(),
            generation=of.generation,
            fold_version=of.fold_version,
            digest=hashing.digest,
            size_bytes=hashing.size_bytes,
            chunks=chunks,
            written_at=rfc3339(SystemClock().wall()),
            parts=parts,
        )
        await self._put(self._subjects.snapshot_manifest, msgspec.json.encode(manifest))
        await self._remove_oldest()
        return manifest

    async def load(self, manifest: Manifest) -> bytes:
        """
        Read a snapshot and check that it is what was written.

        Raises:
            Corrupt: it is damaged, or was removed while it was read.
            Unavailable: JetStream does not answer.
        """
        made = []
        for part, chunks in _parts_of(manifest):
            packed = []
            for sequence in chunks:
                message = await self._get({"seq": sequence})
                if message is None:
                    msg = (
                        f"the snapshot at {manifest.position} lacks its chunk {sequence}: it was removed or is damaged"
                    )
                    raise Corrupt(msg)
                packed.append(message[1])
            made.append(await asyncio.to_thread(unpacked, b"".join(packed), part.size_bytes, part.digest))
        data = made[0] if len(made) == 1 else b"".join(made)
        if len(data) != manifest.size_bytes or await asyncio.to_thread(_digest, data) != manifest.digest:
            msg = f"the snapshot at {manifest.position} is not what its manifest says: {len(data)} bytes"
            raise Corrupt(msg)
        return data

    async def newest(
        self, journal: SearchableJournal, make: Callable[[bytes], _Made], *, before: int | None = None
    ) -> _Made | None:
        """
        Return the newest usable snapshot of *journal*, before slot *before* if that is given; None if there is none.

        Raises:
            Corrupt: the journal ends before a snapshot of it, so it has lost its tail.
            Unavailable: NATS does not answer.
        """
        manifests = [one for one in await self.manifests() if before is None or one.position.sequence < before]
        if not manifests:
            return None
        last = await self._last(journal, max(one.position.sequence for one in manifests))
        for manifest in manifests:
            at = manifest.position.sequence
            if manifest.fold_version not in READABLE:
                _ignored(manifest, f"it was folded by version {manifest.fold_version}, this release has {FOLD_VERSION}")
                continue
            if at > last:
                msg = (
                    f"the journal ends at {last}, but there is a snapshot of it at {manifest.position}: it lost its "
                    f"tail, went backwards, or is being restored. If the journal is correct as it is, delete the "
                    f"stream {self._stream}"
                )
                raise Corrupt(msg)
            try:
                await _check_chain(journal, manifest)
                made = make(await self.load(manifest))
            except Corrupt as error:
                _ignored(manifest, error.message)
                continue
            log.info("snapshot_used", position=str(manifest.position), size_bytes=manifest.size_bytes)
            return made
        return None

    async def archived(self) -> Archived | None:
        """
        Return the archive note; None if nothing was archived.

        Raises:
            Corrupt: the note is unreadable.
            Unavailable: JetStream does not answer.
        """
        message = await self._get({"last_by_subj": self._subjects.archive})
        if message is None:
            return None
        try:
            return msgspec.json.decode(message[1], type=Archived)
        except UNREADABLE as error:
            msg = (
                f"the note of how far the journal was archived is unreadable ({error}): run `coordinator archive run` "
                "again"
            )
            raise Corrupt(msg) from error

    async def note_archived(self, archived: Archived) -> None:
        """Store the archive note before records are purged; raises as `write` does."""
        await ensure_stream(self._bus, snapshot_stream(self._subjects, replicas=self._replicas))
        await self._put(self._subjects.archive, msgspec.json.encode(archived))

    async def forget_behind(self, sequence: int) -> None:
        """
        Remove the snapshots after slot *sequence*, when the records there are given up as lost.

        Raises:
            Unavailable: JetStream does not answer.
        """
        after = 0
        while message := await self._get({"seq": after + 1, "next_by_subj": self._subjects.snapshot_manifest}):
            after, body = message
            with suppress(*UNREADABLE):
                if msgspec.json.decode(body, type=Manifest).position.sequence <= sequence:
                    continue
            try:
                await delete_message(self._bus, self._stream, after, timeout_s=ANSWER_TIMEOUT_S)
            except ApiError as error:
                raise Unavailable(f"{self._stream}: {error.message}") from error

    async def _last(self, journal: SearchableJournal, wanted: int) -> int:
        """Return the last slot; ask again while a replica that is cut off may show an older one."""
        patience_s = STALE_LEADER_S if self._replicas > 1 else 0.0
        while (last := (await journal.bounds()).last) < wanted and patience_s > 0:
            await asyncio.sleep(ASK_AGAIN_S)
            patience_s -= ASK_AGAIN_S
        return last

    async def _remove_oldest(self) -> None:
        found = await self.manifests()
        if len(found) <= self._kept:
            return
        kept = found[: self._kept]
        first = min(min(one.chunks, default=0) for one in kept)
        subject = self._subjects.snapshots_all
        try:
            await purge_stream(self._bus, self._stream, subject, below=first, timeout_s=ANSWER_TIMEOUT_S)
        except ApiError as error:  # harmless now: if the stream is full, the next snapshot fails and is tried again
            log.warning("snapshot_removal_failed", reason=error.message)

    async def _put(self, subject: str, data: bytes) -> int:
        try:
            return (await self._bus.js_publish(subject, data, timeout_s=ANSWER_TIMEOUT_S)).sequence
        except ApiError as error:
            msg = f"{self._stream}: {error.message}"
            raise Unavailable(msg) from error

    async def _get(self, which: dict[str, Any]) -> tuple[int, bytes] | None:
        try:
            stored = await stored_message(self._bus, self._stream, which, timeout_s=ANSWER_TIMEOUT_S)
        except ApiError as error:
            if error.err_code in (NO_MESSAGE, NO_STREAM):
                return None
            raise Unavailable(f"{self._stream}: {error.message}") from error
        return stored["seq"], base64.b64decode(stored.get("data", ""))


class _Hashing:
    """Iterates over pieces, and hashes and counts all of them."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self.size_bytes = 0
        self._source = source
        self._hashing = sha256()

    def __iter__(self) -> _Hashing:
        return self

    def __next__(self) -> bytes:
        piece = next(self._source)
        self._hashing.update(piece)
        self.size_bytes += len(piece)
        return piece

    @property
    def digest(self) -> str:
        """The digest of all pieces so far, hexadecimal."""
        return self._hashing.hexdigest()


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _digest_of_sealed(piece: bytes) -> str:
    """Return the digest of a sealed slice that is to be a part of its own; '' for anything else."""
    return _digest(piece) if isinstance(piece, SealedPiece) and len(piece) >= PART_BYTES else ""


def _parts_of(manifest: Manifest) -> Iterator[tuple[PackedPart, list[int]]]:
    """Yield the parts of a snapshot, each with its chunks."""
    at = 0
    whole = PackedPart(len(manifest.chunks), manifest.size_bytes, manifest.digest)
    for part in manifest.parts or [whole]:
        yield part, manifest.chunks[at : at + part.chunks]
        at += part.chunks


class Packer:
    """
    Compress pieces into chunks of at most *chunk_bytes*, and hash them.

    `next` returns one chunk, empty after the last; it holds the interpreter for a millisecond at a time.
    """

    def __init__(self, source: Iterator[bytes], chunk_bytes: int = CHUNK_BYTES) -> None:
        self.size_bytes = 0
        self._source = source
        self._chunk_bytes = chunk_bytes
        self._packing = zlib.compressobj(1)
        self._hashing = sha256()
        self._packed = bytearray()
        self._ended = False

    @property
    def digest(self) -> str:
        """The digest of all pieces so far, hexadecimal."""
        return self._hashing.hexdigest()

    def next(self) -> bytes:
        while len(self._packed) < self._chunk_bytes and not self._ended:
            piece = next(self._source, None)
            if piece is None:
                self._packed += self._packing.flush()
                self._ended = True
            else:
                self._hashing.update(piece)
                self.size_bytes += len(piece)
                self._packed += self._packing.compress(piece)
        chunk = bytes(self._packed[: self._chunk_bytes])
        del self._packed[: self._chunk_bytes]
        return chunk


def unpacked(packed: bytes, size_bytes: int, digest: str) -> bytes:
    """
    Return the data that `Packer` packed.

    Raises:
        Corrupt: size or digest differ from what was packed.
    """
    try:
        data = zlib.decompressobj().decompress(packed, size_bytes + 1)
    except zlib.error as error:
        msg = f"a snapshot of {size_bytes} bytes is damaged: {error}"
        raise Corrupt(msg) from error
    found = sha256(data).hexdigest()
    if len(data) != size_bytes or found != digest:
        msg = f"a snapshot of {size_bytes} bytes has the digest {found}, but {digest} is expected: it is damaged"
        raise Corrupt(msg)
    return data


async def _check_chain(journal: SearchableJournal, manifest: Manifest) -> None:
    """Check that the snapshot is of this journal, if the slot still exists."""
    record = await journal.slot(manifest.position.sequence)
    if record is None or record.chain is None:
        return  # archived, or a claim: the next commit is checked against the chain when it is folded
    try:
        before = bytes.fromhex(record.chain)
    except ValueError:
        before = b""
    if chain_after(before, record.sequence, record.body).hex() != manifest.chain:
        msg = f"it is of another journal, whose chain at {manifest.position} is {manifest.chain}"
        raise Corrupt(msg)


def _ignored(manifest: Manifest, reason: str) -> None:
    log.warning("snapshot_ignored", position=str(manifest.position), reason=reason)
