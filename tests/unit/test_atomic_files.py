"""Files that are written whole or not at all, and private folders."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from coordinator.archive.segments import SegmentWriter
from coordinator.atomic_files import private_folder, write_whole
from projections.source import Record
from tests.disks import no_file_above

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_a_folder_and_what_is_missing_above_it_is_private_and_what_exists_stays(tmp_path: Path) -> None:
    """Whoever may write to a folder above could replace it; but a folder that somebody made is his affair."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "a" / "b" / "c"
    private_folder(folder)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    folder.chmod(0o750)
    private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    """A file, at the end or on the way."""
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        private_folder(tmp_path / "file" / "below")
