"""
Coordinators as processes on one NATS, each with its own home: started, killed, frozen, stopped.

Nothing here restarts one by itself; the scenario does. A process is only ended by its id.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.commands.cluster import GetStats
from coordinator.guard import Child, spawn
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.client.client import Client

PATIENCE_S = 60.0
"""Time-out for expected events on a busy machine."""
_ANSWER_S = 2.0
_POLL_S = 0.02
_ROOT = Path(__file__).resolve().parent.parent.parent


def lease_of(ttl_s: int) -> dict[str, str]:
    """Return the settings of a lease of *ttl_s* seconds, as variables; its other times are in the usual proportion."""
    seconds = {"TTL_S": ttl_s, "STOP_AFTER_S": 0.8 * ttl_s, "FRESH_S": 0.5 * ttl_s, "RENEW_S": max(0.5, ttl_s / 6)}
    return {f"COORDINATOR_LEADERSHIP__{name}": str(value) for name, value in seconds.items()}


class Instance:
    """
    One `coordinator serve` with its state in *home*; its log is appended to `<home>.log`.

    Args:
        home: its state directory; a new process with the same home is the same instance.
        url: URL of its NATS.
        environment: more variables, such as settings.
        with_follower: whether it runs its own follower.
    """

    def __init__(
        self, home: Path, url: str, *, environment: dict[str, str] | None = None, with_follower: bool = False
    ) -> None:
        self.home = home
        self.url = url
        self._environment = environment or {}
        self._arguments = ["serve"] if with_follower else ["serve", "--without-follower"]
        self._log = home.with_suffix(".log")
        self._child: Child | None = None
        self._mark = 0

    @property
    def name(self) -> str:
        """Return its name in the journal; known once it has started."""
        return (self.home / "coordinator.instance").read_text().strip()

    @property
    def runs(self) -> bool:
        """Return True if its process exists, frozen or not."""
        return self._child is not None and self._child.returncode is None

    @property
    def logged(self) -> str:
        """Return the log of its current process."""
        return self._log.read_bytes()[self._mark :].decode(errors="replace")

    async def start(self) -> None:
        """Start it and return at once."""
        env = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            **self._environment,
            "COORDINATOR_HOME": str(self.home),
            "COORDINATOR_URL": self.url,
        }
        with self._log.open("ab") as sink:
            self._mark = sink.tell()
            argv = [sys.executable, "-m", "coordinator.cli", *self._arguments]
            self._child = await spawn(argv, env=env, stdout=sink, stderr=sink, grace_s=PATIENCE_S)

    async def stood_by(self, times: int = 1) -> None:
        """Wait until its current process has become a standby *times* times."""
        await self.has_logged("standby_started", times=times)

    async def has_logged(self, text: str, *, times: int = 1) -> None:
        """Wait until *text* is in its log *times* times; raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while self.logged.count(text) < times:
                if not self.runs:
                    msg = f"{self.home.name} ended: {self.logged[-2000:]}"
                    raise RuntimeError(msg)
                await asyncio.sleep(_POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self._child is not None
        os.kill(self._child.pid, number)

    def freeze(self) -> None:
        """Freeze it (SIGSTOP) until `thaw`; its connections stay open."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen process (SIGCONT)."""
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill it like a crash (SIGKILL), and wait until it is gone; its follower ends with it."""
        self.signal(signal.SIGKILL)
        await self.gone()

    async def stop(self) -> int:
        """Stop it (SIGTERM), wait for its end and return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.gone()

    async def gone(self) -> int:
        """Wait for its end and return its exit code."""
        assert self._child is not None
        async with asyncio.timeout(PATIENCE_S):
            return await self._child.wait()

    async def close(self) -> None:
        """End it if it runs, frozen or not."""
        if self._child is not None and self.runs:
            self.thaw()
            await self._child.terminate()


@asynccontextmanager
async def instances(
    folder: Path,
    url: str,
    count: int,
    *,
    environment: dict[str, str] | None = None,
    with_follower: bool = False,
) -> AsyncIterator[list[Instance]]:
    """Yield *count* instances with homes in *folder*, not started; running ones are ended at the end."""
    made = [
        Instance(folder / f"instance_{number}", url, environment=environment, with_follower=with_follower)
        for number in range(count)
    ]
    async with AsyncExitStack() as ending:
        for one in made:
            ending.push_async_callback(one.close)
        yield made


async def start_all(made: list[Instance], client: Client) -> None:
    """Start the first, which leads, and the others as standbys."""
    await made[0].start()
    await led_by(client, made[0])
    for one in made[1:]:
        await one.start()
    for one in made[1:]:
        await one.stood_by()


async def led_by(client: Client, *those: Instance) -> Instance:
    """Wait until one of *those* answers as the leader, and return it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if not any(one.runs for one in those):
                msg = "; ".join(f"{one.home.name} ended: {one.logged[-2000:]}" for one in those)
                raise RuntimeError(msg)
            with suppress(Unavailable):
                leader = (await client.execute(GetStats(), timeout_s=_ANSWER_S)).leader
                for one in those:
                    if (one.home / "coordinator.instance").exists() and one.name == leader:
                        return one
            await asyncio.sleep(_POLL_S)
