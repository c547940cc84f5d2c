"""
The configuration of one container, as the OCI runtime specification 1.0 has it: `config.json` of its bundle. Pure.

A container sees no files, processes or network but its own and has no rights: a read-only root, a small `/tmp`, a
minimal `/dev`, no `/sys`, no capability, no way to gain one, and no system call of `seccomp`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from coordinator.runtime.oci.seccomp import denied
from coordinator.runtime.protocol import Launch

Network: TypeAlias = Literal["none", "host"]

PIDS_MAX = 1_024
"""How many processes and threads a container may have."""
INIT = "/dev/init"
"""Where a container has the init of its node."""
_VARIABLES = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
_NAMESPACES = ("pid", "ipc", "uts", "mount")
_OOM_SCORE = 500
"""As in the process runtime: when memory runs out, containers are killed before the node agent."""
_HOST_NAME_LENGTH = 63
_PERIOD_US = 100_000
_QUOTA_US_MIN = 1_000
_SECRET = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats")
_FIXED = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PRIVATE = ["nosuid", "noexec", "nodev"]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the containers of a node have in common.

    `init` is the program of the node that is process 1 of each container, "" for none; `user` the id that it runs as;
    `swap` whether the kernel counts swap, without which a limit of it is refused.
    """

    init: str
    network: Network
    user: int
    swap: bool = True


def configuration(launch: Launch, cell: Cell, *, root: str, group: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return the configuration of a launch with the image in *root*, the control group *group* and these variables."""
    namespaces = [*_NAMESPACES, *(() if cell.network == "host" else ("network",))]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": root, "readonly": True},
        "hostname": launch.container_id[:_HOST_NAME_LENGTH],
        "process": {
            "terminal": False,
            "user": {"uid": cell.user, "gid": cell.user},
            "args": [*((INIT, "--") if cell.init else ()), *launch.command],
            "env": [f"{name}={value}" for name, value in (_VARIABLES | environment).items()],
            "cwd": "/",
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "rlimits": [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}],
            "noNewPrivileges": True,
            "oomScoreAdj": _OOM_SCORE,
        },
        "mounts": [
            _mount("/proc", "proc", _PRIVATE),
            _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            _mount("/dev/shm", "tmpfs", [*_PRIVATE, "mode=1777", "size=65536k"], source="shm"),  # noqa: S108
            _mount("/dev/mqueue", "mqueue", _PRIVATE),
            _mount("/tmp", "tmpfs", ["nosuid", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108 - the container's own
            *([_mount(INIT, "bind", ["bind", "ro", "nosuid", "nodev"], source=cell.init)] if cell.init else ()),
        ],
        "linux": {
            "cgroupsPath": group,
            "namespaces": [{"type": kind} for kind in namespaces],
            "resources": _resources(launch, swap=cell.swap),
            "maskedPaths": [*_SECRET, "/proc/sched_debug", "/proc/scsi", "/proc/asound", "/proc/interrupts"],
            "readonlyPaths": [*_FIXED],
            "seccomp": denied(),
        },
    }


def _mount(destination: str, kind: str, options: list[str], *, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": options}


def _resources(launch: Launch, *, swap: bool) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": PIDS_MAX}}
    if launch.memory_bytes:
        resources["memory"] = {"limit": launch.memory_bytes} | ({"swap": launch.memory_bytes} if swap else {})
    if launch.cpu_millis:
        quota_us = max(_QUOTA_US_MIN, launch.cpu_millis * _PERIOD_US // 1_000)
        resources["cpu"] = {"period": _PERIOD_US, "quota": quota_us}
    return resources
