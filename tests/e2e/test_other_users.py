"""
The program as others run it: an unprivileged user, two at once, `umask 0`, odd paths, a slow disk, a home that moved.

Needs root on Linux, to become other users. Where they may not reach this Python, they see it by a mount.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tidy import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ALICE, BOB, UNKNOWN = 65534, 65533, 54_321
PATIENCE_S = 30.0
ODD_NAMES = ["a b", "ünï→", "it's", 'qu"ote', "$HOME #x; {y}", "back\\slash", "-dash"]
BLKIO = Path("/sys/fs/cgroup/blkio")
SLOW_BYTES_S = 400_000

_ENTER = r"""
set -e
uid=$1 mask=$2
shift 2
umask 022
while [ "$1" != -- ]; do
  closed=$1 prefix=$2 kept=$3
  shift 3
  mount --bind "$prefix" "$kept"
  mount -t tmpfs -o mode=755 none "$closed"
  mkdir -p "$prefix"
  mount --bind "$kept" "$prefix"
done
shift
umask "$mask"
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""

_PROGRAM = """
import asyncio, sys
from coordinator.container import ContainerConfig, ContainerManager

async def main():
    containers = ContainerManager()
    name = await containers.create_container(ContainerConfig(agent_id=sys.argv[1], agent_type="task_agent"))
    assert await containers.start_container(name)

asyncio.run(main())
"""


def _closed_to_others(path: Path) -> Path | None:
    """Return the first directory on the way to *path* that others may not enter."""
    return next((one for one in [*path.parents][::-1] if not one.stat().st_mode & stat.S_IXOTH), None)


def _mounts(kept: Path) -> list[str]:
    words: list[str] = []
    for prefix in dict.fromkeys(Path(one).resolve() for one in (sys.base_prefix, sys.prefix, ROOT)):
        closed = _closed_to_others(prefix)
        if closed is not None:
            (place := kept / str(len(words))).mkdir(exist_ok=True)
            words += [str(closed), str(prefix), str(place)]
    return words


