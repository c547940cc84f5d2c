"""Which process gets the CPU first; each case in a process of its own, which cannot take its nice value back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IS_ROOT = os.geteuid() == 0

pytestmark = pytest.mark.skipif(os.nice(0) != 0, reason="the tests themselves yield the CPU")


def nice_after(what: str, *, before: int = 0) -> int:
    """Return the nice value of a process, started with *before*, that has done *what*."""
    program = (
        f"from coordinator.own_process.priority import come_first, yield_cpu\nimport os\n{what}\nprint(os.nice(0))"
    )
    argv = ["nice", "-n", str(before), sys.executable, "-c", program]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True, start_new_session=True).stdout)


@pytest.mark.parametrize(
    ("what", "before", "after"),
    [
        ("come_first(-10)", 0, -10 if IS_ROOT else 0),
        ("come_first(0)", 0, 0),
        ("come_first(-10)", 7, 7),  # whoever started it so is obeyed
        ("yield_cpu(5)", 0, 5),
        ("yield_cpu(5)", 7, 12),
        ("yield_cpu(19)", 7, 19),
        ("come_first(-10); yield_cpu(5)", 0, 5),  # a child of one that comes first does not
    ],
)
def test_the_nice_value(what: str, before: int, after: int) -> None:
    """The writer comes first where that is allowed; whoever yields does so from what it was started with."""
    assert nice_after(what, before=before) == after
