"""What the end or the pause of a container means for its services, its worker and its attempts, in the same commit."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.container import DestroyContainer, PauseContainer, ResumeContainer, StopContainer
from coordinator.commands.node import ObservedContainer, SyncNode
from coordinator.commands.service import HeartbeatService, ReportCheck
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker
from coordinator.deciders import dependents
from coordinator.deciders.signs import Signs
from events.base import Event
from events.container import (
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStopped,
)
from events.coordinator import CoordinatorPlacementRefused
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceStatus
from events.task import TaskAttemptFailed, TaskFailed, TaskStatus, TaskTimedOut
from events.worker import WorkerDraining, WorkerLeft
from projections.worker import WorkerStatus
from tests.specification import given
from tests.unit.deciders.facts import (
    BEGIN,
    URL,
    a_container,
    attempt_failed,
    claim,
    crashed,
    failed,
    health,
    lost,
    register_service,
    running,
    service,
    started,
    starting,
    stopped,
    stopping,
    submitted,
    worker,
)
from tests.unit.deciders.test_due import owed

HEALTHY, UNKNOWN, OFFLINE = ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN, ServiceStatus.OFFLINE
INSIDE = (service(container_id="k"), worker(container_id="k"), submitted(), started())
"""What is in container `k`: a service, and a worker with one attempt."""
OUTSIDE = (service("other"), service("near", container_id="l"), worker("v", container_id="l"), worker("u"))
GONE = (ServiceDeregistered, WorkerLeft, WorkerDraining)


def report(state: str, **others: Any) -> SyncNode:
    """Return the report of node `n` on container `k` as it was started at 3.0."""
    seen = ObservedContainer(**{"container_id": "k", "generation": "3.0", "state": state, **others})
    return SyncNode(node_id="n", orders_id="1", observed=(seen,))


def heard(node_id: str, at: float) -> Signs:
    """Return the signs of a writer that heard only this node, at this time."""
    signs = Signs()
    signs.begin(0.0)
    signs.nodes[node_id] = at
    return signs


def taken_off(reason: str) -> ServiceDeregistered:
    return ServiceDeregistered(service_id="s", reason=reason)


def left(reason: str) -> WorkerLeft:
    return WorkerLeft(worker_id="w", reason=reason)


def back(error: str, at: float) -> TaskAttemptFailed:
    return attempt_failed(error=error, reason="released", retry_at=at)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_container_that_is_told_to_stop_loses_its_services_and_gets_no_tasks() -> None:
    """Its worker finishes what it has, within the grace."""
    world = given(*a_container("running"), *INSIDE, *OUTSIDE)
    why = "container_stopping"
    follow = (WorkerDraining(worker_id="w", reason=why), taken_off(why))
    assert world.when(DestroyContainer(container_id="k", force=True)).events[1:] == follow
    after = world.when(StopContainer(container_id="k")).then(stopping(), *follow).world
    assert after.tasks["t"].status is TaskStatus.RUNNING
    assert after.services["other"].status is after.services["near"].status is HEALTHY
    world.when(claim("d")).then_refused("worker_draining")


@pytest.mark.parametrize(
    ("facts", "order", "end"),
    [
        (stopping(), report("exited", exit_code=0), stopped(exit_code=0)),
        (stopping(destroy=True), report("absent"), ContainerDestroyed(container_id="k")),
        (stopping(), SyncNode(node_id="n", orders_id="1"), stopped()),
    ],
)
def test_a_container_that_has_stopped_gives_its_attempts_back(facts: Event, order: SyncNode, end: Event) -> None:
    """They do not count as failed, as its process was told to end."""
    world = given(*a_container("running"), *INSIDE, facts)
    is_stop = isinstance(end, ContainerStopped)
    why = "container_stopped" if is_stop else "container_destroyed"
    text = "its container stopped" if is_stop else "its container was destroyed"
    world.when(order).then(end, left(why), taken_off(why), back(text, world.world.time + 1.0))
    assert world.world.tasks["t"].failures == 0
    assert world.world.workers["w"].status is WorkerStatus.LEFT


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_crash_counts_against_the_task(max_retries: int) -> None:
    """A task that kills its process must not kill one after the other."""
    inside = (INSIDE[0], INSIDE[1], submitted(max_retries=max_retries), started())
    world = given(*a_container("running"), *inside)
    decided = world.when(report("exited", exit_code=137, reason="killed"))
    why = "its container failed: killed"
    failure, *follow = decided.events
    assert isinstance(failure, ContainerFailed)
    assert follow[:2] == [left("container_failed"), taken_off("container_failed")]
    attempt = follow[2]
    if max_retries:
        wanted: Event = attempt_failed(
            error=why, reason="container_failed", retry_at=getattr(attempt, "retry_at", None), worker_ended=True
        )
    else:
        wanted = failed(error=why, reason="container_failed")
    assert follow[2:] == [wanted]
    assert decided.fold().tasks["t"].failures == 1


@pytest.mark.parametrize("state", ["absent", "failed"])
def test_what_ended_for_an_unknown_reason_does_not_count(state: str) -> None:
    """No process of the container is known to have ended by itself."""
    decided = given(*a_container("running"), *INSIDE).when(report(state))
    assert [type(event) for event in decided.events] == [
        ContainerFailed,
        WorkerLeft,
        ServiceDeregistered,
        TaskAttemptFailed,
    ]
    assert decided.fold().tasks["t"].failures == 0


@pytest.mark.parametrize("cause", ["cut_off", "superseded", "requested"])
@pytest.mark.parametrize("exit_code", [0, 143])
def test_what_its_agent_ended_does_not_count(cause: str, exit_code: int) -> None:
    """The process was told to end, whatever its exit code says."""
    decided = given(*a_container("running"), *INSIDE).when(report("exited", exit_code=exit_code, cause=cause))
    assert TaskAttemptFailed in {type(event) for event in decided.events}
    assert decided.fold().tasks["t"].failures == 0
    assert not decided.world.containers["k"].failures


def test_a_lost_node_means_the_same_for_its_containers() -> None:
    """In the same commit, without a count against the tasks."""
    facts = (*a_container("running"), *INSIDE, *OUTSIDE)
    why = "its container failed: node n is lost"
    *events, refused = owed(*facts, lost(), now=20.0)
    assert isinstance(refused, CoordinatorPlacementRefused)
    assert events == [
        crashed(reason="node n is lost", cause="cut_off", restart_at=BEGIN + 20.0),
        left("container_failed"),
        taken_off("container_failed"),
        back(why, BEGIN + 20.0),
    ]


def test_a_container_that_does_not_start_takes_its_service_with_it() -> None:
    """It may have registered before its node saw it run."""
    signs = heard("n", 31.0)
    events = owed(*a_container("starting"), INSIDE[0], now=100.0, silent_s=31.0, signs=signs)
    assert [type(event).__name__ for event in events] == ["ContainerFailed", "ServiceDeregistered"]


def test_what_a_stopped_container_left_behind_is_gone_already() -> None:
    """Nothing is ended twice."""
    ended = (taken_off("left"), left("left"), attempt_failed(reason="released"))
    facts = (*a_container("running"), *INSIDE, *ended, stopping())
    given(*facts).when(report("exited", exit_code=0)).then(stopped(exit_code=0))
    given(*facts, stopped()).when(DestroyContainer(container_id="k")).then(ContainerDestroyed(container_id="k"))
    late = given(*a_container("running"), *INSIDE, taken_off("x"), WorkerDraining(worker_id="w"))
    late.when(StopContainer(container_id="k")).then(stopping())
    late.when(LeaveWorker(worker_id="w")).fold()
    late.when(DrainWorker(worker_id="w")).then_nothing()


def test_what_does_not_fit_follows_with_the_next_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is limited in size: the worker leaves at once, so its attempts follow."""
    monkeypatch.setattr(dependents, "MOST_FOLLOWING", 3)
    services = [service(f"s{number}", container_id="k") for number in range(3)]
    facts = (*a_container("running"), *INSIDE, *services, stopping())
    world = given(*facts)
    world.when(report("exited", exit_code=0)).fold()
    assert sum(one.is_ended for one in world.world.services.values()) == 2
    assert world.world.workers["w"].status is WorkerStatus.LEFT
    assert world.world.tasks["t"].status is TaskStatus.RUNNING
    gone = owed(*facts, stopped(), taken_off("x"), left("x"), now=50.0)
    assert [type(event) for event in gone] == [TaskAttemptFailed, *[ServiceDeregistered] * 3]


