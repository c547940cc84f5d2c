"""
Everything on this machine: the real nats-server, a coordinator, a follower and a node agent, each a process of its own.

Whatever dies is started again; whatever was acknowledged is in the journal, so nothing else has to be said to it. When
this process ends, however it ends, the others notice by a pipe and end as well.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any

import structlog

from coordinator.client import Client
from coordinator.commands import GetStats
from coordinator.embedded import EmbeddedServer
from coordinator.groups import task_group
from coordinator.guard import Child, spawn
from coordinator.supervise import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, keep_serving
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.home import Home

log = structlog.get_logger(__name__)

STOP_GRACE_S = 15.0
READY_TIMEOUT_S = 60.0


class Program:
    """One child process that is to run, and is started again whenever it ends."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], log_file: IO[bytes] | None) -> None:
        self.name = name
        self.starts = 0
        self._argv = argv
        self._env = env
        self._log_file = log_file
        self._child: Child | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def keep_running(self) -> None:
        """Start it, and start it again, until `stop`; pauses double while it does not stay up."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            began = loop.time()
            self.starts += 1
            async with await spawn(
                self._argv, env=self._env, stdout=self._log_file, stderr=self._log_file, grace_s=STOP_GRACE_S
            ) as self._child:
                code = await self._child.wait()
            pause_s = FIRST_PAUSE_S if loop.time() - began > STEADY_S else min(pause_s * 2, LONGEST_PAUSE_S)
            if not self._stopping:
                log.warning("program_ended", program=self.name, code=code, again_in_s=pause_s)
                await asyncio.sleep(pause_s)

    async def stop(self) -> None:
        """End it for good."""
        self._stopping = True
        if self._child is not None:
            await self._child.terminate()


class Cluster:
    """What `coordinator up` runs; `programs` by name, `url` where clients connect."""

    def __init__(self, url: str, programs: dict[str, Program], server: EmbeddedServer) -> None:
        self.url = url
        self.programs = programs
        self.server = server


@asynccontextmanager
async def run_cluster(
    home: Home, settings: Any, *, environment: dict[str, str] | None = None, quiet: bool = False
) -> AsyncIterator[Cluster]:
    """
    Run everything while the block runs; it begins when commands are answered.

    Args:
        home: where all state is; held under a lock.
        settings: what the programs go by; they load them again from the same places.
        environment: more variables for the programs, such as settings.
        quiet: let the programs log to `<home>/logs/` instead of this process's standard error.

    Raises:
        Refused: the home is in use, or there is no usable nats-server.
        Unavailable: it did not come up in time.
    """
    with home.lock("up"):
        async with EmbeddedServer(home.nats_store) as server, task_group() as tasks:
            env = {
                **os.environ,
                **(environment or {}),
                "COORDINATOR_HOME": str(home.path),
                "COORDINATOR_URL": server.url,
            }
            programs = {
                name: Program(
                    name, [sys.executable, "-m", "coordinator.cli", *words], env, _log_file(home, name, quiet)
                )
                for name, words in (
                    ("coordinator", ["serve", "--without-follower"]),
                    ("follower", ["follow"]),
                    ("node", ["node", "run", "--stop-containers"]),
                )
            }
            keeping = [tasks.create_task(program.keep_running()) for program in programs.values()]
            serving = tasks.create_task(keep_serving(server))
            try:
                await _until_answered(server.url, settings.namespace)
                home.write_running(server.url)
                yield Cluster(server.url, programs, server)
            finally:
                home.remove_running()
                # The node's agents say goodbye to a coordinator that still answers.
                for name in ("node", "follower", "coordinator"):
                    await programs[name].stop()
                serving.cancel()
                for task in keeping:
                    task.cancel()


async def _until_answered(url: str, namespace: str) -> None:
    async with Client.open(url, namespace=namespace, name="up") as client:
        try:
            while not (await client.execute(GetStats(), timeout_s=READY_TIMEOUT_S)).nodes.get("ready"):  # noqa: ASYNC110  # asked over NATS
                await asyncio.sleep(0.05)
        except Unavailable as error:
            msg = f"the coordinator did not answer within {READY_TIMEOUT_S:g} s; look into its log: {error.message}"
            raise Unavailable(msg) from error


def _log_file(home: Home, name: str, quiet: bool) -> IO[bytes] | None:
    if not quiet:
        return None
    folder = home.path / "logs"
    folder.mkdir(exist_ok=True)
    return (folder / f"{name}.log").open("ab")
