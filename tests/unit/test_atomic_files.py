"""Files that are written whole or not at all, on a disk that has no room for them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from coordinator.archive.segments import SegmentWriter
from coordinator.atomic_files import write_whole
from projections.source import Record
from tests.disks import no_file_above

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_without_room_is_named_and_nothing_of_it_stays(tmp_path: Path) -> None:
    """The old file stays, the error names the file, and no half of the new one takes what room there is."""
    file = tmp_path / "kept"
    write_whole(file, b"old")
    with no_file_above(100), pytest.raises(OSError, match=str(file)) as raised:
        write_whole(file, b"new" * 100)
    assert raised.value.errno == errno.EFBIG
    assert [file] == list(tmp_path.iterdir())
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("size", [10, 100_000])
def test_records_without_room_are_named_and_nothing_of_them_stays(tmp_path: Path, size: int) -> None:
    """Whether the room ends in the middle or at the end of a file of records."""
    record = Record(sequence=1, kind="claim", body=bytes(range(256)) * size, chain=None, message_id="m")

    def write() -> None:
        with SegmentWriter(tmp_path, first=1, chain=bytes(32)) as writer:
            writer.add(record)
            writer.close()

    with no_file_above(20), pytest.raises(OSError, match=r"000000000001\.partial") as raised:
        write()
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())
