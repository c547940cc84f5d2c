"""
One container of the process runtime: from the forked shim to the end of its process group.

All its state can be read again from its directory, so the object may be dropped at any time. It changes only the files
of this directory and the processes of this group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from coordinator.runtime.process import directory as on_disk
from coordinator.runtime.process.control_group import ControlGroup
from coordinator.runtime.process.directory import Ending, Identity, LaunchRecord
from coordinator.runtime.process.group import ProcessGroup, reap, send
from coordinator.runtime.process.log import last_words
from coordinator.runtime.process.program import Programs
from coordinator.runtime.process.table import ProcessTable
from coordinator.runtime.protocol import OOM, Observed, RuntimeState, Usage, cause_of
from events.container import ExitCause
from events.errors import CoordinationError, NotFound, Refused, Unavailable

_SIGNAL_TIMEOUT_S = 1.0
_FIRST_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.05
_LONGEST_BEGIN_S = 0.005
_REAP_TRIES = 1_000
_MARK_TIMEOUT_S = 2.0
"""A disk that hangs must not keep a container alive for longer than this."""

log = structlog.get_logger(__name__)


class ProcessContainer:
    """
    Follows one container; `on_exit` is called once, when it is first seen to have ended.

    At first only its shim is known, a child of this process. Then it is *recorded*: the shim has written its identity.
    Then it has *begun*: signals reach the command.
    """

    def __init__(
        self,
        directory: Path,
        record: LaunchRecord,
        *,
        table: ProcessTable,
        on_exit: Callable[[], None],
        on_group_end: Callable[[ControlGroup], None],
        programs: Programs,
        shim: int | None = None,
    ) -> None:
        self.directory = directory
        self.record = record
        self.outcome: Ending | None = None
        self._table = table
        self._on_exit = on_exit
        self._on_group_end = on_group_end
        self._programs = programs
        self._control = ControlGroup(record.group) if record.group is not None else None
        self._shim = shim
        self._group: ProcessGroup | None = None
        self._pidfd: int | None = None
        self._begun = False
        self._cause = ""
        self._seen: Observed | None = None
        self._is_unreadable = False
        self.void = False
        """Whether the start was given up before it began; its directory is then deleted."""

    @property
    def begun(self) -> bool:
        """Whether the command was launched, so signals reach it (or reached it before it ended)."""
        return self._begun or self.outcome is not None

    @property
    def recorded(self) -> bool:
        """Whether the shim has written its identity, so this generation runs, ran or will run."""
        return self._group is not None or self.outcome is not None

    @property
    def watched(self) -> bool:
        """Whether the system reports its end, or has done so; otherwise `settle` must be called periodically."""
        return self._pidfd is not None or self.outcome is not None

    def observed(self) -> Observed:
        """Return its observed state; call `settle` first."""
        exit_code, reason = self.outcome or (None, "")
        self._seen = Observed(
            container_id=self.record.container_id,
            generation=self.record.generation,
            name=self.record.name,
            state=self._state(),
            exit_code=exit_code,
            reason=reason,
            stop_grace_s=self.record.stop_grace_s,
            pid=self._group.pid if self._group and self.outcome is None else None,
            started_at=self.record.started_at,
            cause=self._cause,
        )
        return self._seen

    def look(self) -> Observed | None:
        """
        Return its state, None as long as its shim is not known; while it cannot be read, the last one.

        Raises:
            CoordinationError, OSError: it cannot be read, and never was.
        """
        try:
            self.settle()
            if self.recorded:
                self.observed()
        except (CoordinationError, OSError) as error:
            if self._seen is None:
                raise
            if not self._is_unreadable:  # not each second
                log.warning("container_not_readable", name=self.record.name, error=str(error))
            self._is_unreadable = True
        else:
            self._is_unreadable = False
        return self._seen

    def follow(self, identity: Identity | None) -> None:
        """Follow the shim with this identity until it ends; without an identity the container has already ended."""
        if identity is None:
            self._end()
            return
        self._cause = self._cause or on_disk.read_cause(self.directory)
        self._group = ProcessGroup(self._table, identity, self.record.name)
        if sys.platform == "linux":
            # Open the handle before reading the process: even if the pid is reused later, the handle keeps its process.
            with suppress(OSError):
                self._pidfd = os.pidfd_open(identity.pid)
                asyncio.get_running_loop().add_reader(self._pidfd, self._woken)
        self.settle()
        if self.outcome is None and self._state() is RuntimeState.PAUSED:
            self._wake_watcher()  # who paused it may have died before doing so

    def unfollow(self) -> None:
        """Release its handle and its event loop reader."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def settle(self) -> None:
        """Check whether it has begun or ended; if ended, kill the processes left in its group and keep the outcome."""
        if self._group is None and self.outcome is None and not self.void:
            identity = on_disk.read_identity(self.directory)
            if identity is not None:
                self.follow(identity)
        elif self._group is not None and self.outcome is None:
            if self._group.finish():
                self._end()
            elif not self._begun:
                self._begun = self._programs.has_begun(self.directory)

    async def begin(self, timeout_s: float) -> None:
        """
        Wait until the command runs, or has run; after *timeout_s* a shim that is recorded counts as begun.

        Raises:
            Unavailable: the shim did not write its identity in time, and cannot any more.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        wait_s = _FIRST_WAIT_S
        while True:
            late = asyncio.get_running_loop().time() >= deadline
            # Check the shim first, then read what it wrote: it may write and end in between.
            never = late or (not self.recorded and self._shim_ended())
            self.settle()
            self._begun = self._begun or (late and self.recorded)
            if self.begun:
                return
            if self.void or (never and self._give_up()):
                await self._end_shim()
                words = await asyncio.to_thread(last_words, self.directory)
                raise Unavailable(f"container {self.record.name} did not begin within {timeout_s:g} s: {words}")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _LONGEST_BEGIN_S)

    async def stop(self, *, grace_s: float, force: bool, kill_timeout_s: float, cause: ExitCause) -> None:
        """Record the *cause*, send SIGTERM, wait *grace_s*, send SIGKILL; return when the whole group is gone."""
        self.settle()
        if self.outcome is None and not self._cause:
            await self._mark(cause)
        if not force:
            asks = self._programs.asks_to_end(self.directory)
            if not asks:
                self._signal(signal.SIGTERM)
            # A stopped group handles SIGTERM only after it is continued.
            self._thaw()
            self._signal(signal.SIGCONT)
            async with _running(asks, self.directory):
                if await self._gone(grace_s):
                    return
        self.settle()
        if self.outcome is None:
            with suppress(OSError):  # A full disk must not keep a container alive; it is then reported as lost.
                on_disk.mark_killed(self.directory)
            self._thaw()  # first: the watcher still kills it if this process dies between the two
            self._signal(signal.SIGKILL)
        if not await self._gone(kill_timeout_s):
            raise Unavailable(f"container {self.record.name} still runs {kill_timeout_s:g} s after SIGKILL")

    async def bring_to(self, wanted: RuntimeState) -> None:
        """Pause or resume it, repeatedly, until it is in the state *wanted*: by its control group, else by signals."""
        pauses = wanted is RuntimeState.PAUSED
        number = signal.SIGSTOP if pauses else signal.SIGCONT
        deadline = asyncio.get_running_loop().time() + _SIGNAL_TIMEOUT_S
        while True:
            self.settle()
            state = self._state()
            if state is wanted:
                self._wake_watcher()
                return
            if state is RuntimeState.EXITED:
                raise Refused(
                    f"container {self.record.name} has exited: only running containers can be paused or resumed",
                    reason="has_exited",
                )
            if asyncio.get_running_loop().time() >= deadline:
                raise Unavailable(
                    f"container {self.record.name} is still {state} {_SIGNAL_TIMEOUT_S:g} s after {number.name}"
                )
            can_freeze = self._control is not None and self._control.can_freeze
            if self._control is not None:
                self._control.freeze(frozen=pauses)
            if not (can_freeze and pauses):
                self._signal(number)
            await asyncio.sleep(_FIRST_WAIT_S)

    def usage(self) -> Usage:
        """Measure it; raises `NotFound` when it is not running."""
        self.settle()
        if self._group is None or self.outcome is not None:
            raise NotFound(f"container {self.record.name} is not running, so it has no usage")
        by_table = self._group.usage(on_disk.read_watcher(self.directory))
        return by_table if self._control is None else self._control.usage(by_table)

    def _state(self) -> RuntimeState:
        if self.outcome is not None:
            return RuntimeState.EXITED
        if self._control is not None and self._control.is_frozen():
            return RuntimeState.PAUSED
        leader = self._group.leader() if self._group else None
        return RuntimeState.PAUSED if leader and leader.state == "stopped" else RuntimeState.RUNNING

    async def _mark(self, cause: ExitCause) -> None:
        try:
            async with asyncio.timeout(_MARK_TIMEOUT_S):
                self._cause = await asyncio.to_thread(on_disk.mark_cause, self.directory, cause.value)
        except (OSError, TimeoutError, RuntimeError, CoordinationError) as error:  # RuntimeError: no further thread
            # This process still reports the right cause; only its successor could not know it.
            self._cause = self._cause or cause.value
            log.warning("container_cause_not_recorded", name=self.record.name, cause=cause.value, error=str(error))

    def _wake_watcher(self) -> None:
        watcher = on_disk.read_watcher(self.directory)
        if self._group is not None and watcher:
            self._group.wake(watcher)

    def _thaw(self) -> None:
        if self._control is not None and self.outcome is None:
            self._control.freeze(frozen=False)

    def _signal(self, number: signal.Signals) -> None:
        if self._group is not None and self.outcome is None:
            self._group.signal(number)

    async def _gone(self, timeout_s: float) -> bool:
        """Wait until leader and group are gone; return False after *timeout_s*."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        wait_s = _FIRST_WAIT_S
        while True:
            self.settle()
            if self.outcome is not None and not self._has_stragglers():
                return True
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)

    def _has_stragglers(self) -> bool:
        """Kill what is left of an ended container; return whether there was anything."""
        found = self._group is not None and self._group.end_stragglers()
        if self._control is not None and not self._control.is_empty():
            self._control.kill()
            return True
        return found

    def _give_up(self) -> bool:
        """Declare the start void; return False if the shim has written its identity first."""
        try:
            if not on_disk.declare_void(self.directory) and on_disk.read_identity(self.directory) is not None:
                return False
        except OSError as error:
            # The directory is deleted next, and without it the shim cannot begin either.
            log.warning("container_void_failed", name=self.record.name, error=str(error))
        self.void = True
        return True

    def _shim_ended(self) -> bool:
        """Return whether the shim, still known only as a child process, has ended; its pid may then be reused."""
        if self._shim is not None and reap(self._shim):
            self._shim = None
        return self._shim is None

    async def _end_shim(self) -> None:
        if self._shim is not None:
            send(self._shim, signal.SIGKILL)
        for _ in range(_REAP_TRIES):
            if self._shim_ended():
                break
            await asyncio.sleep(_FIRST_WAIT_S)

    def _end(self) -> None:
        code, reason = self.outcome = on_disk.read_outcome(self.directory, self._oom_kills())
        if reason == OOM:
            with suppress(OSError):  # a full disk: only the next agent would not know it
                on_disk.mark_oom(self.directory)
        self._cause = self._cause or on_disk.read_cause(self.directory) or cause_of(code, reason)
        self.unfollow()
        log.info("container_exited", name=self.record.name, exit_code=code, reason=reason, cause=self._cause)
        self.end_group()
        self._on_exit()

    def end_group(self) -> None:
        """Remove its control group, with what is left in it."""
        if self._control is not None:
            self._on_group_end(self._control)

    def _oom_kills(self) -> int:
        try:
            return self._control.oom_kills() if self._control is not None else 0
        except Unavailable as error:
            log.warning("container_memory_events_not_read", name=self.record.name, error=error.message)
            return 0

    def _woken(self) -> None:
        try:
            self.settle()
        except CoordinationError as error:
            # The handle stays readable and would wake the loop forever: fall back to polling.
            log.warning("container_exit_read_failed", name=self.record.name, error=error.message)
            self.unfollow()


@asynccontextmanager
async def _running(command: tuple[str, ...], directory: Path) -> AsyncIterator[None]:
    """Run a program in a container's directory beside the block, and end it with that; () stands for none."""
    if not command:
        yield
        return
    process = None
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
    except OSError as error:  # it is killed after the grace
        log.warning("container_not_asked_to_end", name=directory.name, error=str(error))
    try:
        yield
    finally:
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
