"""
The worker SDK: executes tasks with the functions of a module.

    from coordinator.worker import Context, task

    @task("data_processing")
    async def process(context: Context, payload: dict[str, str]) -> dict[str, int]: ...

    coordinator worker run my_module

One claim always waits at the coordinator, which knows how many slots are free: the report of one task and the start of
the next are in one commit. A worker never decides whether a task is retried, never keeps a task that it cannot run, and
never stops its heartbeats while a handler runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from coordinator.bus.connection import CONNECT_TIMEOUT_S
from coordinator.client.client import ATTEMPT_TIMEOUT_S, CALL_TIMEOUT_S, Client, name_in
from coordinator.client.machine import CPU_OVERCOMMIT, machine
from coordinator.client.own_container import own_container
from coordinator.commands.arguments import flag, number, scalars, text, wanted, whole
from coordinator.commands.notices import LostLeases
from coordinator.commands.validation import check_number
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker
from coordinator.ids import TimeOrderedIds
from coordinator.stop_signals import stop_on_signals
from coordinator.task_groups import task_group
from coordinator.worker.attempts import Attempts
from coordinator.worker.claiming import Claiming
from coordinator.worker.handlers import Handler, add_handler, handler_of, load_handlers
from coordinator.worker.heartbeats import Heartbeats
from events.errors import CoordinationError, Refused, shown
from events.ids import checked
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.connection import Url
    from coordinator.bus.subscription import Message
    from events.task import Scalar

log = structlog.get_logger(__name__)

BEAT_S = 10.0
"""The longest time between two heartbeats; it is shorter when the coordinator's leases are short."""
BEATS_A_LEASE = 3.0
"""Heartbeats per lease, so that two of them may be lost."""
DRAIN_S = 30.0
LEASES_A_BEAT = 1000
NAME_CHARS_MAX = 37
"""What an id of 64 characters has room for besides its unique part."""
DRAIN_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 2.0

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_ids = TimeOrderedIds()


