"""`coordinator demo`, the first thing a newcomer sees."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import PROGRAM, run, running
from tests.conftest import living_in

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

TASKS = 60
DEMO_TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coordinator_home: Path) -> Iterator[Path]:
    """Give the demo a folder for its temporary files; at the end it is empty, and the user's home was not touched."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    assert commands_with(str(folder)) == []
    assert list(coordinator_home.iterdir()) == []


def commands_with(text: str) -> list[str]:
    """Return the command lines of all processes that contain *text*: servers, programs, containers."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = file.read_bytes().decode(errors="replace")
            found += [command] if text in command else []
    return found


def test_it_runs_to_its_end_and_shows_what_happened() -> None:
    """Plain lines without a terminal: events as they happen, then the tables; exit code 0 within a minute."""
    began = time.monotonic()
    ended = run("demo", "--tasks", str(TASKS), timeout_s=DEMO_TIMEOUT_S)
    assert time.monotonic() - began < DEMO_TIMEOUT_S
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    assert all(one.isprintable() or one == "\n" for one in ended.out)
    lines = ended.out.splitlines()
    for event in (
        "coordinator.started",
        "node.registered",
        "container.started",
        "service.registered",
        "task.completed",
    ):
        assert any(re.match(rf"\d\d:\d\d:\d\d\.\d{{3}} +\d+\.\d+ +{re.escape(event)} ", line) for line in lines), event
    assert any(line.startswith("demo: found task_agent ") and line.endswith(", healthy") for line in lines)
    titles = ("what happened", "where each event went", "events by type", "the biggest modules")
    assert [line for line in lines if line in titles] == list(titles)
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines if row(line))
    assert rows["tasks"] == f"{TASKS} completed, 0 failed, 0 open, of {TASKS}"
    assert rows["task.completed"] == str(TASKS)
    assert rows["container.started"] == "2"
    assert rows["programs restarted"] == "coordinator 0, follower 0, node 0"
    assert "fsynced commits" in rows["journal"]
    assert float(rows["throughput"].split()[0].replace(",", "")) > 0
    assert rows["_pydecimal"].split()[1] == "lines"
    assert lines[-1].startswith("demo: stopped and removed the cluster; ")


def row(line: str) -> bool:
    return line.startswith("  ") and "  " in line.strip()


def test_it_runs_again_at_once_and_under_a_terminal_with_a_bar() -> None:
    """A terminal shows a progress bar and the same tables; colours and cursor moves end before the tables."""
    main, terminal = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--tasks", str(TASKS)], stdin=terminal, stdout=terminal, stderr=terminal, env=env
    )
    os.close(terminal)
    written = b""
    with os.fdopen(main, "rb", buffering=0) as screen:
        try:
            while chunk := screen.read(65_536):
                written += chunk
        except OSError:  # a pseudo-terminal ends with this error
            pass
    assert process.wait(DEMO_TIMEOUT_S) == 0
    shown = written.decode()
    bar, _, tables = shown.partition("what happened")
    counts = [int(count) for count in re.findall(rf"(\d+)/{TASKS}", bar)]
    assert counts
    assert counts == sorted(counts)
    assert "━" in bar
    assert "\x1b[?25h" in bar, "the cursor is shown again"
    assert "\x1b" not in tables
    assert f"{TASKS} completed" in tables


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path, coordinator_home: Path) -> None:
    """Ctrl-C while tasks run exits with 130 soon, and leaves no process and no folder."""
    with running("demo", "--tasks", "5000", written=tmp_path / "demo.out") as demo:
        demo.until_written("task.completed")
        began = time.monotonic()
        assert demo.stop(signal.SIGINT) == 130
        took_s = time.monotonic() - began
        assert demo.written.endswith("demo: interrupted; stopped and removed the cluster\n")
        assert "Traceback" not in demo.written
    print(f"stopped {took_s:.2f} s after Ctrl-C")
    assert took_s < 10
    assert living_in(coordinator_home) == []


def test_where_it_cannot_run_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a usable nats-server the demo prints one line that names it, and leaves nothing behind."""
    monkeypatch.setenv("NATS_SERVER_BIN", "/nowhere/nats-server")
    ended = run("demo", "--tasks", "1")
    assert ended.code == 5
    assert ended.err.count("\n") == 1
    assert "/nowhere/nats-server" in ended.err
