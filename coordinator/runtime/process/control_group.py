"""
The control group of one container: the folders in which the kernel limits, measures, freezes and lists its processes.

It holds the command and all that the command starts, in whatever session or process group. The shim and its watcher are
not in it: a limit must not keep them from recording the end, nor a freeze from killing what has no grant any more.

Only folders that were made for this container are written to; a process is killed only while the kernel lists it there.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from coordinator.runtime.protocol import Usage
from events.errors import Unavailable

_PROCESSES = "cgroup.procs"
_CPUSETS = ("cpuset.cpus", "cpuset.mems")
_PERIOD_US = 100_000
_LONG_PERIOD_US = 1_000_000
_QUOTA_US_MIN = 1_000
"""The kernel refuses a smaller one."""
_GONE = {errno.ENOENT, errno.ENODEV}


class GroupPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container's group is: its folder for each controller, in version 2 the same one for all."""

    version: Literal[1, 2]
    folders: dict[str, str]


class Thaw(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the shim writes, and where, so that a frozen container can be killed; '' when it cannot be frozen."""

    file: str = ""
    word: str = ""


class ControlGroup:
    """One container's group, which may not exist yet, or no longer."""

    def __init__(self, place: GroupPlace) -> None:
        self.place = place
        self._of = {controller: Path(folder) for controller, folder in place.folders.items()}
        self._folders = list(dict.fromkeys(self._of.values()))
        if place.version == 1:
            self._freezer = self._of.get("freezer")
        else:
            self._freezer = self._folders[0] if self._folders else None

    @property
    def joins(self) -> tuple[str, ...]:
        """The files into which a process writes 0 to enter the group."""
        return tuple(str(folder / _PROCESSES) for folder in self._folders)

    @property
    def thaw(self) -> Thaw:
        """How the shim thaws it."""
        if self._freezer is None:
            return Thaw()
        name, word = ("freezer.state", "THAWED") if self.place.version == 1 else ("cgroup.freeze", "0")
        return Thaw(file=str(self._freezer / name), word=word)

    def make(self, *, memory_bytes: int, cpu_millis: int, pids: int) -> None:
        """
        Make the group with these limits, 0 for none; those without a controller here are left out.

        Raises:
            OSError: it could not be made completely; what was made is removed.
        """
        try:
            for folder in self._folders:
                folder.mkdir()
                fill_cpuset(folder)
            for controller, name, value in _limits(self.place.version, memory_bytes, cpu_millis, pids):
                if controller in self._of:
                    _limit(self._of[controller] / name, value)
        except OSError:
            self.remove()
            raise

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has killed for lack of memory."""
        name = "memory.oom_control" if self.place.version == 1 else "memory.events"
        return self._count("memory", name, "oom_kill") or 0

    @property
    def can_freeze(self) -> bool:
        """Whether it can be paused as a whole."""
        return self._freezer is not None

    def freeze(self, *, frozen: bool) -> None:
        """
        Freeze or thaw all its processes; the kernel may need a moment.

        Raises:
            Unavailable: the kernel refuses.
        """
        if self._freezer is None:
            return
        if self.place.version == 1:
            name, word = "freezer.state", "FROZEN" if frozen else "THAWED"
        else:
            name, word = "cgroup.freeze", "1" if frozen else "0"
        try:
            (self._freezer / name).write_text(word)
        except OSError as error:
            if error.errno not in _GONE:
                raise Unavailable(f"{self._freezer / name} cannot be written: {error.strerror}") from error

    def is_frozen(self) -> bool:
        """Return whether all its processes are frozen."""
        if self._freezer is None:
            return False
        if self.place.version == 1:
            return _text(self._freezer / "freezer.state").strip() == "FROZEN"
        return _fields(_text(self._freezer / "cgroup.events")).get("frozen") == 1

    def usage(self, otherwise: Usage) -> Usage:
        """Return what the group has used and holds now; the parts without a controller are those of *otherwise*."""
        if self.place.version == 1:
            nanoseconds = self._count("cpuacct", "cpuacct.usage")
            cpu_seconds = None if nanoseconds is None else nanoseconds / 1e9
            memory_bytes = self._memory_bytes("memory.usage_in_bytes", "total_inactive_file")
        else:
            microseconds = self._count("cpu", "cpu.stat", "usage_usec")
            cpu_seconds = None if microseconds is None else microseconds / 1e6
            memory_bytes = self._memory_bytes("memory.current", "inactive_file")
        pids = self._count("pids", "pids.current")
        return Usage(
            cpu_seconds=otherwise.cpu_seconds if cpu_seconds is None else cpu_seconds,
            memory_bytes=otherwise.memory_bytes if memory_bytes is None else memory_bytes,
            pids=otherwise.pids if pids is None else pids,
        )

    def is_empty(self) -> bool:
        """Return whether no process is in it."""
        return next(self._members(), None) is None

    def kill(self) -> None:
        """Send SIGKILL to all its processes, frozen ones too; those that are forked meanwhile need another call."""
        if self.is_empty():
            return
        with suppress(Unavailable):
            self.freeze(frozen=True)  # what is frozen forks no more
        for pid in set(self._members()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(Unavailable):
            self.freeze(frozen=False)

    def remove(self) -> bool:
        """Remove its folders; return False when one is left because the kernel still counts processes in it."""
        is_gone = True
        for folder in self._folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                is_gone = False
        return is_gone

    def _members(self) -> Iterator[int]:
        for folder in self._folders:
            for word in _text(folder / _PROCESSES).split():
                # 0 stands for a process that cannot be named here, and `kill` would take it for this group's own.
                if word.isdigit() and int(word) > 1 and int(word) != os.getpid():
                    yield int(word)

    def _memory_bytes(self, name: str, reclaimable: str) -> int | None:
        """Return the memory without the file pages that the kernel takes back first."""
        used = self._count("memory", name)
        if used is None:
            return None
        return max(0, used - (self._count("memory", "memory.stat", reclaimable) or 0))

    def _count(self, controller: str, name: str, field: str = "") -> int | None:
        folder = self._of.get(controller)
        if folder is None:
            return None
        text = _text(folder / name)
        if field:
            return _fields(text).get(field)
        return int(text) if text.strip().isdigit() else None


def fill_cpuset(folder: Path) -> None:
    """Give a group of version 1 the processors and memory of its parent: without any, no process may enter."""
    for name in _CPUSETS:
        file = folder / name
        if file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())


def _limits(version: int, memory_bytes: int, cpu_millis: int, pids: int) -> Iterator[tuple[str, str, str]]:
    """Yield controller, file and value of each limit, in the order in which they can be set."""
    period_us = _PERIOD_US if cpu_millis * _PERIOD_US >= 1_000 * _QUOTA_US_MIN else _LONG_PERIOD_US
    quota_us = cpu_millis * period_us // 1_000
    if version == 1:
        if memory_bytes:
            yield "memory", "memory.limit_in_bytes", str(memory_bytes)
            yield "memory", "memory.memsw.limit_in_bytes", str(memory_bytes)
        if cpu_millis:
            yield "cpu", "cpu.cfs_period_us", str(period_us)
            yield "cpu", "cpu.cfs_quota_us", str(quota_us)
    else:
        if memory_bytes:
            yield "memory", "memory.max", str(memory_bytes)
            yield "memory", "memory.swap.max", "0"
        if cpu_millis:
            yield "cpu", "cpu.max", f"{quota_us} {period_us}"
    if pids:
        yield "pids", "pids.max", str(pids)


def _limit(file: Path, value: str) -> None:
    """Set one limit; a kernel may lack that of swap, and a quota above that of the own group changes nothing."""
    try:
        file.write_text(value)
    except OSError as error:
        is_swap = "swap" in file.name or "memsw" in file.name
        is_looser = file.name == "cpu.cfs_quota_us" and error.errno == errno.EINVAL
        if not is_looser and not (is_swap and not file.exists()):
            raise


def _fields(text: str) -> dict[str, int]:
    """Return the numbers of a file with a name and a number in each line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004


def _text(file: Path) -> str:
    """
    Read a file of the kernel; '' when the group is gone.

    Raises:
        Unavailable: it cannot be read now.
    """
    try:
        return file.read_text()
    except OSError as error:
        if error.errno in _GONE:
            return ""
        raise Unavailable(f"{file} cannot be read: {error.strerror}") from error
