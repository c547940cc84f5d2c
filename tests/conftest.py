"""
Fixtures for every test: its own home, no other settings, and no process left behind.

Fixtures of one area are in the `conftest.py` of its folder.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest

from coordinator.own_process import priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The time of an example on a shared machine says nothing about the code.
hypothesis.settings.register_profile("project", deadline=None, max_examples=100, print_blob=True)
hypothesis.settings.load_profile("project")

_PROC = Path("/proc")
_FAREWELL_S = 3.0
"""How long a stopped process may still exist after its test."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m alone` read only the files that have such tests: to import all takes longer than many of these tests."""
    is_other = collection_path.suffix == ".py" and b"mark.alone" not in collection_path.read_bytes()
    return True if config.option.markexpr == "alone" and is_other else None


class Process(NamedTuple):
    """One running process."""

    pid: int
    command: str


@pytest.fixture(autouse=True, scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give processes that outlive tests, such as a shared server, their own home; fail the run if one stays."""
    before = {process.pid for process in children()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = _settle(monkeypatch, tmp_path_factory.mktemp("session-home"))
        yield home
    _expect_none(lambda: _since(before, home), "the run")


@pytest.fixture(autouse=True)
def coordinator_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test an empty `COORDINATOR_HOME` and no other setting; fail it if one of its processes outlives it."""
    home = _settle(monkeypatch, tmp_path_factory.mktemp("home"))
    before = {process.pid for process in children()}
    yield home
    _expect_none(lambda: _since(before, home), "this test")


@pytest.fixture(autouse=True, scope="module")
def _untraced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Do not measure the coverage of what a marked file starts: what others cover would take half as long again."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.node.get_closest_marker("untraced") is not None:
            monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the nice value of this process, and of its session: a command that runs in it would change both for good."""
    monkeypatch.setattr(priority, "_set", lambda _: None)


@pytest.fixture(autouse=True)
def expendable() -> Iterator[None]:
    """Restore how expendable this process is to the kernel: a command that runs in it makes it more so."""
    score = _PROC / "self/oom_score_adj"
    before = score.read_text() if score.exists() else ""
    yield
    if before and score.read_text() != before:
        with suppress(PermissionError):
            score.write_text(before)


def children() -> list[Process]:
    """Return our running child processes; empty on systems without `/proc`."""
    pids: set[int] = set()
    for task in _PROC.glob("self/task/*/children"):
        with suppress(OSError):
            pids.update(int(pid) for pid in task.read_text().split())
    return [process for pid in sorted(pids) if (process := _running(pid)) is not None]


def living_in(home: Path) -> list[Process]:
    """Return the processes whose `COORDINATOR_HOME` is *home*, including grandchildren."""
    wanted = f"COORDINATOR_HOME={home}".encode()
    found = []
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                process = _running(int(entry.name))
                found += [process] if process is not None else []
    return found


def _settle(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("COORDINATOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COORDINATOR_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    return home


def _since(before: set[int], home: Path) -> list[Process]:
    return [process for process in {*children(), *living_in(home)} if process.pid not in before]


def _running(pid: int) -> Process | None:
    """Return the process, or None if it is gone or a zombie."""
    with suppress(OSError):
        state = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        command = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return Process(pid, command or "?") if state not in "ZX" else None
    return None


def _expect_none(look: Callable[[], list[Process]], whose: str) -> None:
    """
    Wait briefly until *look* returns nothing; else kill what it returns, and fail with its names.

    It kills them so that they do not affect later tests.
    """
    give_up = time.monotonic() + _FAREWELL_S
    while (left := look()) and time.monotonic() < give_up:
        time.sleep(0.02)
    if not left:
        return
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    names = "\n".join(f"  {process.pid}: {process.command[:200]}" for process in left)
    pytest.fail(f"{whose} left processes running, killed now; stop what you start:\n{names}", pytrace=False)
