"""
The files of one container of the process runtime, in `<root>/<name>/`.

- `record.json`: the launch, written by the runtime before it forks; never a value of the environment
- `pid`: the shim's pid and start time, written by the shim before the command begins
- `begun`: created by the shim once signals to the group reach the command
- `cause`: why it is being ended, written before the first signal and synced to the disk; the first one stays
- `kill`: created before SIGKILL is sent, which ends the shim too
- `watch`: the pid of the shim's watcher
- `exit`: the command's exit code, written by the shim
- `oom`: created when the kernel has killed for memory: the control group that told so is then removed
- `log`, `log.1`, `work`: the command's output, and its working directory

Each file appears complete or not at all, and a directory gets its name only after its record is in it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from coordinator.atomic_files import sync_folder
from coordinator.runtime.process.control_group import GroupPlace
from coordinator.runtime.protocol import EXITED, KILLED, LOST, OOM, Launch
from events.errors import Unavailable

LOG = "log"
WORK = "work"
_RECORD = "record.json"
_PID = "pid"
_CAUSE = "cause"
_KILL = "kill"
_WATCH = "watch"
_EXIT = "exit"
_OOM = "oom"
_BEGUN = "begun"
_UNFINISHED = ".new-"
_DISCARDED = ".gone-"
_VOID = "void"
_SMALL_FILE_BYTES = 4_096
_RECORD_BYTES_MAX = 4 * 1024 * 1024
_PID_MAX = 2**31 - 1
_EXIT_CODE_MAX = 255
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}


class LaunchRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The parts of a launch that may be written to disk, and the wall time in seconds of its creation."""

    container_id: str
    generation: str
    name: str
    cluster: str
    epoch: str
    image: str
    command: tuple[str, ...]
    environment_names: tuple[str, ...]
    cpu_millis: int
    memory_bytes: int
    stop_grace_s: float
    started_at: float
    group: GroupPlace | None = None


class Identity(NamedTuple):
    """Identity of a shim. `pid` is also its group id; `start` distinguishes it from a later process with that pid."""

    pid: int
    start: str


class Ending(NamedTuple):
    """How a container ended."""

    exit_code: int | None
    reason: str


def create(root: Path, launch: Launch, started_at: float, group: GroupPlace | None = None) -> tuple[Path, LaunchRecord]:
    """
    Create a container's directory with its record, either completely or not at all.

    Raises:
        OSError: it exists already, or cannot be written.
    """
    unfinished = root / f"{_UNFINISHED}{launch.name}"
    directory = root / launch.name
    record = _record(launch, started_at, group)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(mode=0o700)
        (unfinished / WORK).mkdir(mode=0o700)
        _write(unfinished / _RECORD, msgspec.json.encode(record))
        unfinished.rename(directory)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return directory, record


def directories(root: Path) -> Iterator[Path]:
    """Yield the directories that hold a record, ordered by name."""
    for path in sorted(root.iterdir()):
        if not path.name.startswith((_UNFINISHED, _DISCARDED)) and not path.is_symlink() and (path / _RECORD).is_file():
            yield path


