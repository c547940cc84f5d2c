"""
The dead man's switch of containers that are no children of ours: a process of its own that outlives the node agent.

`python -I -S keeper.py SOCKET VERSION ROOT CLUSTER HOME` kills every running container of this cluster and home whose
label `coordinator.until` and the grant in `ROOT/.grant-CLUSTER` have both expired, and records the cause before. It
sleeps until then: it asks Docker once in a lease, and when the runtime rings its bell, a pipe, after a start. It ends
when no such container runs. Only the standard library is imported, and nothing of ours: it must be small, and must
start when there is little memory left.

What cannot be read grants nothing, and a grant of another boot is of another clock. While Docker does not answer it
tries again, for ever: the containers may still run.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import select
import signal
import socket
import sys
import time
import urllib.parse

HELD = 3
"""The exit code of a keeper that finds another one at work."""
_ANSWER_TIMEOUT_S = 10.0
_RETRY_S = 0.25
_IDLE_S = 1.0
_IDLE_TIMES = 5
_GRANT_BYTES = 128
_CAUSE = b"cut_off\n"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_TIMEOUT_S)
        self.sock.connect(self._path)


class _Keeper:
    def __init__(self, path: str, version: str, root: str, cluster: str, home: str) -> None:
        self._path = path
        self._version = version
        self._root = root
        self._grant = os.path.join(root, f".grant-{cluster}")  # noqa: PTH118 - pathlib takes memory
        labels = [f"coordinator.cluster={cluster}", f"coordinator.home={home}", "coordinator.until"]
        self._filters = json.dumps({"label": labels, "status": ["running", "paused"]})
        self._boot = _boot()

    def run(self, bell: int) -> None:
        idle = 0
        while idle < _IDLE_TIMES:
            try:
                living = self._living()
            except (OSError, http.client.HTTPException, ValueError):
                if not os.path.isdir(self._root):  # noqa: PTH112
                    return  # neither Docker nor the home is there any more
                time.sleep(_RETRY_S)
                continue
            now, granted = _now(), self._granted()
            ends = {name: max(until, granted) for name, until in living.items()}
            for name, end in ends.items():
                if end <= now:
                    self._kill(name)
            if any(end <= now for end in ends.values()):
                time.sleep(_RETRY_S)  # then look whether they are gone
                continue
            idle = 0 if ends else idle + 1
            left_s = (min(ends.values()) - now) / 100 if ends else _IDLE_S
            if select.select([bell], [], [], left_s)[0]:
                os.read(bell, 4096)
                idle = 0

    def _living(self) -> dict[str, int]:
        """Return when each container that needs a grant is killed without one."""
        query = urllib.parse.urlencode({"filters": self._filters})
        found = json.loads(self._ask("GET", f"/containers/json?{query}"))
        return {one["Names"][0].lstrip("/"): self._time(one["Labels"].get("coordinator.until", "")) for one in found}

    def _kill(self, name: str) -> None:
        try:
            self._mark(name)
        except OSError as error:  # a full disk must not keep a container alive
            _say(f"cause of {name} not recorded: {error}")
        try:
            self._ask("POST", f"/containers/{name}/kill?signal=SIGKILL")
        except (OSError, http.client.HTTPException) as error:
            _say(f"{name} not killed: {error!r}")

    def _mark(self, name: str) -> None:
        file = os.path.join(self._root, "causes", name)  # noqa: PTH118
        new = f"{file}.keeper"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, _CAUSE)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(new, file)
        except FileExistsError:
            pass
        finally:
            os.unlink(new)  # noqa: PTH108

    def _ask(self, method: str, path: str) -> bytes:
        connection = _Connection(self._path)
        try:
            connection.request(method, f"/v{self._version}{path}")
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= http.client.BAD_REQUEST and method == "GET":
                raise http.client.HTTPException(f"status {answer.status}")
            return content
        finally:
            connection.close()

    def _granted(self) -> int:
        try:
            descriptor = os.open(self._grant, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            return self._time(os.read(descriptor, _GRANT_BYTES).decode(errors="replace").strip())
        except OSError:
            return 0
        finally:
            os.close(descriptor)

    def _time(self, text: str) -> int:
        """Return the hundredths of a second in `BOOT TIME`, 0 for anything else and for another boot."""
        boot, _, until = text.partition(" ")
        return int(until) if boot == self._boot and until.isascii() and until.isdigit() else 0


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return "-"


def _now() -> int:
    """Return the time of the grants, in hundredths of a second: that of `/proc/uptime`, else the wall clock."""
    try:
        with open("/proc/uptime") as file:  # noqa: PTH123
            return int(float(file.read().split()[0]) * 100)
    except OSError:
        return int(time.clock_gettime(time.CLOCK_REALTIME) * 100)


def main(path: str, version: str, root: str, cluster: str, home: str) -> int:
    """Keep watch; return the exit code."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    lock = os.open(os.path.join(root, f".keeper-{cluster}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # noqa: PTH118
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return HELD
    bell = os.path.join(root, f".bell-{cluster}")  # noqa: PTH118
    if not os.path.exists(bell):  # noqa: PTH110
        os.mkfifo(bell, 0o600)
    # Open for writing too: otherwise it is readable for ever once a runtime has closed its end.
    descriptor = os.open(bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(1, b"ready\n")
    _Keeper(path, version, root, cluster, home).run(descriptor)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
