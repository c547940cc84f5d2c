"""Which program a container of the process runtime runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from events.errors import Refused

_SHOWN = 128


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
