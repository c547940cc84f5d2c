"""
How a worker comes by tasks: it registers, keeps one claim waiting at the coordinator, and starts what it is given.

One claim always waits while a slot is free. Every question is repeated with the same ids until it is answered. What
cannot be run here is given back at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.commands.task import ClaimTasks, ReleaseTask
from coordinator.commands.worker import RegisterWorker
from coordinator.ids import TimeOrderedIds
from events.errors import CoordinationError, Refused, Unavailable
from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.client.client import Client
    from coordinator.commands.worker import WorkerTerms
    from coordinator.worker.attempts import Attempts
    from projections.task import Task

log = structlog.get_logger(__name__)

CLAIM_WAIT_S = 20.0
CLAIM_SLOTS_MAX = 500
RETRY_S = 0.5
RELEASE_TIMEOUT_S = 5.0

_ids = TimeOrderedIds()


class Claiming:
    """
    Claims for one worker until *stopping* is set.

    Args:
        registration: what the worker says of itself; said again after each reconnect.
        registered: called with the terms of each registration.
        stop: called with the reason when the coordinator drains this worker.
    """

    def __init__(
        self,
        client: Client,
        attempts: Attempts,
        tasks: asyncio.TaskGroup,
        *,
        registration: RegisterWorker,
        registered: Callable[[WorkerTerms], None],
        stopping: asyncio.Event,
        stop: Callable[[str], None],
    ) -> None:
        self._client = client
        self._attempts = attempts
        self._tasks = tasks
        self._registration = registration
        self._registered = registered
        self._stopping = stopping
        self._stop = stop
        self._is_registered = False

    @property
    def _worker_id(self) -> str:
        return self._registration.worker_id

    def register_again(self) -> None:
        """Register before the next claim: the coordinator may have forgotten this worker, or what it handles."""
        self._is_registered = False

    async def run(self) -> None:
        """Claim until stopped; a worker that was taken once does not end because a single claim is refused."""
        was_taken = False
        while not self._stopping.is_set():
            try:
                if not self._is_registered:
                    await self._register()
                for given in await self._claim():
                    self._take(given)
                was_taken = True
            except Refused as error:
                if error.reason == "worker_draining":
                    self._stop("the coordinator drains it")
                elif not was_taken:
                    raise
                else:
                    log.warning("claim_refused", worker_id=self._worker_id, code=error.reason, why=error.message)
                    await asyncio.sleep(RETRY_S)

    async def release(self, given: Task, reason: str) -> None:
        """Give a task back; where that cannot be said, its lease expires."""
        command = ReleaseTask(task_id=given.task_id, lease=given.lease, reason=reason)
        try:
            await self._client.execute(command, timeout_s=RELEASE_TIMEOUT_S)
        except CoordinationError as error:
            log.warning("release_failed", task_id=given.task_id, why=error.message)

    async def _register(self) -> None:
        self._is_registered = True
        command = self._registration
        self._registered(await self._ask(command))
        log.info("worker_registered", worker_id=self._worker_id, slots=command.slots, handles=command.handles)

    async def _claim(self) -> list[Task]:
        slots = min(await self._attempts.until_usable(), CLAIM_SLOTS_MAX)
        command = ClaimTasks(claim_id=_ids.new("claim"), worker_id=self._worker_id, slots=slots, wait_s=CLAIM_WAIT_S)
        given: list[Task] = await self._ask(command)
        return given

    async def _ask(self, command: RegisterWorker | ClaimTasks) -> Any:
        """Ask until there is an answer, always with the same ids."""
        while True:
            try:
                return await self._client.execute(command)
            except Unavailable as error:
                log.warning("coordinator_silent", worker_id=self._worker_id, why=error.message)
                await asyncio.sleep(RETRY_S)

    def _take(self, given: Task) -> None:
        """Execute a task, or give it back when it came too late or has no handler here."""
        if given.status is not TaskStatus.RUNNING or given.worker_id != self._worker_id:
            return
        if self._stopping.is_set():
            self._tasks.create_task(self.release(given, "the worker drains"))
        elif given.task_name in self._registration.handles:
            self._attempts.start(given)
        else:
            self.register_again()
            self._tasks.create_task(self.release(given, f"the worker has no handler for {given.task_name}"))
