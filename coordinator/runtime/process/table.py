"""
The machine's processes, as far as the process runtime must know them: `/proc` on Linux, `ps` elsewhere.

Reads only; nothing here sends a signal. A process is identified by its pid *and* its start as the operating system
tells it, for pids are reused.
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
# The start as text is compared byte by byte, so it must not depend on the language or zone of whoever asks.
_PS_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC0"}


class Process(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One process; `dead` is a zombie: it has ended, but its pid is not free yet."""

    pid: int
    group: int
    state: Literal["alive", "stopped", "dead"]
    start: str
    cpu_seconds: float
    memory_bytes: int


class ProcessTable(Protocol):
    """Tells what runs on this machine; raises `Unavailable` when it cannot be seen, which is not "nothing runs"."""

    @property
    def kind(self) -> Literal["proc", "ps"]:
        """How the shim must find out its own start, so that both sides see the same text."""
        ...

    def read(self, pid: int) -> Process | None:
        """Look one process up; None when there is none of that pid."""
        ...

    def members(self, group: int) -> list[Process]:
        """List the processes of a group, without those that are dead."""
        ...

    def has_variable(self, pid: int, variable: str) -> bool:
        """Say whether a process was started with `NAME=value`; False where that cannot be seen."""
        ...


def process_table() -> ProcessTable:
    """Choose the table for this machine."""
    return ProcTable() if sys.platform == "linux" else PsTable()


class ProcTable:
    """`/proc` of Linux. The start is counted from boot, so the boot's id is part of it."""

    kind: Literal["proc"] = "proc"

    def __init__(self) -> None:
        try:
            self._boot = _BOOT_ID.read_text().strip()
        except OSError:
            self._boot = "-"
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read(self, pid: int) -> Process | None:
        try:
            text = (_PROC / str(pid) / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise Unavailable(f"process {pid} cannot be looked up: {error.strerror}") from error
        # The program's name stands in brackets and may itself hold blanks and brackets.
        fields = text.rpartition(") ")[2].split()
        state: Literal["alive", "stopped", "dead"] = "alive"
        if fields[0] in "Tt":
            state = "stopped"
        elif fields[0] in "ZXx":
            state = "dead"
        return Process(
            pid=pid,
            group=int(fields[2]),
            state=state,
            start=f"{self._boot}/{fields[19]}",
            # With the children it has waited for: what a member has reaped is still the container's.
            cpu_seconds=sum(map(int, fields[11:15])) / self._ticks,
            memory_bytes=int(fields[21]) * self._page_bytes,
        )

    def members(self, group: int) -> list[Process]:
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
        found = (self.read(pid) for pid in pids)
        return [process for process in found if process and process.group == group and process.state != "dead"]

    def has_variable(self, pid: int, variable: str) -> bool:
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False
        return variable.encode() in environment.split(b"\0")


class PsTable:
    """`ps`, for macOS. Its start counts whole seconds, which still tells a reused pid from the one recorded."""

    kind: Literal["ps"] = "ps"

    def read(self, pid: int) -> Process | None:
        return next(iter(self._rows("-p", str(pid))), None)

    def members(self, group: int) -> list[Process]:
        return [process for process in self._rows("-A") if process.group == group and process.state != "dead"]

    def has_variable(self, pid: int, variable: str) -> bool:
        del pid, variable
        return False

    def _rows(self, *which: str) -> list[Process]:
        columns = "pid=,pgid=,stat=,rss=,time=,lstart="
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
            raise Unavailable(f"ps, which tells what runs here, did not answer: {error}") from error
        return [_row(line) for line in answer.stdout.splitlines() if line.strip()]


def _row(line: str) -> Process:
    pid, group, letters, memory_kib, time, start = line.split(maxsplit=5)
    state: Literal["alive", "stopped", "dead"] = "alive"
    if letters[0] == "T":
        state = "stopped"
    elif letters[0] == "Z":
        state = "dead"
    return Process(
        pid=int(pid),
        group=int(group),
        state=state,
        start=" ".join(start.split()),
        cpu_seconds=_seconds(time),
        memory_bytes=int(memory_kib) * 1024,
    )


def _seconds(text: str) -> float:
    """Read ps's `[days-][hours:]minutes:seconds`."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    with suppress(ValueError):
        for part in clock.split(":"):
            seconds = seconds * 60 + float(part)
        seconds += float(days or 0) * 86_400
    return seconds
