"""
What the processes of a cluster share: how one waits for its predecessor, collects garbage, and is restarted.

`Program` restarts a program that has ended. It waits a moment if the program had been running steadily, and doubling
pauses if not. It knows nothing about what a program does, only its exit code.
"""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import structlog

from coordinator.guard import Child, spawn
from coordinator.own_process.memory import kills_for_memory, why_ended
from events.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


log = structlog.get_logger(__name__)

HANDOVER_S = 3.0
"""How long a program waits for a previous one of the same name that is just ending."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A program that ran this long is restarted after the first pause."""
FAILURES_MOST = 3
"""How often in a row a required program may fail soon after its start before it is given up."""
REFUSED = 5
"""The exit code of a program that its settings or files make impossible; see `coordinator.cli`."""
TRY_AGAIN = 8
"""The exit code of a program that could not reach NATS; see `coordinator.cli`."""
STOP_GRACE_S = 15.0


class Program:
    """
    One child process that is restarted whenever it ends.

    Args:
        name: its name in the log.
        argv: the command to start.
        env: its environment.
        log_file: its output is appended there; None means the output of this process.
        is_needed: whether to give up when it fails repeatedly.
    """

    def __init__(
        self, name: str, argv: list[str], env: dict[str, str], log_file: Path | None, *, is_needed: bool = False
    ) -> None:
        self.name = name
        self.starts = 0
        self.refusals = 0
        """How often in a row it was refused."""
        self._argv = argv
        self._env = env
        self._log_file = log_file
        self._is_needed = is_needed
        self._child: Child | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def keep_running(self) -> None:
        """
        Start it and restart it until `stop`; pauses double while it does not stay up.

        Raises:
            Unavailable: it is required and failed too often in a row.
        """
        loop = asyncio.get_running_loop()
        pause_s, failures = FIRST_PAUSE_S, 0
        while not self._stopping.is_set():
            began, kills = loop.time(), kills_for_memory()
            code = await self._run()
            if loop.time() - began > STEADY_S:
                pause_s, failures = FIRST_PAUSE_S, 0
            else:
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            self.refusals = self.refusals + 1 if code == REFUSED else 0
            # A negative code means it was killed: it did not fail by itself.
            failures += code is not None and code > 0 and code != TRY_AGAIN
            if self._stopping.is_set():
                return
            if self._is_needed and failures >= FAILURES_MOST:
                where = f"see {self._log_file}" if self._log_file else "see its output above"
                msg = f"the {self.name} failed {failures} times in a row, now with exit code {code}: {where}"
                raise Unavailable(msg, reason="program_fails")
            why = why_ended(code, kills)
            log.warning("program_ended", program=self.name, code=code, why=why, again_in_s=pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stop it and do not restart it; kill it if it has not ended after *grace_s* seconds."""
        self._stopping.set()
        if self._child is not None:
            await self._child.terminate(grace_s)

    async def _run(self) -> int | None:
        """Run it once; return its exit code, or None when it could not be started."""
        self.starts += 1
        with ExitStack() as files:
            try:
                sink = files.enter_context(_appended(self._log_file)) if self._log_file is not None else None
                child = await spawn(self._argv, env=self._env, stdout=sink, stderr=sink, grace_s=STOP_GRACE_S)
            except OSError as error:
                log.warning("program_not_started", program=self.name, why=str(error))
                return None
        async with child:
            self._child = child
            if self._stopping.is_set():  # `stop` came while it was being started, and had nothing to end
                return await child.terminate()
            return await child.wait()


def _appended(log_file: Path) -> BinaryIO:
    return os.fdopen(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def collect_seldom() -> None:
    """
    Make the garbage collector run less often: the objects created here in large numbers have no cycles.

    With Python's default thresholds it takes a tenth of the writer's time (docs/performance.md).
    """
    gc.set_threshold(50_000, 20, 100)
