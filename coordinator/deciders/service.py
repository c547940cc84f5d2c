"""
Deciders of the service commands. Pure: the context carries the time.

Health has hysteresis: the first check decides at once; after that, `check_rise` passed or `check_fall` failed checks in
a row change it. The length of the row is a sign: the writer keeps it and passes it in.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from math import inf
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from coordinator.commands.command import Command
from coordinator.commands.service import (
    DeregisterService,
    HeartbeatService,
    RegisterService,
    ReportCheck,
    ReportNotChecked,
)
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders import housing
from coordinator.deciders.deadlines import NEVER
from coordinator.deciders.rules import Decider, Teller, check_churn, check_current, check_generation
from coordinator.deciders.silence import is_held, patience_s, unless_spared
from events.coordinator import Watched
from events.errors import NotFound, Refused
from events.ids import checked
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered, ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.deadlines import Due
    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.service import Service
    from projections.world import World

_MOST_TAGS = 64
_PROBES = ("http", "https", "tcp")
_is_label = re.compile(r"[A-Za-z0-9_-]{1,63}").fullmatch


def register(world: World, command: RegisterService, context: DecisionContext) -> Events:
    """
    Register a service instance or replace its registration; a repeat with the same values changes nothing.

    Its health stays while host, port and URL stay, as it is about these; unless it was OFFLINE, as it is here now.
    """
    _check(command, context.rules)
    check_generation(world, command.container_id, command.generation)
    housing.check_open(world, command.container_id)
    known = world.services.get(command.service_id)
    status = ServiceStatus.UNKNOWN if command.health_check_url else ServiceStatus.HEALTHY
    keeps_health = (
        known is not None
        and known.status is not ServiceStatus.OFFLINE
        and known.is_at(command.host, command.port, command.health_check_url)
    )
    offered = ServiceRegistered(
        service_id=command.service_id,
        service_name=command.service_name,
        service_type=command.service_type,
        host=command.host,
        port=command.port,
        status=known.status if known is not None and keeps_health else status,
        health_check_url=command.health_check_url,
        tags=command.tags,
        metadata=command.metadata,
        weight=command.weight,
        container_id=command.container_id,
        worker_id=command.worker_id,
        registration=command.registration,
        keeps_health=keeps_health,
        traced=bool(context.traceparent),
    )
    if known is not None and not known.is_ended:
        return () if _same(known, offered) and known.status is not ServiceStatus.OFFLINE else (offered,)
    living = len(world.indexes.service_ids)
    if living >= context.rules.max_services:
        msg = (
            f"{living} services are registered, the limit of registry.max_services: deregister some or raise the limit"
        )
        raise Refused(msg, reason="registry_full")
    if known is None:
        check_churn(world, world.indexes.owned_services, "services", context)
    return (offered,)


def _same(service: Service, offered: ServiceRegistered) -> bool:
    return all(
        getattr(service, name) == getattr(offered, name)
        for name in offered.__struct_fields__
        if name not in ("service_id", "status", "keeps_health", "traced")
    )


def _check(command: RegisterService, rules: Rules) -> None:
    checked(command.service_id, "service_id")
    checked(command.service_name, "service_name")
    checked(command.service_type, "service_type")
    for name in ("container_id", "worker_id", "registration"):
        if getattr(command, name):
            checked(getattr(command, name), name)
    check_host("host", command.host)
    check_number("port", command.port, 0, 65_535)
    check_number("weight", command.weight, 1, 1000)
    if len(command.tags) > _MOST_TAGS or len(command.metadata) > _MOST_TAGS:
        msg = (
            f"there are {len(command.tags)} tags and {len(command.metadata)} metadata entries: "
            f"use at most {_MOST_TAGS} of each"
        )
        raise Refused(msg, reason="too_many")
    for tag in command.tags:
        check_text("tags", tag, 128, least=1)
    for key, value in command.metadata.items():
        check_text("metadata key", key, 128, least=1)
        check_text(f"metadata[{key!r}]", value, rules.text_chars_max)
    if command.health_check_url:
        check_url(command.health_check_url)


def check_host(name: str, host: str) -> None:
    """
    Accept a host name or an IP address.

    Raises:
        Refused: it is neither.
    """
    check_text(name, host, 253, least=1)
    if not _is_host(host):
        msg = f"{name} {host[:80]!r} is not a host name or an IP address: use one, without port, path or brackets"
        raise Refused(msg, reason="bad_host")


def _is_host(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return all(map(_is_label, host.split(".")))
    # Python accepts any text as the zone of a link-local address.
    zone = address.scope_id if isinstance(address, IPv6Address) else None
    return zone is None or _is_label(zone) is not None


def check_url(url: str) -> None:
    """
    Accept a health check URL: http, https or tcp, with a host and without credentials.

    Raises:
        Refused: it is not such a URL.
    """
    check_text("health_check_url", url, 2048, least=1)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _PROBES or not parts.hostname or parts.username is not None or parts.fragment:
        msg = (
            f"health_check_url {url[:120]!r} cannot be checked: use http://host:port/path, https://… or "
            "tcp://host:port, without user or fragment"
        )
        raise Refused(msg, reason="bad_url")
    if parts.scheme == "tcp" and port is None:
        msg = f"health_check_url {url[:120]!r} has no port: use tcp://host:port"
        raise Refused(msg, reason="bad_url")
    check_host("the host of health_check_url", parts.hostname)


def deregister(world: World, command: DeregisterService, context: DecisionContext) -> Events:
    """Deregister a service instance."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    service = world.services.get(checked(command.service_id, "service_id"))
    if service is None:
        _not_registered(command.service_id)
    check_current("service", service.service_id, service, command.registration)
    if service.is_ended:
        return ()
    return (ServiceDeregistered(service_id=service.service_id, reason=command.reason),)


