"""Containers: the state after each event, field by field."""

from __future__ import annotations

import msgspec
import pytest

from events.base import START, Event, Position
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
    Secret,
)
from events.resources import Resources
from projections.container import HOLDING, LEGAL, Container, Desired, LastExit
from tests.specification import BEGIN, fold, said

CREATED = ContainerCreated(
    container_id="c",
    agent_id="a",
    agent_type="task_agent",
    node_id="n1",
    resources=Resources(cpu_millis=5),
    image="i",
    command=("run", "it"),
    environment={"A": "1", "B": Secret(secret="s")},
    session_id="s1",
    when_cut_off="keep",
    stop_grace_s=2.0,
)
STARTING = ContainerStarting(container_id="c", node_id="n2", reason="restart", restarts=3)
STARTED = ContainerStarted(container_id="c", generation="2.0", pid=77)
PAUSING, PAUSED = ContainerPausing(container_id="c"), ContainerPaused(container_id="c")
RESUMING, RESUMED = ContainerResuming(container_id="c"), ContainerResumed(container_id="c")
STOPPED = ContainerStopped(container_id="c", exit_code=0)
FAILED = ContainerFailed(container_id="c", generation="2.0", reason="exited", exit_code=9, restart_at=BEGIN + 60)
RUNNING = (CREATED, STARTING, STARTED)


def folded(*events: Event) -> Container:
    return fold(*events).containers["c"]


def stopping(*, force: bool = False, destroy: bool = False) -> ContainerStopping:
    return ContainerStopping(container_id="c", force=force, destroy=destroy, reason="enough")


def test_the_last_exit_outlives_the_next_start() -> None:
    """Until the next one. A start that failed, and an end that an older release reported, are none."""
    crashed = msgspec.structs.replace(FAILED, cause="crashed", reason="killed by signal 9", exit_code=137)
    first = LastExit(generation="2.0", at=BEGIN + 3, cause="crashed", reason="killed by signal 9", exit_code=137)
    assert folded(*RUNNING, FAILED).last_exit is None
    again = folded(*RUNNING, crashed, STARTING)
    assert (again.last_exit, again.exit_code, again.cause) == (first, None, "")
    assert folded(*RUNNING, crashed, STARTING, FAILED).last_exit == first
    lost = msgspec.structs.replace(FAILED, cause="unknown", exit_code=None)
    second = LastExit(generation="2.0", at=BEGIN + 5, cause="unknown", reason="exited")
    assert folded(*RUNNING, crashed, STARTING, lost).last_exit == second


def test_a_created_container_is_all_that_was_created() -> None:
    """Every field of the event, and where, when and for which tenant; it holds resources, nothing is desired yet."""
    container = fold(said(CREATED, tenant="acme")).containers["c"]
    assert container == Container(
        container_id="c",
        agent_id="a",
        agent_type="task_agent",
        node_id="n1",
        status=ContainerStatus.CREATED,
        created=Position(1, 0),
        created_at=BEGIN,
        tenant="acme",
        resources=Resources(cpu_millis=5),
        image="i",
        command=("run", "it"),
        environment={"A": "1", "B": Secret(secret="s")},
        session_id="s1",
        when_cut_off="keep",
        stop_grace_s=2.0,
        desired=Desired.STOPPED,
    )
    assert container.holds


def test_starting_begins_a_new_generation() -> None:
    """The generation is the position of the event; the node may differ; the values of the last run are cleared."""
    before = folded(*RUNNING, FAILED)
    assert (before.exit_code, before.restart_at) == (9, BEGIN + 60)
    after = folded(*RUNNING, FAILED, STARTING)
    assert after == msgspec.structs.replace(
        before,
        status=ContainerStatus.STARTING,
        desired=Desired.RUNNING,
        node_id="n2",
        generation="5.0",
        restarts=3,
        restart_at=None,
        starts=2,
        starting_at=BEGIN + 4,
        started_at=None,
        exit_code=None,
        reason="restart",
    )


def test_starting_forgets_that_the_last_stop_was_forced() -> None:
    """Force applies to one stop only."""
    forced = folded(*RUNNING, stopping(force=True), STOPPED)
    assert forced.force
    assert not folded(*RUNNING, stopping(force=True), STOPPED, STARTING).force


def test_a_started_container_runs_as_a_process() -> None:
    """The state has the start time and the pid; the reason for the start is cleared."""
    assert folded(*RUNNING) == msgspec.structs.replace(
        folded(CREATED, STARTING), status=ContainerStatus.RUNNING, pid=77, started_at=BEGIN + 2, reason=""
    )


