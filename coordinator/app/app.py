"""
The app that all facades of a process share: a connection to a coordinator, or an embedded coordinator.

    COORDINATOR_URL or nats.url set            a client of that coordinator
    `coordinator up` of this user is running   a client of it, found by its running.json
    otherwise                                  embedded: a whole cluster in this process, files in a temporary folder

Facades share the app and count references; releasing the last reference closes it. The app runs in one task, so that it
opens and closes in order however the program ends: also when its loop is closed, or the program ends, without a word to
us. Each event loop has its own app, so threads with loops of their own do not meet. A forked child has no app: it opens
one in a loop of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import structlog

from coordinator.app.in_process import InProcess
from coordinator.app.leases import Held
from coordinator.app.locate import lasting, located
from coordinator.app.sender import sender
from coordinator.client.client import Client
from coordinator.client.service_watch import ServiceWatch
from coordinator.commands.acting import context_for_nobody
from coordinator.ids import TimeOrderedIds
from coordinator.logs import LEVELS
from coordinator.own_process.forks import protect, was_inherited
from coordinator.processes.credentials import credentials, patience
from coordinator.task_groups import task_group
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from coordinator.commands.command import Command
    from coordinator.settings.model import Settings

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 30.0
"""How long a program that ends waits for an app that it did not close."""
CANCEL_GRACE_S = 1.0
"""How long it then waits for tasks that use the app."""
BEAT_S = 5.0
"""Leases claimed through facades are renewed this often, or three times per `scheduler.lease_s` if that is shorter."""
BEATS_A_LEASE = 3.0

_ids = TimeOrderedIds()


@cache
def program_name() -> str:
    """
    Return the name of this program: that of its main file on this machine, for this user.

    A program that is started again has the same name, so it finds the tasks that it submitted before. Two programs have
    different names, also if their files are called the same. What has no file, as an interactive session, gets a name
    of its own at each start.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if not file:
        return _ids.new("session")
    path = Path(file).resolve()
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", path.stem)[:32]
    digest = sha256(f"{socket.gethostname()}\0{os.getuid()}\0{path}".encode(errors="surrogateescape")).hexdigest()
    return f"{stem}-{digest[:12]}"


class Backend(Protocol):
    """What executes the app's commands: a client, or the coordinator in this process."""

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any: ...
    def renew(self, worker_id: str, leases: list[str]) -> None: ...
    def close(self) -> None: ...


