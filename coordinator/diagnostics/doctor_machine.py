"""
The part of `coordinator doctor` about this machine: files and their modes, disk, settings that contradict each other.

It reads modes and sizes, and never what a file holds.
"""

from __future__ import annotations

import shutil
import stat
from typing import TYPE_CHECKING

from coordinator.diagnostics.findings import Finding, fail, ok, unknown, warn

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.settings.model import Settings

DISK_WARN_BYTES, DISK_FAIL_BYTES = 5 * 1024**3, 512 * 1024**2
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PRIVATE = ("running.json", "state.db", "state.db-wal", "nats", "nats.log", "secrets", "containers", "journal.seen")


def look_here(home: Path, settings: Settings) -> list[Finding]:
    """Look at the state directory *home*, and at *settings* in themselves."""
    here = [_permissions(home), _disk(home)] if home.is_dir() else [unknown("home", f"there is no {home}")]
    return [*here, *_settings(settings)]


def _permissions(home: Path) -> Finding:
    open_to_others = [path for path in (home, *(home / name for name in _PRIVATE)) if _is_open(path)]
    if not open_to_others:
        return ok("permissions", f"{home} is its owner's alone")
    if _is_open(home):
        do = f"chmod 700 {home}: it holds tokens and everything that was ever submitted"
        return fail("permissions", f"others of this machine may enter {home}", do)
    names = ", ".join(path.name for path in open_to_others)
    return warn("permissions", f"{names} in {home} are open to others but for the directory", "chmod go= on them")


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False


def _disk(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    seen = f"{free / 1024**3:.1f} GiB free under {home}"
    do = "make room: a full disk stops the journal, and with it everything"
    if free < DISK_FAIL_BYTES:
        return fail("disk", seen, do)
    return warn("disk", seen, do) if free < DISK_WARN_BYTES else ok("disk", seen)


def _settings(settings: Settings) -> list[Finding]:
    """Say what loading the settings lets pass, and makes no sense together."""
    found = []  # what is wrong in a row, such as a renewal that is longer than its lease, is refused on loading
    if settings.nats.replicas == 1 and "," in (settings.nats.url or ""):
        seen = "nats.url names several servers, and nats.replicas is 1"
        found.append(warn("settings", seen, "set nats.replicas to 3 before the first start"))
    return found or [ok("settings", "they do not contradict each other")]
