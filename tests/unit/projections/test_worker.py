"""Workers: the state after each event, field by field."""

from __future__ import annotations

import msgspec
import pytest

from events.base import START, Event, Position
from events.errors import Corrupt
from events.resources import Resources
from events.worker import WorkerDraining, WorkerHeartbeat, WorkerLeft, WorkerLost, WorkerRegistered
from projections.stamp import Stamp
from projections.worker import WorkerState, WorkerStatus, evolve
from tests.specification import BEGIN, fold, said

REGISTERED = WorkerRegistered(
    worker_id="w", slots=4, resources=Resources(cpu_millis=5), handles=("a", "b"), container_id="c"
)
DRAINING = WorkerDraining(worker_id="w", reason="maintenance")
LEFT = WorkerLeft(worker_id="w", reason="bye")
LOST = WorkerLost(worker_id="w", silent_for_s=61.25, limit_s=60.0)


def test_a_registered_worker_is_all_that_was_registered() -> None:
    """Every field of the event, and where, when and for whom."""
    assert fold(said(REGISTERED, tenant="acme")).workers["w"] == WorkerState(
        worker_id="w",
        status=WorkerStatus.ACTIVE,
        registered=Position(1, 0),
        registered_at=BEGIN,
        tenant="acme",
        slots=4,
        resources=Resources(cpu_millis=5),
        handles=("a", "b"),
        container_id="c",
    )


def test_a_worker_without_limits_has_none() -> None:
    """None means no limit, and must not become zero on the way."""
    worker = fold(WorkerRegistered(worker_id="w")).workers["w"]
    assert (worker.slots, worker.resources, worker.handles) == (None, None, ())


def test_a_draining_worker_is_still_there() -> None:
    """It has not ended, and the state keeps why it takes no tasks."""
    draining = fold(REGISTERED, DRAINING).workers["w"]
    assert draining == msgspec.structs.replace(
        fold(REGISTERED).workers["w"], status=WorkerStatus.DRAINING, reason="maintenance"
    )
    assert not draining.is_ended


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [(LEFT, WorkerStatus.LEFT, "bye"), (LOST, WorkerStatus.LOST, "silent for 61.2 s, limit 60 s")],
    ids=["left", "lost"],
)
def test_a_worker_that_is_gone_says_why_and_since_when(event: Event, status: WorkerStatus, reason: str) -> None:
    """A worker ends by its own command or by its silence, with the evidence."""
    gone = fold(REGISTERED, event).workers["w"]
    assert gone == msgspec.structs.replace(
        fold(REGISTERED).workers["w"], status=status, reason=reason, ended_at=BEGIN + 1, ended=Position(2, 0)
    )
    assert gone.is_ended


@pytest.mark.parametrize("path", [(REGISTERED, DRAINING), (REGISTERED, LEFT), (REGISTERED, LOST, LEFT)], ids=len)
def test_a_worker_that_registers_again_begins_anew(path: tuple[Event, ...]) -> None:
    """The worker has the limits of the new registration, is active, and has no recorded end."""
    again = fold(*path, WorkerRegistered(worker_id="w", slots=1)).workers["w"]
    assert again == WorkerState(
        worker_id="w",
        status=WorkerStatus.ACTIVE,
        registered=Position(len(path) + 1, 0),
        registered_at=BEGIN + len(path),
        tenant="default",
        slots=1,
    )
    assert (again.ended_at, again.ended, again.is_ended) == (None, START, False)


def test_a_heartbeat_is_never_folded() -> None:
    """The time of the last heartbeat is a sign of life; folding a heartbeat raises `Corrupt`."""
    for before in (fold(REGISTERED).workers["w"], None):
        with pytest.raises(Corrupt):
            evolve(before, WorkerHeartbeat(worker_id="w"), Stamp(Position(2, 0), 5.0))