@pytest.mark.parametrize(
    ("state", "why"),
    [("stopping", "container_stopping"), ("stopped", "container_stopped"), ("error", "container_failed")],
)
def test_what_is_found_in_a_container_that_is_over_ends(state: str, why: str) -> None:
    """It registered too late, or a writer died between two commits."""
    events = owed(*a_container(state), *INSIDE[:2])
    end: Event = WorkerDraining(worker_id="w", reason=why) if state == "stopping" else left(why)
    assert [one for one in events if isinstance(one, GONE)] == [end, taken_off(why)]
    assert owed(*a_container(state), *INSIDE[:2], end, taken_off(why))[1:] == []


@pytest.mark.parametrize("state", ["stopping", "stopped", "error"])
def test_nothing_registers_in_a_container_that_is_over(state: str) -> None:
    """A process that is about to be killed must not be found, and gets no tasks."""
    world = given(*a_container(state), worker(container_id="k"), left("x"))
    world.when(register_service(container_id="k")).then_refused("container_not_running", "'k'", state)
    world.when(RegisterWorker(worker_id="w", container_id="k")).then_refused("container_not_running", state)
    world.when(claim()).then_refused("container_not_running", state)


@pytest.mark.parametrize("state", ["created", "starting", "running", "paused"])
def test_what_runs_may_register(state: str) -> None:
    """A process may be faster than the report of its node; a container that is not known here is not checked."""
    world = given(*a_container(state))
    for container_id in ("k", "elsewhere"):
        there = {"container_id": container_id}
        world.when(register_service(container_id, **there)).then(service(container_id, **there))
        world.when(RegisterWorker(worker_id="w", container_id=container_id)).then(worker(**there))


