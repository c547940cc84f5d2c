"""Programs are restarted when they end, and given up when they fail repeatedly."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.processes.program import FAILURES_MOST, TRY_AGAIN, Program
from coordinator.task_groups import task_group
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE_S = 10.0
STAYS = "import time; print('started', flush=True); time.sleep(60)"


def program(code: str, log_file: Path | None = None, *, is_needed: bool = False) -> Program:
    return Program("tested", [sys.executable, "-ISE", "-c", code], dict(os.environ), log_file, is_needed=is_needed)


@asynccontextmanager
async def kept(one: Program) -> AsyncIterator[asyncio.Task[None]]:
    """Keep a program running while the block runs."""
    async with task_group() as tasks, asyncio.timeout(PATIENCE_S):
        keeping = tasks.create_task(one.keep_running())
        try:
            yield keeping
        finally:
            await one.stop()


def starts_said(log_file: Path) -> int:
    return log_file.read_text().count("started") if log_file.exists() else 0


async def until_started(one: Program, times: int, log_file: Path) -> None:
    while starts_said(log_file) < times:  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.01)
    assert one.starts == times


async def test_one_that_is_killed_runs_again(tmp_path: Path) -> None:
    """After a restart it has another pid and appends to the same file."""
    log_file = tmp_path / "log"
    one = program(STAYS, log_file, is_needed=True)
    pids = [one.pid]
    async with kept(one):
        for times in range(1, FAILURES_MOST + 1):
            await until_started(one, times, log_file)
            pids.append(one.pid)
            os.kill(one.pid or 0, signal.SIGKILL)
        await until_started(one, FAILURES_MOST + 1, log_file)
    assert pids[0] is one.pid is None
    assert len(set(pids)) == FAILURES_MOST + 1


async def test_one_that_is_stopped_stays_stopped(tmp_path: Path) -> None:
    """Stopping ends the program and its restarts, also in the pause before a restart."""
    log_file = tmp_path / "log"
    one = program(STAYS, log_file)
    async with kept(one) as keeping:
        await until_started(one, 1, log_file)
        pid = one.pid
        await one.stop()
        await keeping
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    ending = program("raise SystemExit(1)")
    async with kept(ending) as keeping:
        while ending.starts < 2:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await ending.stop()
        await keeping


async def test_one_that_is_stopped_while_it_starts_ends(tmp_path: Path) -> None:
    """What is being forked at that moment is not left running, nor waited for."""
    one = program(STAYS, tmp_path / "log")
    async with kept(one) as keeping:
        while one.starts == 0:  # noqa: ASYNC110  # it says nothing
            await asyncio.sleep(0)
        assert one.pid is None
        await one.stop()
        await keeping
    assert one.pid is None
    assert one.starts == 1


async def test_one_that_is_needed_and_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    """After so many failures in a row the error names program, exit code and log."""
    log_file = tmp_path / "log"
    one = program("print('no'); raise SystemExit(5)", log_file, is_needed=True)
    with pytest.raises(Unavailable) as caught:
        async with kept(one) as keeping:
            await keeping
    assert caught.value.message == f"the tested failed 3 times in a row, now with exit code 5: see {log_file}"
    assert one.starts == FAILURES_MOST
    assert log_file.read_text() == "no\n" * FAILURES_MOST


async def test_others_are_tried_for_ever() -> None:
    """A program that is not required, could not reach NATS, or exited with 0 is restarted however often it ends."""
    cases = ((5, False), (TRY_AGAIN, True), (0, True))
    tried = [program(f"raise SystemExit({code})", is_needed=is_needed) for code, is_needed in cases]
    async with kept(tried[0]) as first, kept(tried[1]) as second, kept(tried[2]) as third:
        while min(one.starts for one in tried) <= FAILURES_MOST:  # noqa: ASYNC110  # other processes
            await asyncio.sleep(0.01)
        assert not any(keeping.done() for keeping in (first, second, third))


async def test_one_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """A missing program may be installed later: the start is retried, and nothing else is affected."""
    missing = tmp_path / "missing"
    one = Program("tested", [str(missing)], dict(os.environ), None, is_needed=True)
    async with kept(one):
        while one.starts < 2:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
        missing.write_text("#!/bin/sh\nexec sleep 60\n")
        missing.chmod(0o700)
        while one.pid is None:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
