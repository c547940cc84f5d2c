"""
Everything on this machine: the real nats-server, a coordinator, a follower and a node agent, each a process of its own.

Whatever dies is started again; whatever was acknowledged is in the journal, so nothing else has to be said to it. A
coordinator that says, again and again, that it cannot work here is not: then all of it ends, and says why. When this
process ends, however it ends, the others notice by a pipe and end as well.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from coordinator.client import Client
from coordinator.commands import GetStats
from coordinator.embedded import EmbeddedServer
from coordinator.groups import task_group
from coordinator.supervise import Program, keep_serving
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.home import Home

READY_TIMEOUT_S = 60.0


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
        Unavailable: it did not come up in time, or the coordinator cannot work here.
    """
    with home.lock("up"):
        home.remove_running()  # of one that was killed: until we are up, nothing runs here
        async with EmbeddedServer(home.nats_store) as server, task_group() as tasks:
            programs = _programs(home, server.url, environment or {}, quiet)
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


def _programs(home: Home, url: str, environment: dict[str, str], quiet: bool) -> dict[str, Program]:
    env = {**os.environ, **environment, "COORDINATOR_HOME": str(home.path), "COORDINATOR_URL": url}
    words = {
        "coordinator": ["serve", "--without-follower"],
        "follower": ["follow"],
        "node": ["node", "run", "--stop-containers"],
    }
    folder = home.path / "logs"
    if quiet:
        folder.mkdir(mode=0o700, exist_ok=True)
    return {
        name: Program(
            name,
            [sys.executable, "-m", "coordinator.cli", *arguments],
            env,
            folder / f"{name}.log" if quiet else None,
            is_needed=name == "coordinator",
        )
        for name, arguments in words.items()
    }


async def _until_answered(url: str, namespace: str) -> None:
    """Wait until the coordinator answers and has a node to run containers on."""
    what = "the coordinator did not answer"
    async with Client.open(url, namespace=namespace, name="up") as client:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not (await client.execute(GetStats(), timeout_s=READY_TIMEOUT_S)).nodes.get("ready"):
                    what = "the node agent did not register"
                    await asyncio.sleep(0.05)
        except (TimeoutError, Unavailable) as error:
            msg = f"{what} within {READY_TIMEOUT_S:g} s; look into its log"
            raise Unavailable(msg, reason="timeout") from error
