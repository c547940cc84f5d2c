"""
The worker SDK: executes tasks with the functions of a module.

    from coordinator.worker import Context, task

    @task("data_processing")
    async def process(context: Context, payload: dict[str, str]) -> dict[str, int]: ...

    coordinator worker run my_module

One claim always waits at the coordinator, which knows how many slots are free: the report that ends a task and the
start of the next are in one commit. A worker never decides whether a task is tried again, never holds on to one that it
cannot run, and never stops beating while a handler runs.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from coordinator.client.client import Client, name_in
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
from events.errors import CoordinationError, Refused
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coordinator.bus.subscription import Message

log = structlog.get_logger(__name__)

BEAT_S = 10.0
"""At most; more often where the coordinator's leases are short."""
BEATS_A_LEASE = 3.0
"""So that two beats may be lost."""
DRAIN_S = 30.0
LEASES_A_BEAT = 1000
DRAIN_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 2.0

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_ids = TimeOrderedIds()


class Worker:
    """
    One worker: claims tasks of the names it has handlers for and executes up to *slots* of them at once.

    Async handlers share the loop, the others get a thread each. *beat_s* must be well below the coordinator's lease;
    *drain_s* is how long `stop` lets running handlers finish. *beat_beside* is called with each beat, in their thread.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        namespace: str = "coordination",
        worker_id: str | None = None,
        slots: int = 8,
        handlers: Mapping[str, Handler] | None = None,
        beat_s: float = BEAT_S,
        drain_s: float = DRAIN_S,
        beat_beside: Callable[[Client], None] | None = None,
        container_id: str = "",
        creds: str | None = None,
        tls_ca: str | None = None,
    ) -> None:
        check_number("slots", slots, 1, 10_000)
        check_number("beat_s", beat_s, 0.01, 3600)
        check_number("drain_s", drain_s, 0, 366 * 86_400)
        if worker_id is None:
            worker_id = name_in(creds, "worker") or _ids.new(checked(name, "name"))
        self.worker_id = checked(worker_id, "worker_id")
        self._url = url
        self._namespace = namespace
        self._slots = slots
        self._handlers = dict(handlers or {})
        self._beat_s = beat_s
        self._drain_s = drain_s
        self._beat_beside = beat_beside
        self._container_id = container_id
        self._creds = creds
        self._tls_ca = tls_ca
        self._stopping = asyncio.Event()
        self._reason = "stopped"
        self._draining: asyncio.Timeout | None = None
        self._client: Client
        self._tasks: asyncio.TaskGroup
        self._attempts: Attempts
        self._claiming: Claiming

    @property
    def load(self) -> float:
        """The share of the slots in use, 0 to 1."""
        return min(1.0, len(self.running) / self._slots)

    @property
    def running(self) -> tuple[str, ...]:
        """The leases of the attempts that are under way; may be read from any thread."""
        attempts: Attempts | None = getattr(self, "_attempts", None)
        return tuple(attempts.leases) if attempts is not None else ()

    def task(self, name: str) -> Callable[[_Function], _Function]:
        """
        Make the function below it this worker's handler of tasks named *name*.

        Raises:
            Refused: it takes something else than a payload, or a context and a payload.
        """

        def register(function: _Function) -> _Function:
            add_handler(self._handlers, handler_of(name, function))
            return function

        return register

    async def run(self, client: Client | None = None) -> None:
        """
        Execute tasks until `stop`, over take-overs and lost connections; *client* is an open connection to use.

        Raises:
            Refused: it has no handlers, or the coordinator does not take it.
            Unavailable: no server answered at the start.
        """
        if not self._handlers:
            msg = f"worker {self.worker_id} has no handlers: put @worker.task('some_name') above a function"
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
        ) as opened:
            await self._run(opened)

    async def run_as_process(self) -> None:
        """Do as `run` does until SIGTERM, SIGINT, or the death of the parent that spawned this process."""
        async with stop_on_signals(self.stop, self.force):
            await self.run()

    def stop(self, reason: str = "stopped") -> None:
        """Claim nothing more, let running handlers finish within *drain_s*, then end `run`."""
        if not self._stopping.is_set():
            self._reason = reason
            self._stopping.set()

    def force(self) -> None:
        """Stop, and give back at once what still runs."""
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
        ) as beats:
            try:
                async with task_group() as self._tasks:
                    await self._work(beats)
            finally:
                await self._leave()

    async def _work(self, beats: Heartbeats) -> None:
        self._attempts = Attempts(
            self._handlers, self._client, self._tasks, worker_id=self.worker_id, slots=self._slots
        )
        self._claiming = Claiming(
            self._client,
            self._attempts,
            self._tasks,
            registration=RegisterWorker(
                worker_id=self.worker_id,
                slots=self._slots,
                handles=tuple(sorted(self._handlers)),
                container_id=self._container_id,
            ),
            registered=lambda terms: beats.at_least_every(terms.lease_s / BEATS_A_LEASE),
            stopping=self._stopping,
            stop=self.stop,
        )
        # It may be given up and forgotten meanwhile, and what claims unregistered is offered every task.
        self._client.bus.on_reconnect.append(self._claiming.register_again)
        notices = await self._client.bus.subscribe(
            self._client.subjects.notice("worker", self.worker_id), self._noticed
        )
        claiming = self._tasks.create_task(self._claiming.run())
        stopping: asyncio.Future[Any] = self._tasks.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stopping, beats.failed), return_when=asyncio.FIRST_COMPLETED)
            if beats.failed.done():
                beats.failed.result()
            await self._drain(claiming)
        finally:
            for waiting in (claiming, stopping):
                waiting.cancel()
            await self._attempts.give_up()
            await notices.unsubscribe()
            self._client.bus.on_reconnect.remove(self._claiming.register_again)

    def _beat(self, client: Client) -> bool:
        """Renew what is held; runs in the heartbeats' thread, and takes its copy of the leases in one step."""
        if self._beat_beside is not None:
            self._beat_beside(client)
        leases, load = self.running, self.load
        return all(
            client.beat_worker(self.worker_id, leases[at : at + LEASES_A_BEAT], load)
            for at in range(0, max(1, len(leases)), LEASES_A_BEAT)
        )

    def _noticed(self, message: Message) -> None:
        """Take a hint of the coordinator: leases that were lost."""
        try:
            lost = msgspec.json.decode(message.data, type=LostLeases).lost
        except msgspec.MsgspecError as error:
            log.warning("notice_unreadable", worker_id=self.worker_id, why=str(error))
        else:
            self._attempts.lose(lost)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _drain(self, claiming: asyncio.Task[None]) -> None:
        """Take nothing more, and let what runs finish while there is time."""
        log.info("worker_draining", worker_id=self.worker_id, reason=self._reason, running=len(self.running))
        try:
            async with asyncio.timeout(self._drain_s) as self._draining:
                await self._end_claim(claiming)
                for queued in self._attempts.take_queued():
                    self._tasks.create_task(self._claiming.release(queued, "the worker drains"))
                await self._attempts.until_idle()
        except TimeoutError:
            log.warning("worker_gave_up", worker_id=self.worker_id, running=len(self.running))

    async def _end_claim(self, claiming: asyncio.Task[None]) -> None:
        """
        Withdraw the claim that waits at the coordinator.

        A draining worker is given nothing, and what it was given before is answered before this order is.
        """
        with suppress(CoordinationError):
            await self._client.execute(
                DrainWorker(worker_id=self.worker_id, reason=self._reason), timeout_s=DRAIN_TIMEOUT_S
            )
        claiming.cancel()
        await asyncio.wait([claiming])

    async def _leave(self) -> None:
        """Say that it is gone; what it still holds goes back to the queue and does not count as a try."""
        try:
            await self._client.execute(
                LeaveWorker(worker_id=self.worker_id, reason=self._reason), timeout_s=LEAVE_TIMEOUT_S
            )
        except CoordinationError as error:
            log.warning("leave_not_told", worker_id=self.worker_id, why=error.message)
        log.info("worker_left", worker_id=self.worker_id, reason=self._reason)


async def run_worker(
    module: str,
    *,
    url: str,
    namespace: str = "coordination",
    worker_id: str | None = None,
    slots: int = 8,
    beat_s: float = BEAT_S,
    drain_s: float = DRAIN_S,
    creds: str | None = None,
    tls_ca: str | None = None,
) -> None:
    """
    Run a worker with the handlers of *module*, a dotted name or a file, until this process is told to stop.

    Raises:
        Refused: the module cannot be imported or has no handlers, or a limit is out of range.
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
        handlers=handlers,
        beat_s=beat_s,
        drain_s=drain_s,
        creds=creds,
        tls_ca=tls_ca,
    )
    await worker.run_as_process()
