"""A real nats-server for tests, with the users and permissions created by `coordinator auth init`."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import subprocess
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.security.auth_directory import AuthDirectory
from coordinator.security.permissions import user_of
from tests.real_server import START_TIMEOUT_S, STOP_TIMEOUT_S, find_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from coordinator.security.permissions import User

USERS = (("domain", "execution"), ("domain", "monitoring"), ("worker", "w1"), ("node", "n1"), ("agents", "n1"))
NAMESPACE = "coordination"


class Secured:
    """One server with one directory of users; `url` has no login."""

    def __init__(self, directory: AuthDirectory, *, tls: bool) -> None:
        self.directory = directory
        self.tls = tls
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def authority(self) -> str | None:
        """Return the CA that clients trust."""
        found = self.directory.authority_or_none()
        return str(found) if found is not None else None

    def creds(self, role: str, name: str = "") -> str:
        """Return the credentials file of a user."""
        return str(self.directory.credentials(user_of(role, name)))

    def bus(self, user: User, *, connect_timeout_s: float = 20.0) -> AbstractAsyncContextManager[Bus]:
        """Connect as *user*."""
        creds = str(self.directory.credentials(user))
        return Bus.open(self.url, name="test", creds=creds, tls_ca=self.authority, connect_timeout_s=connect_timeout_s)

    def client(self, role: str, name: str = "") -> AbstractAsyncContextManager[Client]:
        """Connect to the coordinator as a user."""
        return Client.open(self.url, creds=self.creds(role, name), tls_ca=self.authority, connect_timeout_s=20.0)

    async def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        folder = self.directory.path
        command = [find_binary(), "-c", str(folder / "nats.conf"), "--ports_file_dir", str(folder)]
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self._listening(self._process.pid):
                assert self._process.poll() is None, (folder / "server.log").read_text()
                await asyncio.sleep(0.01)

    def _listening(self, pid: int) -> bool:
        for file in self.directory.path.glob(f"*_{pid}.ports"):
            with suppress(ValueError):
                port = json.loads(file.read_text())["nats"][0].rpartition(":")[2]
                self.url = f"{'tls' if self.tls else 'nats'}://127.0.0.1:{port}"
                return True
        return False

    def reload(self) -> None:
        """Reload the server to activate new users."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGHUP)

    async def stop(self) -> None:
        """End the server."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)

    @property
    def environment(self) -> dict[str, str]:
        """Return the settings with which our programs use this server."""
        return {"COORDINATOR_NATS__AUTH": str(self.directory.path), "COORDINATOR_NATS__URL": self.url}


def directory_of(folder: Path, users: Sequence[tuple[str, str]] = USERS, *, tls: bool = False) -> AuthDirectory:
    """Create a directory of users, like `coordinator auth init`."""
    directory = AuthDirectory(folder)
    directory.prepare(NAMESPACE, listen="127.0.0.1:-1", store=folder / "jetstream")
    for role, name in users:
        directory.add(user_of(role, name))
    if tls:
        directory.make_certificates((), dt.datetime.now(dt.UTC))
    return directory


@asynccontextmanager
async def secured(
    folder: Path, users: Sequence[tuple[str, str]] = USERS, *, tls: bool = False
) -> AsyncIterator[Secured]:
    """Run a server with *users* while the block runs."""
    server = Secured(directory_of(folder, users, tls=tls), tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until *is_so* returns True, 20 s at most."""
    async with asyncio.timeout(20):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.01)
