"""
The one app behind all facades of a process: a connection to a coordinator, or a whole coordinator of its own.

    COORDINATOR_URL or nats.url set     a client of that coordinator
    a `coordinator up` of this user     a client of it, by its running.json
    else                                embedded: a whole cluster for this process, in a temporary folder

Facades share it and count references; the last to let go closes it. All of it lives in one task, so that it opens and
closes in order however the program ends. Each event loop has its own: nothing here is safe between threads.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import structlog

from coordinator.app.in_process import InProcess
from coordinator.app.leases import Held
from coordinator.app.locate import where
from coordinator.client.client import Client
from coordinator.client.service_watch import ServiceWatch
from coordinator.ids import TimeOrderedIds
from coordinator.logs import LEVELS
from coordinator.security.credentials import credentials
from coordinator.task_groups import task_group
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from coordinator.commands.command import Command
    from coordinator.settings.model import Settings

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 60.0
BEAT_S = 5.0
"""Leases claimed through facades are renewed so often, or three times in `scheduler.lease_s` where that is shorter."""
BEATS_A_LEASE = 3.0

_ids = TimeOrderedIds()


class Backend(Protocol):
    """What the app stands on: a client, or the coordinator of this process."""

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any: ...
    def renew(self, worker_id: str, leases: list[str]) -> None: ...
    def close(self) -> None: ...


class App:
    """What facades work with; got by `acquire_app`, or given to them in tests."""

    def __init__(
        self, backend: Backend, client: Client, settings: Settings, tasks: asyncio.TaskGroup, *, where: str
    ) -> None:
        self.client = client
        self.settings = settings
        self.where = where
        self.held = Held()
        self.services: ServiceWatch | None = None
        """The services as a watcher knows them; None where the world itself is in this process."""
        self.is_open = True
        self.failure: Exception | None = None
        self._backend = backend
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """
        Order or ask something; see `client.Door`.

        Raises:
            Unavailable: the app is closed, beside what the door raises.
        """
        if not self.is_open:
            raise self.closed()
        return await self._backend.execute(command, timeout_s=timeout_s)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """
        Run *work* beside the app until it ends, is cancelled, or the app closes; what it raises is logged.

        Raises:
            Unavailable: the app is closed.
        """
        if not self.is_open:
            work.close()
            raise self.closed()
        task = self._tasks.create_task(_minded(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step, it was never begun
        return task

    async def keep_leases(self) -> None:
        """Renew what this process holds, for ever."""
        beat_s = min(BEAT_S, self.settings.scheduler.lease_s / BEATS_A_LEASE)
        while True:
            await asyncio.sleep(beat_s)
            for worker_id, leases in self.held.by_worker().items():
                self._backend.renew(worker_id, leases)

    def close(self) -> None:
        """Take nothing more, and end what was started."""
        self.is_open = False
        self._backend.close()
        for task in self._running:
            task.cancel()

    def closed(self) -> Unavailable:
        """Make the error that says why nothing can be asked any more."""
        if self.failure is not None:
            return Unavailable(f"the coordinator of this process has ended: {self.failure}", reason="closed")
        return Unavailable("this connection to the coordinator is closed: open a new one", reason="closed")


async def _minded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # what runs beside the app must never end it: said here
        log.exception("background_work_failed", work=repr(work))


class _Remote:
    """A coordinator in another process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.services: ServiceWatch | None = None

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        value = await self._client.execute(command, timeout_s=timeout_s)
        if command.KIND == "service" and self.services is not None:
            self.services.ordered(command)
        return value

    def renew(self, worker_id: str, leases: list[str]) -> None:
        self._client.beat_worker(worker_id, tuple(leases))

    def close(self) -> None:
        """Leave the client to whoever opened it."""


# --- which one, and for how long --------------------------------------------------------------------------------------


