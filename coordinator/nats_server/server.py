"""
Runs a real nats-server as a child process, with the settings in nats.conf.

There is one server per store directory: every process that can still write to the store, the server itself included,
holds its lock. The server never outlives this process (see `coordinator.guard`). The token is passed in the
environment: it must never appear on a command line, in a log or in an error. This module has no NATS client; it checks
readiness over HTTP.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Self

import msgspec
import structlog

from coordinator import guard
from coordinator.atomic_files import private_folder
from coordinator.nats_server.find import Version, dotted, find_server, server_version
from coordinator.nats_server.health import HOST, is_enabled, room_error
from coordinator.nats_server.ports import ServerPorts, remove_left, running_on
from events.errors import Refused, Unavailable

log = structlog.get_logger(__name__)

_NOT_ENTERED = "the nats-server has not been started; enter the EmbeddedServer first"
_ONLY_OWNER = 0o077
_LAST_PORT = 65535
_POLL_S = 0.005
_PORT_PATIENCE_S = 5.0
_LOG_LINES_IN_ERRORS = 12
_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{7,127}")


class EmbeddedServer:
    """
    A nats-server of our own: ready when the block is entered, stopped when it is left.

    Args:
        store: the directory for its data, created if missing; its log is `<store>.log`.
        port: the port to listen on; None takes a free one.
        next_ports: how many ports after *port* may be used if another program listens on it; the first free one is.
        token: the token of an earlier server; None makes a new one.
        ready_timeout_s: how long it may take to start, also with a large store.
        stop_grace_s: how long it may take to stop before it is killed (about 10 ms per durable consumer).

    Raises:
        Refused: there is no usable nats-server, an argument is not valid, or the store is in use.
        Unavailable: its disk has no room, or the server did not start; then the message ends with the last lines of
            its log.
    """

    def __init__(
        self,
        store: Path,
        *,
        port: int | None = None,
        next_ports: int = 0,
        token: str | None = None,
        ready_timeout_s: float = 60.0,
        stop_grace_s: float = 10.0,
    ) -> None:
        if port is not None and not 1 <= port <= _LAST_PORT:
            raise Refused(f"port is {port}; it must be 1 to {_LAST_PORT}, or None for a free one", reason="bad_port")
        if token is not None and not _TOKEN.fullmatch(token):
            raise Refused("token must be a letter and then 7 to 127 letters, digits, - or _", reason="bad_token")
        self.store = store.absolute()
        self.log_file = self.store.with_name(self.store.name + ".log")
        self.token = token if token is not None else new_token()
        self._fixed_port = port
        self._next_ports = next_ports
        self._ready_timeout_s = ready_timeout_s
        self._stop_grace_s = stop_grace_s
        self._binary = ""
        self._version: Version = (0, 0, 0)
        self._lock_fd: int | None = None
        self._child: guard.Child | None = None
        self._running: ServerPorts | None = None

    @property
    def port(self) -> int:
        """The port for clients; it stays the same over restarts."""
        return self._known.port

    @property
    def pid(self) -> int:
        """The process id of the nats-server itself; it changes with each restart."""
        return self._known.pid

    @property
    def version(self) -> str:
        """The server's version, such as "2.15.1"."""
        return dotted(self._version)

    @property
    def url(self) -> str:
        """Where clients connect, the secret token included: never log it."""
        return f"nats://{self.token}@{HOST}:{self.port}"

    async def wait_exit(self) -> int:
        """
        Wait, without limit, until the server has ended for any reason; return its exit code.

        A signal counts as 128 + its number, one that ended the watcher as its negative number. Always keep a task
        waiting here: on systems without a parent-death signal, only this ends a server whose watcher was killed.
        """
        code = await self._started.wait()
        log.info("nats_server_exited", code=code, store=str(self.store))
        return code

    async def restart(self) -> None:
        """Start the server again (a running one is stopped first), same port and token; on `Unavailable`, retry."""
        self._fixed_port = self.port
        await self._started.terminate()
        await self._launch()

    async def __aenter__(self) -> Self:
        self._binary = find_server()
        self._version = await server_version(self._binary)
        private_folder(self.store)
        self._lock_fd = await _lock(self.store / "lock", patience_s=self._stop_grace_s)
        try:
            if why := await asyncio.to_thread(room_error, self.store):
                raise Unavailable(f"{why}; make room, or use another directory", reason="disk_unwritable")
            await self._launch_on_free_port()
        except BaseException:
            self._unlock()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._started.terminate()
        finally:
            self._unlock()
        log.info("nats_server_stopped", store=str(self.store))

    @property
    def _started(self) -> guard.Child:
        if self._child is None:
            raise Unavailable(_NOT_ENTERED)
        return self._child

    @property
    def _known(self) -> ServerPorts:
        if self._running is None:
            raise Unavailable(_NOT_ENTERED)
        return self._running

    async def _launch_on_free_port(self) -> None:
        """Launch on the port, or on one of the next ones while another program listens on those before."""
        if self._fixed_port is None or not self._next_ports:
            await self._launch()
            return
        wanted, last = self._fixed_port, min(self._fixed_port + self._next_ports, _LAST_PORT)
        for port in range(wanted, last + 1):
            if not _can_listen(port):
                continue
            self._fixed_port = port
            try:
                await self._launch()
            except Unavailable:
                if _can_listen(port):
                    raise
                continue  # another program was faster
            if port != wanted:
                log.warning("nats_port_taken", port=wanted, used=port)
            return
        message = f"ports {wanted} to {last} are in use by other programs; stop one of them, or use another port"
        raise Unavailable(message, reason="port_taken")

    async def _launch(self) -> None:
        began = time.monotonic()
        if self._fixed_port is not None:
            await _until_free(self._fixed_port)
        try:
            log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
            self._child = child = await self._spawn()
        except OSError as error:
            raise Unavailable(f"nats-server cannot be started: {error}", reason="nats_server_not_ready") from error
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                running = await self._ready(child)
        except TimeoutError:
            await child.terminate()
            raise self._not_ready(f"was not ready after {self._ready_timeout_s:g} s", log_start) from None
        except BaseException:
            await child.terminate()
            raise
        if running is None:
            raise self._not_ready(f"ended with code {await child.wait()} before it was ready", log_start)
        self._running = running
        took_ms = round((time.monotonic() - began) * 1000)
        log.info("nats_server_started", **msgspec.structs.asdict(running), version=self.version, took_ms=took_ms)

    async def _spawn(self) -> guard.Child:
        remove_left(self.store)
        store, output = str(self.store), str(self.log_file)
        command = [self._binary, "-c", str(find_config()), "--ports_file_dir", store, "--log", output]
        env = {
            **os.environ,
            "COORDINATOR_NATS_PORT": str(-1 if self._fixed_port is None else self._fixed_port),
            "COORDINATOR_NATS_TOKEN": self.token,
            "COORDINATOR_NATS_STORE": _quoted(store),
        }
        lock = () if self._lock_fd is None else (self._lock_fd,)
        # The server writes its log itself; the output of a crash goes to the same file.
        sink = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            grace_s = self._stop_grace_s
            return await guard.spawn_foreign(
                command, env=env, pass_fds=lock, stdout=sink, stderr=sink, grace_s=grace_s, umask=_ONLY_OWNER
            )
        finally:
            os.close(sink)

    async def _ready(self, child: guard.Child) -> ServerPorts | None:
        """Wait until the server has written its ports and enabled JetStream; return None if it has ended instead."""
        while child.returncode is None:
            running = running_on(self.store)
            if running is not None and await is_enabled(running.monitor_port):
                return running
            await asyncio.sleep(_POLL_S)
        return None

    def _not_ready(self, what: str, log_start: int) -> Unavailable:
        written = self.log_file.read_bytes()[log_start:].decode(errors="replace")
        end = "\n".join(written.splitlines()[-_LOG_LINES_IN_ERRORS:])
        message = f"nats-server {self.version} ({self._binary}) {what}; the end of {self.log_file}:\n{end}"
        return Unavailable(message, reason="nats_server_not_ready")

    def _unlock(self) -> None:
        # Close only: the lock belongs to the open file, shared with the server; unlocking would release it for both.
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def monitor_of(store: Path) -> str:
    """Return the monitoring URL of the server that runs on *store*; empty if no server has written its ports."""
    running = running_on(store)
    return "" if running is None else f"http://{HOST}:{running.monitor_port}"