# --- the pause --------------------------------------------------------------------------------------------------------


def paused(status: ServiceStatus = HEALTHY) -> ServiceHealthChanged:
    return ServiceHealthChanged(service_id="s", status=OFFLINE, previous=status, rule="container_paused")


def resumed(status: ServiceStatus = HEALTHY) -> ServiceHealthChanged:
    return ServiceHealthChanged(service_id="s", status=status, previous=OFFLINE, rule="container_resumed")


def test_a_pause_takes_the_services_out_of_discovery_until_the_end_of_it() -> None:
    """From the command on; they are back when the node reports that the container runs again."""
    facts = (*a_container("running"), *INSIDE, *OUTSIDE)
    pausing = ContainerPausing(container_id="k")
    world = given(*facts)
    world.when(PauseContainer(container_id="k")).then(pausing, paused())
    world.when(report("paused")).then(ContainerPaused(container_id="k"))
    world.when(ResumeContainer(container_id="k")).then(ContainerResuming(container_id="k"))
    world.when(report("running")).then(ContainerResumed(container_id="k"), resumed())
    assert world.world.tasks["t"].lease == "c.1.1", "the attempt stays with its worker"
    assert world.world.services["near"].status is HEALTHY


def test_a_pause_that_is_taken_back_before_the_node_paused() -> None:
    """No report of the node will say that the container runs again."""
    facts = (*a_container("running"), *INSIDE, ContainerPausing(container_id="k"), paused())
    given(*facts).when(ResumeContainer(container_id="k")).then(ContainerResuming(container_id="k"), resumed())