def living(world: World, service_id: str) -> Service:
    """
    Return a registered service.

    Raises:
        NotFound: it is not registered.
    """
    service = world.services.get(checked(service_id, "service_id"))
    if service is None or service.is_ended:
        _not_registered(service_id)
    return service


def _not_registered(service_id: str) -> NoReturn:
    msg = f"service {service_id!r} not found: it was never registered or was deregistered; register it first"
    raise NotFound(msg)


def heartbeat(world: World, command: HeartbeatService, context: DecisionContext) -> Events:
    """Bring an OFFLINE service back; any other heartbeat is a sign of life and records no event."""
    service = living(world, command.service_id)
    check_current("service", service.service_id, service, command.registration)
    check_number("load", command.load, 0.0, 1e9)
    check_number("connections", command.connections, 0, 1e9)
    _check_time("response_time_ms", command.response_time_ms)
    if service.status is not ServiceStatus.OFFLINE or housing.is_frozen(world, service.container_id):
        return ()
    back = ServiceStatus.UNKNOWN if service.health_check_url else ServiceStatus.HEALTHY
    return (_changed(service, back, "heartbeat", "it was heard again"),)


def check(world: World, command: ReportCheck, context: DecisionContext) -> Events:
    """Decide what one more check changes; it is the `context.streak`-th in a row with this outcome."""
    check_text("detail", command.detail, context.rules.text_chars_max)
    check_text("check", command.check, 128, least=1)
    _check_time("latency_ms", command.latency_ms)
    _check_time("every_s", command.every_s)
    service = living(world, command.service_id)
    status = ServiceStatus.HEALTHY if command.ok else ServiceStatus.UNHEALTHY
    if service.status is status:
        return ()
    is_offline = service.status is ServiceStatus.OFFLINE
    if is_offline and (not command.ok or housing.is_frozen(world, service.container_id)):
        return ()
    if service.status is ServiceStatus.UNKNOWN:
        return (_changed(service, status, f"first {command.check} check", command.detail),)
    needed = context.rules.check_rise if command.ok else context.rules.check_fall
    if context.streak < needed:
        return ()
    outcome = "passed" if command.ok else "failed"
    return (_changed(service, status, f"{context.streak} {command.check} checks in a row {outcome}", command.detail),)


def not_checked(world: World, command: ReportNotChecked, context: DecisionContext) -> Events:
    """Record nothing: a check that could not be made is kept as a sign, and changes no health."""
    check_text("detail", command.detail, context.rules.text_chars_max)
    check_text("check", command.check, 128, least=1)
    living(world, command.service_id)
    return ()


def _check_time(name: str, time_ms: float | None) -> None:
    if time_ms is not None:
        check_number(name, time_ms, 0.0, 1e9)


def _changed(service: Service, status: ServiceStatus, rule: str, detail: str) -> ServiceHealthChanged:
    return ServiceHealthChanged(
        service_id=service.service_id, status=status, previous=service.status, rule=rule, detail=detail
    )


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float, services: Due) -> Iterator[Event]:
    """Yield what is due for services: those silent, unchecked, or unhealthy for too long."""
    is_spared = is_held(world, Watched.SERVICE)

    def due_for(service_id: str) -> Iterator[Event]:
        service = world.services.get(service_id)
        return iter(()) if service is None else _due(world, service, signs, context, heard_now, is_spared=is_spared)

    def next_look(service_id: str) -> tuple[float, float]:
        service = world.services.get(service_id)
        if service is None:
            return NEVER
        by_clock, by_commit_time = _next_look(world, service, signs, context, heard_now)
        return unless_spared(by_clock, heard_now, is_spared=is_spared), by_commit_time

    return services.look(heard_now, context.now, due_for, next_look)


