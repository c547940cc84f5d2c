"""Private folders, whatever the umask is."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from coordinator.atomic_files import private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