class Worker:
    """
    A worker: claims tasks for which it has handlers, and executes up to *slots* of them at once.

    Async handlers share the event loop; other handlers run in one thread each.

    Args:
        name: the start of the worker's id, if *worker_id* is not given.
        url: the NATS server of the coordinator; a function is asked for it before each attempt to connect, from
            several threads.
        namespace: the first part of all subjects, as in the coordinator's settings.
        worker_id: the worker's id; by default the name in *creds*, or a new one that starts with *name*.
        slots: how many tasks run at the same time, 1 to 10,000.
        resources: what the tasks that run at a time may need together, such as `{"gpu": 1, "licences": 2}`. It
            also has the CPU and the memory of the machine, unless these are named, and nothing else.
        labels: what the filters of tasks may know of it, such as `{"zone": "eu"}`; at most 32.
        build_id: the version of its code, such as a commit: a task goes on at workers of the one that it began on.
        cpu_overcommit: how many times each core of the machine counts, where *resources* says nothing of CPU.
        handlers: the handlers by task name; more can be added with `task`.
        beat_s: the longest time between two heartbeats, in seconds; must be well below the coordinator's lease.
        drain_s: seconds that `stop` gives running handlers to finish.
        beat_beside: called in the heartbeat thread with each heartbeat.
        container_id: the container that the worker runs in, "" for none; by default the one that this process runs in.
        generation: the generation of that container, if known.
        owns_process: whether the process is this worker's alone. If it then ends without `stop`, as by an exit in a
            callback of a handler, the worker does not leave: its tasks return when their leases expire, which counts.
        creds: the path of a credentials file.
        tls_ca: the path of the CA certificate, for TLS.
        connect_timeout_s: see `Client.open`.
        call_timeout_s: see `Client.open`.
        attempt_timeout_s: see `Client.open`.

    Raises:
        Refused: an id is invalid, a number is out of range, or an amount is not a quantity.
    """

    _client: Client
    _tasks: asyncio.TaskGroup
    _attempts: Attempts

    def __init__(
        self,
        name: str,
        *,
        url: Url,
        namespace: str = "coordination",
        worker_id: str | None = None,
        slots: int = 8,
        resources: Mapping[str, Any] | None = None,
        labels: Mapping[str, Scalar] | None = None,
        build_id: str = "",
        cpu_overcommit: float = CPU_OVERCOMMIT,
        handlers: Mapping[str, Handler] | None = None,
        beat_s: float = BEAT_S,
        drain_s: float = DRAIN_S,
        beat_beside: Callable[[Client], None] | None = None,
        container_id: str | None = None,
        generation: str = "",
        owns_process: bool = False,
        creds: str | None = None,
        tls_ca: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        call_timeout_s: float = CALL_TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    ) -> None:
        _check_server(url, creds, tls_ca)
        if worker_id is None:
            worker_id = name_in(creds, "worker") or _ids.new(_start_of_id(name))
        self.worker_id = checked(worker_id, "worker_id")
        self._url = url
        self._namespace = checked(namespace, "namespace")
        self._slots = whole("slots", slots)
        check_number("slots", self._slots, 1, 10_000)
        self._resources = _with_machine(resources, _seconds("cpu_overcommit", cpu_overcommit, 0.1, 100))
        self._labels = {} if labels is None else scalars("labels", labels)
        self._build_id = build_id and checked(build_id, "build_id")
        self._handlers = _handlers_by_name({} if handlers is None else handlers)
        self._beat_s = _seconds("beat_s", beat_s, 0.01, 3600)
        self._drain_s = _seconds("drain_s", drain_s, 0, 366 * 86_400)
        self._beat_beside = beat_beside
        self._container_id = (
            own_container() if container_id is None else container_id and checked(container_id, "container_id")
        )
        self._generation = text("generation", generation)
        self._owns_process = flag("owns_process", owns_process)
        self._registration = _ids.new("registration")
        self._creds, self._tls_ca = creds, tls_ca
        self._times: dict[str, Any] = {
            name: _seconds(name, given, 0.001, 366 * 86_400)
            for name, given in (
                ("connect_timeout_s", connect_timeout_s),
                ("call_timeout_s", call_timeout_s),
                ("attempt_timeout_s", attempt_timeout_s),
            )
        }
        self._stopping = asyncio.Event()
        self._reason = "stopped"
        self._draining: asyncio.Timeout | None = None
        self._claiming: Claiming | None = None
        self._replaced: Refused | None = None

    @property
    def load(self) -> float:
        """The share of the slots in use, 0 to 1."""
        return min(1.0, len(self.running) / self._slots)

    @property
    def running(self) -> tuple[str, ...]:
        """The leases of the current attempts; may be read from any thread."""
        attempts: Attempts | None = getattr(self, "_attempts", None)
        return tuple(attempts.leases) if attempts is not None else ()

    def task(self, name: str) -> Callable[[_Function], _Function]:
        """
        Register the decorated function as this worker's handler of tasks named *name*.

        Raises:
            Refused: the name is invalid or taken, or the function does not take (payload) or (context, payload).
        """

        def register(function: _Function) -> _Function:
            add_handler(self._handlers, handler_of(name, function))
            return function

        return register

    async def run(self, client: Client | None = None) -> None:
        """
        Execute tasks until `stop` is called, through take-overs and lost connections.

        Args:
            client: an open connection to use; by default the worker opens its own.

        Raises:
            Refused: the worker has no handlers, the coordinator refused its registration, or another program has
                registered under its id (`replaced`).
            Unavailable: no server answered at the start.
        """
        if not self._handlers:
            msg = f"worker {self.worker_id} has no handlers: decorate a function with @worker.task('some_name')"
            raise Refused(msg, reason="no_handlers")
        if client is not None:
            await self._run(client)
            return
        async with Client.open(
            self._url,
            source="worker",
            namespace=self._namespace,
            name=self.worker_id,
            creds=self._creds,
            tls_ca=self._tls_ca,
            **self._times,
        ) as opened:
            await self._run(opened)

    async def run_as_process(self) -> None:
        """Run as `run` does, and stop on SIGTERM, on SIGINT, or when the parent that spawned this process dies."""
        self._owns_process = True
        async with stop_on_signals(self.stop, self.force):
            await self.run()

    def stop(self, reason: str = "stopped") -> None:
        """Stop claiming, let running handlers finish within *drain_s* seconds, then end `run`."""
        if not self._stopping.is_set():
            self._reason = reason
            self._stopping.set()

    def force(self) -> None:
        """Stop without waiting: release the running tasks at once."""
        self.stop("forced")
        self._drain_s = 0.0
        if self._draining is not None:
            self._draining.reschedule(asyncio.get_running_loop().time())

    async def _run(self, client: Client) -> None:
        self._client = client
        async with Heartbeats.open(
            self._beat,
            every_s=self._beat_s,
            url=self._url,
            source="worker",
            namespace=self._namespace,
            name=self.worker_id,
            creds=self._creds,
            tls_ca=self._tls_ca,
            connect_timeout_s=self._times["connect_timeout_s"],
        ) as beats:
            # While disconnected, the worker may be removed, and an unregistered worker is given tasks of any name.
            client.bus.on_reconnect.append(self._reconnected)
            in_order = not self._owns_process
            try:
                async with task_group() as self._tasks:
                    await self._work(beats)
                in_order = True
            except CoordinationError:
                in_order = True
                raise
            finally:
                client.bus.on_reconnect.remove(self._reconnected)
                if in_order or self._stopping.is_set():
                    await self._leave()
        if self._replaced is not None:
            raise self._replaced

    async def _work(self, beats: Heartbeats) -> None:
        self._attempts = Attempts(
            self._handlers, self._client, self._tasks, worker_id=self.worker_id, slots=self._slots
        )
        claims = self._claiming = Claiming(
            self._client,
            self._attempts,
            self._tasks,
            registration=RegisterWorker(
                worker_id=self.worker_id,
                slots=self._slots,
                resources=self._resources,
                container_id=self._container_id,
                registration=self._registration,
                generation=self._generation,
                labels=self._labels,
                build_id=self._build_id,
            ),
            handlers=self._handlers,
            registered=lambda terms: beats.at_least_every(terms.lease_s / BEATS_A_LEASE),
            stopping=self._stopping,
            stop=self.stop,
            replaced=self._was_replaced,
        )
        notices = await self._client.bus.subscribe(
            self._client.subjects.notice("worker", self.worker_id), self._noticed
        )
        claiming = self._tasks.create_task(claims.run())
        stopping: asyncio.Future[Any] = self._tasks.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stopping, beats.failed), return_when=asyncio.FIRST_COMPLETED)
            if beats.failed.done():
                beats.failed.result()
            await self._drain(claims, claiming)
        finally:
            for waiting in (claiming, stopping):
                waiting.cancel()
            given_up = [attempt.task for attempt in self._attempts.leases.values()]
            await self._attempts.give_up()
            if self._replaced is not None:  # it cannot leave, which would release them
                for task in given_up:
                    self._tasks.create_task(claims.release(task, "the worker was replaced"))
            await notices.unsubscribe()

    def _reconnected(self) -> None:
        if self._claiming is not None:
            self._claiming.register_again()

    def _beat(self, client: Client) -> bool:
        """Renew the held leases. Runs in the heartbeat thread, so it copies the leases in one step."""
        if self._beat_beside is not None:
            self._beat_beside(client)
        if self._claiming is None or not self._claiming.was_registered:
            return True
        leases, load = self.running, self.load
        return all(
            client.beat_worker(self.worker_id, leases[at : at + LEASES_A_BEAT], load, registration=self._registration)
            for at in range(0, max(1, len(leases)), LEASES_A_BEAT)
        )

    def _noticed(self, message: Message) -> None:
        """Handle a notice from the coordinator about lost leases, or that this worker was replaced."""
        try:
            notice = msgspec.json.decode(message.data, type=LostLeases)
        except msgspec.MsgspecError as error:
            log.warning("notice_unreadable", worker_id=self.worker_id, why=str(error))
        else:
            self._attempts.lose(notice.lost)
            for asked in notice.cancel:
                self._attempts.cancel(asked)
            if notice.replaced == self._registration:
                msg = f"worker {self.worker_id!r} was replaced: another program has registered under this id"
                self._was_replaced(Refused(msg, reason="replaced"))

    def _was_replaced(self, error: Refused) -> None:
        """Stop: another program has registered under this id, so nothing that this one says of it counts any more."""
        if self._replaced is None:
            self._replaced = error
            log.warning("worker_replaced", worker_id=self.worker_id, why=error.message)
        self.stop("replaced by another worker with the same id")

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _drain(self, claims: Claiming, claiming: asyncio.Task[None]) -> None:
        """Stop claiming, release queued tasks, and let running handlers finish within *drain_s*."""
        log.info("worker_draining", worker_id=self.worker_id, reason=self._reason, running=len(self.running))
        try:
            async with asyncio.timeout(self._drain_s) as self._draining:
                await self._end_claim(claiming)
                for queued in self._attempts.take_queued():
                    self._tasks.create_task(claims.release(queued, "the worker is draining"))
                await self._attempts.until_idle()
        except TimeoutError:
            log.warning("drain_timed_out", worker_id=self.worker_id, running=len(self.running))

    async def _end_claim(self, claiming: asyncio.Task[None]) -> None:
        """
        Withdraw the claim that waits at the coordinator.

        A draining worker gets no more tasks, and a claim that was granted before is answered before this command.
        """
        with suppress(CoordinationError):
            await self._client.execute(
                DrainWorker(worker_id=self.worker_id, reason=self._reason, registration=self._registration),
                timeout_s=DRAIN_TIMEOUT_S,
            )
        claiming.cancel()
        await asyncio.wait([claiming])

    async def _leave(self) -> None:
        """Leave: tasks that the worker still holds return to the queue, which does not count as a failed attempt."""
        try:
            await self._client.execute(
                LeaveWorker(worker_id=self.worker_id, reason=self._reason, registration=self._registration),
                timeout_s=LEAVE_TIMEOUT_S,
            )
        except CoordinationError as error:
            log.warning("leave_not_reported", worker_id=self.worker_id, why=error.message)
        log.info("worker_left", worker_id=self.worker_id, reason=self._reason)