def test_pausing_changes_what_is_desired_and_paused_what_is() -> None:
    """Requested and done are two events, for pause and for resume."""
    running = folded(*RUNNING)
    steps = [folded(*RUNNING, *(PAUSING, PAUSED, RESUMING, RESUMED)[:count]) for count in range(1, 5)]
    replace = msgspec.structs.replace
    assert steps == [
        replace(running, desired=Desired.PAUSED),
        replace(running, desired=Desired.PAUSED, status=ContainerStatus.PAUSED),
        replace(running, desired=Desired.RUNNING, status=ContainerStatus.PAUSED),
        running,
    ]


@pytest.mark.parametrize(("destroy", "desired"), [(False, Desired.STOPPED), (True, Desired.DESTROYED)])
def test_stopping_says_whether_the_container_is_to_stay(destroy: bool, desired: Desired) -> None:
    """Nothing else changes while it stops: it runs, and keeps its resources."""
    after = folded(*RUNNING, stopping(force=True, destroy=destroy))
    assert after == msgspec.structs.replace(
        folded(*RUNNING), status=ContainerStatus.STOPPING, desired=desired, force=True, reason="enough"
    )
    assert after.holds


def test_a_stop_under_way_may_be_forced_or_made_a_removal() -> None:
    """The later command counts."""
    forced = folded(*RUNNING, stopping(), stopping(force=True))
    assert (forced.status, forced.force) == (ContainerStatus.STOPPING, True)
    assert folded(*RUNNING, stopping(), stopping(destroy=True)).desired is Desired.DESTROYED


def test_a_stopped_container_holds_nothing() -> None:
    """It has an exit code and no process; a container that ended by itself is then desired to be stopped."""
    stopped = folded(*RUNNING, STOPPED)
    assert stopped == msgspec.structs.replace(
        folded(*RUNNING), status=ContainerStatus.STOPPED, desired=Desired.STOPPED, pid=0, exit_code=0
    )
    assert not stopped.holds
    assert folded(*RUNNING, FAILED, STOPPED).restart_at is None


def test_a_container_that_is_to_be_destroyed_remembers_so_when_it_has_stopped() -> None:
    """Stopping is only the first half of removing."""
    assert folded(*RUNNING, stopping(destroy=True), STOPPED).desired is Desired.DESTROYED


def test_a_failed_container_says_why_and_when_it_starts_again() -> None:
    """Failures are counted over its life; the desired state stays, so that it can be restarted."""
    assert folded(*RUNNING, FAILED) == msgspec.structs.replace(
        folded(*RUNNING),
        status=ContainerStatus.ERROR,
        pid=0,
        failures=1,
        exit_code=9,
        reason="exited",
        restart_at=BEGIN + 60,
        failed_at=BEGIN + 3,
    )
    assert folded(*RUNNING, FAILED, STARTING, FAILED).failures == 2


@pytest.mark.parametrize("cause", ["requested", "cut_off", "superseded"])
def test_an_end_that_is_no_fault_of_the_container_is_not_counted(cause: str) -> None:
    """The cause is kept until the next start."""
    ended = msgspec.structs.replace(FAILED, cause=cause)
    assert (folded(*RUNNING, ended).failures, folded(*RUNNING, ended).cause) == (0, cause)
    assert folded(*RUNNING, ended, STARTING).cause == ""
    assert folded(*RUNNING, msgspec.structs.replace(FAILED, cause="oom")).failures == 1


def test_a_destroyed_container_is_over() -> None:
    """The state keeps when and where it ended; nothing can run or restart."""
    gone = folded(*RUNNING, FAILED, ContainerDestroyed(container_id="c"))
    assert gone == msgspec.structs.replace(
        folded(*RUNNING, FAILED),
        status=ContainerStatus.DESTROYED,
        desired=Desired.DESTROYED,
        restart_at=None,
        ended_at=BEGIN + 4,
        ended=Position(5, 0),
    )
    assert gone.is_ended


@pytest.mark.parametrize("status", ContainerStatus)
def test_what_holds_and_what_is_ended_follows_from_the_status(status: ContainerStatus) -> None:
    """A container is ended only in a final status, and an ended one holds no resources."""
    container = Container(
        container_id="c", agent_id="a", agent_type="t", node_id="n", status=status, created=START, created_at=0.0
    )
    assert container.is_ended == (not LEGAL[status])
    assert container.holds == (status in HOLDING)
    assert not (container.is_ended and container.holds)
