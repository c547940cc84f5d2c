"""Workers: state, legal transitions, and the fold of their events. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, assert_never

import msgspec

from events.base import START, Position
from events.resources import Resources
from events.task import Scalar
from events.worker import WorkerDraining, WorkerHeartbeat, WorkerLeft, WorkerLost, WorkerRegistered
from projections.stamp import Stamp, check_legal, missing

if TYPE_CHECKING:
    AnyWorkerEvent = WorkerRegistered | WorkerDraining | WorkerLeft | WorkerLost | WorkerHeartbeat


class WorkerStatus(Enum):
    """Whether a worker may get tasks."""

    ACTIVE = "active"
    DRAINING = "draining"
    LOST = "lost"
    LEFT = "left"


_S = WorkerStatus
LEGAL: dict[WorkerStatus, frozenset[WorkerStatus]] = {
    _S.ACTIVE: frozenset({_S.DRAINING, _S.LOST, _S.LEFT}),
    _S.DRAINING: frozenset({_S.ACTIVE, _S.LOST, _S.LEFT}),
    _S.LOST: frozenset({_S.ACTIVE, _S.LEFT}),
    _S.LEFT: frozenset({_S.ACTIVE}),
}


class WorkerState(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One worker; None in `slots` or `resources` means no limit, empty `handles` means every task name.

    `rounds` is the round of the rotation in which it last got a task by ROUND_ROBIN or WEIGHTED_ROUND_ROBIN, counted
    from 1; 0 if it never did. In one round a worker gets as many tasks as its weight. `source` is who registered it, ''
    if that is not recorded. `build_id` names the version of its code, '' if it says none.
    """

    worker_id: str
    status: WorkerStatus
    registered: Position
    registered_at: float
    tenant: str = ""
    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""
    reason: str = ""
    ended_at: float | None = None
    ended: Position = START
    rounds: float = 0.0
    registration: str = ""
    source: str = ""
    labels: dict[str, Scalar] = {}
    build_id: str = ""

    @property
    def registered_as(self) -> str:
        """What names the current registration: the id that its program gave it, or the position of its event."""
        return self.registration or str(self.registered)

    @property
    def is_ended(self) -> bool:
        """Whether the worker is lost or has left; it may return."""
        return self.status in (WorkerStatus.LOST, WorkerStatus.LEFT)


def unknown(worker_id: str) -> WorkerState:
    """Return a worker that is not registered, as a claim would register it."""
    return WorkerState(worker_id=worker_id, status=WorkerStatus.ACTIVE, registered=START, registered_at=0.0)


def evolve(worker: WorkerState | None, event: AnyWorkerEvent, stamp: Stamp) -> WorkerState:
    """Fold one event into the worker it is about."""
    if isinstance(event, WorkerRegistered):
        return _registered(event, stamp, rounds=worker.rounds if worker is not None else 0.0)
    if worker is None or isinstance(event, WorkerHeartbeat):
        missing(event, stamp)
    after = _evolve(worker, event, stamp)
    check_legal(LEGAL, worker.status, after.status, event, stamp)
    return after


def _registered(event: WorkerRegistered, stamp: Stamp, *, rounds: float) -> WorkerState:
    return WorkerState(
        worker_id=event.worker_id,
        status=WorkerStatus.ACTIVE,
        registered=stamp.position,
        registered_at=stamp.time,
        tenant=stamp.tenant,
        slots=event.slots,
        resources=event.resources,
        handles=event.handles,
        container_id=event.container_id,
        registration=event.registration,
        rounds=rounds,
        source=stamp.owner if event.owned else "",
        labels=event.labels,
        build_id=event.build_id,
    )


def _evolve(worker: WorkerState, event: WorkerDraining | WorkerLeft | WorkerLost, stamp: Stamp) -> WorkerState:
    replace = msgspec.structs.replace
    match event:
        case WorkerDraining():
            return replace(worker, status=_S.DRAINING, reason=event.reason)
        case WorkerLeft():
            return replace(worker, status=_S.LEFT, reason=event.reason, ended_at=stamp.time, ended=stamp.position)
        case WorkerLost():
            reason = f"silent for {event.silent_for_s:.1f} s, limit {event.limit_s:g} s"
            return replace(worker, status=_S.LOST, reason=reason, ended_at=stamp.time, ended=stamp.position)
    assert_never(event)
