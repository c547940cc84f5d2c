"""
One container of the process runtime: from the forked shim to the end of its group.

All it holds can be read again from its directory, so it may be dropped at any moment. It changes nothing but this
directory's files and this group's processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from coordinator.runtime.process import directory as on_disk
from coordinator.runtime.process.directory import Ending, Identity, LaunchRecord
from coordinator.runtime.process.group import ProcessGroup, reap, send
from coordinator.runtime.process.log import tail
from coordinator.runtime.process.table import ProcessTable
from coordinator.runtime.protocol import Observed, RuntimeState, Usage
from events.errors import CoordinationError, NotFound, Refused, Unavailable

_SIGNAL_TIMEOUT_S = 1.0
_FIRST_WAIT_S = 0.001
_LONGEST_WAIT_S = 0.05
_REAP_TRIES = 1_000
_LAST_WORDS = 3

log = structlog.get_logger(__name__)


class ProcessContainer:
    """
    Follows one container; `on_exit` is called once, when it is first seen to have ended.

    First it is known by its shim, a child of ours; then it is *recorded*: the shim has written who it is; then it has
    *begun*: signals reach the command.
    """

    def __init__(
        self,
        directory: Path,
        record: LaunchRecord,
        *,
        table: ProcessTable,
        on_exit: Callable[[], None],
        shim: int | None = None,
    ) -> None:
        self.directory = directory
        self.record = record
        self.outcome: Ending | None = None
        self._table = table
        self._on_exit = on_exit
        self._shim = shim
        self._group: ProcessGroup | None = None
        self._pidfd: int | None = None
        self._begun = False
        self.void = False
        """Whether it was given up before it began, so that nothing of it is left to keep."""

    @property
    def begun(self) -> bool:
        """Whether the command has been launched, so that signals reach it, or reached it."""
        return self._begun or self.outcome is not None

    @property
    def recorded(self) -> bool:
        """Whether the shim has written who it is, so that this generation has run or will."""
        return self._group is not None or self.outcome is not None

    @property
    def watched(self) -> bool:
        """Whether the system wakes us when it ends, or has done so; otherwise it must be settled now and then."""
        return self._pidfd is not None or self.outcome is not None

    def observed(self) -> Observed:
        """Say what is seen of it; settle it first."""
        exit_code, reason = self.outcome or (None, "")
        return Observed(
            container_id=self.record.container_id,
            generation=self.record.generation,
            name=self.record.name,
            state=self._state(),
            exit_code=exit_code,
            reason=reason,
            pid=self._group.pid if self._group and self.outcome is None else None,
            started_at=self.record.started_at,
        )

    def follow(self, identity: Identity | None) -> None:
        """Take up the shim of that identity, and ask to be woken when it ends; without one it ended unseen."""
        if identity is None:
            self._end()
            return
        self._group = ProcessGroup(self._table, identity, self.record.name)
        if sys.platform == "linux":
            # First the handle, then the look: whatever becomes of the pid, the handle stays with the one looked at.
            with suppress(OSError):
                self._pidfd = os.pidfd_open(identity.pid)
                asyncio.get_running_loop().add_reader(self._pidfd, self._woken)
        self.settle()

    def unfollow(self) -> None:
        """Let go of what the event loop and the system hold for it."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def settle(self) -> None:
        """See whether it has begun, or ended; if ended, end what it left behind and remember how."""
        if self._group is None and self.outcome is None and not self.void:
            identity = on_disk.read_identity(self.directory)
            if identity is not None:
                self.follow(identity)
        elif self._group is not None and self.outcome is None:
            if self._group.finish():
                self._end()
            elif not self._begun:
                self._begun = on_disk.has_begun(self.directory)

    async def begin(self, timeout_s: float) -> None:
        """
        Wait until the command runs, or has run; a shim that is recorded but slow is taken to have begun in the end.

        Raises:
            Unavailable: the shim did not write who it is in time, and now never will.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        wait_s = _FIRST_WAIT_S
        while True:
            late = asyncio.get_running_loop().time() >= deadline
            # First whether the shim has ended, then what it wrote: it may have run and ended in between.
            never = late or (not self.recorded and self._shim_ended())
            self.settle()
            self._begun = self._begun or (late and self.recorded)
            if self.begun:
                return
            if self.void or (never and self._give_up()):
                await self._end_shim()
                words = " ".join(tail(self.directory, _LAST_WORDS)) or "its directory has no record of it"
                raise Unavailable(f"container {self.record.name} did not begin within {timeout_s:g} s: {words}")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)

    async def stop(self, *, grace_s: float, force: bool, kill_timeout_s: float) -> None:
        """Climb the ladder: SIGTERM, *grace_s*, SIGKILL; return when the whole group is gone."""
        if not force:
            self._signal(signal.SIGTERM)
            # A frozen group gets the signal only when it goes on.
            self._signal(signal.SIGCONT)
            if await self._gone(grace_s):
                return
        self.settle()
        if self.outcome is None:
            with suppress(OSError):  # A full disk must not keep a container alive; it then ends as lost.
                on_disk.mark_killed(self.directory)
            self._signal(signal.SIGKILL)
        if not await self._gone(kill_timeout_s):
            raise Unavailable(f"container {self.record.name} still runs {kill_timeout_s:g} s after SIGKILL")

    async def bring_to(self, wanted: RuntimeState, number: signal.Signals) -> None:
        """Send *number* until the group is seen in the wanted state."""
        deadline = asyncio.get_running_loop().time() + _SIGNAL_TIMEOUT_S
        while True:
            self.settle()
            state = self._state()
            if state is wanted:
                return
            if state is RuntimeState.EXITED:
                raise Refused(
                    f"container {self.record.name} has exited: only what runs can be paused or resumed",
                    reason="has_exited",
                )
            if asyncio.get_running_loop().time() >= deadline:
                raise Unavailable(
                    f"container {self.record.name} is still {state} {_SIGNAL_TIMEOUT_S:g} s after {number.name}"
                )
            self._signal(number)
            await asyncio.sleep(_FIRST_WAIT_S)

    def usage(self) -> Usage:
        """Measure it; raises `NotFound` when nothing of it runs."""
        self.settle()
        if self._group is None or self.outcome is not None:
            raise NotFound(f"container {self.record.name} does not run: only what runs has usage")
        return self._group.usage()

    def _state(self) -> RuntimeState:
        if self.outcome is not None:
            return RuntimeState.EXITED
        leader = self._group.leader() if self._group else None
        return RuntimeState.PAUSED if leader and leader.state == "stopped" else RuntimeState.RUNNING

    def _signal(self, number: signal.Signals) -> None:
        if self._group is not None and self.outcome is None:
            self._group.signal(number)

    async def _gone(self, timeout_s: float) -> bool:
        """Wait until neither leader nor group is left; False when time ran out."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        wait_s = _FIRST_WAIT_S
        while True:
            self.settle()
            if self.outcome is not None and not (self._group and self._group.end_stragglers()):
                return True
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)

    def _give_up(self) -> bool:
        """Declare the start void and end the shim; False when it has written who it is after all."""
        try:
            if not on_disk.declare_void(self.directory) and on_disk.read_identity(self.directory) is not None:
                return False
        except OSError as error:
            # The shim cannot begin without its directory either, and that is deleted next.
            log.warning("container_start_not_voided", name=self.record.name, error=str(error))
        self.void = True
        return True

    def _shim_ended(self) -> bool:
        """Say whether the shim, while it is known only as our child, has ended; its pid is then free for others."""
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
        self.outcome = on_disk.read_outcome(self.directory)
        self.unfollow()
        log.info(
            "container_exited", name=self.record.name, exit_code=self.outcome.exit_code, reason=self.outcome.reason
        )
        self._on_exit()

    def _woken(self) -> None:
        try:
            self.settle()
        except CoordinationError as error:
            # The handle stays readable and would wake us without end: look now and then instead.
            log.warning("container_exit_not_read", name=self.record.name, error=error.message)
            self.unfollow()
