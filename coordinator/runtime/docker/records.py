"""
The folder of a node's Docker runtime: what Docker cannot keep for it.

- `.lock`: held as long as a runtime is open; one at a time
- `home`: the label of this node's containers, drawn at the first opening
- `causes/NAME`: why a container is being ended, written before the first signal and synced; the first one stays
- `.grant-CLUSTER`: until when containers may run
- `.bell-CLUSTER`, `.keeper-CLUSTER`: pipe and lock of the keeper
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from coordinator.atomic_files import private_file, private_folder, sync_folder, write_whole
from coordinator.ids import TimeOrderedIds
from events.container import ExitCause
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

_CAUSES = "causes"
_HOME = "home"
_LOCK = ".lock"
_LINE_BYTES = 128
_known_causes = frozenset(cause.value for cause in ExitCause)


class Records:
    """The records under *root*; `open` locks them until `close`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = ""
        """What tells the containers of this folder from those of other nodes."""
        self._lock: int | None = None

    def open(self) -> None:
        """
        Lock the folder, and create what is missing in it.

        Raises:
            Unavailable: another process holds it, or it cannot be written.
        """
        try:
            private_folder(self.root)
            self._lock = _locked(self.root)
            private_folder(self.root / _CAUSES)
            file = self.root / _HOME
            if not file.exists():
                write_whole(file, f"{TimeOrderedIds().new('home')}\n".encode())
            self.home = file.read_text(errors="replace").strip()
        except OSError as error:
            self.close()
            raise Unavailable(f"the records of containers under {self.root} cannot be used: {error}") from error

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def cause(self, name: str) -> str:
        """Return the recorded cause of a container's end; "" without one, or if it cannot be read."""
        try:
            with (self.root / _CAUSES / name).open(errors="replace") as file:
                text = file.read(_LINE_BYTES).strip()
        except OSError:
            return ""
        return text if text in _known_causes else ""

    def mark(self, name: str, cause: ExitCause) -> str:
        """
        Record why a container is being ended, unless it has a cause; return the one that it has.

        Raises:
            OSError: it cannot be written.
        """
        folder = self.root / _CAUSES
        new = folder / f".{name}.new"
        with private_file(new) as file:
            file.write(f"{cause.value}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            with suppress(FileExistsError):
                os.link(new, folder / name)
            sync_folder(folder)
        finally:
            new.unlink(missing_ok=True)
        return self.cause(name)

    def forget(self, name: str) -> None:
        """Remove the cause of a container that is gone."""
        (self.root / _CAUSES / name).unlink(missing_ok=True)

    def forget_all_but(self, names: Container[str]) -> None:
        """Remove the causes of containers that are gone."""
        for file in (self.root / _CAUSES).iterdir():
            if file.name not in names:
                file.unlink(missing_ok=True)


def _locked(root: Path) -> int:
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, _LINE_BYTES, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise Unavailable(
            f"process {holder or 'unknown'} already runs the containers under {root}: use one runtime per directory"
        ) from error
    with suppress(OSError):  # only for messages
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
