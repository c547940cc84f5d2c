"""What is said of a process that has ended, and what counts as memory running out."""

from __future__ import annotations

import pytest

from coordinator.own_process.memory import kills_for_memory, why_ended


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (0, "exit code 0"),
        (5, "exit code 5"),
        (-11, "killed by signal 11"),
        (None, "it could not be started"),
        (-9, "killed by SIGKILL, and not for want of memory"),
        (137, "killed by SIGKILL, and not for want of memory"),
    ],
)
def test_why_a_process_ended(code: int | None, why: str) -> None:
    """A signal is told by its number, and SIGKILL with whether the kernel ended anything for want of memory."""
    assert why_ended(code, kills_for_memory()) == why


def test_a_kill_for_memory_is_only_perhaps_the_reason() -> None:
    """The kernel counts the kills of the whole machine, so they need not be of this process."""
    assert "perhaps because memory ran out: the kernel ended 2" in why_ended(-9, kills_for_memory() - 2)
