"""
Receives heartbeats between turns, and ticks.

Heartbeats renew leases and signs of life and never enter the journal. After a standstill the writer declares nothing
silent until one full period has passed, because it received no heartbeats while it stood still.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.commands.caller import COORDINATOR
from coordinator.commands.notices import LostLeases
from coordinator.commands.service import HeartbeatService
from coordinator.engine.hints import tell_to_cancel
from coordinator.engine.intake import Asked
from events.service import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.clock import Clock
    from coordinator.commands.service import ServiceLoad
    from coordinator.deciders.rules import Limits
    from coordinator.deciders.signs import Signs
    from coordinator.engine.hints import Notify
    from projections.world import World

log = structlog.get_logger(__name__)


class Listening:
    """Receives heartbeats during one reign, from `begin` to `end`."""

    def __init__(
        self,
        world: World,
        signs: Signs,
        *,
        put: Callable[[Asked], None],
        wake: Callable[[], None],
        clock: Clock,
        commit_time: Callable[[], float],
        limits: Limits,
        instance: str,
        is_fresh: Callable[[], bool],
        notify: Notify,
    ) -> None:
        self.is_on = False
        self.world = world
        self.signs = signs
        self._put = put
        self._wake = wake
        self._clock = clock
        self._commit_time = commit_time
        self._limits = limits
        self._instance = instance
        self._is_fresh = is_fresh
        self._notify = notify
        self._looked = 0.0
        self._ticking: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start to listen: every live entity and every lease counts as heard now."""
        now = self._looked = self._clock.heard()
        self.signs.begin(now)
        for held in self.world.indexes.held.values():
            for task_id in held:
                task = self.world.tasks[task_id]
                self.signs.leases[task.lease] = now
                if task.time_limits is not None:
                    self.signs.reports[task.lease] = now
        self.is_on = True
        for untold in self.world.indexes.cancels.untold.values():  # the writer before may not have come to it
            tell_to_cancel(self.world, untold, self._commit_time(), self._notify)
        self._tick()

    def end(self) -> None:
        """Stop listening."""
        self.is_on = False
        if self._ticking is not None:
            self._ticking.cancel()

    def look(self, now: float) -> None:
        """Detect a standstill that ended at *now*, by the monotonic clock, and restart every period of grace."""
        stood_still_s = now - self._looked - self._limits.tick_s
        self._looked = now
        if stood_still_s > self._limits.blind_after_s:
            log.warning("writer_stalled", instance=self._instance, for_s=round(stood_still_s, 1))
            self.signs.begin(now)

    def hear_worker(self, worker_id: str, leases: tuple[str, ...], load: float, registration: str = "") -> None:
        """
        Take the heartbeat of a worker; notify it of the leases it named but does not hold any more.

        A registration that was replaced is notified of that. It still renews its leases, as its attempts still run, but
        is no sign of life of the worker.
        """
        if not self.is_on:
            return  # without signs no lease is known, and none may be reported as lost
        held = {self.world.tasks[task_id].lease for task_id in self.world.indexes.held.get(worker_id, ())}
        worker = self.world.workers.get(worker_id)
        replaced = "" if worker is None or registration == worker.registered_as else registration
        if replaced:
            self.signs.renew(self._clock.heard(), tuple(held.intersection(leases)))
        else:
            self.signs.hear_worker(worker_id, self._clock.heard(), tuple(held.intersection(leases)), load)
        lost = [lease for lease in leases if lease not in held]
        if (lost or replaced) and self._is_fresh():
            self._notify("worker", worker_id, msgspec.json.encode(LostLeases(lost=lost, replaced=replaced)))
        untold = self.world.indexes.cancels.untold.get(worker_id)
        if untold is not None and self._is_fresh():  # the hint was lost, or another coordinator sent it
            tell_to_cancel(self.world, untold, self._commit_time(), self._notify)

    def hear_service(self, service_id: str, load: ServiceLoad, registration: str = "") -> None:
        """
        Take the heartbeat of a service; an offline service is brought back by a command.

        The heartbeat of a registration that was replaced is dropped.
        """
        service = self.world.services.get(service_id)
        if registration and service is not None and registration != service.registered_as:
            return
        self.signs.hear_service(service_id, self._clock.heard(), load)
        if service is not None and not service.is_ended and service.status is ServiceStatus.OFFLINE:
            back = HeartbeatService(
                service_id=service_id,
                load=load.load,
                connections=load.connections,
                response_time_ms=load.response_time_ms,
                registration=registration,
            )
            self._put(Asked(back, COORDINATOR))

    def _tick(self) -> None:
        self.look(self._clock.heard())
        self._ticking = asyncio.get_running_loop().call_later(self._limits.tick_s, self._tick)
        self._wake()
