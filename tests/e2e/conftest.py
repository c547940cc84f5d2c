"""A cluster for end-to-end tests: the real nats-server, and a coordinator in the test's own loop."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.deciders.rules import Rules
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.nats_server.server import EmbeddedServer
from coordinator.scheduler import TaskScheduler
from coordinator.task_groups import task_group
from events.errors import Unavailable
from events.subjects import Subjects
from tests.facades import embedded_app
from tests.journals import leading
from tests.real_server import real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.app.app import App
    from coordinator.engine.engine import Engine
    from tests.real_server import RealServer

__all__ = ["embedded_app"]

LEAD_TIMEOUT_S = 30.0


class Cluster:
    """A running cluster: its nats-server with the URL, the current coordinator, and a client."""

    def __init__(self, server: EmbeddedServer, rules: Rules, tasks: asyncio.TaskGroup) -> None:
        self.server = server
        self.url = server.url
        self.coordinator: Coordinator
        self.client: Client
        self._instance = Instance(url=server.url, name="tested", version="0", rules=rules)
        self._tasks = tasks
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start a coordinator and wait until it leads."""
        self.coordinator = Coordinator(self._instance)
        self._running = self._tasks.create_task(self._keep_running())
        leading = self._tasks.create_task(self.coordinator.leading.wait())
        try:
            await asyncio.wait({self._running, leading}, timeout=LEAD_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leading.cancel()
        assert self.coordinator.leading.is_set(), "the coordinator did not come to lead"

    async def _keep_running(self) -> None:
        """Run the coordinator, and start another each time it ends because NATS is away, as `coordinator up` does."""
        while True:
            try:
                await self.coordinator.run()
                return
            except Unavailable:
                await asyncio.sleep(0.1)
                self.coordinator = Coordinator(self._instance)

    async def restart_nats(self) -> None:
        """Kill the nats-server with SIGKILL and start it again on its store and port."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait_exit()
        await self.server.restart()

    async def stop(self) -> None:
        """Let the coordinator give up its lease and end."""
        running, self._running = self._running, None
        if running is not None:
            self.coordinator.stop("the test is over")
            await running

    async def crash(self) -> None:
        """Abort the coordinator at whatever point it is, as a kill would."""
        running, self._running = self._running, None
        assert running is not None
        running.cancel()
        await asyncio.wait([running])


@asynccontextmanager
async def run_cluster(folder: Path, rules: Rules) -> AsyncIterator[Cluster]:
    """Run a cluster with its files in *folder* while the block runs."""
    async with EmbeddedServer(folder) as server, task_group() as tasks:
        cluster = Cluster(server, rules, tasks)
        await cluster.start()
        try:
            async with Client.open(server.url, name="test") as cluster.client:
                yield cluster
        finally:
            await cluster.stop()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RealServer]:
    """A nats-server of its own for each test, which keeps running when coordinators end."""
    folder = tmp_path / "nats"
    folder.mkdir()
    async with real_server(folder) as running:
        yield running


@pytest.fixture
async def bus(server: RealServer) -> AsyncIterator[Bus]:
    """An unbuffered connection to the server, as the writer uses."""
    async with Bus.open(server.url, name="test", buffered=False) as opened:
        yield opened


@pytest.fixture
async def journal(bus: Bus) -> NatsJournal:
    """An empty journal on the server."""
    made = NatsJournal(bus, Subjects())
    await made.prepare()
    return made


@pytest.fixture
async def engine(journal: NatsJournal) -> AsyncIterator[Engine]:
    """An engine that leads over the journal."""
    async with leading(journal) as made:
        yield made


@pytest.fixture
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """
    A cluster for each test; `parametrize("cluster", [Rules(lease_s=1)], indirect=True)` sets other rules.

    It runs in one task: pytest sets a fixture up in one and tears it down in another, which task groups do not allow.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Cluster] = loop.create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with run_cluster(tmp_path / "nats", getattr(request, "param", Rules())) as running:
            ready.set_result(running)
            await over.wait()

    living: asyncio.Future[None] = loop.create_task(live())
    await asyncio.wait((living, ready), return_when=asyncio.FIRST_COMPLETED)
    try:
        if living.done():
            living.result()
        yield ready.result()
    finally:
        over.set()
        await living


@pytest.fixture
def app(embedded_app: App) -> App:
    """Yield an embedded coordinator with its own nats-server and fake containers."""
    return embedded_app


@pytest.fixture
async def scheduler(app: App) -> AsyncIterator[TaskScheduler]:
    """Yield a facade on it."""
    async with TaskScheduler(app) as scheduler:
        yield scheduler
