"""The cancel ladder: asked, told, forced, its container, and an end that comes whatever the worker does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.commands.cancel_ladder import CancelStep, ReportCancel
from coordinator.commands.task import CancelTask, ReleaseTask
from coordinator.commands.worker import LeaveWorker
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.cancel_ladder import Escalation, TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerPaused,
    ContainerPausing,
    ContainerStarted,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
)
from events.coordinator import CoordinatorStarted
from events.task import TaskCancelled, TaskCompleted, TaskStatus, TaskUsage
from events.worker import WorkerDraining, WorkerLeft, WorkerRegistered
from projections.cancelling import REPORT_S
from tests.specification import BEGIN, Given, given, said, write
from tests.unit.deciders.facts import INFINITY, NAN, attempt_failed, complete, fail, started, submitted

if TYPE_CHECKING:
    from events.base import Event
    from tests.specification import Said, Scribe

ASKED_AT = BEGIN + 2
GRACE_S = 10.0
UNTIL = ASKED_AT + GRACE_S
ASKED = TaskCancelAsked(task_id="t", grace_s=GRACE_S, reason="not needed")
TOLD = TaskCancelTold(task_id="t", lease="c.1.1")
NOTHING_SAID = "grace_over"


def forced(how: str) -> TaskCancelForced:
    return TaskCancelForced(task_id="t", lease="c.1.1", how=how)


def ended(how: str, error: str = "") -> TaskCancelled:
    return TaskCancelled(task_id="t", reason="not needed", how=how, lease="c.1.1", error=error)


def report(step: CancelStep, *, task_id: str = "t", lease: str = "c.1.1") -> ReportCancel:
    return ReportCancel(task_id=task_id, lease=lease, step=step)


def running(*facts: Event | Said) -> Given:
    return given(submitted(), started(), *facts)


def due_at(scribe: Scribe, at: float) -> list[Event]:
    """Commit what is due at a time, as the writer does, and return it."""
    signs = Signs()
    signs.begin(at)
    found: list[Event] = []

    def taken() -> Any:
        for event in due(scribe.world, signs, DecisionContext(at, Rules()), at):
            found.append(event)
            yield event

    scribe.world.indexes.advance(at)
    events = taken()
    first = next(events, None)
    if first is not None:
        scribe.commit_each((one for part in ((first,), events) for one in part), at=at)
    return found


# --- asked ------------------------------------------------------------------------------------------------------------


def test_a_running_task_is_asked_to_end_and_keeps_its_lease() -> None:
    """It has the grace of the settings; it is still running, and says until when."""
    order = CancelTask(task_id="t", reason="not needed", grace_s=None)
    decided = running().when(order, rules=Rules(cancel_grace_s=GRACE_S)).then(ASKED)
    decided.then_answers(TaskStatus.RUNNING)
    task = decided.world.tasks["t"]
    assert (task.status, task.lease, task.worker_id) == (TaskStatus.RUNNING, "c.1.1", "w")
    assert task.cancelling is not None
    assert (task.cancelling.until, task.cancelling.told_at) == (UNTIL, None)


def test_who_cancels_may_say_how_long_it_may_take() -> None:
    """And that the container is stopped if it takes longer."""
    order = CancelTask(task_id="t", grace_s=2.5, escalate=Escalation.CONTAINER)
    running().when(order).then(TaskCancelAsked(task_id="t", grace_s=2.5, escalate=Escalation.CONTAINER))


@pytest.mark.parametrize("facts", [(), (ASKED,)])
def test_without_grace_a_running_task_ends_at_once(facts: tuple[Event, ...]) -> None:
    """As programs of earlier releases ask; also if it was asked to end before, whose reason is kept."""
    order = CancelTask(task_id="t", reason="not needed")
    running(*facts).when(order).then(TaskCancelled(task_id="t", reason="not needed"))


def test_the_settings_may_leave_no_grace() -> None:
    """A grace of 0 is no grace."""
    running().when(CancelTask(task_id="t", grace_s=None), rules=Rules(cancel_grace_s=0.0)).then(
        TaskCancelled(task_id="t")
    )


@pytest.mark.parametrize("grace_s", [None, 9.0, 10.0, 3600.0])
def test_asking_again_changes_nothing(grace_s: float | None) -> None:
    """The time is over when the first one said, not later."""
    running(ASKED).when(CancelTask(task_id="t", reason="again", grace_s=grace_s)).then_nothing()


def test_asking_again_may_shorten_the_time_and_escalate() -> None:
    """The container, once named, stays named."""
    sooner = TaskCancelAsked(task_id="t", grace_s=3.0, escalate=Escalation.CONTAINER)
    decided = running(ASKED).when(CancelTask(task_id="t", grace_s=3.0, escalate=Escalation.CONTAINER)).then(sooner)
    task = decided.world.tasks["t"]
    assert task.cancelling is not None
    assert (task.cancelling.until, task.cancelling.reason) == (ASKED_AT + 1 + 3.0, "not needed")
    again = running(ASKED, sooner).when(CancelTask(task_id="t", grace_s=1.0))
    again.then(TaskCancelAsked(task_id="t", grace_s=1.0, escalate=Escalation.CONTAINER))


@pytest.mark.parametrize("grace_s", [-0.1, 86_401, INFINITY, NAN])
def test_a_grace_is_a_number_of_seconds(grace_s: float) -> None:
    """At most a day."""
    running().when(CancelTask(task_id="t", grace_s=grace_s)).then_refused("bad_number", "grace_s")


# --- told and forced --------------------------------------------------------------------------------------------------


def test_a_worker_says_once_that_the_handler_knows() -> None:
    """Its repeat records nothing."""
    running(ASKED).when(report(CancelStep.TOLD)).then(TOLD)
    running(ASKED, TOLD).when(report(CancelStep.TOLD)).then_nothing()


@pytest.mark.parametrize("step", [CancelStep.RAISED, CancelStep.KILLED])
def test_a_worker_says_how_it_forces_the_end(step: CancelStep) -> None:
    """The task has not ended with that; what was not said before is recorded with it."""
    running(ASKED, TOLD).when(report(step)).then(forced(step.value))
    running(ASKED).when(report(step)).then(TOLD, forced(step.value))
    running(ASKED, TOLD, forced(step.value)).when(report(step)).then_nothing()


def test_what_is_left_behind_has_ended_for_the_task() -> None:
    """Its worker waits for it no longer."""
    running(ASKED, TOLD).when(report(CancelStep.LEFT_BEHIND)).then(forced("left_behind"), ended("left_behind"))


def test_the_end_of_the_handler_ends_the_task() -> None:
    """With the reason and the name of who asked."""
    asked = said(ASKED, actor="ann")
    decided = running(asked, TOLD).when(report(CancelStep.ENDED)).then(ended("ended"))
    task = decided.world.tasks["t"]
    assert (task.status, task.error, task.ended_by) == (TaskStatus.CANCELLED, "not needed", "ann")
    running(ASKED).when(report(CancelStep.ENDED)).then(TOLD, ended("ended"))


def test_steps_of_an_attempt_that_has_ended_change_nothing() -> None:
    """A report may come late, and again, also after the task was evicted."""
    for end in (ended("grace_over"), TaskCompleted(task_id="t", lease="c.1.1")):
        for step in CancelStep:
            running(ASKED, end).when(report(step)).then_nothing()


def test_steps_under_another_lease_are_refused() -> None:
    """Or about a task that waits, does not exist, or was not to be cancelled."""
    running(ASKED).when(report(CancelStep.ENDED, lease="c.0.1")).then_refused("stale_lease", "running")
    running(attempt_failed()).when(report(CancelStep.ENDED)).then_refused("stale_lease", "pending")
    given().when(report(CancelStep.TOLD)).then_refused("not_found", "'t'")
    running().when(report(CancelStep.TOLD)).then_refused("not_asked", "'t'")


def test_steps_about_an_evicted_task_are_known_by_its_lease() -> None:
    """What is remembered of a task is enough to tell whose report this is."""
    keeps_one = CoordinatorStarted(instance="i", version="0", retention_s=3600.0, ended_kept=1)
    other = (submitted("u"), TaskCancelled(task_id="u"))
    world = given(keeps_one, submitted(), started(), ASKED, ended("grace_over"), *other)
    assert "t" not in world.world.tasks
    world.when(report(CancelStep.ENDED)).then_nothing()
    world.when(report(CancelStep.ENDED, lease="c.2.1")).then_refused("stale_lease", "cancelled")


# --- everything else that ends an attempt -----------------------------------------------------------------------------


def test_a_result_before_the_end_counts() -> None:
    """The work is done."""
    running(ASKED, TOLD).when(complete()).then(TaskCompleted(task_id="t", lease="c.1.1", execution_time_s=None))


def test_a_failure_ends_the_task_as_cancelled() -> None:
    """With its error, and without a retry."""
    decided = running(ASKED).when(fail()).then(ended("failed", fail().error))
    decided.then_answers(TaskStatus.CANCELLED)
    used = TaskUsage(input_tokens=9)
    wanted = replace(ended("failed", fail().error), usage=used)
    running(ASKED).when(fail(usage=used)).then(wanted)


def test_an_attempt_that_is_given_back_ends_the_task() -> None:
    """By its worker, or because its worker left."""
    release = ReleaseTask(task_id="t", lease="c.1.1", reason="stops")
    running(ASKED).when(release).then(ended("lost", "stops"))
    left = given(WorkerRegistered(worker_id="w"), submitted(), started(), ASKED)
    left.when(LeaveWorker(worker_id="w")).then(ended("lost", "the worker left"), WorkerLeft(worker_id="w"))


def test_an_attempt_that_takes_too_long_ends_the_task_as_cancelled() -> None:
    """Its limit may come before the end of the grace."""
    scribe = write(submitted(timeout_s=5.0), started(), ASKED)
    assert due_at(scribe, BEGIN + 7) == [ended("timeout")]


def test_a_lost_lease_ends_the_task_as_cancelled() -> None:
    """No other attempt begins."""
    scribe = write(submitted(), started(), TaskCancelAsked(task_id="t", grace_s=3600.0, reason="not needed"))
    signs = Signs()
    signs.begin(0.0)
    (lost,) = due(scribe.world, signs, DecisionContext(BEGIN + 50, Rules(lease_s=30.0)), 31.0)
    assert lost == ended("lost", "worker w did not renew its lease")


# --- by time ----------------------------------------------------------------------------------------------------------


def test_the_task_ends_soon_after_its_grace_whatever_its_worker_does() -> None:
    """Its worker has a moment to say how it ended."""
    scribe = write(submitted(), started(), ASKED)
    assert due_at(scribe, UNTIL + REPORT_S - 0.01) == []
    assert due_at(scribe, UNTIL + REPORT_S) == [ended(NOTHING_SAID)]
    assert due_at(scribe, UNTIL + REPORT_S + 1) == []


def test_the_shorter_time_counts() -> None:
    """Of two that were asked for."""
    scribe = write(submitted(), started(), ASKED, TaskCancelAsked(task_id="t", grace_s=1.0))
    assert due_at(scribe, ASKED_AT + 2 + REPORT_S) == [ended(NOTHING_SAID)]


HOUSED: tuple[Event, ...] = (
    ContainerCreated(container_id="k", agent_id="a", agent_type="t", node_id="n"),
    ContainerStarting(container_id="k", node_id="n"),
    ContainerStarted(container_id="k", generation="2.0"),
    WorkerRegistered(worker_id="w", container_id="k"),
    submitted(),
    started(),
)
ESCALATES = TaskCancelAsked(task_id="t", grace_s=GRACE_S, reason="not needed", escalate=Escalation.CONTAINER)
STOPS = ContainerStopping(container_id="k", force=True, reason="cancel_escalated")


@pytest.mark.parametrize("more", [(), (ContainerPausing(container_id="k"), ContainerPaused(container_id="k"))])
def test_its_container_is_stopped_if_that_was_asked_for(more: tuple[Event, ...]) -> None:
    """When the grace is over; the task ends a moment later even if the container goes on."""
    scribe = write(*HOUSED, *more, ESCALATES)
    until = scribe.world.time + GRACE_S
    assert due_at(scribe, until - 0.1) == []
    assert due_at(scribe, until)[:2] == [forced("container"), STOPS]
    assert due_at(scribe, until) == []
    assert due_at(scribe, until + REPORT_S) == [ended(NOTHING_SAID)]


def test_a_handler_that_is_left_behind_ends_with_its_container() -> None:
    """The step of the worker comes first: what it waits for no longer must not go on; once."""
    left = report(CancelStep.LEFT_BEHIND)
    decided = given(*HOUSED, ESCALATES, TOLD).when(left).events
    assert decided[:3] == (forced("left_behind"), forced("container"), STOPS)
    assert ended("left_behind") in decided
    again = given(*HOUSED, ESCALATES, TOLD, forced("container"), STOPS).when(left).events
    assert STOPS not in again
    assert ended("left_behind") in again
    assert STOPS not in given(*HOUSED, ASKED, TOLD).when(left).events


def test_the_end_of_its_container_ends_the_task() -> None:
    """As soon as its node reports it."""
    scribe = write(*HOUSED, ESCALATES, forced("container"), STOPS)
    decided = given(*HOUSED, ESCALATES, forced("container"), STOPS, ContainerStopped(container_id="k"))
    assert decided.world.tasks["t"].status is TaskStatus.RUNNING
    assert scribe.world.containers["k"].force


def test_a_stop_in_progress_is_forced_and_one_that_is_forced_stays() -> None:
    """The container is stopped once."""
    for stopping, wanted in (
        (ContainerStopping(container_id="k"), [forced("container"), STOPS]),
        (ContainerStopping(container_id="k", force=True), [forced("container")]),
    ):
        scribe = write(*HOUSED, ESCALATES, stopping, WorkerDraining(worker_id="w", reason="container_stopping"))
        assert due_at(scribe, BEGIN + 16)[:2] == wanted


@pytest.mark.parametrize("facts", [(submitted(), started()), (WorkerRegistered(worker_id="w"), submitted(), started())])
def test_without_a_container_nothing_is_stopped(facts: tuple[Event, ...]) -> None:
    """The worker is not known, or runs in none."""
    scribe = write(*facts, ESCALATES)
    until = scribe.world.time + GRACE_S
    assert due_at(scribe, until) == [forced("container")]
    assert due_at(scribe, until + REPORT_S) == [ended(NOTHING_SAID)]


def test_a_container_that_has_ended_is_not_stopped_again() -> None:
    """Its worker may still hold the task for a turn."""
    gone = (
        ContainerStopping(container_id="k"),
        ContainerStopped(container_id="k"),
        ContainerDestroyed(container_id="k"),
    )
    scribe = write(*HOUSED, ESCALATES, *gone)
    assert due_at(scribe, BEGIN + 17)[0] == forced("container")


# --- always -----------------------------------------------------------------------------------------------------------

_STEPS = st.one_of(
    st.builds(report, st.sampled_from(list(CancelStep))),
    st.builds(
        lambda grace_s, escalate: CancelTask(task_id="t", reason="r", grace_s=grace_s, escalate=escalate),
        st.one_of(st.none(), st.floats(0, 20)),
        st.sampled_from(list(Escalation)),
    ),
    st.sampled_from([complete(), fail(), ReleaseTask(task_id="t", lease="c.1.1")]),
)


@for_all(st.lists(st.tuples(st.floats(0, 6), _STEPS), max_size=8))
def test_a_task_that_was_asked_to_end_does_within_a_second_of_its_grace(steps: list[tuple[float, Any]]) -> None:
    """Whatever is reported and asked in between; it never waits for another attempt, and its time only shrinks."""
    from coordinator.deciders.dispatch import decide
    from events.errors import CoordinationError

    scribe = write(*HOUSED, ASKED)
    now, limit = scribe.world.time, scribe.world.time + GRACE_S
    for pause_s, step in steps:
        now += pause_s
        due_at(scribe, now)
        try:
            events = decide(scribe.world, step, DecisionContext(now, Rules()))
        except CoordinationError:
            continue
        if events:
            scribe.commit_each(events, at=now)
        task = scribe.world.tasks["t"]
        assert task.status is not TaskStatus.PENDING
        if task.cancelling is not None:
            assert task.cancelling.until <= limit
            limit = task.cancelling.until
    due_at(scribe, limit)
    due_at(scribe, limit + REPORT_S)
    assert scribe.world.tasks["t"].is_ended
