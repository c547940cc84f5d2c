"""
Every event meets every status: it is legal and leads where this table says, or the journal is `Corrupt`.

`KINDS` says how a thing gets into each status, and what each event makes of it there. What is not listed there is not
allowed. The `LEGAL` tables that documents are drawn from must say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from events import codec
from events.base import Event, type_of
from events.cancel_ladder import TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStarting,
    ContainerStatus,
    ContainerStopped,
    ContainerStopping,
)
from events.errors import Corrupt
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered, ServiceStatus
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskExtended,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
)
from events.task_pause import TaskPaused, TaskResumed
from events.worker import WorkerDraining, WorkerLeft, WorkerLost, WorkerRegistered
from projections import container, node, service, task, worker
from projections.node import NodeStatus
from projections.worker import WorkerStatus
from tests.specification import write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import Enum

T, C, S, W, N = TaskStatus, ContainerStatus, ServiceStatus, WorkerStatus, NodeStatus

# --- one example of each event ----------------------------------------------------------------------------------------

SUBMITTED = TaskSubmitted(task_id="x", task_name="n")
STARTED = TaskStarted(task_id="x", worker_id="w", claim_id="c", attempt=1, lease="c.1")
PROGRESSED = TaskProgressed(task_id="x", lease="c.1", progress=0.5)
COMPLETED = TaskCompleted(task_id="x", lease="c.1")
ATTEMPT_FAILED = TaskAttemptFailed(task_id="x", lease="c.1", error="e", reason="failed", retry_at=0.0)
FAILED = TaskFailed(task_id="x", lease="c.1", error="e", reason="failed")
CANCELLED = TaskCancelled(task_id="x")
CANCEL_ASKED = TaskCancelAsked(task_id="x", grace_s=9.0)
CANCEL_TOLD = TaskCancelTold(task_id="x", lease="c.1")
CANCEL_FORCED = TaskCancelForced(task_id="x", lease="c.1", how="raised")
UNBLOCKED = TaskUnblocked(task_id="x", predecessor="y")
EXTENDED = TaskExtended(task_id="x", lease="c.1", by_s=5.0)
TIMED_OUT = TaskTimedOut(task_id="x", lease="c.1", ran_for_s=2.0, limit_s=1.0)
TASK_PAUSED = TaskPaused(task_id="x", reason="r")
EXHAUSTED = TaskPaused(task_id="x", reason="retries_exhausted", lease="c.1", cause="failed", error="e", attempt=1)
TASK_RESUMED = TaskResumed(task_id="x")
REPORT_REFUSED = TaskReportRefused(task_id="x", lease="c.0", outcome="completed", worker_id="w")

CREATED = ContainerCreated(container_id="x", agent_id="a", agent_type="task_agent", node_id="n")
STARTING = ContainerStarting(container_id="x", node_id="n")
RUNS = ContainerStarted(container_id="x", generation="2.0")
PAUSING = ContainerPausing(container_id="x")
PAUSED = ContainerPaused(container_id="x")
RESUMING = ContainerResuming(container_id="x")
RESUMED = ContainerResumed(container_id="x")
STOPPING = ContainerStopping(container_id="x")
STOPPED = ContainerStopped(container_id="x")
BROKE = ContainerFailed(container_id="x", generation="2.0", reason="r")
DESTROYED = ContainerDestroyed(container_id="x")


def offered(status: ServiceStatus) -> ServiceRegistered:
    return ServiceRegistered(service_id="x", service_name="s", service_type="t", host="h", port=1, status=status)


def became(status: ServiceStatus) -> ServiceHealthChanged:
    return ServiceHealthChanged(service_id="x", status=status, previous=S.UNKNOWN, rule="r")


DEREGISTERED = ServiceDeregistered(service_id="x")

WORKS = WorkerRegistered(worker_id="x")
DRAINING = WorkerDraining(worker_id="x")
LEFT = WorkerLeft(worker_id="x")
WORKER_LOST = WorkerLost(worker_id="x", silent_for_s=2.0, limit_s=1.0)

NODE = NodeRegistered(node_id="x")
CORDONED = NodeCordoned(node_id="x")
UNCORDONED = NodeUncordoned(node_id="x")
DRAINS = NodeDraining(node_id="x", until=9.0)
DRAINED = NodeDrained(node_id="x")
REMOVING = NodeRemoving(node_id="x")
NODE_LOST = NodeLost(node_id="x", silent_for_s=2.0, limit_s=1.0)
RETURNED = NodeReturned(node_id="x")
REMOVED = NodeRemoved(node_id="x")


class Kind(NamedTuple):
    """One kind of entity: its table in the world, its `LEGAL`, how it gets into each status, what each event does."""

    table: str
    legal: Mapping[Any, frozenset[Any]]
    statuses: type[Enum]
    paths: dict[Any, tuple[Event, ...]]
    becomes: list[tuple[Event, dict[Any, Any]]]
    """An event's statuses before and after; None before means an entity that does not exist yet."""
    more: tuple[tuple[Any, Any], ...] = ()
    """Transitions that depend on more than the status."""


