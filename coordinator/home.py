"""
The state directory of the coordinator on one machine: its files, which processes hold it, and what runs.

    nats/          store of the embedded nats-server      containers/   records and logs of the process runtime
    state.db       the follower's read model              running.json  url (with token) and pid of a running `up`, 0600
    instance       this instance's name, never changed    <name>.lock   held by the process of that name
    docker/        records of the Docker runtime          oci/          the same as containers/, of the oci runtime
    images/        root file systems for the oci runtime
    token          the token of the embedded nats-server, the same over restarts, 0600
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from coordinator.atomic_files import private_folder, write_whole
from coordinator.ids import TimeOrderedIds
from events.codec import UNREADABLE
from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


LOCK_PATIENCE_S = 0.5
"""Checking whether a lock is held takes it for an instant, and a new holder writes its pid a little later."""
_POLL_S = 0.01
_is_token = re.compile(r"[A-Za-z][A-Za-z0-9_-]{7,127}").fullmatch


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What a running `coordinator up` tells programs of the same user; `url` contains the token: never log it."""

    url: str
    pid: int


class Home:
    """
    The state directory *path*; created on first use, with access only for its owner.

    Raises:
        Refused: the directory cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            private_folder(path)
        except OSError as error:
            msg = f"the state directory {path} cannot be created: {error.strerror}; set COORDINATOR_HOME to another"
            raise Refused(msg, reason="bad_home") from error

    @property
    def nats_store(self) -> Path:
        """Where the embedded nats-server keeps its streams."""
        return self.path / "nats"

    @property
    def state_db(self) -> Path:
        """The read model; it may be deleted at any time."""
        return self.path / "state.db"

    @property
    def checks_db(self) -> Path:
        """The last outcomes of health checks, kept by a follower; not in the journal."""
        return self.path / "checks.db"

    @property
    def containers(self) -> Path:
        """Where the process runtime keeps what it needs to adopt running containers."""
        return self.path / "containers"

    @property
    def docker(self) -> Path:
        """Where the Docker runtime keeps what Docker cannot keep for it."""
        return self.path / "docker"

    @property
    def oci(self) -> Path:
        """Where the oci runtime keeps what it needs to adopt running containers."""
        return self.path / "oci"

    @property
    def images(self) -> Path:
        """Where the oci runtime looks for images, unless the settings name another folder."""
        return self.path / "images"

    def instance(self, role: str) -> str:
        """
        Return the permanent name of this machine for *role*, created on the first call; the caller must hold the lock.

        Raises:
            Refused: the stored name is not valid.
        """
        file = self.path / f"{role}.instance"
        try:
            kept = file.read_text(errors="replace").strip()
        except FileNotFoundError:
            kept = ""
        if kept:
            return checked(kept, f"the name in {file}")
        name = TimeOrderedIds().new(role)
        self._write(file, name.encode())
        return name

    def token(self, make: Callable[[], str]) -> str:
        """
        Return the secret token of the nats-server on `nats_store`, made by *make* on the first call.

        It stays the same over restarts, so that programs which hold it can reconnect. The caller must hold the lock.

        Raises:
            Refused: the directory is not writable, or the file cannot be read or does not hold a token.
        """
        file = self.path / "token"
        try:
            kept = file.read_text(errors="replace").strip()
        except FileNotFoundError:
            kept = ""
        except OSError as error:
            msg = f"{file} cannot be read: {error.strerror}; delete it to get a new token"
            raise Refused(msg, reason="bad_home") from error
        if not kept:
            kept = make()
            self._write(file, kept.encode())
        if not _is_token(kept):
            msg = f"{file} does not hold a token: delete it to get a new one"
            raise Refused(msg, reason="bad_home")
        return kept

    @contextmanager
    def lock(self, name: str, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
        """
        Hold the lock *name* in this directory; the kernel releases it when the process ends in any way.

        Waits up to *patience_s* for a holder that is just ending.

        Raises:
            Refused: another process holds it, or the directory is not writable.
        """
        file = self.path / f"{name}.lock"
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if not _locked(fd, patience_s):
                holder = _holder(fd) or "unknown"
                msg = f"{self.path} is in use by the {name} of process {holder}: stop it, or set COORDINATOR_HOME"
                raise Refused(msg, reason="home_in_use")
            with suppress(OSError):  # a full disk: what has to be stopped on it must not fail for a pid in a message
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(fd)

    def is_locked(self, name: str) -> bool:
        """Return whether a process holds the lock *name*."""
        return self.holder(name) is not None

    def holder(self, name: str) -> str | None:
        """Return the process id of the holder of the lock *name*, '' if it has not written it; None without holder."""
        file = self.path / f"{name}.lock"
        try:
            fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)  # NFS locks only what is open for writing
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return None if _locked(fd) else _holder(fd)
        finally:
            os.close(fd)

    def write_running(self, url: str) -> None:
        """Publish for programs of this user where to connect."""
        self._write(self.path / "running.json", msgspec.json.encode(Running(url=url, pid=os.getpid())))

    def remove_running(self) -> None:
        """Remove what `write_running` published."""
        (self.path / "running.json").unlink(missing_ok=True)

    def read_running(self) -> Running | None:
        """Return what runs here now, or None; a file left behind by a killed process is ignored."""
        try:
            running = msgspec.json.decode((self.path / "running.json").read_bytes(), type=Running)
            # Another command may hold the lock, such as `verify`, while the file is of a killed `up`.
            return running if self.holder("up") == str(running.pid) else None
        except (OSError, *UNREADABLE):
            return None

    def _write(self, file: Path, content: bytes) -> None:
        """Replace a whole file; raise Refused if the directory is not writable."""
        try:
            write_whole(file, content)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> Refused:
        msg = f"{self.path} is not writable: {error.strerror}; set COORDINATOR_HOME to a writable directory"
        return Refused(msg, reason="bad_home")


def _holder(fd: int) -> str:
    return os.pread(fd, 32, 0).decode("ascii", "replace").strip()


def _locked(fd: int, patience_s: float = 0.0) -> bool:
    """Lock an open file until it is closed, waiting up to *patience_s*; return whether the lock was obtained."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(_POLL_S)
        else:
            return True