def new_token() -> str:
    """Return a secret token for nats.conf: it starts with a letter, because it could be read as a number otherwise."""
    return "t" + secrets.token_hex(24)


def find_config() -> Path:
    """
    Find nats.conf: in the installed package, else at the top of a source checkout.

    Raises:
        Refused: it is in neither place.
    """
    packaged = Path(str(resources.files("coordinator") / "nats.conf"))
    checkout = packaged.parents[1] / "nats.conf"
    for candidate in (packaged, checkout):
        if candidate.is_file():
            return candidate
    raise Refused(f"nats.conf is missing; it must be at {packaged} or {checkout}", reason="nats_config_not_found")


async def _until_free(port: int) -> None:
    """Wait until *port* is free: a client that connected to itself may hold it for a moment."""
    give_up_at = time.monotonic() + _PORT_PATIENCE_S
    while not _can_listen(port):
        if time.monotonic() >= give_up_at:
            message = f"port {port} is in use by another program; stop that program, or start without a fixed port"
            raise Unavailable(message, reason="port_taken")
        await asyncio.sleep(_POLL_S)


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


async def _lock(path: Path, *, patience_s: float) -> int:
    """
    Lock the store and write our process id into the lock; return the open file, which unlocks when closed.

    If the holder is alive the store is refused at once. The server of a dead holder is about to stop: wait for it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await _acquire(fd, path.parent, patience_s)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def _acquire(fd: int, store: Path, patience_s: float) -> None:
    give_up_at = time.monotonic() + patience_s
    while not _locked(fd):
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        alive = _alive(holder)
        if alive or time.monotonic() >= give_up_at:
            whose = f"process {holder}" if alive else f"a server that process {holder or 'unknown'} left behind"
            message = f"the store {store} is in use by {whose}; stop it, or use another directory"
            raise Refused(message, reason="store_in_use")
        await asyncio.sleep(_POLL_S)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: str) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(int(pid), 0)
        except (ValueError, ProcessLookupError):
            return False
    return True


def _quoted(text: str) -> str:
    """Quote a value for nats.conf, which parses values from the environment."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
