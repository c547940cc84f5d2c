"""
Sends signals to the process group of one container, and only to that.

A group is signalled only while its leader, the shim, has the recorded pid and start; after the leader is gone, only
while a member carries this container's mark. All other processes belong to somebody else.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from coordinator.runtime.process.directory import Identity
from coordinator.runtime.process.table import Process, ProcessTable
from coordinator.runtime.protocol import Usage

MARKER = "RUNTIME_CONTAINER_NAME"
"""Set in every container to its name: it identifies a process after the leader of its group is gone."""


class ProcessGroup:
    """The current processes of one container."""

    def __init__(self, table: ProcessTable, identity: Identity, name: str) -> None:
        self.pid = identity.pid
        self._start = identity.start
        self._table = table
        self._mark = f"{MARKER}={name}"

    def leader(self) -> Process | None:
        """Return the shim, alive or a zombie; None when its pid is free or reused."""
        found = self._table.read(self.pid)
        if found is None or found.start != self._start or found.group != self.pid:
            return None
        return found

    def signal(self, number: signal.Signals) -> None:
        """Signal all members while the leader is alive; otherwise do nothing."""
        leader = self.leader()
        if leader is not None and leader.state != "dead":
            send(self.pid, number)

    def finish(self) -> bool:
        """Kill the group when its leader has ended, and reap the leader; return False while the leader is alive."""
        leader = self.leader()
        if leader is None:
            self.end_stragglers()
            return True
        if leader.state != "dead":
            return False
        # A zombie keeps its pid, and so the group id, until it is reaped: no other group can get this signal.
        send(self.pid, signal.SIGKILL)
        reap(self.pid)
        return True

    def end_stragglers(self) -> bool:
        """
        Kill the remaining members of a group without leader; return whether there were any.

        While a member is alive, the group id is not reused, so one member with this container's mark identifies all.
        Where marks cannot be read, nothing is killed.
        """
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        found = any(self._table.has_variable(member.pid, self._mark) for member in self._table.members(self.pid))
        if found:
            send(self.pid, signal.SIGKILL)
        return found

    def wake(self, watcher: int) -> None:
        """Continue the watcher and what it waits for: it must watch a paused container too."""
        for member in self._table.members(self.pid):
            if watcher in (member.pid, member.parent):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(member.pid, signal.SIGCONT)

    def usage(self, watcher: int) -> Usage:
        """Return the sum of what the members use, without the shim and the *watcher*; 0 if there is none."""
        members = self._table.members(self.pid)
        ours = {self.pid, watcher}
        own = [member for member in members if member.pid not in ours and member.parent != watcher]
        return Usage(
            # The shim counts here for the children it reaped; its own memory is not the container's.
            cpu_seconds=sum(member.cpu_seconds for member in members),
            memory_bytes=sum(member.memory_bytes for member in own),
            pids=len(own),
        )


def send(group: int, number: signal.Signals) -> None:
    """Signal a whole group; does nothing when it is gone or has only zombies."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap(pid: int) -> bool:
    """Reap a child that has ended; False while it is alive, True when it is no child of this process."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
