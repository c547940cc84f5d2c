"""
Check the services that have a health URL: a new one at once, then each every `registry.health_check_interval` seconds.

The checks run in the follower's process, which lists the services and reports the outcomes; the coordinator decides
what they mean for a service's health. A check that could not be made says nothing about the service: its URL must not
be probed (see `probes`), or this process cannot, for lack of a resolver, descriptors, memory or a route. It is reported
as such, counted and logged. Nothing is kept that cannot be listed again after a restart.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import structlog

from coordinator import logs
from coordinator.client.service_list import list_services
from coordinator.commands.acting import ids_of
from coordinator.health.outcome import could_not_check, kind_of, not_checked_report_of, report_of, told
from coordinator.health.probes import NETWORKS_KEY, Prober
from coordinator.task_groups import task_group
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.service import ServiceStatus

if TYPE_CHECKING:
    from coordinator.client.client import Door
    from coordinator.commands.command import Command
    from coordinator.health.probes import Network, Resolve
    from events.base import Position
    from projections.service import Service

log = structlog.get_logger(__name__)

FOLLOW_S = 1.0
"""Seconds between lists of the services of UNKNOWN health. All services are listed once per check interval."""
REPORT_TIMEOUT_S = 5.0
DESCRIPTORS_SHARE = 0.25
"""Checks use at most this part of the descriptors that the process may open."""
LOG_AGAIN_S = 60.0
"""Checks that could not be made are logged at once, and then at most this often, with their number."""


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
        at_once: how many checks run at the same time, fewer if the process may open few descriptors; the others wait.
        detail_chars_max: how long the reported detail of a check may be.
        resolve: returns the addresses of a host name for a source; by default the operating system's resolver.
    """
    if not networks:
        log.warning("health_checks_off", reason=f"{NETWORKS_KEY} is empty: list the networks of the services there")
    prober = Prober(networks, timeout_s=timeout_s, resolve=resolve, at_once=_room_for(at_once))
    async with task_group() as tasks:
        checks = HealthChecks(door, prober, tasks, interval_s=interval_s, detail_chars_max=detail_chars_max)
        await checks.keep_following()
    raise AssertionError


def _room_for(at_once: int) -> int:
    """Return how many checks may run at the same time here."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return at_once
    room = max(1, min(at_once, int(limit * DESCRIPTORS_SHARE)))
    if room < at_once:
        log.warning("checks_at_once_lowered", descriptors=limit, at_once=room, wanted=at_once)
    return room


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
        detail_chars_max: the length to which details are cut.
    """

    def __init__(
        self,
        door: Door,
        prober: Prober,
        tasks: asyncio.TaskGroup,
        *,
        interval_s: float,
        detail_chars_max: int = 1024,
    ) -> None:
        self._door = door
        self._prober = prober
        self._tasks = tasks
        self._interval_s = interval_s
        self._not_made = _NotMade()
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
        logs.bind(**ids_of(service.tenant, service.traceparent))  # this task has a context of its own
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        last_refusal = ""
        while True:
            report: Command
            try:
                outcome = await self._prober.look(url, service.source)
            except (Refused, Unavailable) as error:
                if isinstance(error, Unavailable):
                    self._not_made.note(service.service_id, error.message, loop.time())
                elif error.message != last_refusal:
                    last_refusal = error.message
                    log.warning("service_not_checked", service_id=service.service_id, reason=error.message)
                report = self._not_checked(service.service_id, url, error)
            except Exception as error:  # a failure of one probe must never stop the checks of other services
                log.exception("check_crashed", service_id=service.service_id)
                report = self._not_checked(service.service_id, url, could_not_check(told(error)))
            else:
                last_refusal = ""
                report = report_of(
                    service.service_id,
                    url,
                    outcome,
                    detail_chars_max=self._detail_chars_max,
                    every_s=self._interval_s,
                )
            if not await self._report(service.service_id, report):
                return
            # Fixed times, so that checks do not drift; checks that were missed are not repeated.
            due_at = max(due_at + self._interval_s, loop.time())
            await asyncio.sleep(due_at - loop.time())

    def _not_checked(self, service_id: str, url: str, error: CoordinationError) -> Command:
        return not_checked_report_of(service_id, kind_of(url), error.message, detail_chars_max=self._detail_chars_max)

    async def _report(self, service_id: str, report: Command) -> bool:
        """Report an outcome; return False when the service is no longer registered."""
        try:
            await self._door.execute(report, timeout_s=REPORT_TIMEOUT_S)
        except NotFound:
            return False
        except CoordinationError as error:
            log.debug("check_not_reported", service_id=service_id, reason=error.message)
        return True


class _NotMade:
    """Counts the checks that could not be made, and logs them once a minute."""

    def __init__(self) -> None:
        self._total = 0
        self._since_logged = 0
        self._log_at = 0.0

    def note(self, service_id: str, reason: str, now: float) -> None:
        """Count one, and log it if the last line is old enough."""
        self._total += 1
        self._since_logged += 1
        if now < self._log_at:
            return
        log.warning(
            "checks_not_made", count=self._since_logged, total=self._total, service_id=service_id, reason=reason
        )
        self._since_logged, self._log_at = 0, now + LOG_AGAIN_S
