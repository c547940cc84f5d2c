"""
The runtime's side of the keeper: it is there before a container that needs it starts, and hears of each start.

The bell, a pipe, is also the sign of life: without a keeper nobody reads it, and another one is started.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import structlog

from coordinator.runtime.docker import keeper
from events.errors import Unavailable

_READY_S = 10.0
_TRIES = 3

log = structlog.get_logger(__name__)


class Watch:
    """Starts the keeper of *cluster* and *home* under *root*, if there is none, and rings its bell."""

    def __init__(self, root: Path, *, cluster: str, home: str, socket: Path, version: str) -> None:
        self._bell = root / f".bell-{cluster}"
        self._log = root / "keeper.log"
        self._root = root
        self._arguments = (str(socket), version, str(root), cluster, home)
        self._process: subprocess.Popen[bytes] | None = None
        self._one = asyncio.Lock()

    async def ring(self) -> None:
        """
        Make the keeper look now; start one if none is there.

        Raises:
            Unavailable: there is none, and none can be started.
        """
        async with self._one:
            for _ in range(_TRIES):
                if self._rung():
                    return
                await self._start()
            raise Unavailable(f"no keeper runs for the containers under {self._root}: see {self._log}")

    def dismiss(self) -> None:
        """End the keeper that this process has started: nothing is left for it to watch."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_READY_S)
            self._process = None

    def leave(self) -> None:
        """Leave the keeper to itself: it outlives this process."""
        if self._process is not None and self._process.poll() is None:
            self._process.returncode = 0  # otherwise Popen warns that it still runs, which is the point
        self._process = None

    def _rung(self) -> bool:
        if self._process is not None:
            self._process.poll()
        try:
            bell = os.open(self._bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no pipe, or nobody who reads it
            return False
        try:
            os.write(bell, b"!")
        except BlockingIOError:  # full: it has not looked yet, and will
            pass
        except OSError:
            return False
        finally:
            os.close(bell)
        return True

    async def _start(self) -> None:
        self.leave()
        try:
            self._process = self._spawned()
            ready = await asyncio.wait_for(asyncio.to_thread(self._told), _READY_S)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise Unavailable(f"the keeper of the containers under {self._root} cannot be started: {error}") from error
        if ready:
            log.info("keeper_started", pid=self._process.pid, root=str(self._root))

    def _spawned(self) -> subprocess.Popen[bytes]:
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            return subprocess.Popen(
                (sys.executable, "-I", "-S", str(Path(keeper.__file__)), *self._arguments),
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    def _told(self) -> bool:
        """Wait until the new keeper is ready, or has ended because there is another one."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        with process.stdout:
            if process.stdout.readline():
                return True
        process.wait(_READY_S)
        return False
