"""
A real Docker of our own for tests: its own daemon, socket, data and network, ended with the run.

Images are made from files of this machine: there is no registry.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "busybox:test"
_READY_S = 60.0
_GONE_S = 30.0
_BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_APPLETS = ("sh", "sleep", "cat", "rm", "mv", "id", "touch", "ls", "dd", "head", "tail", "env", "seq", "echo", "wget")


class Docker:
    """A running daemon; `run` calls its command line."""

    def __init__(self, socket: Path, process: subprocess.Popen[bytes]) -> None:
        self.socket = socket
        self.process = process

    def run(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> str:
        done = subprocess.run(
            (_program("docker"), "-H", f"unix://{self.socket}", *arguments),
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done.stdout.decode().strip()

    def remove_all(self) -> None:
        """Remove all containers, running or not."""
        if found := self.run("ps", "-aq").split():
            self.run("rm", "-f", *found)


def missing() -> str:
    """Return why Docker cannot be started here; "" if it can."""
    if not _program("dockerd"):
        return "there is no dockerd: install docker.io, or run 'make test-real'"
    if not _program("docker"):
        return "there is no docker command line: install docker.io"
    if os.geteuid() != 0:
        return "only root can start dockerd"
    if not any(path.exists() for path in _BUSYBOX):
        return "there is no busybox: install busybox-static"
    return ""


def needed_docker() -> None:
    """Skip the test without Docker; fail it if `COORDINATOR_TEST_REQUIRE` names docker."""
    why = missing()
    if why and REQUIRED:
        pytest.fail(f"COORDINATOR_TEST_REQUIRE names docker, but {why}")
    if why:
        pytest.skip(why)


REQUIRED = "docker" in os.environ.get("COORDINATOR_TEST_REQUIRE", "").replace(",", " ").split()


@contextmanager
def running(root: Path) -> Iterator[Docker]:
    """Run a daemon whose files are all under *root* while the block runs."""
    socket = root / "docker.sock"
    with (root / "dockerd.log").open("wb") as output:
        process = subprocess.Popen(
            (
                _program("dockerd"),
                *("--iptables=false", "--ip6tables=false", "--bridge=none", "--host", f"unix://{socket}"),
                *("--data-root", str(root / "data"), "--exec-root", str(root / "exec")),
                *("--pidfile", str(root / "pid")),
            ),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    docker = Docker(socket, process)
    try:
        _until_ready(docker, root)
        docker.run("import", "-", IMAGE, stdin=busybox())
        yield docker
    finally:
        _end(docker)
        shutil.rmtree(root, ignore_errors=True)


def _until_ready(docker: Docker, root: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while docker.process.poll() is None and time.monotonic() < deadline:
        with suppress(AssertionError):
            docker.run("version")
            return
        time.sleep(0.1)
    words = (root / "dockerd.log").read_text(errors="replace")[-1_000:]
    why = f"dockerd does not start here: {words}"
    if REQUIRED:
        pytest.fail(why)
    pytest.skip(why)


def _end(docker: Docker) -> None:
    with suppress(AssertionError, subprocess.TimeoutExpired):
        docker.remove_all()
    docker.process.terminate()
    try:
        docker.process.wait(_GONE_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(docker.process.pid, signal.SIGKILL)
        docker.process.wait()


def busybox(mark: str = "") -> bytes:
    """Return the files of an image: a shell and a few programs; with a *mark*, as no other image has them."""
    content = next(path for path in _BUSYBOX if path.exists()).read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("bin", "tmp", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        program.size, program.mode = len(content), 0o755
        tar.addfile(program, io.BytesIO(content))
        if mark:
            file = tarfile.TarInfo("etc/mark")
            file.size = len(mark)
            tar.addfile(file, io.BytesIO(mark.encode()))
        for name in _APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()


def _program(name: str) -> str:
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin") or ""
