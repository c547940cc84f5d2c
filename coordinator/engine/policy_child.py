"""
A scheduling policy of the operator's, in a process of its own: it may be slow, wrong or crash without harm.

Both sides write JSON, one value a line, over a socket. The process says first what it is; then it answers each offer of
tasks and workers with pairs of them. An answer that comes too late belongs to an offer that nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.guard import spawn
from projections.task import Task

if TYPE_CHECKING:
    from coordinator.guard import Child

log = structlog.get_logger(__name__)

PROGRAM = "coordinator.scheduler.policy_process"
LINE_BYTES = 4 * 1024 * 1024
START_S = 30.0
"""How long the process may take until it says what it is."""
PAUSE_S = 1.0
"""The pause before a process that has ended is started again."""


class OfferedWorker(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker that waits for tasks: its reported load, its slots in all (0: no limit), and how many it wants now."""

    worker_id: str
    load: float
    weight: float
    slots: int


class Offer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a policy chooses from: the first ready tasks in the order of their queue, and the workers that wait."""

    number: int
    tasks: list[Task]
    workers: list[OfferedWorker]


class Chosen(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which task goes to which worker, in order; or what went wrong."""

    number: int
    picks: list[tuple[str, str]] = []
    error: str = ""


class Hello(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the process runs: the SHA-256 of its source; or why it cannot run it."""

    digest: str = ""
    error: str = ""


class PolicyFailed(Exception):
    """The policy gave no answer, or none that can be used; `why` is late, wrong or dead"""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class PolicyChild:
    """The process of one policy, *name* being `module:Class`; it is started when it is first asked."""

    def __init__(self, name: str, *, deadline_s: float) -> None:
        self.digest = ""
        self._name = name
        self._deadline_s = deadline_s
        self._numbers = count(1)
        self._child: Child | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._starting: asyncio.Task[None] | None = None
        self._not_started = ""
        """Why the process could not be started."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked."""
        return self._reader is not None and bool(self.digest)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to start the process, if it does not run."""
        if self._starting is None and not self.is_ready:
            self._starting = tasks.create_task(self._try_to_start())

    def check(self) -> None:
        """
        Say why the process could not be started, once.

        Raises:
            PolicyFailed: it could not.
        """
        if self._starting is not None and self._starting.done():
            self._starting = None
        why, self._not_started = self._not_started, ""
        if why:
            raise PolicyFailed("dead", why)

    async def choose(self, tasks: list[Task], workers: list[OfferedWorker]) -> list[tuple[str, str]]:
        """
        Return what the policy chooses, within the deadline.

        Raises:
            PolicyFailed: it does not answer in time, failed, or its process ended.
        """
        reader, writer = self._reader, self._writer
        assert reader is not None
        assert writer is not None
        number = next(self._numbers)
        try:
            async with asyncio.timeout(self._deadline_s):
                writer.write(_encode(Offer(number=number, tasks=tasks, workers=workers)) + b"\n")
                while True:
                    line = await reader.readline()
                    if not line:
                        raise PolicyFailed("dead", "its process ended")
                    answer = _decode_chosen(line)
                    if answer.number == number:
                        break
        except TimeoutError:
            raise PolicyFailed("late", f"no answer within {self._deadline_s * 1000:g} ms") from None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            await self.stop()
            raise PolicyFailed("dead", str(error)) from error
        except PolicyFailed:
            await self.stop()
            raise
        if answer.error:
            raise PolicyFailed("wrong", answer.error)
        return answer.picks

    async def stop(self) -> None:
        """End the process."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
            self._starting = None
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self.digest = ""
        child, self._child = self._child, None
        if child is not None:
            await child.terminate(grace_s=0.0)  # the writer waits for it

    async def _try_to_start(self) -> None:
        try:
            await self._start()
        except (OSError, ValueError, msgspec.MsgspecError, PolicyFailed) as error:
            await asyncio.sleep(PAUSE_S)
            self._not_started = str(error) or type(error).__name__

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                argv = [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno()), self._name]
                self._child = await spawn(argv, pass_fds=(theirs.fileno(),), env={**os.environ})
            self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        except BaseException:
            ours.close()
            raise
        hello = await self._hello(self._reader)
        if hello.error:
            writer, child = self._writer, self._child
            self._reader = self._writer = self._child = None
            writer.close()
            await child.terminate(grace_s=0.0)
            raise PolicyFailed("dead", hello.error)
        self.digest = hello.digest
        log.info("policy_started", policy=self._name, digest=self.digest)

    @staticmethod
    async def _hello(reader: asyncio.StreamReader) -> Hello:
        try:
            async with asyncio.timeout(START_S):
                line = await reader.readline()
        except TimeoutError:
            return Hello(error=f"its process said nothing for {START_S:g} s")
        return msgspec.json.decode(line, type=Hello) if line else Hello(error="its process ended at once")


_encode = msgspec.json.Encoder().encode
_decode_chosen = msgspec.json.Decoder(Chosen).decode
