"""
Runs a container by an OCI runtime, as the program of a shim: `runc run` with the bundle in the container's directory.

That program waits for the container, hands signals on to it, and ends with its exit code; so everything that holds for
a process holds for it. The container itself is in the control group, where it is limited, measured, frozen and killed
without that program's help. What the program knows of it lies in the container's directory, too, and goes with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from coordinator.atomic_files import private_file
from coordinator.runtime.oci.bundle import Cell, Network, configuration
from coordinator.runtime.oci.images import root_of
from coordinator.runtime.process.control_group import GroupPlace
from coordinator.runtime.process.group import MARKER
from coordinator.runtime.process.program import Invocation
from coordinator.runtime.protocol import Launch
from events.errors import Refused

INITS = ("tini-static", "catatonit", "docker-init")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/podman"
_CONFIGURATION = "config.json"
_PID = "init"
_STATE = "state"
_ID_DIGITS = 32
_VERSION_TIMEOUT_S = 10.0
_GVISOR = "runsc"
_KINDS = ("runc", "crun", _GVISOR)
_UNIFIED_MOUNT = Path("/sys/fs/cgroup")
_is_pid = re.compile(r"[1-9][0-9]{0,9}\n?").fullmatch


class Bundles:
    """Runs containers from *images* by *program*; see `OciRuntime` for the rest."""

    def __init__(self, *, images: Path, program: str, init: str, network: Network, user: int, groups: Path) -> None:
        self._images = images.absolute()
        self._program = program
        self._init = init
        self._network: Network = network
        self._user = user
        self._groups = groups
        self._kind = ""
        self._keeps: tuple[str, ...] = ()
        self._cell = Cell(init="", network=network, user=user)

    def open(self) -> None:
        if sys.platform != "linux" or os.geteuid() != 0:
            raise _refused("node.runtime 'oci' needs a node agent that runs as root on Linux: or use process or docker")
        found = shutil.which(self._program, path=_PATH)
        if found is None:
            raise _refused(
                f"node.oci.program {self._program!r} not found on this node: install runc, crun or runsc, "
                "or use an absolute path"
            )
        self._kind = _kind(found)
        self._program = found
        self._keeps = ("--keep",) if "--keep" in _output(found, "run", "--help") else ()
        self._cell = Cell(init=self._found_init(), network=self._network, user=self._user)

    def invocation(self, launch: Launch) -> Invocation:
        if not launch.image:
            raise Refused(
                f"container {launch.name} has no image, without which an OCI runtime runs nothing: "
                "set the image of its agent type, or use nodes with node.runtime: process",
                reason="bad_launch",
            )
        root_of(launch.image, self._images)
        own = (f"--network={self._network}",) if self._kind == _GVISOR else ()
        run = ("run", *self._keeps, "--bundle", ".", "--pid-file", _PID, self._id(launch.name))
        return Invocation(
            command=(self._program, "--root", _STATE, *own, *run),
            environment={"PATH": _PATH, "LANG": "C.UTF-8", MARKER: launch.name},
            folder=".",
            enters=False,
        )

    def furnish(self, directory: Path, launch: Launch, place: GroupPlace | None) -> None:
        if place is None:
            raise FileNotFoundError(f"there is no control group for {launch.name}")
        cell = msgspec.structs.replace(self._cell, swap=_counts_swap(place))
        if not _limits_cpu(place):  # a limit above that of the node agent is none, and runc would fail with it
            launch = msgspec.structs.replace(launch, cpu_millis=0)
        made = configuration(
            launch,
            cell,
            root=str(root_of(launch.image, self._images)),
            group=self._group(launch.name, place),
            environment=launch.environment | {MARKER: launch.name},
        )
        with private_file(directory / _CONFIGURATION) as file:
            file.write(msgspec.json.encode(made))

    def has_begun(self, directory: Path) -> bool:
        try:
            text = (directory / _PID).read_text()
        except OSError:
            return False
        if not _is_pid(text) or not self._runs_command(int(text)):
            return False
        with suppress(OSError):  # it was read, and has values of the environment
            (directory / _CONFIGURATION).unlink(missing_ok=True)
        return True

    def asks_to_end(self, directory: Path) -> tuple[str, ...]:
        if self._kind != _GVISOR:
            return ()
        # A signal would end `runsc run` itself, and with it the container: it hands none on without a terminal.
        return self._program, "--root", _STATE, "kill", self._id(directory.name), "TERM"

    def never_ran(self, directory: Path) -> bool:
        return not (directory / _PID).exists()

    def _id(self, name: str) -> str:
        """Return the id by which the program knows a container; it is unique only among those of this runtime."""
        return sandbox_id(self._groups, name) if self._kind == _GVISOR else name

    def _runs_command(self, pid: int) -> bool:
        """Return whether the init of a container has started the command; True where that cannot be seen."""
        if self._kind == _GVISOR or not self._cell.init:
            return True
        try:
            return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        except OSError:
            return True

    def _group(self, name: str, place: GroupPlace) -> str:
        """Return the path of the group as the program reads it: relative to its own group, or absolute in version 2."""
        if place.version == 1:
            return str(self._groups / name)
        folder = next(iter(place.folders.values()))
        return f"/{Path(folder).relative_to(_UNIFIED_MOUNT)}"

    def _found_init(self) -> str:
        if self._init == "none":
            return ""
        names = (self._init,) if self._init else INITS
        found = next((path for name in names if (path := shutil.which(name, path=_PATH)) is not None), None)
        if found is None:
            raise _refused(
                f"node.oci.init: {' or '.join(names)} not found on this node: install tini, name another static init, "
                "or use none (then a command that does not handle SIGTERM is only killed)"
            )
        return os.path.realpath(found)


def sandbox_id(groups: Path, name: str) -> str:
    """Return the id of a container for runsc: it names a socket that all of the machine share, and must be short."""
    return hashlib.sha256(f"{groups}/{name}".encode()).hexdigest()[:_ID_DIGITS]


def _kind(program: str) -> str:
    """Return which OCI runtime a program is, by what it says of itself."""
    word = _output(program, "--version").split(maxsplit=1)[:1]
    if not word or word[0] not in _KINDS:
        raise _refused(f"node.oci.program {program!r} is none of {', '.join(_KINDS)}")
    return word[0]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            env={"PATH": _PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(f"node.oci.program {command[0]!r} does not run on this node: {error}") from error
    return done.stdout + done.stderr


def _counts_swap(place: GroupPlace) -> bool:
    name = "memory.memsw.limit_in_bytes" if place.version == 1 else "memory.swap.max"
    return (Path(place.folders["memory"]) / name).exists()


def _limits_cpu(place: GroupPlace) -> bool:
    return place.version != 1 or Path(place.folders["cpu"], "cpu.cfs_quota_us").read_text().strip() != "-1"


def _refused(why: str) -> Refused:
    return Refused(why, reason="bad_runtime")
