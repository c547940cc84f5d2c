"""
The machine's process table for the process runtime: `/proc` on Linux, `ps` elsewhere.

It only reads and never sends a signal. A process is identified by its pid *and* its start time as the operating system
reports it, because pids are reused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from events.errors import Unavailable

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
_PS_TIMEOUT_S = 5.0
# The start is compared as text, so it must not depend on the locale or time zone of the caller.
_PS_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC0"}


class Process(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One process; `dead` means a zombie: it has ended, but its pid is not free yet."""

    pid: int
    parent: int
    group: int
    state: Literal["alive", "stopped", "dead"]
    start: str
    cpu_seconds: float
    memory_bytes: int


class ProcessTable(Protocol):
    """Reads the processes of this machine; raises `Unavailable` when they cannot be read, never an empty answer."""

    @property
    def kind(self) -> Literal["proc", "ps"]:
        """How the shim must determine its own start, so that both sides get the same text."""
        ...

    def read(self, pid: int) -> Process | None:
        """Return one process; None when no process has that pid."""
        ...

    def members(self, group: int) -> list[Process]:
        """Return the processes of a group, without zombies."""
        ...

    def has_variable(self, pid: int, variable: str) -> bool:
        """Return whether a process was started with `NAME=value`; False where that cannot be read."""
        ...


def process_table() -> ProcessTable:
    """Return the process table for this machine."""
    return ProcTable() if sys.platform == "linux" else PsTable()


def boot_id() -> str:
    """Return what identifies this start of Linux; a dash where it cannot be read, as in some sandboxes."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "-"


class ProcTable:
    """`/proc` of Linux. The start is counted from boot, so the boot id is part of it."""

    kind: Literal["proc"] = "proc"

    def __init__(self) -> None:
        self._boot = boot_id()
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read(self, pid: int) -> Process | None:
        try:
            text = (_PROC / str(pid) / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise Unavailable(f"process {pid} cannot be looked up: {error.strerror}") from error
        # The program's name is in parentheses and may itself contain blanks and parentheses.
        fields = text.rpartition(") ")[2].split()
        state: Literal["alive", "stopped", "dead"] = "alive"
        if fields[0] in "Tt":
            state = "stopped"
        elif fields[0] in "ZXx":
            state = "dead"
        return Process(
            pid=pid,
            parent=int(fields[1]),
            group=int(fields[2]),
            state=state,
            start=f"{self._boot}/{fields[19]}",
            # Includes the children it has reaped: they belonged to the container too.
            cpu_seconds=sum(map(int, fields[11:15])) / self._ticks,
            memory_bytes=int(fields[21]) * self._page_bytes,
        )

    def members(self, group: int) -> list[Process]:
        try:
            pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
        except OSError as error:
            raise Unavailable(f"the processes of this machine cannot be listed: {error.strerror}") from error
        found = (self.read(pid) for pid in pids)
        return [process for process in found if process and process.group == group and process.state != "dead"]

    def has_variable(self, pid: int, variable: str) -> bool:
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False
        return variable.encode() in environment.split(b"\0")


class PsTable:
    """`ps`, for macOS. Its start has whole seconds, enough to distinguish a reused pid from the recorded one."""

    kind: Literal["ps"] = "ps"

    def read(self, pid: int) -> Process | None:
        return next(iter(self._rows("-p", str(pid))), None)

    def members(self, group: int) -> list[Process]:
        return [process for process in self._rows("-A") if process.group == group and process.state != "dead"]

    def has_variable(self, pid: int, variable: str) -> bool:
        del pid, variable
        return False

    def _rows(self, *which: str) -> list[Process]:
        columns = "pid=,ppid=,pgid=,stat=,rss=,time=,lstart="
        try:
            answer = subprocess.run(
                ("/bin/ps", *which, "-o", columns),
                env=_PS_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PS_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"the processes of this machine cannot be read: ps failed: {error}") from error
        return [_row(line) for line in answer.stdout.splitlines() if line.strip()]


def _row(line: str) -> Process:
    pid, parent, group, letters, memory_kib, time, start = line.split(maxsplit=6)
    state: Literal["alive", "stopped", "dead"] = "alive"
    if letters[0] == "T":
        state = "stopped"
    elif letters[0] == "Z":
        state = "dead"
    return Process(
        pid=int(pid),
        parent=int(parent),
        group=int(group),
        state=state,
        start=" ".join(start.split()),
        cpu_seconds=_seconds(time),
        memory_bytes=int(memory_kib) * 1024,
    )


def _seconds(text: str) -> float:
    """Parse the `[days-][hours:]minutes:seconds` of ps."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    with suppress(ValueError):
        for part in clock.split(":"):
            seconds = seconds * 60 + float(part)
        seconds += float(days or 0) * 86_400
    return seconds
