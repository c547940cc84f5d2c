"""
Records of the journal in files, readable with `zcat`: a line of JSON for each record, then its unchanged body.

Everything read is checked: sequences without a gap, the chain of each commit, and at the end the hash of the file.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, Self

import msgspec

from coordinator.archive.manifest import Segment, damaged, inside
from coordinator.atomic_files import naming, private_file
from events.codec import UNREADABLE
from events.errors import Corrupt
from projections.source import Record, chain_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from coordinator.archive.manifest import Contents

SEGMENT_BYTES = 64 * 1024 * 1024
"""A file is closed when it exceeds this size before compression."""
RECORD_BYTES_MOST = 64 * 1024 * 1024
BATCH_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024
_GZIP = 31
_LEVEL = 3


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    sequence: int
    kind: Literal["commit", "claim"]
    size: int
    message_id: str | None = None
    chain: str | None = None


_encode_line = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_Line).decode


class SegmentWriter:
    """
    Writes consecutive records to files in *folder*; `close`, called inside the block, returns the segments.

    Raises:
        Corrupt: a record does not follow the one before it.
    """

    def __init__(self, folder: Path, first: int, chain: bytes, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.chain = chain
        self.next = first
        self.segments: list[Segment] = []
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._file: _File | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.abandon()

    def add(self, record: Record) -> None:
        """Write one record."""
        if record.sequence != self.next:
            msg = f"record {record.sequence} was read where record {self.next} was expected"
            raise Corrupt(msg)
        _check_chain(record, self.chain)
        if self._file is None:
            self._file = _File(self._folder, self.next, self.chain)
        self.chain = chain_after(self.chain, record.sequence, record.body)
        self.next += 1
        self._file.write(record)
        if self._file.size >= self._segment_bytes:
            self._end_file()

    def close(self) -> list[Segment]:
        """Close the last file and return the segments; all of them are on disk then."""
        self._end_file()
        return self.segments

    def _end_file(self) -> None:
        if self._file is not None:
            self.segments.append(self._file.end(self.next - 1, self.chain))
            self._file = None


class _File:
    def __init__(self, folder: Path, first: int, chain: bytes) -> None:
        self.size = 0
        self._folder = folder
        self._first = first
        self._chain_before = chain
        self._path = folder / f"{first:012}.partial"
        self._packing = zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._hashing = sha256()
        self._size_bytes = 0
        self._file: BinaryIO = private_file(self._path)

    def write(self, record: Record) -> None:
        line = _Line(
            sequence=record.sequence,
            kind=record.kind,
            size=len(record.body),
            message_id=record.message_id,
            chain=record.chain,
        )
        data = b"%b\n%b\n" % (_encode_line(line), record.body)
        self.size += len(data)
        self._out(self._packing.compress(data))

    def end(self, last: int, chain: bytes) -> Segment:
        self._out(self._packing.flush())
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        name = f"{self._first:012}-{last:012}.records.gz"
        self._path.replace(self._folder / name)
        return Segment(
            file=name,
            first=self._first,
            last=last,
            size_bytes=self._size_bytes,
            sha256=self._hashing.hexdigest(),
            chain_before=self._chain_before.hex(),
            chain_after=chain.hex(),
        )

    def abandon(self) -> None:
        with suppress(OSError):  # what is left in its buffer has no room on a full disk
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _out(self, data: bytes) -> None:
        self._size_bytes += len(data)
        self._hashing.update(data)
        with naming(self._path):
            self._file.write(data)


def read_records(folder: Path, contents: Contents, after: int = 0) -> Iterator[list[Record]]:
    """
    Yield the records of a directory after *after*, in batches; each record is checked.

    Raises:
        Corrupt: a file is damaged or missing, or not the one in the manifest.
    """
    for segment in contents.segments:
        if segment.last <= after:
            continue
        for batch in _batches(_segment_records(folder, segment)):
            wanted = [record for record in batch if record.sequence > after]
            if wanted:
                yield wanted


def _segment_records(folder: Path, segment: Segment) -> Iterator[Record]:
    path = inside(folder, segment.file)
    chain, sequence = bytes.fromhex(segment.chain_before), segment.first
    for record in _parse(path, _unzipped(path, segment)):
        if record.sequence != sequence:
            damaged(path, f"it has record {record.sequence} where record {sequence} is expected")
        _check_chain(record, chain)
        chain = chain_after(chain, sequence, record.body)
        sequence += 1
        yield record
    if sequence != segment.last + 1 or chain.hex() != segment.chain_after:
        damaged(path, f"it ends after record {sequence - 1} with the chain {chain.hex()}, unlike the manifest")


def _parse(path: Path, chunks: Iterator[bytes]) -> Iterator[Record]:
    text = _Text(path, chunks)
    while (head := text.line()) is not None:
        try:
            line = _decode_line(head)
        except UNREADABLE as error:
            damaged(path, f"the head line of a record is unreadable: {error}")
        if not 0 <= line.size <= RECORD_BYTES_MOST:
            damaged(path, f"the size of record {line.sequence} is given as {line.size} bytes")
        body = text.take(line.size + 1)[:-1]
        yield Record(sequence=line.sequence, kind=line.kind, body=body, chain=line.chain, message_id=line.message_id)


class _Text:
    """A reader of unzipped data, by line or by number of bytes."""

    def __init__(self, path: Path, chunks: Iterator[bytes]) -> None:
        self._path = path
        self._chunks = chunks
        self._buffer = b""
        self._at = 0

    def line(self) -> bytes | None:
        """Return the next line without its newline; None at the end of the data."""
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            if not self._more():
                if self._at < len(self._buffer):
                    damaged(self._path, "it ends in the middle of a record")
                return None
        found = self._buffer[self._at : end]
        self._at = end + 1
        return found

    def take(self, count: int) -> bytes:
        while len(self._buffer) - self._at < count:
            if not self._more():
                damaged(self._path, "it ends in the middle of a record")
        found = self._buffer[self._at : self._at + count]
        self._at += count
        return found

    def _more(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        return True


def _unzipped(path: Path, segment: Segment) -> Iterator[bytes]:
    """Yield a file unzipped, from beginning to end; the hash is checked at the end."""
    hashing, unpacking = sha256(), zlib.decompressobj(wbits=_GZIP)
    try:
        with path.open("rb") as file:
            while packed := file.read(_READ_BYTES):
                hashing.update(packed)
                yield unpacking.decompress(packed)
    except FileNotFoundError:
        msg = f"{path} is missing"
        raise Corrupt(msg) from None
    except zlib.error as error:
        damaged(path, str(error))
    if hashing.hexdigest() != segment.sha256:
        damaged(path, "its sha256 is not the one in the manifest")


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.body)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_chain(record: Record, chain: bytes) -> None:
    if record.kind == "commit" and record.chain != chain.hex():
        msg = (
            f"commit {record.sequence} carries the chain {record.chain}, but the records before it hash to "
            f"{chain.hex()}: a record was changed"
        )
        raise Corrupt(msg)
