"""
The state directory of one machine's coordinator: where its files are, who holds it, and what runs.

    nats/          store of the embedded nats-server      containers/   records and logs of the process runtime
    state.db       the follower's read model              running.json  url (with token) and pid of a running `up`, 0600
    instance       this instance's name, kept for ever    <name>.lock   held by the process of that name
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from coordinator.ids import TimeOrderedIds
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What a running `coordinator up` offers to programs of the same user; `url` holds the token, so never log it."""

    url: str
    pid: int


class Home:
    """The state directory *path*; made, for its owner alone, when first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def nats_store(self) -> Path:
        """Where the embedded nats-server keeps its streams."""
        return self.path / "nats"

    @property
    def state_db(self) -> Path:
        """The read model; may be deleted at any moment."""
        return self.path / "state.db"

    @property
    def containers(self) -> Path:
        """Where the process runtime keeps what it needs to adopt its containers."""
        return self.path / "containers"

    def instance(self, role: str) -> str:
        """Give this machine's lasting name for *role*, made when first asked for."""
        file = self.path / f"{role}.instance"
        try:
            return file.read_text().strip()
        except FileNotFoundError:
            name = TimeOrderedIds().new(role)
            _write(file, name.encode())
            return name

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """
        Hold *name* in this directory; the kernel lets go when the process ends, however it ends.

        Raises:
            Refused: another process holds it.
        """
        file = self.path / f"{name}.lock"
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                msg = f"{self.path} is in use by the {name} of process {holder}: stop it, or set COORDINATOR_HOME"
                raise Refused(msg, reason="home_in_use") from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(fd)

    def is_locked(self, name: str) -> bool:
        """Say whether a living process holds *name*."""
        try:
            fd = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    def write_running(self, url: str) -> None:
        """Tell programs of this user where to connect."""
        _write(self.path / "running.json", msgspec.json.encode(Running(url=url, pid=os.getpid())))

    def remove_running(self) -> None:
        """Tell nobody any more."""
        (self.path / "running.json").unlink(missing_ok=True)

    def read_running(self) -> Running | None:
        """Give what runs here now, None when nothing does; a file left behind by a killed process counts as nothing."""
        try:
            running = msgspec.json.decode((self.path / "running.json").read_bytes(), type=Running)
        except (OSError, msgspec.MsgspecError):
            return None
        return running if self.is_locked("up") else None


def _write(file: Path, content: bytes) -> None:
    """Replace a file whole, readable by its owner alone."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
    os.replace(new, file)