def same(status: Any) -> dict[Any, Any]:
    """The statuses of a kind that an event does not change."""
    return {one: one for one in status}


KINDS = {
    "task": Kind(
        "tasks",
        task.LEGAL,
        T,
        {
            T.PENDING: (SUBMITTED,),
            T.RUNNING: (SUBMITTED, STARTED, CANCEL_ASKED),
            T.COMPLETED: (SUBMITTED, STARTED, COMPLETED),
            T.FAILED: (SUBMITTED, STARTED, FAILED),
            T.CANCELLED: (SUBMITTED, CANCELLED),
            T.TIMEOUT: (SUBMITTED, STARTED, TIMED_OUT),
        },
        [
            (SUBMITTED, {None: T.PENDING}),
            (STARTED, {T.PENDING: T.RUNNING}),
            (PROGRESSED, {T.RUNNING: T.RUNNING}),
            (UNBLOCKED, {T.PENDING: T.PENDING}),
            (CANCEL_ASKED, {T.RUNNING: T.RUNNING}),
            (CANCEL_TOLD, {T.RUNNING: T.RUNNING}),
            (CANCEL_FORCED, {T.RUNNING: T.RUNNING}),
            (COMPLETED, {T.RUNNING: T.COMPLETED}),
            (ATTEMPT_FAILED, {T.RUNNING: T.PENDING}),
            (FAILED, {T.RUNNING: T.FAILED}),
            (CANCELLED, {T.PENDING: T.CANCELLED, T.RUNNING: T.CANCELLED}),
            (TIMED_OUT, {T.PENDING: T.TIMEOUT, T.RUNNING: T.TIMEOUT}),
            (EXTENDED, {T.RUNNING: T.RUNNING}),
            (TASK_PAUSED, {T.PENDING: T.PENDING}),
            (EXHAUSTED, {T.RUNNING: T.PENDING}),
            (TASK_RESUMED, {}),  # of a task that is not paused
            (REPORT_REFUSED, same(T)),
        ],
    ),
    "container": Kind(
        "containers",
        container.LEGAL,
        C,
        {
            C.CREATED: (CREATED,),
            C.STARTING: (CREATED, STARTING),
            C.RUNNING: (CREATED, STARTING, RUNS),
            C.PAUSED: (CREATED, STARTING, RUNS, PAUSING, PAUSED),
            C.STOPPING: (CREATED, STARTING, RUNS, STOPPING),
            C.STOPPED: (CREATED, STARTING, RUNS, STOPPING, STOPPED),
            C.ERROR: (CREATED, STARTING, BROKE),
            C.DESTROYED: (CREATED, DESTROYED),
        },
        [
            (CREATED, {None: C.CREATED}),
            (STARTING, {C.CREATED: C.STARTING, C.STOPPED: C.STARTING, C.ERROR: C.STARTING}),
            (RUNS, {C.STARTING: C.RUNNING}),
            (PAUSING, {C.RUNNING: C.RUNNING}),
            (PAUSED, {C.RUNNING: C.PAUSED}),
            (RESUMING, {one: one for one in (C.STARTING, C.RUNNING, C.PAUSED, C.ERROR)}),
            (RESUMED, {C.PAUSED: C.RUNNING}),
            (STOPPING, dict.fromkeys((C.STARTING, C.RUNNING, C.PAUSED, C.STOPPING), C.STOPPING)),
            (STOPPED, dict.fromkeys((C.STARTING, C.RUNNING, C.PAUSED, C.STOPPING, C.ERROR), C.STOPPED)),
            (BROKE, dict.fromkeys((C.STARTING, C.RUNNING, C.PAUSED), C.ERROR)),
            (DESTROYED, dict.fromkeys((C.CREATED, C.STOPPING, C.STOPPED, C.ERROR), C.DESTROYED)),
        ],
        ((C.STOPPING, C.STOPPING),),  # a stop in progress may be forced
    ),
    "service": Kind(
        "services",
        service.LEGAL,
        S,
        {status: (offered(status),) for status in S},
        [
            *((offered(status), {None: status, **dict.fromkeys(S, status)}) for status in S),
            *((became(status), {before: status for before in S if before is not status}) for status in S),
            (DEREGISTERED, dict.fromkeys(S, S.OFFLINE)),
        ],
    ),
    "worker": Kind(
        "workers",
        worker.LEGAL,
        W,
        {W.ACTIVE: (WORKS,), W.DRAINING: (WORKS, DRAINING), W.LOST: (WORKS, WORKER_LOST), W.LEFT: (WORKS, LEFT)},
        [
            (WORKS, {None: W.ACTIVE, **dict.fromkeys(W, W.ACTIVE)}),
            (DRAINING, {W.ACTIVE: W.DRAINING}),
            (WORKER_LOST, {W.ACTIVE: W.LOST, W.DRAINING: W.LOST}),
            (LEFT, {W.ACTIVE: W.LEFT, W.DRAINING: W.LEFT, W.LOST: W.LEFT}),
        ],
    ),
    "node": Kind(
        "nodes",
        node.LEGAL,
        N,
        {N.READY: (NODE,), N.CORDONED: (NODE, CORDONED), N.LOST: (NODE, NODE_LOST), N.REMOVED: (NODE, REMOVED)},
        [
            (NODE, {None: N.READY, N.READY: N.READY, N.CORDONED: N.CORDONED, N.LOST: N.READY, N.REMOVED: N.READY}),
            (CORDONED, {N.READY: N.CORDONED, N.LOST: N.LOST}),
            (UNCORDONED, {N.CORDONED: N.READY, N.LOST: N.LOST}),
            (DRAINS, {N.READY: N.CORDONED, N.CORDONED: N.CORDONED, N.LOST: N.LOST}),
            (DRAINED, {N.CORDONED: N.CORDONED, N.LOST: N.LOST}),
            (REMOVING, {N.READY: N.CORDONED, N.CORDONED: N.CORDONED, N.LOST: N.LOST}),
            (NODE_LOST, {N.READY: N.LOST, N.CORDONED: N.LOST}),
            (RETURNED, {N.LOST: N.READY}),
            (REMOVED, {N.READY: N.REMOVED, N.CORDONED: N.REMOVED, N.LOST: N.REMOVED}),
        ],
        ((N.LOST, N.CORDONED),),  # a cordoned node returns as cordoned
    ),
}

