"""
Which control groups this process may make: read from its own `/proc`, without changing anything.

Groups are made below the group that this process is in, so a limit of the node agent holds for its containers too. In
version 2 a group with processes cannot give controllers to others: there the agent must be in a group `agent`, beside
which the containers get theirs, as systemd makes it with `Delegate=yes` and `DelegateSubgroup=agent`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

LIMITED = ("cpu", "memory", "pids")
"""The controllers that limit something."""
_HELPFUL = ("cpuacct", "freezer")
"""Of version 1: they measure and pause, and version 2 does both without them."""
UNIFIED = "unified"
"""The hierarchy of version 2 beside those of version 1, without a controller."""
_AGENT = "agent"
_OWN = Path("/proc/self")
_escaped = re.compile(r"\\([0-7]{3})")


class Hierarchies(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where groups can be made, by controller; in version 2 it is one folder for all.

    `lacks` tells for each controller of `LIMITED` that is not among them, why. `version` 0 means there is none.
    """

    version: Literal[0, 1, 2]
    folders: dict[str, Path]
    lacks: dict[str, str]


class _Mount(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    root: str
    point: Path
    is_writable: bool
    options: frozenset[str]


def find_hierarchies(own: Path = _OWN, *, whole: bool = False) -> Hierarchies:
    """
    Return where the process with the folder *own* of `/proc` may make control groups.

    The *whole* of version 1 has the hierarchies that neither limit nor measure, too: an OCI runtime makes groups there.
    """
    try:
        mounts = _mounts((own / "mountinfo").read_text(errors="replace"))
        groups = _groups((own / "cgroup").read_text(errors="replace"))
    except OSError as error:
        return _none(f"{error.filename} cannot be read ({error.strerror}): only Linux has control groups")
    if any(mount.kind == "cgroup" and not mount.options.isdisjoint(LIMITED) for mount in mounts):
        return _version_1(mounts, groups, whole=whole)
    for mount in mounts:
        if mount.kind == "cgroup2":
            return _version_2(mount, groups.get("", "/"))
    return _none("no control groups are mounted, usually at /sys/fs/cgroup")


def _none(why: str) -> Hierarchies:
    return Hierarchies(version=0, folders={}, lacks=dict.fromkeys(LIMITED, why))


def _version_1(mounts: list[_Mount], groups: dict[str, str], *, whole: bool) -> Hierarchies:
    folders: dict[str, Path] = {}
    lacks: dict[str, str] = {}
    others = groups.keys() - {*LIMITED, *_HELPFUL, ""} if whole else set()
    for controller in (*LIMITED, *_HELPFUL, *sorted(others)):
        mount = next((one for one in mounts if one.kind == "cgroup" and controller in one.options), None)
        if mount is None or controller not in groups:
            lacks[controller] = "its hierarchy of cgroup v1 is not mounted"
            continue
        folder = _inside(mount, groups[controller])
        if not mount.is_writable or not os.access(folder, os.W_OK):
            lacks[controller] = f"{folder} is not writable for this process"
        else:
            folders[controller] = folder
    lacks = {controller: why for controller, why in lacks.items() if controller in LIMITED}
    unified = next((one for one in mounts if one.kind == "cgroup2" and one.is_writable), None)
    if whole and unified is not None:
        folders[UNIFIED] = _inside(unified, groups.get("", "/"))
    return Hierarchies(version=1, folders=folders, lacks=lacks)


def _version_2(mount: _Mount, group: str) -> Hierarchies:
    folder = _inside(mount, group)
    if folder.name == _AGENT:
        folder = folder.parent
    if not mount.is_writable or not os.access(folder, os.W_OK):
        return _none(f"{folder} of cgroup v2 is not writable for this process")
    try:
        has = (folder / "cgroup.controllers").read_text().split()
    except OSError as error:
        return _none(f"{error.filename} cannot be read ({error.strerror})")
    return Hierarchies(
        version=2,
        folders={controller: folder for controller in LIMITED if controller in has},
        lacks={one: f"{folder} of cgroup v2 does not have this controller" for one in LIMITED if one not in has},
    )


def _mounts(text: str) -> list[_Mount]:
    found = []
    for line in text.splitlines():
        place, _, system = line.partition(" - ")
        fields, kind = place.split(" "), system.split(" ")
        if len(fields) >= 6 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):  # noqa: PLR2004  # see proc(5)
            found.append(
                _Mount(
                    kind=kind[0],
                    root=_plain(fields[3]),
                    point=Path(_plain(fields[4])),
                    is_writable="ro" not in fields[5].split(","),
                    options=frozenset(kind[2].split(",")),
                )
            )
    return found


def _groups(text: str) -> dict[str, str]:
    """Return the path of the own group by controller; that of version 2 has the name ''."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _inside(mount: _Mount, group: str) -> Path:
    """Return the folder of a group; a mount may show only a part of the hierarchy, as in a container of Docker."""
    below = mount.root.rstrip("/")
    if group != below and not group.startswith(f"{below}/"):
        return mount.point
    folder = mount.point / group[len(below) :].lstrip("/")
    return folder if ".." not in folder.parts else mount.point


def _plain(text: str) -> str:
    return _escaped.sub(lambda found: chr(int(found[1], 8)), text)
