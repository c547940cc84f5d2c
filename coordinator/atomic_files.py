"""Files that are written whole or not at all, even if the power fails, and that are private whatever the umask is."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO


def private_file(path: Path) -> BinaryIO:
    """Open a new file that only its owner may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add *path* to an `OSError` raised in the block without one: a full disk is found by writes that have no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def private_folder(path: Path) -> None:
    """
    Create a directory that only its owner may enter, and what is missing above it; what exists stays as it is.

    Raises:
        OSError: it cannot be created.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        if path.parent == path:
            raise
        # `parents=True` would make those by the umask, and whoever may write there could replace this one.
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise


def write_whole(path: Path, data: bytes) -> None:
    """
    Replace a whole file, readable only by its owner; after a power failure it is the old one or the new one.

    Raises:
        OSError: it cannot be written, and nothing is left of the new file; or the directory cannot be synced: then it
            may already be in place.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with naming(path):
        try:
            with private_file(new) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            with suppress(OSError):  # on a full disk it would take the room that is made
                new.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync the file names in a directory to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
