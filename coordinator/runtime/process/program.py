"""
What a container of the process runtime runs: its program, and the environment that it gets.

Of the node agent's own environment it gets only what every program needs.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from coordinator.runtime.process.group import MARKER
from coordinator.runtime.protocol import Launch
from events.errors import Refused

_BASE_VARIABLES = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
_SHOWN = 128


def environment_of(launch: Launch) -> dict[str, str]:
    """Return all variables of a container, with the mark by which its processes are known."""
    base = {name: os.environ.get(name) or default for name, default in _BASE_VARIABLES.items()}
    return base | launch.environment | {MARKER: launch.name}


def program_of(program: str, path: str) -> str:
    """
    Return the program to run: an absolute path, a name on *path*, or `python`, the interpreter of this process.

    Raises:
        Refused: there is no such program here.
    """
    if program == "python" and sys.executable:
        return sys.executable
    found = shutil.which(program, path=path)
    # A relative path would depend on a directory that the caller cannot know.
    if found is None or not Path(found).is_absolute():
        raise Refused(
            f"command[0] {program[:_SHOWN]!r} not found on this node: use one on the PATH, or an absolute path",
            reason="bad_launch",
        )
    return found
