"""The lock of a folder of containers: one runtime at a time, as long as its process lives."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from coordinator.atomic_files import private_folder
from events.errors import Unavailable

_LOCK = ".lock"
_LINE_BYTES = 128


def locked(root: Path) -> int:
    """Lock a root until this process ends; raises `Unavailable` when another process holds the lock."""
    private_folder(root)
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, _LINE_BYTES, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise Unavailable(
            f"process {holder or 'unknown'} already runs the containers under {root}: use one runtime per directory"
        ) from error
    with suppress(OSError):  # a full disk must not keep an agent from what it has to stop; the pid is for messages
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