MEETINGS = [
    pytest.param(kind, before, event, becomes.get(before), id=f"{event_name}-{before.name if before else 'absent'}")
    for kind in KINDS.values()
    for event, becomes in kind.becomes
    for before in (None, *kind.statuses)
    for event_name in [type_of(type(event))]
]


@pytest.mark.parametrize(("kind", "before", "event", "after"), MEETINGS)
def test_every_event_is_legal_in_every_status_or_corrupt(kind: Kind, before: Any, event: Event, after: Any) -> None:
    """Events in the table lead to the given status; any other stops the fold, is named, and changes nothing."""
    scribe = write(*(kind.paths[before] if before else ()))
    things = getattr(scribe.world, kind.table)
    was = things.get("x")
    assert (was.status if was else None) is before
    if after is not None:
        scribe.commit(event)
        assert things["x"].status is after
        return
    position = f"{scribe.world.position.sequence + 1}.0"
    with pytest.raises(Corrupt) as corrupt:
        scribe.commit(event)
    assert things.get("x") is was
    message = corrupt.value.message
    assert f"event {position} " in message
    assert type_of(type(event)) in message
    assert "'x'" in message
    assert ("does not exist" in message) == (before in {None, N.REMOVED})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_status_is_a_key_of_the_legal_table(kind: Kind) -> None:
    """Every status has a row, none leads out of the table, and each can be reached."""
    assert set(kind.legal) == set(kind.statuses) == set(kind.paths)
    assert set().union(*kind.legal.values()) <= set(kind.statuses)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_legal_table_says_what_events_do(kind: Kind) -> None:
    """A transition is in `LEGAL` exactly when some event makes it."""
    made = {*kind.more} | {
        (before, after)
        for _, becomes in kind.becomes
        for before, after in becomes.items()
        if before and before != after
    }
    told = {(before, after) for before, afters in kind.legal.items() for after in afters}
    assert told == made