def _seconds(name: str, given: Any, least: float, most: float) -> float:
    seconds = number(name, given)
    check_number(name, seconds, least, most)
    return seconds


def _check_server(url: Any, creds: Any, tls_ca: Any) -> None:
    if not callable(url):
        text("url", url)
    for name, path in (("creds", creds), ("tls_ca", tls_ca)):
        if path is not None:
            wanted(name, path, (str, Path), "the path of a file")


def _start_of_id(name: Any) -> str:
    """Return *name* if an id can begin with it."""
    if len(checked(name, "name")) > NAME_CHARS_MAX:
        msg = f"name {shown(name)} is too long for the start of an id: use at most {NAME_CHARS_MAX} characters"
        raise Refused(msg, reason="bad_id")
    return str(name)


def _with_machine(given: Mapping[str, Any] | None, cpu_overcommit: float) -> Resources:
    """Return what a worker has: what was given, and otherwise the memory and the cores of the machine."""
    has, said = machine(cpu_overcommit), Resources.parse(given)
    return msgspec.structs.replace(
        said,
        cpu_millis=said.cpu_millis if given and "cpu" in given else has.cpu_millis,
        memory_bytes=said.memory_bytes if given and "memory" in given else has.memory_bytes,
    )


def _handlers_by_name(given: Any) -> dict[str, Handler]:
    handlers: Mapping[str, Handler] = wanted("handlers", given, Mapping, "a mapping of task names to handlers")
    return {
        text("handlers: name", name): wanted(f"handlers[{shown(name)}]", one, Handler, "a Handler")
        for name, one in handlers.items()
    }