def _due(
    world: World, service: Service, signs: Signs, context: DecisionContext, heard_now: float, *, is_spared: bool
) -> Iterator[Event]:
    if service.is_ended:
        return
    if service.container_id:
        event = housing.due_for_service(world, service)
        if event is not None:
            yield event
        if event is not None or housing.is_frozen(world, service.container_id):
            return
    if service.status is ServiceStatus.OFFLINE:
        if context.now - service.changed_at > context.rules.deregister_after_s:
            yield ServiceDeregistered(service_id=service.service_id, reason="offline for too long")
    elif _is_ill_for_too_long(service, signs, context, heard_now):
        yield ServiceDeregistered(service_id=service.service_id, reason="unhealthy for too long")
    elif service.health_check_url:
        yield from _unchecked(service, signs, context, heard_now)
    elif not is_spared:
        yield from _silent(service, signs, context, heard_now)


def _next_look(
    world: World, service: Service, signs: Signs, context: DecisionContext, heard_now: float
) -> tuple[float, float]:
    """Return when something may be due for a service for which nothing is due now, unless it changes or is checked."""
    if service.is_ended or housing.is_frozen(world, service.container_id):
        return NEVER
    rules = context.rules
    limit_s = rules.heartbeat_timeout_s
    ends_at = service.changed_at + rules.deregister_after_s
    if service.status is ServiceStatus.OFFLINE:
        return inf, ends_at
    if service.status is not ServiceStatus.UNHEALTHY:
        ends_at = inf
    if service.health_check_url:
        if service.status is not ServiceStatus.HEALTHY:
            return inf, ends_at
        checked_s = signs.check_limit_s(service.service_id, limit_s)
        return heard_now - signs.silent_for(signs.checked, service.service_id, heard_now) + checked_s, ends_at
    heard_at = heard_now - signs.silent_for(signs.services, service.service_id, heard_now)
    # Later if a custom check counts, but no later than the limit of a heartbeat that comes now.
    return min(heard_at + _heartbeat_limit_s(service, signs, context), heard_now + limit_s), ends_at


def _is_ill_for_too_long(service: Service, signs: Signs, context: DecisionContext, heard_now: float) -> bool:
    """Whether a service became unhealthy too long ago, and a check that is not long ago still found it so."""
    if (
        service.status is not ServiceStatus.UNHEALTHY
        or context.now - service.changed_at <= context.rules.deregister_after_s
    ):
        return False
    limit_s = signs.check_limit_s(service.service_id, context.rules.heartbeat_timeout_s)
    unchecked_for_s = signs.silent_for(signs.checked, service.service_id, heard_now)
    return signs.is_failing(service.service_id) and unchecked_for_s <= limit_s


def _unchecked(service: Service, signs: Signs, context: DecisionContext, heard_now: float) -> Iterator[Event]:
    """Yield what is due for a service with health checks: it was healthy, and was not checked for too long."""
    if service.status is not ServiceStatus.HEALTHY:  # an unhealthy one stays so until a check passes
        return
    limit_s = signs.check_limit_s(service.service_id, context.rules.heartbeat_timeout_s)
    unchecked_for_s = signs.silent_for(signs.checked, service.service_id, heard_now)
    if unchecked_for_s > limit_s:
        yield ServiceHealthChanged(
            service_id=service.service_id,
            status=ServiceStatus.UNKNOWN,
            previous=service.status,
            rule="not_checked",
            silent_for_s=unchecked_for_s,
            limit_s=limit_s,
        )


def _silent(service: Service, signs: Signs, context: DecisionContext, heard_now: float) -> Iterator[Event]:
    """Yield what is due for a service without health checks: it has sent no heartbeat for too long."""
    silent_for_s = signs.silent_for(signs.services, service.service_id, heard_now)
    if silent_for_s <= patience_s(Watched.SERVICE, context.rules):
        return
    limit_s = _heartbeat_limit_s(service, signs, context)
    if silent_for_s > limit_s:
        yield ServiceHealthChanged(
            service_id=service.service_id,
            status=ServiceStatus.OFFLINE,
            previous=service.status,
            rule="heartbeat_timeout",
            silent_for_s=silent_for_s,
            limit_s=limit_s,
        )


def _heartbeat_limit_s(service: Service, signs: Signs, context: DecisionContext) -> float:
    """Return for how long a service without health checks may be silent, at least the limit for silence."""
    limit_s = patience_s(Watched.SERVICE, context.rules)
    # A passed custom check is a heartbeat, and the next one may be further away than the limit.
    passed = signs.services.get(service.service_id) == signs.checked.get(service.service_id, -1.0)
    if passed and not signs.is_failing(service.service_id):
        return signs.check_limit_s(service.service_id, limit_s)
    return limit_s


DECIDERS: dict[type[Command], Decider] = {
    RegisterService: register,
    DeregisterService: deregister,
    HeartbeatService: heartbeat,
    ReportCheck: check,
    ReportNotChecked: not_checked,
}
TELLERS: dict[type[Command], Teller] = {
    RegisterService: lambda world, command, context, done: command.service_id,
}
