"""The door to a coordinator that runs in this process."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from coordinator.app.sender import sender
from coordinator.client.client import CALL_TIMEOUT_S, nothing_stored
from coordinator.commands.acting import current
from coordinator.commands.caller import Caller
from coordinator.commands.service import FindServices
from coordinator.ids import TimeOrderedIds
from events.errors import Unavailable
from events.ids import DEFAULT_TENANT

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from coordinator.engine.engine import Engine

POLL_S = 0.02

T = TypeVar("T")

_ids = TimeOrderedIds()


class Leader(Protocol):
    """Holds the engine of the current reign, None while no instance leads; see `leadership.coordinator.Coordinator`."""

    @property
    def engine(self) -> Engine | None: ...

    @property
    def trouble(self) -> str:
        """Why nothing is stored now, so that nobody can lead; '' while it is."""
        ...


class InProcess:
    """A coordinator in this process: there is no network between the facade and the engine."""

    def __init__(self, leader: Leader, *, tenant: str = DEFAULT_TENANT, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._leader = leader
        self._tenant = tenant
        self._call_timeout_s = call_timeout_s
        self._actor = sender("local")
        self._is_closed = False

    async def execute(self, command: Command[T], *, timeout_s: float | None = None) -> T:
        engine = self._leader.engine
        if engine is not None and isinstance(command, FindServices):
            with suppress(Unavailable):  # after a standstill of this machine; the loop below retries
                found: T = engine.ask_now(command)
                return found
        acting = current()
        caller = Caller(
            actor=self._actor,
            tenant=acting.tenant or self._tenant,
            command_id=_ids.new("cmd") if command.REMEMBERED else "",
            traceparent=acting.traceparent,
        )
        wait_s = float(getattr(command, "wait_s", 0.0)) + (self._call_timeout_s if timeout_s is None else timeout_s)
        last = Unavailable("no instance is leading")
        try:
            async with asyncio.timeout(wait_s):
                while not self._is_closed:
                    engine = self._leader.engine
                    if engine is None:
                        await asyncio.sleep(POLL_S)
                        continue
                    try:
                        # A retry after a take-over uses the same ids, so that the command takes effect only once.
                        told: T = await engine.execute(command, caller)
                    except Unavailable as error:
                        last = error
                        await asyncio.sleep(error.retry_after_s or POLL_S)
                    else:
                        return told
        except TimeoutError:
            if trouble := self._leader.trouble:
                raise nothing_stored(trouble, last) from last
            msg = f"{type(command).__name__} was not answered within {wait_s:g} s: {last.message}"
            raise Unavailable(msg, reason="timeout") from last
        raise last

    def renew(self, worker_id: str, leases: list[str]) -> None:
        engine = self._leader.engine
        if engine is not None:
            engine.listening.hear_worker(worker_id, tuple(leases), 0.0)

    def close(self) -> None:
        """Stop retrying: the coordinator is about to stop."""
        self._is_closed = True
