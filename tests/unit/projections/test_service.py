"""Services: the state after each event, field by field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.base import Position
from events.errors import Corrupt
from events.service import (
    ServiceDeregistered,
    ServiceHealthChanged,
    ServiceHeartbeat,
    ServiceRegistered,
    ServiceStatus,
)
from projections.service import Service, evolve
from projections.stamp import Stamp
from tests.specification import ACTOR, BEGIN, fold, said

REGISTERED = ServiceRegistered(
    service_id="s",
    service_name="search",
    service_type="http",
    host="h",
    port=80,
    status=ServiceStatus.UNKNOWN,
    health_check_url="http://h/health",
    tags=("a",),
    metadata={"k": "v"},
    weight=2,
    container_id="c",
    worker_id="w",
)
CHANGED = ServiceHealthChanged(
    service_id="s", status=ServiceStatus.UNHEALTHY, previous=ServiceStatus.UNKNOWN, rule="2 checks failed", detail="503"
)
GONE = ServiceDeregistered(service_id="s", reason="moved")


def test_a_registered_service_is_all_that_was_registered() -> None:
    """Every field of the event, and where, when and for which tenant."""
    assert fold(said(REGISTERED, tenant="acme")).services["s"] == Service(
        service_id="s",
        service_name="search",
        service_type="http",
        host="h",
        port=80,
        status=ServiceStatus.UNKNOWN,
        registered=Position(1, 0),
        registered_at=BEGIN,
        tenant="acme",
        source=ACTOR,
        health_check_url="http://h/health",
        tags=("a",),
        metadata={"k": "v"},
        weight=2,
        container_id="c",
        worker_id="w",
        health_rule="registered",
        changed_at=BEGIN,
    )


def test_a_change_of_health_says_why() -> None:
    """The rule, its evidence, and when; everything else stays."""
    assert fold(REGISTERED, CHANGED).services["s"] == msgspec.structs.replace(
        fold(REGISTERED).services["s"],
        status=ServiceStatus.UNHEALTHY,
        health_rule="2 checks failed",
        health_detail="503",
        changed_at=BEGIN + 1,
    )


def test_a_deregistered_service_is_offline_and_over() -> None:
    """The state keeps why, when and where it ended."""
    gone = fold(REGISTERED, CHANGED, GONE).services["s"]
    assert gone == msgspec.structs.replace(
        fold(REGISTERED, CHANGED).services["s"],
        status=ServiceStatus.OFFLINE,
        health_rule="moved",
        changed_at=BEGIN + 2,
        ended_at=BEGIN + 2,
        ended=Position(3, 0),
    )
    assert gone.is_ended


def moved(**difference: Any) -> ServiceRegistered:
    return msgspec.structs.replace(REGISTERED, **difference)


@pytest.mark.parametrize(
    ("path", "after"),
    [
        ((REGISTERED, CHANGED), moved(host="g")),
        ((REGISTERED, CHANGED), moved(port=81)),
        ((REGISTERED, CHANGED), moved(health_check_url="http://h/")),
        ((REGISTERED, CHANGED), REGISTERED),
        ((REGISTERED, GONE), REGISTERED),
        ((REGISTERED, GONE), moved(keeps_health=True)),
        ((REGISTERED, CHANGED), moved(status=ServiceStatus.UNHEALTHY)),
    ],
)
def test_registering_begins_anew(path: tuple[ServiceRegistered, ...], after: ServiceRegistered) -> None:
    """No earlier value is kept when the event names another place or status, or the service had ended."""
    again = fold(*path, after).services["s"]
    at = len(path)
    assert again == msgspec.structs.replace(
        fold(after).services["s"],
        registered=Position(at + 1, 0),
        registered_at=BEGIN + at,
        changed_at=BEGIN + at,
    )
    assert not again.is_ended


def test_registering_again_with_the_same_status_keeps_its_reason_and_time() -> None:
    """Or a service that often changes its metadata would never be unhealthy for long."""
    after = moved(status=ServiceStatus.UNHEALTHY, metadata={"k": "w"}, keeps_health=True)
    before = fold(REGISTERED, CHANGED).services["s"]
    assert fold(REGISTERED, CHANGED, after).services["s"] == msgspec.structs.replace(
        before, metadata={"k": "w"}, registered=Position(3, 0), registered_at=BEGIN + 2
    )


def test_a_heartbeat_is_never_folded() -> None:
    """The time of the last heartbeat is a sign of life; folding a heartbeat raises `Corrupt`."""
    service = fold(REGISTERED).services["s"]
    for before in (service, None):
        with pytest.raises(Corrupt):
            evolve(before, ServiceHeartbeat(service_id="s"), Stamp(Position(2, 0), 5.0))
