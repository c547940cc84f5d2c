"""
The control groups of one process runtime, in `<own group>/coordinator/<cluster>.<key>/<name>` of each hierarchy.

The key stands for the folder of the runtime's containers: two nodes of a cluster on one machine have groups apart, so
what a dead agent left can be told from what another one runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import structlog

from coordinator.runtime.process.control_group import ControlGroup, GroupPlace, fill_cpuset
from coordinator.runtime.process.hierarchies import LIMITED, Hierarchies, find_hierarchies
from coordinator.runtime.protocol import Launch
from events.errors import Refused, Unavailable

Isolation: TypeAlias = Literal["none", "available", "limits"]
"""`none`: no limits; `available`: those that this machine can give; `limits`: all of `LIMITED`, or it does not open."""

PIDS_MAX = 2_048
"""How many processes and threads a container may have, so that one that forks forever leaves the machine usable."""
NO_LIMITS = "none"
_OURS = "coordinator"
_KEY_DIGITS = 8
_HOW = (
    "under systemd (cgroup v2) give the agent's unit Delegate=yes and DelegateSubgroup=agent; with cgroup v1 run it as "
    "root or own its groups; or use {otherwise}"
)

log = structlog.get_logger(__name__)


def check_isolation(isolation: Isolation, found: Hierarchies | None = None) -> None:
    """
    Check that this process may be able to give this *isolation*; only opening tells for sure.

    Raises:
        Refused: it cannot; the message names what is missing and how to get it.
    """
    found = found if found is not None else find_hierarchies()
    if isolation == "limits" and found.lacks:
        raise _refused(found.lacks, Demand())


def groups_of(cluster: str, root: Path) -> Path:
    """Return the folder of the groups of a runtime, below the group of its process."""
    key = hashlib.sha256(str(root).encode()).hexdigest()[:_KEY_DIGITS]
    return Path(_OURS, f"{cluster}.{key}")


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What asks for all limits, and what would not."""

    of: str = "node.isolation is 'limits'"
    otherwise: str = "node.isolation available or none"


class ControlGroups:
    """Makes, finds and removes the groups of one runtime; those that cannot be removed yet are tried again."""

    def __init__(
        self,
        *,
        cluster: str,
        root: Path,
        isolation: Isolation,
        pids_max: int = PIDS_MAX,
        found: Hierarchies | None = None,
        demand: Demand | None = None,
    ) -> None:
        self._below = groups_of(cluster, root)
        self._isolation = isolation
        self._pids_max = pids_max
        self._demand = demand or Demand()
        self._found = found if found is not None else find_hierarchies()
        self._folders: dict[str, Path] = {}
        self._left: list[ControlGroup] = []

    @property
    def limits(self) -> str:
        """What is enforced, for people, such as `cpu, memory, pids by cgroup v1`, or `none`."""
        given = [controller for controller in LIMITED if controller in self._folders]
        return f"{', '.join(given)} by cgroup v{self._found.version}" if given else NO_LIMITS

    def open(self) -> None:
        """
        Make the folders for groups.

        Raises:
            Refused: the isolation is `limits`, and they cannot all be made.
        """
        lacks = dict(self._found.lacks)
        if self._isolation != "none":
            for controller, folder in self._found.folders.items():
                try:
                    self._folders[controller] = self._opened(folder)
                except OSError as error:
                    lacks[controller] = f"{error.filename or folder}: {error.strerror}"
        log.info("limits_found", isolation=self._isolation, limits=self.limits, lacks=lacks)
        if self._isolation == "limits" and not self._folders.keys() >= set(LIMITED):
            self.close()
            lacks = {controller: why for controller, why in lacks.items() if controller in LIMITED}
            raise _refused(lacks, self._demand)

    def place(self, name: str) -> GroupPlace | None:
        """Return where the group of a container will be; None when it gets none."""
        if not self._folders or self._found.version == 0:
            return None
        folders = {controller: str(folder / name) for controller, folder in self._folders.items()}
        return GroupPlace(version=self._found.version, folders=folders)

    def make(self, place: GroupPlace, launch: Launch) -> ControlGroup:
        """
        Make and return the group of a launch.

        Raises:
            OSError: it could not be made; nothing of it remains.
        """
        group = ControlGroup(place)
        group.make(memory_bytes=launch.memory_bytes, cpu_millis=launch.cpu_millis, pids=self._pids_max)
        return group

    def sweep(self, known: Container[str]) -> None:
        """End the groups that an agent left and whose containers are not *known*, with all that runs in them."""
        folders = {controller: folder / self._below for controller, folder in self._found.folders.items()}
        there = [folder for folder in set(folders.values()) if folder.is_dir()]
        names = {path.name for folder in there for path in folder.iterdir() if path.is_dir()}
        for name in sorted(names):
            if name not in known and self._found.version != 0:
                log.info("group_left_behind", name=name)
                place = {controller: str(folder / name) for controller, folder in folders.items()}
                self.end(ControlGroup(GroupPlace(version=self._found.version, folders=place)))

    def end(self, group: ControlGroup) -> None:
        """Kill all that is in a group and remove it, now or with one of the next calls of `retry`."""
        self._left.append(group)
        self.retry()

    def retry(self) -> bool:
        """Try to remove what is left; return whether nothing is."""
        self._left = [group for group in self._left if not _ended(group)]
        return not self._left

    def close(self) -> None:
        """Remove the folders that have no group any more."""
        for folder in set(self._found.folders.values()):
            for path in (folder / self._below, (folder / self._below).parent):
                with suppress(OSError):
                    path.rmdir()
        self._folders = {}

    def _opened(self, folder: Path) -> Path:
        opened = folder / self._below
        opened.mkdir(parents=True, exist_ok=True)
        if self._found.version == 2:  # noqa: PLR2004
            words = " ".join(f"+{controller}" for controller in self._found.folders)
            for path in (folder, opened.parent, opened):
                (path / "cgroup.subtree_control").write_text(words)
        else:
            for path in (opened.parent, opened):
                fill_cpuset(path)
        return opened


def _ended(group: ControlGroup) -> bool:
    try:
        group.kill()
        return group.remove()
    except Unavailable as error:
        log.warning("group_not_removed", folders=sorted(set(group.place.folders.values())), error=error.message)
        return False


def _refused(lacks: dict[str, str], demand: Demand) -> Refused:
    why = "; ".join(f"{controller}: {reason}" for controller, reason in lacks.items())
    how = _HOW.format(otherwise=demand.otherwise)
    return Refused(
        f"{demand.of}, but this node cannot limit {', '.join(lacks)} ({why}): {how}",
        reason="bad_runtime",
    )
