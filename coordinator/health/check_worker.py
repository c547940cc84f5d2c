"""
Check the services that have a health URL: a new one at once, then each every `registry.health_check_interval` seconds.

The checks run in the follower's process, which lists the services and reports the outcomes; the coordinator decides
what they mean for a service's health. A service whose URL must not be probed (see `probes`) is not reported and stays
UNKNOWN. Nothing is kept that cannot be listed again after a restart.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import structlog

from coordinator import logs
from coordinator.client.service_list import list_services
from coordinator.commands.acting import ids_of
from coordinator.health.outcome import report_of
from coordinator.health.probes import Prober
from coordinator.task_groups import task_group
from events.errors import CoordinationError, NotFound, Refused
from events.service import ServiceStatus

if TYPE_CHECKING:
    from coordinator.client.client import Door
    from coordinator.health.outcome import CheckResult
    from coordinator.health.probes import Network, Resolve
    from events.base import Position
    from projections.service import Service

log = structlog.get_logger(__name__)

FOLLOW_S = 1.0
"""Seconds between lists of the services of UNKNOWN health. All services are listed once per check interval."""
REPORT_TIMEOUT_S = 5.0


async def run_health_checks(
    door: Door,
    *,
    networks: tuple[Network, ...],
    timeout_s: float,
    interval_s: float,
    at_once: int,
    detail_chars_max: int,
    resolve: Resolve | None = None,
) -> NoReturn:
    """
    Check services until cancelled.

    Args:
        door: where services are listed and outcomes reported.
        networks: the networks that checks may connect to.
        timeout_s: how long one check may take.
        interval_s: the time between two checks of a service.
        at_once: how many checks run at the same time; the others wait.
        detail_chars_max: how long the reported detail of a check may be.
        resolve: returns the addresses of a host name; by default the operating system's resolver.
    """
    prober = Prober(networks, timeout_s=timeout_s, resolve=resolve)
    async with task_group() as tasks:
        checks = HealthChecks(
            door, prober, tasks, interval_s=interval_s, at_once=at_once, detail_chars_max=detail_chars_max
        )
        await checks.keep_following()
    raise AssertionError


class _Watched(NamedTuple):
    """The URL of a service and the position of its registration, and the task that checks it."""

    url: str
    registered: Position
    task: asyncio.Task[None]


class HealthChecks:
    """
    Checks each service in a task of its own.

    Args:
        door: where services are listed and outcomes reported.
        prober: probes the URLs.
        tasks: the group that the tasks run in.
        interval_s: seconds between two checks of a service.
        at_once: how many checks run at the same time.
        detail_chars_max: the length to which details are cut.
    """

    def __init__(
        self,
        door: Door,
        prober: Prober,
        tasks: asyncio.TaskGroup,
        *,
        interval_s: float,
        at_once: int = 100,
        detail_chars_max: int = 1024,
    ) -> None:
        self._door = door
        self._prober = prober
        self._tasks = tasks
        self._interval_s = interval_s
        self._room = asyncio.Semaphore(at_once)
        self._detail_chars_max = detail_chars_max
        self._watched: dict[str, _Watched] = {}

    async def keep_following(self) -> NoReturn:
        """Keep checking the registered services, until cancelled."""
        loop = asyncio.get_running_loop()
        all_due_at = loop.time()
        can_list = True
        while True:
            is_all = loop.time() >= all_due_at
            try:
                await self._follow(is_all=is_all)
            except CoordinationError as error:
                if can_list:
                    log.warning("services_not_listed", reason=error.message)
                can_list = False
            else:
                can_list = True
                if is_all:
                    all_due_at = loop.time() + max(self._interval_s, FOLLOW_S)
            await asyncio.sleep(FOLLOW_S)

    async def _follow(self, *, is_all: bool) -> None:
        """Start checking new services; when all are listed, stop checking those that are gone."""
        views = await list_services(self._door, status=None if is_all else ServiceStatus.UNKNOWN)
        listed = [view.service for view in views if view.service.health_check_url]
        for service in listed:
            self._watch(service)
        if is_all:
            for service_id in self._watched.keys() - {one.service_id for one in listed}:
                self._watched.pop(service_id).task.cancel()

    def _watch(self, service: Service) -> None:
        url, registered = service.health_check_url, service.registered
        known = self._watched.get(service.service_id)
        if known is not None and known.url == url and not known.task.done():
            # A new registration is checked at once; one that kept the known health goes on being checked.
            if known.registered == registered:
                return
            if service.status is not ServiceStatus.UNKNOWN:
                self._watched[service.service_id] = known._replace(registered=registered)
                return
        if known is not None:
            known.task.cancel()
        task = self._tasks.create_task(self._keep_checking(service, url))
        self._watched[service.service_id] = _Watched(url, registered, task)

    async def _keep_checking(self, service: Service, url: str) -> None:
        service_id = service.service_id
        logs.bind(**ids_of(service.tenant, service.traceparent))  # this task has a context of its own
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        last_refusal = ""
        while True:
            outcome = None
            try:
                async with self._room:
                    outcome = await self._prober.look(url)
            except Refused as error:
                if error.message != last_refusal:
                    log.warning("service_not_checked", service_id=service_id, reason=error.message)
                last_refusal = error.message
            except Exception:  # a failure of one probe must never stop the checks of other services
                log.exception("check_crashed", service_id=service_id)
            if outcome is not None and not await self._report(service_id, url, outcome):
                return
            # Fixed times, so that checks do not drift; checks that were missed are not repeated.
            due_at = max(due_at + self._interval_s, loop.time())
            await asyncio.sleep(due_at - loop.time())

    async def _report(self, service_id: str, url: str, outcome: CheckResult) -> bool:
        """Report an outcome; return False when the service is no longer registered."""
        report = report_of(service_id, url, outcome, detail_chars_max=self._detail_chars_max, every_s=self._interval_s)
        try:
            await self._door.execute(report, timeout_s=REPORT_TIMEOUT_S)
        except NotFound:
            return False
        except CoordinationError as error:
            log.debug("check_not_reported", service_id=service_id, reason=error.message)
        return True
