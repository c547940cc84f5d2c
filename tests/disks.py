"""Small disks for tests: a file with an ext4 file system of its own, mounted on a folder; that needs root."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024**2
_FILL = "fill"


class Disk:
    """A mounted disk; `fill` and `empty` change how much room it has."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder = folder
        self._image = image

    def fill(self, *, but_bytes: int = 0) -> None:
        """Write until nothing more has room, not even a byte; then give *but_bytes* free."""
        with (self.folder / _FILL).open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass
            with suppress(OSError):
                os.fsync(file.fileno())
            file.truncate(max(0, file.tell() - but_bytes))

    def empty(self) -> None:
        """Remove what `fill` wrote."""
        (self.folder / _FILL).unlink()

    def fill_inodes(self) -> None:
        """Create empty files until no more can be created."""
        folder = self.folder / f"{_FILL}.d"
        folder.mkdir()
        with suppress(OSError):
            for number in range(1_000_000):
                (folder / str(number)).touch()

    def empty_inodes(self) -> None:
        """Remove what `fill_inodes` created."""
        folder = self.folder / f"{_FILL}.d"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()

    def mount(self) -> None:
        """Mount it."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))

    def abort(self) -> None:
        """Let the file system become read-only while it is in use, as after an error of the disk."""
        self.remount("abort")

    def remount(self, option: str) -> None:
        """Change how it is mounted."""
        _run("mount", "-o", f"remount,{option}", str(self.folder))

    def repair(self) -> None:
        """Repair a copy of the unmounted file system, and use that from here on: the old one may still be held open."""
        repaired = self._image.with_suffix(".repaired")
        shutil.copy(self._image, repaired)
        self._image = repaired
        subprocess.run(["e2fsck", "-fy", str(self._image)], check=False, capture_output=True, timeout=30)

    def unmount(self) -> None:
        """Unmount it as soon as nobody uses it any more."""
        _run("umount", "-l", str(self.folder))


@contextmanager
def small_disk(folder: Path, size_bytes: int, *, inodes: int = 4096) -> Iterator[Disk]:
    """Mount a new disk of this size on *folder* while the block runs; skip the test where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    # Blocks as large as a page: of smaller ones, the default of so small a disk, SQLite has only a part of each page
    # that it maps into memory, and the kernel ends whoever writes to the rest once the disk is full.
    _run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-N", str(inodes), str(image))
    folder.mkdir()
    disk = Disk(folder, image)
    try:
        disk.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no disk can be mounted here: {error.stderr.decode()}")
    folder.chmod(0o700)
    try:
        yield disk
    finally:
        if folder.is_mount():
            disk.unmount()


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    """Limit the size of files that this process writes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
