"""
A whole cluster on this machine: nats-server, a coordinator, a follower and a node agent, each in its own process.

If the settings name a NATS (`nats.url`), it is used, and no server is started here. Otherwise the server keeps its
token over restarts, so that programs which hold it can reconnect.

A process that dies is restarted; everything acknowledged is in the journal, so no other recovery is needed. But if the
coordinator fails repeatedly, everything is stopped and the reason is reported. When this process ends, for whatever
reason, the others notice it by a pipe and end too. An orderly end leaves no container running, even if the node agent
was killed before: this process then stops the containers itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.nats_server.keep import keep_serving
from coordinator.nats_server.server import EmbeddedServer, new_token
from coordinator.processes.credentials import credentials, patience
from coordinator.processes.node import check_node, sweep
from coordinator.processes.program import FAILURES_MOST, STOP_GRACE_S, Program
from coordinator.runtime.process.directory import longest_grace_s
from coordinator.task_groups import task_group
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.home import Home
    from coordinator.settings.model import Settings

READY_TIMEOUT_S = 60.0
POLL_S = 0.05
NEXT_PORTS = 100
"""How many ports after the default one are tried while other programs listen on those before."""


class Cluster:
    """The running processes: `programs` by name; clients connect to `url`."""

    def __init__(self, url: str, programs: dict[str, Program], server: EmbeddedServer | None) -> None:
        self.url = url
        self.programs = programs
        self._server = server

    @property
    def server(self) -> EmbeddedServer:
        """
        The nats-server that this cluster started.

        Raises:
            Refused: it uses another NATS.
        """
        if self._server is None:
            raise Refused("no nats-server was started here: the one of nats.url is used", reason="no_server")
        return self._server


@asynccontextmanager
async def run_cluster(
    home: Home,
    settings: Settings,
    *,
    port: int | None = None,
    next_ports: int = 0,
    environment: dict[str, str] | None = None,
    quiet: bool = False,
) -> AsyncIterator[Cluster]:
    """
    Run everything while the block runs; the block begins once commands are answered.

    Args:
        home: directory of all state; locked while the block runs.
        settings: the settings of the programs, which load them again from the same sources.
        port: the port of the nats-server; None takes a free one.
        next_ports: how many ports after *port* may be used if another program listens on it.
        environment: additional variables for the programs, such as settings.
        quiet: let the programs log to `<home>/logs/` instead of this process's standard error.

    Raises:
        Refused: the home is in use, a program would be refused by its settings, or there is no usable nats-server.
        Unavailable: it was not ready in time, the coordinator failed repeatedly, or a container cannot be stopped.
    """
    with home.lock("up"):
        home.remove_running()  # left by a killed process; nothing runs here until this one is ready
        _check(home, settings)
        async with _nats(home, settings, port, next_ports) as (url, server), task_group() as tasks:
            await _predecessor_gone(home)
            ours = {} if server is None else _of_own_server(settings)
            programs = _programs(home, url, ours | (environment or {}), quiet)
            keeping = [tasks.create_task(program.keep_running()) for program in programs.values()]
            if server is not None:
                keeping.append(tasks.create_task(keep_serving(server)))
            try:
                await _until_answered(url, settings, programs["node"])
                home.write_running(url)
                yield Cluster(url, programs, server)
            finally:
                home.remove_running()
                try:
                    # The node goes first: its containers can then deregister while the coordinator still answers.
                    roots = (home.containers, home.oci)
                    grace_s = max([await asyncio.to_thread(longest_grace_s, root) for root in roots])
                    await programs["node"].stop(STOP_GRACE_S + grace_s)
                    await sweep(settings, home)
                finally:
                    for name in ("follower", "coordinator"):
                        await programs[name].stop()
                    for task in keeping:
                        task.cancel()


@asynccontextmanager
async def _nats(
    home: Home, settings: Settings, port: int | None, next_ports: int
) -> AsyncIterator[tuple[str, EmbeddedServer | None]]:
    """Yield the URL of the NATS to use, and its server if it is started here, for the duration of the block."""
    if settings.nats.url:
        yield settings.nats.url, None
        return
    token = home.token(new_token)
    async with EmbeddedServer(home.nats_store, port=port, next_ports=next_ports, token=token) as server:
        yield server.url, server


def _check(home: Home, settings: Settings) -> None:
    """Refuse what a program would refuse, before it is started and restarted for ever."""
    for role in ("coordinator", "follower"):
        credentials(settings, role)
    check_node(settings, home)


async def _predecessor_gone(home: Home) -> None:
    """Wait until the node agent of a killed `up` has stopped its containers and ended."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + READY_TIMEOUT_S
    while (holder := home.holder("node")) is not None:
        if loop.time() >= give_up_at:
            msg = f"{home.path} is in use by the node agent of process {holder}: stop it, or set COORDINATOR_HOME"
            raise Refused(msg, reason="home_in_use")
        await asyncio.sleep(POLL_S)


def _of_own_server(settings: Settings) -> dict[str, str]:
    """Return settings whose default depends on whose NATS it is: the programs get a URL, as they would of any other."""
    networks = ",".join(f'"{network}"' for network in settings.registry.health_check_networks)
    return {"COORDINATOR_REGISTRY__HEALTH_CHECK_NETWORKS": f"[{networks}]"}


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
            [sys.executable, "-P", "-m", "coordinator.cli", *arguments],
            env,
            folder / f"{name}.log" if quiet else None,
            is_needed=name == "coordinator",
        )
        for name, arguments in words.items()
    }


async def _until_answered(url: str, settings: Settings, node: Program) -> None:
    """Wait until the coordinator answers and has a node to run containers on; refuse a node agent that is refused."""
    what = "the coordinator did not answer"
    login = credentials(settings, "coordinator") if settings.nats.url else {}
    async with Client.open(url, namespace=settings.namespace, name="up", **login, **patience(settings)) as client:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not (await client.execute(GetStats(), timeout_s=READY_TIMEOUT_S)).nodes.get("ready"):
                    what = "the node agent did not register"
                    if node.refusals >= FAILURES_MOST:
                        msg = f"the node agent was refused {node.refusals} times in a row: see its log for the reason"
                        raise Refused(msg, reason="program_fails")
                    await asyncio.sleep(POLL_S)
        except (TimeoutError, Unavailable) as error:
            msg = f"{what} within {READY_TIMEOUT_S:g} s: see its log"
            raise Unavailable(msg, reason="timeout") from error