class _Shared:
    """The app of one event loop and how many facades hold it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.references = 0
        self.stop = asyncio.Event()
        self.app: App | None = None
        self.ready: asyncio.Future[App] = loop.create_future()
        # The app outlives the call that first needed it, so it has a task of its own: the only one of a loop.
        self.task = loop.create_task(self._host(), name="coordinator-app")

    async def _host(self) -> None:
        try:
            async with _open() as self.app:
                self.ready.set_result(self.app)
                await self.stop.wait()
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait for the app are told
            self._failed(error)
        finally:
            self.ready.cancel()

    def _failed(self, error: Exception) -> None:
        if self.app is None:
            self.ready.set_exception(error)
            return
        self.app.failure = error
        log.error("app_failed", reason=str(error))


_apps: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()
_closing: set[asyncio.Task[None]] = set()


async def acquire_app() -> App:
    """
    Give the app of this event loop, opened when nobody holds it; each call is to be matched by one of `release_app`.

    Raises:
        Unavailable: the coordinator that COORDINATOR_URL names cannot be reached, or the embedded one has failed.
        Refused: the settings are wrong, or there is no usable nats-server.
    """
    loop = asyncio.get_running_loop()
    shared = _apps.get(loop)
    if shared is not None and shared.app is not None and shared.app.failure is not None:
        # Another in its place would be empty: whoever still holds the one that failed shall know.
        raise shared.app.closed()
    if shared is None or shared.task.done():
        shared = _apps[loop] = _Shared()
    shared.references += 1
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await asyncio.shield(shared.ready)
    except TimeoutError:
        await _let_go(shared)
        raise Unavailable(f"the coordinator did not open within {OPEN_TIMEOUT_S:g} s", reason="timeout") from None
    except BaseException:
        await _let_go(shared)
        raise


async def release_app(app: App) -> None:
    """Let go of an app; the last to do so closes it."""
    shared = _apps.get(asyncio.get_running_loop())
    if shared is not None and shared.app is app:
        await _let_go(shared)


async def _let_go(shared: _Shared) -> None:
    shared.references -= 1
    if shared.references > 0:
        return
    loop = asyncio.get_running_loop()
    if _apps.get(loop) is shared:
        del _apps[loop]
    if shared.app is None:
        shared.task.cancel()
    shared.stop.set()
    # Who waits here may be cancelled; closing goes on all the same.
    _closing.add(shared.task)
    shared.task.add_done_callback(_closing.discard)
    await asyncio.wait([shared.task])


@asynccontextmanager
async def _open() -> AsyncIterator[App]:
    """Open whichever app this process is to use, and say which."""
    from coordinator.settings.load import load

    settings = load()
    _log_to_stderr(settings.log.level)
    url, why = where(settings)
    if url:
        async with Client.open(url, namespace=settings.namespace, **credentials(settings)) as client:
            client.call_timeout_s = settings.client.call_timeout_s
            log.info("app_opened", kind=why, server=client.bus.where)
            async with _running(_Remote(client), client, settings, why) as app:
                yield app
        return
    from coordinator.processes.janitor import janitor

    with tempfile.TemporaryDirectory(prefix="coordinator-") as folder:
        async with janitor(Path(folder), settings), embedded(Path(folder), settings) as app:
            yield app


def _log_to_stderr(level: str) -> None:
    """Have our lines on standard error where the program does not say where they go: its output is its own."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


@asynccontextmanager
async def embedded(folder: Path, settings: Settings) -> AsyncIterator[App]:
    """Run a whole coordinator in this process, its files in *folder*."""
    from coordinator.processes.embedded import local_cluster

    async with local_cluster(folder, settings) as (coordinator, client):
        log.info("app_opened", kind="embedded", folder=str(folder))
        async with _running(InProcess(coordinator), client, settings, "embedded") as app:
            yield app


@asynccontextmanager
async def _running(backend: Backend, client: Client, settings: Settings, where: str) -> AsyncIterator[App]:
    """Keep an app, the leases it holds, and what it was asked to run."""
    async with task_group() as tasks:
        app = App(backend, client, settings, tasks, where=where)
        app.start(app.keep_leases())
        if isinstance(backend, _Remote):
            backend.services = app.services = ServiceWatch(
                client,
                app.start,
                refresh_s=settings.client.discovery_refresh_s,
                stale_s=settings.client.discovery_stale_s,
                services_max=settings.client.discovery_services_max,
            )
        try:
            yield app
        finally:
            app.close()
