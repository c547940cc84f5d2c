"""
Signals to the process group of one container, and only to that.

A group is signalled while its leader, the shim, is the very process that the record names, pid and start; when the
leader is gone, only while a member shows this container's mark. Everything else is a stranger's.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from coordinator.runtime.process.directory import Identity
from coordinator.runtime.process.table import Process, ProcessTable
from coordinator.runtime.protocol import Usage

MARKER = "RUNTIME_CONTAINER_NAME"
"""Set in every container to its name: it shows whose a process is when the leader of its group is gone."""


class ProcessGroup:
    """The processes of one container, as the operating system has them now."""

    def __init__(self, table: ProcessTable, identity: Identity, name: str) -> None:
        self.pid = identity.pid
        self._start = identity.start
        self._table = table
        self._mark = f"{MARKER}={name}"

    def leader(self) -> Process | None:
        """Look the shim up, alive or a zombie; None when its pid is free or another's by now."""
        found = self._table.read(self.pid)
        if found is None or found.start != self._start or found.group != self.pid:
            return None
        return found

    def signal(self, number: signal.Signals) -> None:
        """Signal all members while the leader lives; nothing happens when it does not."""
        leader = self.leader()
        if leader is not None and leader.state != "dead":
            send(self.pid, number)

    def finish(self) -> bool:
        """End the group when its leader has ended, and reap the leader; False while the leader lives."""
        leader = self.leader()
        if leader is None:
            self.end_stragglers()
            return True
        if leader.state != "dead":
            return False
        # A zombie keeps its number, and with it the group's, until it is reaped: this reaches no stranger.
        send(self.pid, signal.SIGKILL)
        reap(self.pid)
        return True

    def end_stragglers(self) -> bool:
        """
        Kill what is left of a group without leader; say whether there was something.

        While a member lives, the group's number is not given out again, so one that shows our mark vouches for all.
        Where marks cannot be seen, nothing is touched.
        """
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        found = any(self._table.has_variable(member.pid, self._mark) for member in self._table.members(self.pid))
        if found:
            send(self.pid, signal.SIGKILL)
        return found

    def usage(self) -> Usage:
        """Add up what the members use."""
        members = self._table.members(self.pid)
        own = [member for member in members if member.pid != self.pid]
        return Usage(
            # The shim counts here for what it has reaped; its few pages are ours, not the container's.
            cpu_seconds=sum(member.cpu_seconds for member in members),
            memory_bytes=sum(member.memory_bytes for member in own),
            pids=len(own),
        )


def send(group: int, number: signal.Signals) -> None:
    """Signal a whole group; one that is gone, or holds but zombies, is already so."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap(pid: int) -> bool:
    """Free the pid of a child that has ended; False while it lives, True when it is none of ours."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