def test_a_checked_service_is_unknown_after_a_pause() -> None:
    """The next check decides."""
    checked = service(status=UNKNOWN, health_check_url=URL, container_id="k")
    facts = (*a_container("paused"), checked, paused(UNKNOWN), ContainerResuming(container_id="k"))
    given(*facts).when(report("running")).then(ContainerResumed(container_id="k"), resumed(UNKNOWN))


def test_a_service_that_was_offline_before_a_pause_is_so_after_it() -> None:
    """Only its own heartbeat brings it back."""
    facts = (*a_container("running"), INSIDE[0], health(OFFLINE, HEALTHY))
    world = given(*facts)
    world.when(PauseContainer(container_id="k")).then(ContainerPausing(container_id="k"))
    world.when(ResumeContainer(container_id="k")).then(ContainerResuming(container_id="k"))


@pytest.mark.parametrize("order", [HeartbeatService(service_id="s"), ReportCheck(service_id="s", ok=True, check="tcp")])
def test_nothing_brings_a_service_back_during_a_pause(order: Any) -> None:
    """A heartbeat may have been under way, and the system accepts connections of a process that is frozen."""
    given(*a_container("paused"), INSIDE[0], paused()).when(order, streak=9).then_nothing()


def test_a_service_found_in_a_paused_container_goes_and_comes_with_it() -> None:
    """Its registration may have been under way."""
    frozen = (*a_container("paused"), INSIDE[0])
    assert [type(one) for one in owed(*frozen)] == [ServiceHealthChanged]
    assert owed(*frozen) == [paused()]
    assert owed(*frozen, paused(), now=1e6) == [], "it is not offline for too long"
    again = (ContainerResuming(container_id="k"), ContainerResumed(container_id="k"))
    assert owed(*frozen, paused(), *again) == [resumed()]


def test_the_attempts_of_a_paused_container_wait() -> None:
    """Its worker sends no heartbeats, but nobody else gets the tasks; their time limit runs on."""
    facts = (*a_container("paused"), INSIDE[1], submitted(timeout_s=500.0), started(), submitted("u"))
    frozen = (*facts, started("u", "d.1.1"), worker("idle", container_id="k"))
    signs = heard("n", 400.0)
    assert owed(*frozen, now=400.0, silent_s=400.0, signs=signs) == []
    late = owed(*frozen, now=600.0, silent_s=400.0, signs=signs)
    assert [type(one) for one in late] == [TaskTimedOut]


def test_the_end_of_a_paused_container_gives_its_attempts_back() -> None:
    """As any other end does."""
    world = given(*a_container("paused"), *INSIDE, paused())
    decided = world.when(report("exited", exit_code=9))
    assert [type(event) for event in decided.events[1:]] == [WorkerLeft, ServiceDeregistered, TaskAttemptFailed]


def test_a_restart_is_a_new_beginning() -> None:
    """The worker and the service of the next generation register under the same ids."""
    world = given(*a_container("error"), worker(container_id="k"), left("x"), INSIDE[0], taken_off("x"), starting())
    world.when(RegisterWorker(worker_id="w", container_id="k")).then(worker(container_id="k"))
    world.when(register_service(container_id="k")).then(INSIDE[0])
    assert owed(*a_container("error"), starting(), *INSIDE[:2], running(generation="8.0")) == []


def test_a_failure_is_shown_in_short() -> None:
    """The reason may be long, and there may be many attempts."""
    decided = given(*a_container("running"), *INSIDE).when(report("exited", exit_code=1, reason="x" * 5000))
    attempt = decided.events[-1]
    assert isinstance(attempt, TaskAttemptFailed | TaskFailed)
    assert len(attempt.error) < 300
