"""Events about registered services, and their heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from events.base import Event


class ServiceStatus(Enum):
    """The health of a service, as far as it is known."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    OFFLINE = "offline"


class ServiceEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one service instance."""

    SUBJECT = "service_id"

    service_id: str


class ServiceRegistered(ServiceEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A service instance was registered, or registered again under the same id.

    `registration` is the id that the program gave to its registration; '' means that it gave none. With `keeps_health`
    host, port and URL are those it had, so its status, the reason and the time of it stay. `traced`: see
    `TaskSubmitted`.
    """

    VERSION = 2
    SINCE: ClassVar[Mapping[str, int]] = {"registration": 2, "keeps_health": 2, "traced": 2}

    service_name: str
    service_type: str
    host: str
    port: int
    status: ServiceStatus
    health_check_url: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    weight: int = 1
    container_id: str = ""
    worker_id: str = ""
    registration: str = ""
    keeps_health: bool = False
    traced: bool = False


class ServiceDeregistered(ServiceEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The service instance was deregistered."""

    reason: str = "requested"


class ServiceHealthChanged(ServiceEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The health of the instance changed; `rule` and the values measured against it are the evidence."""

    status: ServiceStatus
    previous: ServiceStatus
    rule: str
    detail: str = ""
    silent_for_s: float | None = None
    limit_s: float | None = None


class ServiceHeartbeat(ServiceEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A heartbeat, published on the heartbeat stream; it never enters the journal.

    `load` is the share of its capacity in use, 0 to 1; `connections` is the number of open connections. With a
    `registration` it counts only while that registration is the current one.
    """

    load: float = 0.0
    connections: int = 0
    response_time_ms: float | None = None
    registration: str = ""