async def run_worker(
    module: str,
    *,
    url: Url,
    namespace: str = "coordination",
    worker_id: str | None = None,
    slots: int = 8,
    resources: Mapping[str, Any] | None = None,
    labels: Mapping[str, Scalar] | None = None,
    build_id: str = "",
    cpu_overcommit: float = CPU_OVERCOMMIT,
    beat_s: float = BEAT_S,
    drain_s: float = DRAIN_S,
    creds: str | None = None,
    tls_ca: str | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    call_timeout_s: float = CALL_TIMEOUT_S,
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
) -> None:
    """
    Run a worker with the handlers of *module* until SIGTERM or SIGINT.

    The *module* is a dotted name or the path of a file. The other arguments are those of `Worker`; the *worker_id*
    starts by default with the name of the module.

    Raises:
        Refused: the module cannot be imported or has no handlers, or an argument is invalid.
        Unavailable: no server answered at the start.
    """
    handlers = load_handlers(module)
    name = re.sub(r"[^A-Za-z0-9_-]", "-", Path(module).stem if module.endswith(".py") else module)[:32]
    worker = Worker(
        name,
        url=url,
        namespace=namespace,
        worker_id=worker_id,
        slots=slots,
        resources=resources,
        labels=labels,
        build_id=build_id,
        cpu_overcommit=cpu_overcommit,
        handlers=handlers,
        beat_s=beat_s,
        drain_s=drain_s,
        creds=creds,
        tls_ca=tls_ca,
        connect_timeout_s=connect_timeout_s,
        call_timeout_s=call_timeout_s,
        attempt_timeout_s=attempt_timeout_s,
    )
    await worker.run_as_process()
