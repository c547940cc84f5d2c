"""
Images and programs for tests of the oci runtime: root file systems of busybox, and whether this machine can run them.

`COORDINATOR_TEST_REQUIRE` with `oci` or `gvisor` makes a test fail that would be skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from coordinator.runtime.process.hierarchies import find_hierarchies

IMAGE = "busybox"
PROGRAMS = {"oci": "runc", "gvisor": "runsc"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_APPLETS = ("sh", "sleep", "cat", "rm", "mv", "id", "touch", "ls", "dd", "head", "tail", "env", "seq", "echo", "wget")
_APPLETS_FOR_ESCAPES = ("mount", "umount", "mknod", "chroot", "unshare", "ping", "kill", "mkdir", "ps", "nc", "chmod")
_FOLDERS = ("bin", "dev", "proc", "tmp", "etc")


def missing(kind: str) -> str:
    """Return why containers of this kind, `oci` or `gvisor`, cannot run here; "" if they can."""
    program = PROGRAMS[kind]
    if os.geteuid() != 0:
        return "only root can run containers"
    if shutil.which(program, path=PATH) is None:
        return f"there is no {program}: install {program}, or run 'make test-real'"
    if not any(shutil.which(init, path=PATH) for init in ("tini-static", "catatonit", "docker-init")):
        return "there is no init for containers: install tini"
    if not any(path.exists() for path in _BUSYBOX):
        return "there is no busybox: install busybox-static"
    lacks = find_hierarchies().lacks
    return f"there are no control groups: {lacks}" if lacks else ""


def needed(kind: str) -> None:
    """Skip the test where containers of this kind cannot run; fail it if they are required."""
    why = missing(kind)
    if why and kind in os.environ.get("COORDINATOR_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"COORDINATOR_TEST_REQUIRE names {kind}, but {why}")
    if why:
        pytest.skip(why)


def make_images(folder: Path) -> Path:
    """Make the folder of images with one in it: a shell and a few programs."""
    root = folder / IMAGE
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(next(path for path in _BUSYBOX if path.exists()), root / "bin/busybox")
    for name in (*_APPLETS, *_APPLETS_FOR_ESCAPES):
        (root / "bin" / name).symlink_to("busybox")
    return folder
