"""Register services, find them, and send their heartbeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.app.facade import Facade, new_id
from coordinator.client.own_container import own_container
from coordinator.client.service_list import find_services
from coordinator.commands.arguments import member, number, text, texts, wanted, whole
from coordinator.commands.cluster import GetStats
from coordinator.commands.service import DeregisterService, FindServices, GetService, HeartbeatService, RegisterService
from events.errors import Refused, shown
from events.service import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordinator.commands.cluster import ClusterStats
    from coordinator.commands.service import ServiceView

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServiceInfo:
    """
    A service instance as callers see it.

    `registered_at` is in seconds since 1970. `load` (0 to 1), `connections` and `response_time_ms` are what the
    instance last reported, `check_ms` is how long its last passed check took, in milliseconds. `health_rule` says what
    decides its health. `not_checked` says why its last check could not be made; it is empty if it was.
    """

    service_id: str
    service_name: str
    service_type: str
    host: str
    port: int
    status: ServiceStatus
    health_check_url: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1
    container_id: str = ""
    worker_id: str = ""
    registered_at: float = 0.0
    health_rule: str = ""
    load: float = 0.0
    connections: int = 0
    response_time_ms: float | None = None
    check_ms: float | None = None
    not_checked: str = ""


def service_info(view: ServiceView) -> ServiceInfo:
    """Convert a folded service, and what it last reported, to a `ServiceInfo`."""
    service, reported = view.service, view.reported
    return ServiceInfo(
        service_id=service.service_id,
        service_name=service.service_name,
        service_type=service.service_type,
        host=service.host,
        port=service.port,
        status=service.status,
        health_check_url=service.health_check_url,
        tags=service.tags,
        metadata=service.metadata,
        weight=service.weight,
        container_id=service.container_id,
        worker_id=service.worker_id,
        registered_at=service.registered_at,
        health_rule=service.health_rule,
        load=reported.load if reported is not None else 0.0,
        connections=reported.connections if reported is not None else 0,
        response_time_ms=reported.response_time_ms if reported is not None else None,
        check_ms=view.check_ms,
        not_checked=view.not_checked,
    )


class ServiceRegistry(Facade):
    """The services of the cluster."""

    async def register_service(
        self,
        service_name: str,
        service_type: str,
        host: str,
        port: int,
        health_check_url: str | None = None,
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
        weight: int = 1,
        service_id: str | None = None,
        container_id: str | None = None,
    ) -> str:
        """
        Register a service instance and return its id.

        With a health check URL, the outcomes of its checks decide the instance's health, which is UNKNOWN until the
        first one. Without a URL it is HEALTHY until there is no heartbeat for `registry.heartbeat_timeout` seconds, and
        then OFFLINE.

        Args:
            service_name: the name that others find it by.
            service_type: a word to group services by.
            host: the host name or address.
            port: the port.
            health_check_url: the URL to probe: http, https or tcp.
            tags: words to find it by.
            metadata: further text, by key.
            weight: its share in weighted choices.
            service_id: an id chosen by the caller. Registering it again replaces the instance; its health stays while
                host, port and health check URL do. The same content again changes nothing. Once another program
                registers it, the instance is that program's: heartbeats of this one are refused, and deregistering it
                here changes nothing.
            container_id: the container that the instance runs in, "" for none; by default the one that this process
                runs in. The instance is deregistered when that container ends, and OFFLINE while it is paused.

        Raises:
            Refused: an argument is invalid, the registry is full, or the container does not run.
        """
        app = await self.opened()
        registered: str = await self.execute(
            RegisterService(
                service_id=new_id("service") if service_id is None else text("service_id", service_id),
                service_name=text("service_name", service_name),
                service_type=text("service_type", service_type),
                host=text("host", host),
                port=whole("port", port),
                health_check_url="" if health_check_url is None else text("health_check_url", health_check_url),
                tags=texts("tags", tags),
                metadata=_metadata(metadata),
                weight=whole("weight", weight),
                registration=app.registration,
                container_id=own_container() if container_id is None else text("container_id", container_id),
            )
        )
        app.own_services.add(registered)
        return registered

    async def deregister_service(self, service_id: str, reason: str = "requested") -> None:
        """
        Deregister a service instance. Deregistering it again changes nothing.

        An instance that this program registered, and another one after it, stays registered; this is logged.

        Raises:
            NotFound: the instance was never registered.
        """
        command = DeregisterService(
            service_id=text("service_id", service_id),
            reason=text("reason", reason),
            registration=await self._registration(service_id),
        )
        try:
            await self.execute(command)
        except Refused as error:
            if error.reason != "replaced":
                raise
            log.warning("service_not_deregistered", service_id=service_id, why=error.message)

    async def find_services(
        self,
        service_name: str | None = None,
        status: ServiceStatus | str | None = None,
        *,
        service_type: str | None = None,
        tag: str | None = None,
        limit: int = 1000,
    ) -> list[ServiceInfo]:
        """
        Return at most *limit* registered instances that match all given criteria, in no particular order.

        Raises:
            Refused: an argument is invalid.
        """
        question = FindServices(
            service_name="" if service_name is None else text("service_name", service_name),
            service_type="" if service_type is None else text("service_type", service_type),
            status=None if status is None else member("status", status, ServiceStatus),
            tag="" if tag is None else text("tag", tag),
            limit=whole("limit", limit),
        )
        return [service_info(view) for view in await find_services(self, question)]

    async def get_service(self, service_id: str) -> ServiceInfo:
        """Return one instance; raise `NotFound` if it is not registered."""
        return service_info(await self.execute(GetService(service_id=text("service_id", service_id))))

    async def update_heartbeat(
        self,
        service_id: str,
        *,
        load: float = 0.0,
        connections: int = 0,
        response_time_ms: float | None = None,
    ) -> None:
        """
        Send the heartbeat of an instance.

        Args:
            service_id: the instance.
            load: the share of its capacity in use, 0 to 1.
            connections: the connections it has open.
            response_time_ms: its mean response time in milliseconds, if known.

        Raises:
            NotFound: the instance is not registered; register it again.
            Refused: another program has registered the instance after this one (`replaced`), or an argument is invalid.
        """
        await self.execute(
            HeartbeatService(
                service_id=text("service_id", service_id),
                load=number("load", load),
                connections=whole("connections", connections),
                response_time_ms=None if response_time_ms is None else number("response_time_ms", response_time_ms),
                registration=await self._registration(service_id),
            )
        )

    async def _registration(self, service_id: str) -> str:
        """Return the registration of an instance that this program registered; '' for any other."""
        app = await self.opened()
        return app.registration if service_id in app.own_services else ""

    async def get_registry_stats(self) -> dict[str, Any]:
        """Return the number of registered instances: `total_services`, `healthy_services` and so on by status."""
        stats: ClusterStats = await self.execute(GetStats())
        by_status = {status.value: stats.services.get(status.value, 0) for status in ServiceStatus}
        return {
            "total_services": sum(by_status.values()),
            **{f"{status}_services": count for status, count in by_status.items()},
        }


def _metadata(given: Mapping[str, str] | None) -> dict[str, str]:
    if given is None:
        return {}
    wanted("metadata", given, dict, "a dict of text to text")
    return {text("metadata key", key): text(f"metadata[{shown(key)}]", value) for key, value in given.items()}
