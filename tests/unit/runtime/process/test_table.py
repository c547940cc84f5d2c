"""What the process runtime knows of the machine's processes."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from coordinator.runtime.process.table import ProcTable, PsTable
from tests.process_runtimes import needs_proc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no container, leader of a group of its own, as ours would be."""
    process = subprocess.Popen(("sleep", "300"), start_new_session=True)
    yield process
    process.kill()
    process.wait()


@needs_proc
def test_both_tables_see_the_same(stranger: subprocess.Popen[bytes]) -> None:
    """`/proc` and `ps` agree on state and group, and each says the same start every time."""
    for table in (ProcTable(), PsTable()):
        found = table.read(stranger.pid)
        assert found is not None
        assert (found.pid, found.group, found.state) == (stranger.pid, stranger.pid, "alive")
        assert [member.pid for member in table.members(stranger.pid)] == [stranger.pid]
        again = table.read(stranger.pid)
        assert again is not None
        assert again.start == found.start
        assert table.read(2**31 - 1) is None
    os.kill(stranger.pid, signal.SIGSTOP)
    os.waitpid(stranger.pid, os.WUNTRACED)
    for table in (ProcTable(), PsTable()):
        found = table.read(stranger.pid)
        assert found is not None
        assert found.state == "stopped"


@needs_proc
def test_a_program_may_be_named_to_confuse(tmp_path: Path) -> None:
    """Blanks and brackets in a program's name do not shift the fields that follow it."""
    program = tmp_path / ") Z 1 1 1"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen((program, "300"), start_new_session=True)
    try:
        found = ProcTable().read(process.pid)
        assert found is not None
        assert (found.group, found.state) == (process.pid, "alive")
    finally:
        process.kill()
        process.wait()
