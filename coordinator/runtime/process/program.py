"""
What the shim of a container runs: by default the command itself, as a program of this machine.

Of the node agent's own environment a command gets only what every program needs.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Protocol

import msgspec

from coordinator.runtime.process import directory as on_disk
from coordinator.runtime.process.control_group import GroupPlace
from coordinator.runtime.process.group import MARKER
from coordinator.runtime.protocol import Launch
from events.errors import Refused

_BASE_VARIABLES = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
_SHOWN = 128


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a shim runs; `enters` says whether it enters the control group, or puts something there itself.

    `folder` is where it runs, in the container's directory, unless the node has a folder for all.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    folder: str = on_disk.WORK
    enters: bool = True


class Programs(Protocol):
    """How the commands of containers are run."""

    def open(self) -> None:
        """
        Check that this machine can run them.

        Raises:
            Refused: it cannot; the message says why.
        """
        ...

    def invocation(self, launch: Launch) -> Invocation:
        """
        Return what runs a launch.

        Raises:
            Refused: it cannot be run; the message names the value and what is allowed.
        """
        ...

    def furnish(self, directory: Path, launch: Launch, place: GroupPlace | None) -> None:
        """
        Write what the program reads into the container's directory.

        Raises:
            OSError: it cannot be written.
        """
        ...

    def has_begun(self, directory: Path) -> bool:
        """Return whether the command runs, so that signals to the container reach it; True if that was so earlier."""
        ...

    def asks_to_end(self, directory: Path) -> tuple[str, ...]:
        """Return the program that hands SIGTERM to a command; () if a signal to its process group reaches it."""
        ...

    def never_ran(self, directory: Path) -> bool:
        """Return whether a program that has ended by itself has not got as far as running the command."""
        ...


class Commands:
    """Runs a command as a program of this machine."""

    def open(self) -> None:
        pass

    def invocation(self, launch: Launch) -> Invocation:
        environment = environment_of(launch)
        command = (program_of(launch.command[0], environment["PATH"]), *launch.command[1:])
        return Invocation(command=command, environment=environment)

    def furnish(self, directory: Path, launch: Launch, place: GroupPlace | None) -> None:
        pass

    def has_begun(self, directory: Path) -> bool:
        return on_disk.has_begun(directory)

    def asks_to_end(self, directory: Path) -> tuple[str, ...]:
        del directory
        return ()

    def never_ran(self, directory: Path) -> bool:
        del directory
        return False  # whatever it did, its exit code tells


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
