"""
Services: state, legal transitions, and the fold of their events. Pure.

Only changes of health are folded; when a service was last heard is a sign of life, which only the writer knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.service import (
    ServiceDeregistered,
    ServiceHealthChanged,
    ServiceHeartbeat,
    ServiceRegistered,
    ServiceStatus,
)
from projections.stamp import Stamp, check_legal, missing

if TYPE_CHECKING:
    AnyServiceEvent = ServiceRegistered | ServiceDeregistered | ServiceHealthChanged | ServiceHeartbeat

_ALL = frozenset(ServiceStatus)
LEGAL: dict[ServiceStatus, frozenset[ServiceStatus]] = {status: _ALL - {status} for status in ServiceStatus}
"""Health may change from any status to any other; the table states this explicitly."""


class Service(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One service instance; `health_rule` is the reason of its status."""

    service_id: str
    service_name: str
    service_type: str
    host: str
    port: int
    status: ServiceStatus
    registered: Position
    registered_at: float
    tenant: str = ""
    traceparent: str = ""
    source: str = ""
    health_check_url: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    weight: int = 1
    container_id: str = ""
    worker_id: str = ""
    health_rule: str = ""
    health_detail: str = ""
    changed_at: float = 0.0
    ended_at: float | None = None
    ended: Position = START
    registration: str = ""

    @property
    def registered_as(self) -> str:
        """What names the current registration: the id that its program gave it, or the position of its event."""
        return self.registration or str(self.registered)

    @property
    def is_ended(self) -> bool:
        """Whether the instance is no longer registered."""
        return self.ended_at is not None

    def is_at(self, host: str, port: int, health_check_url: str) -> bool:
        """Whether the service is there; its health is about these three."""
        return (self.host, self.port, self.health_check_url) == (host, port, health_check_url)


def evolve(service: Service | None, event: AnyServiceEvent, stamp: Stamp) -> Service:
    """Fold one event into the service it is about."""
    if isinstance(event, ServiceRegistered):
        return _registered(service, event, stamp)
    if service is None or service.is_ended or isinstance(event, ServiceHeartbeat):
        missing(event, stamp)
    replace = msgspec.structs.replace
    match event:
        case ServiceHealthChanged():
            check_legal(LEGAL, service.status, event.status, event, stamp)
            return replace(
                service,
                status=event.status,
                health_rule=event.rule,
                health_detail=event.detail,
                changed_at=stamp.time,
            )
        case ServiceDeregistered():
            return replace(
                service,
                status=ServiceStatus.OFFLINE,
                health_rule=event.reason,
                changed_at=stamp.time,
                ended_at=stamp.time,
                ended=stamp.position,
            )
    assert_never(event)


def _registered(before: Service | None, event: ServiceRegistered, stamp: Stamp) -> Service:
    after = _new(event, stamp)
    if before is None or before.is_ended or not event.keeps_health:
        return after
    return msgspec.structs.replace(
        after,
        health_rule=before.health_rule,
        health_detail=before.health_detail,
        changed_at=before.changed_at,
    )


def _new(event: ServiceRegistered, stamp: Stamp) -> Service:
    return Service(
        service_id=event.service_id,
        service_name=event.service_name,
        service_type=event.service_type,
        host=event.host,
        port=event.port,
        status=event.status,
        registered=stamp.position,
        registered_at=stamp.time,
        tenant=stamp.tenant,
        traceparent=stamp.traceparent if event.traced else "",
        source=stamp.owner,
        health_check_url=event.health_check_url,
        tags=event.tags,
        metadata=event.metadata,
        weight=event.weight,
        container_id=event.container_id,
        worker_id=event.worker_id,
        health_rule="registered",
        changed_at=stamp.time,
        registration=event.registration,
    )