def test_every_event_of_these_kinds_is_in_the_table() -> None:
    """An event added to the contract must be added here."""
    for name, kind in KINDS.items():
        there = {type(event) for event, _ in kind.becomes}
        assert there == {
            event for type_name, event in codec.EVENTS.items()
            if type_name.startswith(f"{name}.") and type_name not in codec.HEARTBEATS
        }  # fmt: skip


@pytest.mark.parametrize("event", [became(S.HEALTHY), DEREGISTERED], ids=["health_changed", "deregistered"])
def test_a_deregistered_service_exists_no_more(event: Event) -> None:
    """Only a registration brings it back; an OFFLINE service is still registered."""
    scribe = write(offered(S.HEALTHY), DEREGISTERED)
    with pytest.raises(Corrupt, match="does not exist"):
        scribe.commit(event)
    scribe.commit(offered(S.HEALTHY))
    assert not scribe.world.services["x"].is_ended


ENDED_TASKS = [T.COMPLETED, T.FAILED, T.CANCELLED, T.TIMEOUT]


@pytest.mark.parametrize("ended", ENDED_TASKS)
@pytest.mark.parametrize("event", [COMPLETED, FAILED, CANCELLED, TIMED_OUT, STARTED, SUBMITTED, ATTEMPT_FAILED])
def test_a_task_ends_once(ended: TaskStatus, event: Event) -> None:
    """No second terminal event, not even the same, and no way back."""
    scribe = write(*KINDS["task"].paths[ended])
    with pytest.raises(Corrupt):
        scribe.commit(event)


@pytest.mark.parametrize("event", [STARTED, TASK_PAUSED, EXHAUSTED])
def test_a_paused_task_is_neither_started_nor_paused_again(event: Event) -> None:
    """It has to be resumed first."""
    scribe = write(SUBMITTED, TASK_PAUSED)
    with pytest.raises(Corrupt, match=r"task\.(started|paused)"):
        scribe.commit(event)
    scribe.commit(TASK_RESUMED)
    scribe.commit(STARTED)
    assert scribe.world.tasks["x"].status is T.RUNNING


@pytest.mark.parametrize("status", [T.PENDING, T.RUNNING])
def test_a_task_is_submitted_once(status: TaskStatus) -> None:
    """A second submission under the same id would replace the first."""
    scribe = write(*KINDS["task"].paths[status])
    with pytest.raises(Corrupt, match="already exists"):
        scribe.commit(SUBMITTED)
