"""Register services, find them, and keep them known by their heartbeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.app.facade import Facade, member, new_id, number, text, texts, wanted, whole
from coordinator.commands.cluster import GetStats
from coordinator.commands.service import DeregisterService, FindServices, GetService, HeartbeatService, RegisterService
from events.service import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordinator.commands.cluster import ClusterStats
    from coordinator.commands.service import ServiceView


@dataclass(frozen=True, kw_only=True)
class ServiceInfo:
    """A service instance as its caller sees it; load is a share of 0 to 1, as it last reported."""

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


def service_info(view: ServiceView) -> ServiceInfo:
    """Show a folded service, with what it last reported, to its caller."""
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
    ) -> str:
        """
        Offer a service instance and give its id.

        With a health check URL (http, https or tcp) its checks decide its health, UNKNOWN until the first; without one
        it is HEALTHY until no heartbeat was heard for `registry.heartbeat_timeout`.

        Raises:
            Refused: something of it is wrong, or the registry is full; says what, and what would be right.
        """
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
            )
        )
        return registered

    async def deregister_service(self, service_id: str, reason: str = "requested") -> None:
        """Take a service instance off; taken off already is already so. Raises `NotFound` if it never was there."""
        await self.execute(DeregisterService(service_id=text("service_id", service_id), reason=text("reason", reason)))

    async def find_services(
        self,
        service_name: str | None = None,
        status: ServiceStatus | str | None = None,
        *,
        service_type: str | None = None,
        tag: str | None = None,
        limit: int = 1000,
    ) -> list[ServiceInfo]:
        """Give the registered instances that match, by name, status, type and tag."""
        question = FindServices(
            service_name="" if service_name is None else text("service_name", service_name),
            service_type="" if service_type is None else text("service_type", service_type),
            status=None if status is None else member("status", status, ServiceStatus),
            tag="" if tag is None else text("tag", tag),
            limit=whole("limit", limit),
        )
        return [service_info(view) for view in await self.execute(question)]

    async def get_service(self, service_id: str) -> ServiceInfo:
        """Give one instance; raises `NotFound`."""
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
        Tell that an instance lives, and how loaded it is (0 to 1).

        Raises:
            NotFound: it is not registered; register it anew.
        """
        await self.execute(
            HeartbeatService(
                service_id=text("service_id", service_id),
                load=number("load", load),
                connections=whole("connections", connections),
                response_time_ms=None if response_time_ms is None else number("response_time_ms", response_time_ms),
            )
        )

    async def get_registry_stats(self) -> dict[str, Any]:
        """Count the registered instances: `total_services`, `healthy_services` and so on by status."""
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
    return {text("metadata key", key): text(f"metadata[{key!r}]", value) for key, value in given.items()}
