"""
The one app behind all facades of a process: a connection to a coordinator, or a whole coordinator of its own.

    COORDINATOR_URL set             → a client of that coordinator
    a `coordinator up` of this user → a client of it (its running.json)
    else                            → embedded: nats-server, coordinator, follower and node agent for this process alone, in
                                      a temporary folder that is removed at the end

Facades share it and count references; the last to let go closes it. All of it lives in one task, so that it opens and closes
in order however the program ends.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from coordinator.client import CALL_TIMEOUT_S, Client
from coordinator.commands import FindServices
from coordinator.intake import Caller
from coordinator.ids import TimeOrderedIds
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.commands import Command
    from coordinator.serve import Coordinator

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 60.0
BEAT_S = 5.0
"""How often leases claimed through facades are renewed."""

_ids = TimeOrderedIds()


class Held:
    """The leases that this process claimed through facades, by task: renewed while it lives, given up with it."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[str, str]] = {}

    def take(self, task_id: str, worker_id: str, lease: str) -> None:
        """Keep a lease."""
        self._leases[task_id] = (worker_id, lease)

    def lease(self, task_id: str) -> str:
        """Give the lease claimed for a task, empty when there is none."""
        return self._leases.get(task_id, ("", ""))[1]

    def drop(self, task_id: str) -> None:
        """Forget a lease whose task was reported on."""
        self._leases.pop(task_id, None)

    def by_worker(self) -> dict[str, list[str]]:
        """Give the leases to renew, by worker."""
        grouped: dict[str, list[str]] = {}
        for worker_id, lease in self._leases.values():
            grouped.setdefault(worker_id, []).append(lease)
        return grouped


class Backend(Protocol):
    """What the app stands on: a client, or the coordinator of this process."""

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any: ...
    def renew(self, worker_id: str, leases: list[str]) -> None: ...


class App:
    """What facades work with; see `shared_app`."""

    def __init__(self, backend: Backend, client: Client, *, where: str) -> None:
        self.client = client
        self.where = where
        self.held = Held()
        self._backend = backend

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Order or ask something; see `client.Door`."""
        return await self._backend.execute(command, timeout_s=timeout_s)

    async def keep_leases(self) -> None:
        """Renew what this process holds, for ever."""
        while True:
            await asyncio.sleep(BEAT_S)
            for worker_id, leases in self.held.by_worker().items():
                self._backend.renew(worker_id, leases)


class _Remote:
    """A coordinator in another process."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        return await self._client.execute(command, timeout_s=timeout_s)

    def renew(self, worker_id: str, leases: list[str]) -> None:
        self._client.beat_worker(worker_id, tuple(leases))


class _Embedded:
    """The coordinator of this very process: no network between the facade and the engine."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._caller = Caller(actor="local")

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        engine = self._coordinator.engine
        if engine is not None and isinstance(command, FindServices):
            return engine.ask_now(command)
        caller = self._caller
        if command.REMEMBERED:
            caller = Caller(actor="local", command_id=_ids.new("cmd"))
        wait_s = float(getattr(command, "wait_s", 0.0)) + (CALL_TIMEOUT_S if timeout_s is None else timeout_s)
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    await self._coordinator.leading.wait()
                    engine = self._coordinator.engine
                    if engine is None:
                        await asyncio.sleep(0)
                        continue
                    try:
                        return await engine.execute(command, caller)
                    except Unavailable as error:
                        await asyncio.sleep(error.retry_after_s or 0.05)
        except TimeoutError:
            msg = f"{type(command).__name__} was not decided within {wait_s:g} s: the coordinator does not lead"
            raise Unavailable(msg, reason="timeout") from None

    def renew(self, worker_id: str, leases: list[str]) -> None:
        engine = self._coordinator.engine
        if engine is not None:
            engine.hear_worker(worker_id, tuple(leases), 0.0)


# --- which one, and for how long --------------------------------------------------------------------------------------


class _Shared:
    """The app of one event loop and how many facades hold it."""

    def __init__(self) -> None:
        self.references = 0
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.ready: asyncio.Future[App] = self.loop.create_future()
        # The app outlives the call that first needed it, so it has a task of its own: the only one of a process.
        self.task = self.loop.create_task(self._host(), name="coordinator-app")

    async def _host(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                app = await stack.enter_async_context(_open())
                self.ready.set_result(app)
                await self.stop.wait()
        except BaseException as error:
            if not self.ready.done():
                self.ready.set_exception(error)
                return
            raise


_shared: _Shared | None = None


async def acquire_app() -> App:
    """
    Give the app of this process, opened when nobody holds it; each call is to be matched by one of `release_app`.

    Raises:
        Unavailable: the coordinator that COORDINATOR_URL names cannot be reached.
    """
    global _shared  # noqa: PLW0603  # one app per process is what it is for
    shared = _shared
    if shared is None or shared.loop is not asyncio.get_running_loop() or shared.task.done():
        shared = _shared = _Shared()
    shared.references += 1
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await asyncio.shield(shared.ready)
    except BaseException:
        await release_app()
        raise


async def release_app() -> None:
    """Let go of the app; the last to do so closes it."""
    global _shared  # noqa: PLW0603  # see acquire_app
    shared = _shared
    if shared is None or shared.loop is not asyncio.get_running_loop():
        return
    shared.references -= 1
    if shared.references <= 0:
        _shared = None
        shared.stop.set()
        await asyncio.wait([shared.task])


@asynccontextmanager
async def _open() -> AsyncIterator[App]:
    """Open whichever app this process is to use, and say which."""
    from coordinator.home import Home
    from coordinator.settings import load

    settings = load()
    url = os.environ.get("COORDINATOR_URL", "")
    why = "COORDINATOR_URL"
    if not url:
        running = Home(settings.home_path()).read_running() if settings.home_path().is_dir() else None
        url, why = (running.url, "coordinator up") if running is not None else ("", "embedded")
    if url:
        async with Client.open(
            url, namespace=settings.namespace, creds=settings.nats.creds, tls_ca=settings.nats.tls_ca
        ) as client:
            log.info("app_opened", kind=why, server=client.bus.where)
            async with _kept(App(_Remote(client), client, where=why)) as app:
                yield app
        return
    with tempfile.TemporaryDirectory(prefix="coordinator-") as folder:
        async with embedded(Path(folder), settings) as app:
            yield app


@asynccontextmanager
async def embedded(folder: Path, settings: Any) -> AsyncIterator[App]:
    """Run a whole coordinator in this process, its files in *folder*."""
    from coordinator.local import local_cluster

    async with local_cluster(folder, settings) as (coordinator, client):
        log.info("app_opened", kind="embedded", folder=str(folder))
        async with _kept(App(_Embedded(coordinator), client, where="embedded")) as app:
            yield app


@asynccontextmanager
async def _kept(app: App) -> AsyncIterator[App]:
    """Renew the app's leases while it is open."""
    from coordinator.groups import task_group

    async with task_group() as tasks:
        renewing = tasks.create_task(app.keep_leases())
        try:
            yield app
        finally:
            renewing.cancel()
