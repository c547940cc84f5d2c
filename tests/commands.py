"""
Command lines for tests: `coordinator …` in a separate process, or in this one if only the output matters.

Started processes are stopped by pid; every wait has a time-out.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from coordinator import cli
from coordinator.home import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = [sys.executable, "-m", "coordinator.cli"]
START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 20.0
_ROOT = Path(__file__).resolve().parent.parent


class Said(NamedTuple):
    """The exit code and the output of a command line."""

    code: int
    out: str
    err: str


def call(*arguments: str) -> Said:
    """Run a command line in this process, which is fast, and restore the logging configuration."""
    handlers, level, settings = logging.root.handlers[:], logging.root.level, structlog.get_config()
    out, err = StringIO(), StringIO()
    config = os.environ.get("COORDINATOR_CONFIG")
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.run_line(list(arguments))
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logging.captureWarnings(capture=False)
        structlog.configure(**settings)
        if config is None:
            os.environ.pop("COORDINATOR_CONFIG", None)
    return Said(code, out.getvalue(), err.getvalue())


def run(*arguments: str, timeout_s: float = 30.0, **environment: str) -> Said:
    """Run a command line in a separate process until it ends."""
    ended = subprocess.run(
        [*PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(_ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return Said(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


class Running:
    """A running command line; its output goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], written: Path) -> None:
        self.process = process
        self._written = written

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def written(self) -> str:
        """Return its output so far, of both streams."""
        return self._written.read_text(errors="replace")

    def until(self, seen: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait for *seen* and return how long it took; fail if the process ends first."""
        began = time.monotonic()
        while not seen():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.written[-3000:]}"
            assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s:\n{self.written[-3000:]}"
            time.sleep(0.01)
        return time.monotonic() - began

    def until_written(self, text: str, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait until it has written *text*."""
        return self.until(lambda: text in self.written, timeout_s)

    def ended(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(timeout_s)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send a signal, and wait for its end."""
        self.process.send_signal(number)
        return self.ended(timeout_s)


@contextmanager
def running(*arguments: str, written: Path, **environment: str) -> Iterator[Running]:
    """Run a command line while the block runs, with its output in the file *written*."""
    with written.open("ab") as sink:
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env={**os.environ, "PYTHONPATH": str(_ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    started = Running(process, written)
    try:
        yield started
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)


class Up(Running):
    """A running `coordinator up`."""

    def __init__(self, started: Running, home: Path) -> None:
        super().__init__(started.process, started._written)
        self.home = home

    @property
    def url(self) -> str:
        """Return the URL for clients."""
        found = Home(self.home).read_running()
        assert found is not None, f"it is not up:\n{self.written[-3000:]}"
        return found.url


@contextmanager
def up(home: Path, *, port: int | None = 0, **environment: str) -> Iterator[Up]:
    """
    Run `coordinator up` on *home* while the block runs; the block starts when it is up.

    Tests run side by side, so it takes any free *port*; None takes its default.
    """
    home.mkdir(parents=True, exist_ok=True)
    words = ["up"] if port is None else ["up", "--port", str(port)]
    with running(*words, written=home.with_suffix(".out"), COORDINATOR_HOME=str(home), **environment) as started:
        before = started.written.count("coordinator is up")
        started.until(lambda: started.written.count("coordinator is up") > before)
        yield Up(started, home)