@cache
def _why_not() -> str:
    """Return why other users cannot be tried here; '' when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to become another user"
    if not all(shutil.which(one) for one in ("unshare", "setpriv", "mount")):
        return "needs unshare, setpriv and mount of util-linux"
    with tempfile.TemporaryDirectory() as kept:
        words = _mounts(Path(kept))
        if len({words[at] for at in range(0, len(words), 3)}) * 3 != len(words):
            return "this Python and this checkout are below one directory that only root may enter"
        tried = subprocess.run(
            ["unshare", "-m", "sh", "-c", _ENTER, "sh", str(ALICE), "022", *words, "--", sys.executable, "-c", ""],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return "" if tried.returncode == 0 else f"another user cannot run this Python here: {tried.stderr.strip()[-200:]}"


pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "-"), pytest.mark.untraced]


class Place:
    """A directory that every user may enter and write, as /tmp is; all that runs in it is ended with it."""

    def __init__(self, path: Path, kept: Path) -> None:
        self.path = path
        self._mounts = _mounts(kept)

    def line(self, uid: int, *words: str, umask: str = "022") -> list[str]:
        """Return the command line that runs *words* as the user *uid*."""
        return ["unshare", "-m", "sh", "-c", _ENTER, "sh", str(uid), umask, *self._mounts, "--", *words]

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a login of that user has."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }

    def home_of(self, uid: int) -> Path:
        """Return the home directory of a user, made as `adduser` does."""
        home = self.path / f"home-{uid}"
        if not home.exists():
            home.mkdir(mode=0o755)
            os.chown(home, uid, uid)
        return home

    def run(
        self, uid: int, *arguments: str, umask: str = "022", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `coordinator ARGUMENTS` as a user."""
        return subprocess.run(
            self.line(uid, sys.executable, "-m", "coordinator.cli", *arguments, umask=umask),
            env=self.environment(**({"HOME": str(self.home_of(uid))} | environment)),
            cwd=self.home_of(uid),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def start_container(self, uid: int, name: str, *, umask: str, **environment: str) -> None:
        """Let a program of the user start a container, and wait until it runs."""
        ended = subprocess.run(
            self.line(uid, sys.executable, "-c", _PROGRAM, name, umask=umask),
            env=self.environment(**({"HOME": str(self.home_of(uid))} | environment)),
            cwd=self.home_of(uid),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr

    def told(self, uid: int, *arguments: str, umask: str = "022", **environment: str) -> str:
        """Run it, expect success, and return its output."""
        ended = self.run(uid, *arguments, umask=umask, **environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    @contextmanager
    def up(
        self, uid: int, *arguments: str, umask: str = "022", cgroup: str = "", **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """Run `coordinator up` as a user; it is ended, and must end well."""
        output = self.path / f"up-{uid}-{time.monotonic_ns()}.log"
        with output.open("w") as sink:
            process = subprocess.Popen(
                self.line(uid, sys.executable, "-m", "coordinator.cli", "up", *arguments, umask=umask),
                env=self.environment(**({"HOME": str(self.home_of(uid))} | environment)),
                cwd=self.home_of(uid),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                text=True,
                preexec_fn=(lambda: _enter(Path(cgroup))) if cgroup else None,  # noqa: PLW1509  # no threads here
            )
        try:
            give_up = time.monotonic() + PATIENCE_S
            while "is up at" not in output.read_text():
                assert process.poll() is None, output.read_text()[-3000:]
                assert time.monotonic() < give_up, output.read_text()[-3000:]
                time.sleep(0.2)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code in (0, -signal.SIGKILL), output.read_text()[-3000:]
        assert "Traceback" not in output.read_text()


def _enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture
def place() -> Iterator[Place]:
    path = Path(tempfile.mkdtemp(prefix="users-"))
    kept = Path(tempfile.mkdtemp(prefix="mounts-"))
    path.chmod(0o1777)
    try:
        yield Place(path, kept)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(kept, ignore_errors=True)


def submit(place: Place, uid: int, name: str, **environment: str) -> str:
    """Submit a task and return its id."""
    return place.told(uid, "task", "submit", "nap", "--id", name, **environment).strip()


def statuses(place: Place, uid: int, **environment: str) -> dict[str, str]:
    tasks = json.loads(place.told(uid, "task", "list", "--json", **environment))
    return {one["task_id"]: one["status"] for one in tasks}


def test_a_user_without_a_home_is_told_what_to_set(place: Place) -> None:
    """Nobody in /etc/passwd, no HOME; a HOME that does not exist or belongs to another; no traceback."""
    ended = place.run(UNKNOWN, "up", HOME="")
    assert (ended.returncode, "COORDINATOR_HOME" in ended.stderr) == (5, True), ended.stderr
    alices = place.home_of(ALICE)
    for home in ("/nonexistent", str(alices)):
        ended = place.run(BOB, "up", HOME=home)
        assert (ended.returncode, "COORDINATOR_HOME" in ended.stderr) == (5, True), ended.stderr
        assert "Traceback" not in ended.stderr


def test_two_users_on_one_machine(place: Place) -> None:
    """Each has a cluster of its own, on the default port or the next; neither reads, stops or joins the other's."""
    with place.up(ALICE), place.up(BOB):
        submit(place, ALICE, "of-alice")
        submit(place, BOB, "of-bob")
        assert (set(statuses(place, ALICE)), set(statuses(place, BOB))) == ({"of-alice"}, {"of-bob"})
        homes = {uid: place.home_of(uid) / ".local/state/coordinator" for uid in (ALICE, BOB)}
        assert {home.stat().st_uid for home in homes.values()} == {ALICE, BOB}
        ended = place.run(BOB, "task", "list", COORDINATOR_HOME=str(homes[ALICE]))
        assert ended.returncode != 0
        assert "Traceback" not in ended.stderr
        ended = place.run(BOB, "up", COORDINATOR_HOME=str(homes[ALICE]))
        assert ended.returncode == 5, ended.stderr
        assert "Traceback" not in ended.stderr
        assert readable(place, BOB, place.home_of(ALICE)) == []


def readable(place: Place, uid: int, folder: Path) -> list[str]:
    """Return the files that a user can read, or put something into."""
    found = subprocess.run(
        place.line(uid, "find", str(folder), "(", "-type", "f", "-readable", "-o", "-writable", ")", "-print"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return [line for line in found.stdout.splitlines() if not Path(line).is_symlink()]


def test_in_odd_paths_and_with_umask_0_all_works_and_nothing_is_open_to_others(place: Place) -> None:
    """
    Blanks, quotes, what a shell or nats-server would expand, other alphabets; and not one bit for others.

    In the home and what is above it, logs, read model, containers, a backup, an archive, and credentials.
    """
    base = place.home_of(ALICE)
    odd = base / "/".join(ODD_NAMES)
    told = {"COORDINATOR_HOME": str(odd / "home"), "umask": "000"}
    with place.up(ALICE, **told):
        submit(place, ALICE, "t1", **told)
        place.told(ALICE, "inbox", "add", "warehouse", **told)
        place.start_container(ALICE, "c1", **told)
        place.told(ALICE, "backup", "create", str(odd / "backups/a backup ü"), **told)
        place.told(ALICE, "backup", "verify", str(odd / "backups/a backup ü"), **told)
        place.told(ALICE, "archive", "run", str(odd / "archives/ü"), "--keep-days", "0", **told)
        place.told(ALICE, "auth", "init", str(odd / "auths/ü ü"), "--node", "n", "--tls", **told)
        place.told(ALICE, "auth", "check", COORDINATOR_NATS__AUTH=str(odd / "auths/ü ü"))
        wait_for(lambda: running(place, "c1", **told))
        wait_for(lambda: place.run(ALICE, "doctor", **told).returncode == 0)
        assert open_to_others(base) == [], open_to_others(base)
        assert readable(place, BOB, base) == []
    assert open_to_others(base) == []


def running(place: Place, agent_id: str, **environment: str) -> bool:
    found = json.loads(place.told(ALICE, "container", "list", "--json", **environment))
    return any(one["agent_id"] == agent_id and one["status"] == "running" for one in found)


def wait_for(is_so: object) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < give_up
        time.sleep(0.2)


def open_to_others(base: Path) -> list[str]:
    """Return everything below a user's home that has a bit for others."""
    found = []
    for path in sorted(base.rglob("*")):
        with suppress(FileNotFoundError):
            if not path.is_symlink() and path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                found.append(f"{path.relative_to(base)} {path.stat().st_mode:o}")
    return found


def processes_of(home: Path) -> list[str]:
    """Return the processes that were started with this home."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"COORDINATOR_HOME={home}\0".encode() in file.read_bytes():
                found.append(file.parent.name)
    return found


@pytest.mark.parametrize("end", ["orderly", "killed"])
def test_a_home_that_moved_while_it_was_down_has_everything(place: Place, end: str) -> None:
    """Tasks, containers, token, read model: at the new place, behind a link too."""
    first, second, link = (place.home_of(ALICE) / name for name in ("one", "to two", "link"))
    told = {"COORDINATOR_HOME": str(first)}
    with place.up(ALICE, **told) as process:
        submit(place, ALICE, "t1", **told)
        place.start_container(ALICE, "c1", umask="022", **told)
        wait_for(lambda: running(place, "c1", **told))
        token = (first / "token").read_text()
        if end == "killed":
            process.kill()
            process.wait(PATIENCE_S)
            wait_for(lambda: not processes_of(first))
    first.rename(second)
    link.symlink_to(second)
    told = {"COORDINATOR_HOME": str(link)}
    with place.up(ALICE, **told):
        assert statuses(place, ALICE, **told) == {"t1": "pending"}
        assert (second / "token").read_text() == token
        wait_for(lambda: running(place, "c1", **told))
        place.told(ALICE, "verify", **told)
    assert not first.exists()


@pytest.mark.skipif(not (BLKIO / "blkio.throttle.write_bps_device").exists(), reason="needs cgroup v1 with blkio")
def test_a_slow_disk_makes_it_slow_and_nothing_else(place: Place) -> None:
    """Commands are answered, nobody is given up, and an end is orderly, on a disk of 400 kB and 40 writes a second."""
    device = place.path.stat().st_dev
    cgroup = BLKIO / f"coordinator-{os.getpid()}"
    cgroup.mkdir()
    try:
        number = f"{os.major(device)}:{os.minor(device)}"
        for name, value in (("write_bps", SLOW_BYTES_S), ("write_iops", 40)):
            try:
                (cgroup / f"blkio.throttle.{name}_device").write_text(f"{number} {value}")
            except OSError as error:
                pytest.skip(f"the disk {number} cannot be throttled: {error.strerror}")
        with place.up(ALICE, cgroup=str(cgroup)):
            for number_ in range(3):
                submit(place, ALICE, f"t{number_}")
            assert len(statuses(place, ALICE)) == 3
            written = (cgroup / "blkio.throttle.io_service_bytes").read_text()
            assert int(written.split("Write ")[1].split()[0]) > 0, "nothing of it was throttled"
    finally:
        give_up = time.monotonic() + 5.0
        while True:
            try:
                cgroup.rmdir()
                break
            except OSError:
                assert time.monotonic() < give_up, "processes are left in the cgroup"
                time.sleep(0.1)