def leftovers(root: Path) -> Iterator[Path]:
    """Put away half-created directories, and yield them and the half-deleted ones, to be deleted."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(_DISCARDED):
            yield path
        elif path.name.startswith(_UNFINISHED) and (gone := put_away(path)) is not None:
            yield gone


def put_away(directory: Path) -> Path | None:
    """
    Take a container's directory out of the way and return where it is to be deleted; None when it is gone already.

    Raises:
        OSError: it cannot be renamed.
    """
    gone = Path(tempfile.mkdtemp(prefix=_DISCARDED, dir=directory.parent))  # of a new name: an empty one is replaced
    try:
        return directory.rename(gone)
    except OSError as error:
        gone.rmdir()
        if isinstance(error, FileNotFoundError):
            return None
        raise


def delete(directory: Path) -> bool:
    """Delete a directory that was put away, whatever is in it; return whether it is gone. Takes as long as it takes."""
    shutil.rmtree(directory, ignore_errors=True)
    if not directory.exists():
        return True
    # Nobody but root may list or empty a folder without its owner's permission, as caches of some tools are.
    directory.chmod(0o700)
    for folder, names, _ in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


def read_record(directory: Path) -> LaunchRecord | None:
    """Read the record; None when it is unreadable or of another container, as after a power cut."""
    try:
        record = msgspec.json.decode(_text(directory / _RECORD, _RECORD_BYTES_MAX), type=LaunchRecord)
    except msgspec.DecodeError:
        return None
    return record if record.name == directory.name else None


def read_identity(directory: Path) -> Identity | None:
    """Read the identity of the shim; None when it has not written it, or when the start was declared void."""
    match = re.fullmatch(r"([1-9][0-9]{0,9}) (\S[^\n]*)\n?", _text(directory / _PID))
    # A group signal to 0 or 1 would reach this process's own group or every process.
    if match is None or not 1 < int(match[1]) <= _PID_MAX:
        return None
    return Identity(int(match[1]), match[2])


def declare_void(directory: Path) -> bool:
    """
    Prevent a shim that has not written its identity from ever running the command; False when it was faster.

    Raises:
        OSError: the file cannot be written.
    """
    claim = directory / f"{_PID}.{_VOID}"
    _write(claim, _VOID.encode())
    try:
        (directory / _PID).hardlink_to(claim)
    except FileExistsError:
        return _text(directory / _PID) == _VOID
    return True


def longest_grace_s(root: Path) -> float:
    """Return the longest stop grace of the containers under *root*, in seconds; another process may use the root."""
    records = (read_record(file.parent) for file in root.glob(f"[!.]*/{_RECORD}"))
    return max((record.stop_grace_s for record in records if record is not None), default=0.0)


def has_begun(directory: Path) -> bool:
    """Return whether signals to the group reach the command."""
    return (directory / _BEGUN).exists()


def mark_cause(directory: Path, cause: str) -> str:
    """
    Record durably why the container is about to be ended, unless that is known already; return what is recorded.

    Without it an exit code of 0 would mean that the container ended by itself, also after a crash of the machine.

    Raises:
        OSError: it cannot be written.
    """
    draft = directory / f"{_CAUSE}.{threading.get_ident()}"
    _write(draft, f"{cause}\n".encode(), sync=True)
    try:
        (directory / _CAUSE).hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(directory)
    return read_cause(directory)


def read_cause(directory: Path) -> str:
    """Return why a container is being or was ended; '' when nobody has recorded it."""
    match = re.fullmatch(r"([a-z_]{1,32})\n", _text(directory / _CAUSE))
    return match[1] if match else ""


def read_watcher(directory: Path) -> int:
    """Return the pid of the shim's watcher; 0 when there is none."""
    match = re.fullmatch(r"([1-9][0-9]{0,9})\n", _text(directory / _WATCH))
    return int(match[1]) if match else 0


def mark_killed(directory: Path) -> None:
    """Record that the runtime is about to send SIGKILL, since it ends the shim too."""
    _write(directory / _KILL, b"")


def mark_oom(directory: Path) -> None:
    """Record that the kernel has killed the command for lack of memory."""
    _write(directory / _OOM, b"")


def read_outcome(directory: Path, oom_kills: int = 0) -> Ending:
    """
    Return how a container ended whose shim is gone.

    SIGKILL that the runtime has not sent came from the kernel if it has killed for memory, *oom_kills* times, there.
    """
    match = re.fullmatch(r"([0-9]{1,3})\n", _text(directory / _EXIT))
    if match is not None and int(match[1]) <= _EXIT_CODE_MAX:
        code = int(match[1])
        is_killed = code == KILLED + signal.SIGKILL and not (directory / _KILL).exists()
        if is_killed and (oom_kills or (directory / _OOM).exists()):
            return Ending(code, OOM)
        return outcome_of(code)
    if (directory / _KILL).exists():
        return outcome_of(KILLED + signal.SIGKILL)
    return Ending(None, LOST)


def outcome_of(code: int) -> Ending:
    """Return the ending for an exit code; a shell cannot distinguish `exit 143` from an end by signal 15."""
    number = code - KILLED
    return Ending(code, f"killed by signal {number}" if number in signal.valid_signals() else EXITED)


def _record(launch: Launch, started_at: float, group: GroupPlace | None) -> LaunchRecord:
    return LaunchRecord(
        container_id=launch.container_id,
        generation=launch.generation,
        name=launch.name,
        cluster=launch.cluster,
        epoch=launch.epoch,
        image=launch.image,
        command=launch.command,
        environment_names=tuple(sorted(launch.environment)),
        cpu_millis=launch.cpu_millis,
        memory_bytes=launch.memory_bytes,
        stop_grace_s=launch.stop_grace_s,
        started_at=started_at,
        group=group,
    )


def _write(path: Path, content: bytes, *, sync: bool = False) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.rename(path)


def _text(path: Path, max_bytes: int = _SMALL_FILE_BYTES) -> str:
    """
    Read the beginning of a file, without following a link or waiting for a writer; '' when there is no such file.

    Raises:
        Unavailable: it cannot be read now; treated as missing, a running container would be reported as lost.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(max_bytes).decode(errors="replace")
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return ""
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