class App:
    """The connection that facades use. `acquire_app` returns it; tests pass one to the facade."""

    def __init__(
        self, backend: Backend, client: Client, settings: Settings, tasks: asyncio.TaskGroup, *, where: str
    ) -> None:
        self.client = client
        self.settings = settings
        self.where = where
        self.held = Held()
        self.program = settings.client.program or program_name()
        """The name under which this app submits tasks."""
        self.looks_at = 0.0
        """When to look again, in loop time, which tasks wait that this program does not get."""
        self.told: set[str] = set()
        """Why it does not get them, as far as it was logged: each reason once."""
        self.registration = _ids.new("registration")
        """The registration of the services that this app registers; `own_services` are their ids."""
        self.own_services: set[str] = set()
        self.services: ServiceWatch | None = None
        """The services, kept current by watching. None when the coordinator runs in this process."""
        self.is_open = True
        self.loop = asyncio.get_running_loop()
        self.failure: Exception | None = None
        self._backend = backend
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """
        Execute a command and return its answer; see `client.Door`.

        Raises:
            Unavailable: the app is closed.
            CoordinationError: as `Door.execute`.
        """
        if not self.is_open:
            raise self.closed()
        return await self._backend.execute(command, timeout_s=timeout_s)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """
        Run *work* in the background until it ends, is cancelled, or the app closes. Exceptions are logged.

        Raises:
            Unavailable: the app is closed.
        """
        if not self.is_open:
            work.close()
            raise self.closed()
        task = self._tasks.create_task(_logged(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # a task cancelled before its first step never starts *work*
        return task

    async def keep_leases(self) -> None:
        """Renew the leases that this process holds, until cancelled."""
        beat_s = min(BEAT_S, self.settings.scheduler.lease_s / BEATS_A_LEASE)
        while True:
            await asyncio.sleep(beat_s)
            for worker_id, leases in self.held.by_worker().items():
                self._backend.renew(worker_id, leases)

    def close(self) -> None:
        """Refuse further commands and cancel the background work."""
        self.is_open = False
        self._backend.close()
        for task in self._running:
            task.cancel()

    def closed(self) -> Unavailable:
        """Return the error for a command sent after the app has closed or failed."""
        if self.failure is not None:
            return Unavailable(f"the coordinator in this process has failed: {self.failure}", reason="closed")
        return Unavailable("this connection to the coordinator is closed: open a new one", reason="closed")


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # background work must never end the app
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
        """Do nothing: the client is closed by the code that opened it."""


# --- the app of an event loop -----------------------------------------------------------------------------------------


class _Shared:
    """The app of one event loop, and the number of references to it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.references = 0
        self.stop = asyncio.Event()
        self.app: App | None = None
        self.ready: asyncio.Future[App] = loop.create_future()
        # The app outlives the call that opens it, so it runs in its own task: the only one outside a task group.
        # The first caller may act for a tenant; the app, and a coordinator in it, do not.
        self.task = loop.create_task(self._host(), name="coordinator-app", context=context_for_nobody())
        protect(loop)
        _close_before(loop)

    async def _host(self) -> None:
        try:
            async with _open() as self.app:
                self.ready.set_result(self.app)
                await self.stop.wait()
        except Exception as error:  # noqa: BLE001  # any failure must reach the callers that wait for the app
            self._failed(error)
        finally:
            self.ready.cancel()
            loop = asyncio.get_running_loop()
            if _apps.get(loop) is self and (self.app is None or self.app.failure is None):
                del _apps[loop]

    def _failed(self, error: Exception) -> None:
        if self.app is None:
            self.ready.set_exception(error)
            return
        self.app.failure = error
        log.error("app_failed", reason=str(error))


_apps: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()
_closing: set[asyncio.Task[None]] = set()
_CLOSES_APPS = "_closes_apps"
"""The attribute of our `close` of a loop."""


async def acquire_app() -> App:
    """
    Return the app of this event loop, opening it if needed. Call `release_app` once for each call.

    Raises:
        Unavailable: the coordinator that COORDINATOR_URL names cannot be reached, the embedded coordinator has failed,
            or the app did not open within 60 s.
        Refused: the settings are invalid, or no usable nats-server was found.
    """
    loop = asyncio.get_running_loop()
    if was_inherited(loop):
        msg = "this event loop was made before this process was forked: use a new one, as asyncio.run() does"
        raise Refused(msg, reason="other_loop")
    shared = _apps.get(loop)
    if shared is not None and shared.app is not None and shared.app.failure is not None:
        # A new embedded coordinator would be empty; callers must learn that the one they used has failed.
        raise shared.app.closed()
    if shared is None or shared.task.done():
        shared = _apps[loop] = _Shared()
    shared.references += 1
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return await asyncio.shield(shared.ready)
    except TimeoutError:
        await _release(shared)
        raise Unavailable(f"the coordinator did not open within {OPEN_TIMEOUT_S:g} s", reason="timeout") from None
    except BaseException:
        await _release(shared)
        raise


async def release_app(app: App) -> None:
    """Release one reference to *app*; releasing the last one closes it."""
    shared = _apps.get(asyncio.get_running_loop())
    if shared is not None and shared.app is app:
        await _release(shared)


async def _release(shared: _Shared) -> None:
    shared.references -= 1
    if shared.references > 0:
        return
    loop = asyncio.get_running_loop()
    if _apps.get(loop) is shared:
        del _apps[loop]
    if shared.app is None:
        shared.task.cancel()
    shared.stop.set()
    # The caller may be cancelled while it waits here; the reference in `_closing` lets the task finish.
    _closing.add(shared.task)
    shared.task.add_done_callback(_closing.discard)
    await asyncio.wait([shared.task])


def _close_before(loop: asyncio.AbstractEventLoop) -> None:
    """Close the app of *loop* before the loop itself is closed."""
    close = loop.close

    def close_both() -> None:
        _close_now(loop)
        close()

    if not hasattr(close, _CLOSES_APPS):
        setattr(close_both, _CLOSES_APPS, True)
        with suppress(AttributeError):  # a loop of another implementation
            loop.close = close_both  # type: ignore[method-assign]


def _close_now(loop: asyncio.AbstractEventLoop) -> None:
    """Close the app of a loop that does not run, if it has one that nobody has closed; `asyncio.run` does the same."""
    shared = _apps.pop(loop, None)
    if shared is None or shared.task.done() or loop.is_closed() or loop.is_running() or was_inherited(loop):
        return
    loop.run_until_complete(_end(shared))


async def _end(shared: _Shared) -> None:
    """Cancel all tasks: those that use the app would fail when it closes, and nobody would see that."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.wait([shared.task], timeout=CLOSE_TIMEOUT_S)
    await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)


def _close_all() -> None:
    """Close what a program leaves open when it ends, as `python -m asyncio` and notebooks do."""
    for loop in list(_apps):
        with suppress(Exception):  # another thread may use it just now
            _close_now(loop)


def _after_fork_in_child() -> None:
    for shared in list(_apps.values()):
        if shared.app is not None:
            shared.app.is_open = False
    _apps.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
# Before `atexit`: at that time no thread can be started any more, which closing may need.
getattr(threading, "_register_atexit", atexit.register)(_close_all)


@asynccontextmanager
async def _open() -> AsyncIterator[App]:
    """Open the app that the environment and the settings select, and log which one it is."""
    from coordinator.settings.load import load

    settings = load()
    _log_to_stderr(settings.log.level)
    url, why = await located(settings)
    if url:
        found = lasting(settings, url, why)
        login = credentials(settings) | patience(settings)
        tenant = settings.client.tenant
        async with Client.open(
            found, source=sender("local"), namespace=settings.namespace, tenant=tenant, **login
        ) as client:
            log.info("app_opened", kind=why, server=client.bus.where)
            async with _running(_Remote(client), client, settings, why) as app:
                yield app
        return
    from coordinator.processes.janitor import janitor

    with _temporary_folder() as folder:
        async with janitor(folder, settings), embedded(folder, settings) as app:
            yield app


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a new folder and delete it afterwards, but not in a forked child, as `TemporaryDirectory` would."""
    owner, folder = os.getpid(), tempfile.mkdtemp(prefix="coordinator-")
    try:
        yield Path(folder)
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def _log_to_stderr(level: str) -> None:
    """Log to standard error unless the program has configured structlog: standard output belongs to the program."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


@asynccontextmanager
async def embedded(folder: Path, settings: Settings) -> AsyncIterator[App]:
    """Run a whole coordinator in this process, with its files in *folder*."""
    from coordinator.processes.embedded import local_cluster

    async with local_cluster(folder, settings) as (coordinator, client):
        log.info("app_opened", kind="embedded", folder=str(folder))
        door = InProcess(coordinator, tenant=settings.client.tenant, call_timeout_s=settings.client.call_timeout_s)
        async with _running(door, client, settings, "embedded") as app:
            yield app


@asynccontextmanager
async def _running(backend: Backend, client: Client, settings: Settings, where: str) -> AsyncIterator[App]:
    """Open an app over *backend*; when the block ends, close it and cancel its background work."""
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
