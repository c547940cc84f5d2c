"""Commands and questions about services."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import CHECKS, SERVICE_FOUND
from events.service import ServiceStatus
from projections.service import Service

NO_PORT = 0
"""The port of a service that nobody can connect to, such as the built-in agent: discovery never chooses it."""


class RegisterService(Command[str], frozen=True, kw_only=True, gc=False):
    """
    Register a service instance; registering again replaces its properties and its registration.

    `registration` is an id that the program gives to it; the program names it in further commands, which then change
    nothing once another one has registered. `generation` is that of its container; an earlier one is refused.
    """

    KIND, VERB = "service", "register"
    FOR = frozenset({"domain", "agents"})
    REFUSALS = frozenset({
        "bad_host", "bad_number", "bad_text", "bad_url", "container_not_running", "memory_full", "quota",
        "registry_full", "replaced", "too_many",
    })  # fmt: skip
    EXAMPLE = Example(
        {"service_id": "service_1", "service_name": "search", "service_type": "api", "host": "127.0.0.1", "port": 8080},
        "service_1",
    )

    service_id: str
    service_name: str
    service_type: str
    host: str
    port: int
    health_check_url: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    weight: int = 1
    container_id: str = ""
    worker_id: str = ""
    registration: str = ""
    generation: str = ""


class DeregisterService(Command[None], frozen=True, kw_only=True, gc=False):
    """Deregister a service instance; refused if it names a registration that is not the current one."""

    KIND, VERB = "service", "deregister"
    FOR = frozenset({"domain", "agents"})
    REFUSALS = frozenset({"bad_text", "not_found", "replaced"})
    EXAMPLE = Example({"service_id": "service_1"})

    service_id: str
    reason: str = "requested"
    registration: str = ""


class HeartbeatService(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Send a heartbeat of a service instance; it enters the journal only if its health changes.

    Refused if it names a registration that is not the current one.
    """

    KIND, VERB = "service", "heartbeat"
    FOR = frozenset({"domain", "agents"})
    REFUSALS = frozenset({"bad_number", "not_found", "replaced"})
    EXAMPLE = Example({"service_id": "service_1", "load": 0.25, "connections": 3})

    service_id: str
    load: float = 0.0
    connections: int = 0
    response_time_ms: float | None = None
    registration: str = ""


class ReportCheck(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report the outcome of one health check; the coordinator decides what it means.

    `every_s` is the time in seconds between two checks, if they are repeated.
    """

    KIND, VERB = "service", "check"
    FOR = frozenset({"domain", "follower"})
    REFUSALS = frozenset({"bad_number", "bad_text", "not_found"})
    EXAMPLE = Example({"service_id": "service_1", "ok": True, "check": "http", "latency_ms": 12.5})

    service_id: str
    ok: bool
    check: str
    detail: str = ""
    latency_ms: float | None = None
    every_s: float | None = None


class ReportNotChecked(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report that a health check could not be made, and why; it changes nothing, and is shown with the service.

    Such as that the checker's resolver fails, or that it lacks descriptors: never a failure of the service.
    """

    KIND, VERB = "service", "not_checked"
    FOR = frozenset({"domain", "follower"})
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"service_id": "service_1", "check": "http", "detail": "the resolver does not answer"})

    service_id: str
    check: str
    detail: str = ""


class ServiceLoad(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The contents of a service's last heartbeat, and how many seconds ago it came."""

    heard_s_ago: float
    load: float = 0.0
    connections: int = 0
    response_time_ms: float | None = None


class ServiceView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A service as discovery returns it: its state and its last reported load.

    `check_ms` is how long its last passed check took, in milliseconds. `not_checked` is why its last check could not be
    made; empty if it was made.
    """

    service: Service
    reported: ServiceLoad | None = None
    check_ms: float | None = None
    not_checked: str = ""


class FindServices(Question[list[ServiceView]], frozen=True, kw_only=True, gc=False):
    """
    Find service instances by name, type and status.

    With `after` they are sorted by id and begin after that id: use it to read all of them page by page.
    """

    KIND, VERB = "service", "find"
    INSTEAD = PAGES
    FOR = frozenset({"domain", "monitor", "agents", "follower"})
    REFUSALS = frozenset({"bad_number"})
    EXAMPLE = Example({"service_name": "search", "status": "healthy"}, [SERVICE_FOUND])

    service_name: str = ""
    service_type: str = ""
    status: ServiceStatus | None = None
    tag: str = ""
    limit: int = 1000
    after: str | None = None


class GetService(Question[ServiceView], frozen=True, kw_only=True, gc=False):
    """Get one service instance."""

    KIND, VERB = "service", "get"
    FOR = frozenset({"domain", "monitor", "agents", "follower"})
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"service_id": "service_1"}, SERVICE_FOUND)

    service_id: str


class CheckOutcome(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The reported outcome of one health check; `at` is wall-clock seconds.

    With `is_change` it is a change of health instead, as the journal has it, and `check` is its rule. `number` counts
    the checks of the service that the leading coordinator of this `reign` heard of. `lost` is how many outcomes before
    this one are missing, at least. With `could_not` the check could not be made, for the reason in `detail`: `ok` is
    False then, but no failure of the service.
    """

    at: float
    ok: bool
    check: str
    status: ServiceStatus
    detail: str = ""
    latency_ms: float | None = None
    is_change: bool = False
    reign: str = ""
    number: int = 0
    lost: int = 0
    could_not: bool = False


class GetHealthHistory(Question[list[CheckOutcome]], frozen=True, kw_only=True, gc=False):
    """
    List the last outcome of a service's health checks and the last change of its health, newest first.

    A follower has those before: ask it for `checks`.
    """

    KIND, VERB = "service", "history"
    INSTEAD = "use a lower limit="
    FOR = frozenset({"domain", "monitor", "agents"})
    REFUSALS = frozenset({"bad_number", "not_found"})
    EXAMPLE = Example({"service_id": "service_1", "limit": 10}, CHECKS)

    service_id: str
    limit: int = 50
