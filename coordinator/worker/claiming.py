"""
Claim tasks for a worker: register it, keep one claim waiting at the coordinator, and start the tasks it returns.

One claim always waits while a slot is free. Every command is repeated with the same ids until it is answered. A task
that cannot run here is released at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.commands.acting import ids_of
from coordinator.commands.task import ClaimTasks, ReleaseTask
from coordinator.commands.worker import CLAIM_WAIT_MAX_S, RegisterWorker
from coordinator.ids import TimeOrderedIds
from events.errors import CoordinationError, Refused, Unavailable
from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from coordinator.client.client import Client
    from coordinator.commands.worker import WorkerTerms
    from coordinator.worker.attempts import Attempts
    from projections.task import Task

log = structlog.get_logger(__name__)

CLAIM_WAIT_S = 20.0
CLAIM_SLOTS_MAX = 500
RETRY_S = 0.5
RELEASE_TIMEOUT_S = 5.0
_REPLACED = ("replaced", "id_in_use")
"""Why a worker that was registered is refused once another one has its id."""

_ids = TimeOrderedIds()


class Claiming:
    """
    Claims tasks for one worker until *stopping* is set.

    Args:
        client: the connection.
        attempts: executes the tasks.
        tasks: the group in which tasks are released.
        registration: the command that registers the worker, sent again after each reconnect.
        handlers: the task names that it handles; names may be added while it runs.
        registered: called with the terms of each registration.
        stopping: set when the worker stops.
        stop: called with the reason when the coordinator drains this worker.
        replaced: called when another program has registered under the worker's id.
    """

    def __init__(
        self,
        client: Client,
        attempts: Attempts,
        tasks: asyncio.TaskGroup,
        *,
        registration: RegisterWorker,
        handlers: Collection[str],
        registered: Callable[[WorkerTerms], None],
        stopping: asyncio.Event,
        stop: Callable[[str], None],
        replaced: Callable[[Refused], None],
    ) -> None:
        self._client = client
        self._attempts = attempts
        self._tasks = tasks
        self._registration = registration
        self._handlers = handlers
        self._registered = registered
        self._stopping = stopping
        self._stop = stop
        self._replaced = replaced
        self._wait_s = CLAIM_WAIT_S
        self._is_registered = False
        self.was_registered = False
        """Whether the coordinator has accepted this worker once; other threads may read it."""

    @property
    def _worker_id(self) -> str:
        return self._registration.worker_id

    def register_again(self) -> None:
        """Register before the next claim: the coordinator may have lost this worker or the names it handles."""
        self._is_registered = False

    async def run(self) -> None:
        """
        Claim until stopped.

        Raises:
            Refused: the registration or the first claim was refused. Later refusals are logged and retried.
        """
        was_accepted = False
        while not self._stopping.is_set():
            try:
                if not self._is_registered:
                    await self._register()
                for claimed in await self._claim():
                    self._take(claimed)
                await asyncio.sleep(0)  # the handlers begin before the next claim is made, which takes 0.1 ms
                was_accepted = True
            except Refused as error:
                if error.reason == "worker_draining":
                    self._stop("drained by the coordinator")
                elif error.reason in _REPLACED and self.was_registered:
                    self._replaced(error)
                elif not was_accepted:
                    raise
                else:
                    log.warning("claim_refused", worker_id=self._worker_id, code=error.reason, why=error.message)
                    await asyncio.sleep(RETRY_S)

    async def release(self, claimed: Task, reason: str) -> None:
        """Release a task back to the queue. If the command fails, the task returns when its lease expires."""
        command = ReleaseTask(task_id=claimed.task_id, lease=claimed.lease, reason=reason)
        try:
            await self._client.execute(command, timeout_s=RELEASE_TIMEOUT_S)
        except CoordinationError as error:
            ids = ids_of(claimed.tenant, claimed.traceparent)
            log.warning("release_failed", task_id=claimed.task_id, why=error.message, **ids)

    async def _register(self) -> None:
        self._is_registered = True
        command = msgspec.structs.replace(self._registration, handles=tuple(sorted(self._handlers)))
        terms = await self._ask(command) if self.was_registered else await self._first_in_turn(command)
        self._registered(terms)
        self._wait_s = min(CLAIM_WAIT_S, CLAIM_WAIT_MAX_S if terms.claim_wait_max_s is None else terms.claim_wait_max_s)
        self.was_registered = True
        log.info("worker_registered", worker_id=self._worker_id, slots=command.slots, handles=command.handles)

    async def _first_in_turn(self, command: RegisterWorker) -> WorkerTerms:
        """Register, and wait as long as another worker with the same id is heard."""
        is_said = False
        while True:
            try:
                terms: WorkerTerms = await self._ask(command)
            except Refused as error:
                if error.reason != "id_in_use":
                    raise
                if not is_said:
                    log.warning("worker_id_in_use", worker_id=self._worker_id, why=error.message)
                    is_said = True
                await asyncio.sleep(error.retry_after_s or RETRY_S)
            else:
                return terms

    async def _claim(self) -> list[Task]:
        slots = min(await self._attempts.until_usable(), CLAIM_SLOTS_MAX)
        command = ClaimTasks(
            claim_id=_ids.new("claim"),
            worker_id=self._worker_id,
            slots=slots,
            wait_s=self._wait_s,
            registration=self._registration.registration,
        )
        claimed: list[Task] = await self._ask(command)
        if not claimed and self._wait_s < RETRY_S:
            await asyncio.sleep(RETRY_S)
        return claimed

    async def _ask(self, command: RegisterWorker | ClaimTasks) -> Any:
        """Repeat a command with the same ids until it is answered."""
        while True:
            try:
                return await self._client.execute(command)
            except Unavailable as error:
                log.warning("command_unanswered", worker_id=self._worker_id, why=error.message)
                await asyncio.sleep(RETRY_S)

    def _take(self, claimed: Task) -> None:
        """Execute a task, or release it if the worker is stopping or has no handler for it."""
        if claimed.status is not TaskStatus.RUNNING or claimed.worker_id != self._worker_id:
            return
        if self._stopping.is_set():
            self._tasks.create_task(self.release(claimed, "the worker is draining"))
        elif claimed.task_name in self._handlers:
            self._attempts.start(claimed)
        else:
            self.register_again()
            self._tasks.create_task(self.release(claimed, f"the worker has no handler for {claimed.task_name}"))
