"""Time limits of tasks: which may be asked for, what exceeds them, and how an attempt gets more time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.task import ExtendTask, ProgressTask
from coordinator.deciders.deadlines import Deadlines
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.deciders.time_limits import MOST_S
from events.base import Event, version_of
from events.container import ContainerPaused, ContainerPausing
from events.task import TaskAttemptFailed, TaskExtended, TaskFailed, TaskStatus, TaskTimedOut
from events.time_limits import TimeLimits
from projections.world import World
from tests.specification import Said, given, said, write
from tests.unit.deciders.facts import (
    BEGIN,
    INFINITY,
    NAN,
    a_container,
    at,
    attempt_failed,
    complete,
    completed,
    failed,
    started,
    submit,
    submitted,
    worker,
)

START = TimeLimits(start_within_s=10.0)
FINISH = TimeLimits(finish_within_s=10.0)
BEAT = TimeLimits(heartbeat_s=10.0)


def owed(*facts: Event | Said, now: float, silent_s: float = 0.0, reported: float | None = None) -> list[Event]:
    """Say what is due *now* seconds after the beginning, if the lease was renewed and the attempt last *reported*."""
    scribe = write(*facts)
    signs = Signs()
    signs.begin(0.0)
    for task in scribe.world.tasks.values():
        signs.leases[task.lease] = silent_s
        if reported is not None:
            signs.reports[task.lease] = reported
    found = []
    for event in due(scribe.world, signs, DecisionContext(BEGIN + now, Rules()), silent_s):
        scribe.commit(said(event, at=BEGIN + now))
        found.append(event)
    return found


def timed_out(exceeded: str, ran_for_s: float, limit_s: float, lease: str = "") -> TaskTimedOut:
    attempt = int(lease.rpartition(".")[2]) if lease else 0
    return TaskTimedOut(
        task_id="t", lease=lease, ran_for_s=ran_for_s, limit_s=limit_s, attempt=attempt, exceeded=exceeded
    )


# --- what may be asked for --------------------------------------------------------------------------------------------


def test_limits_are_kept_with_the_task() -> None:
    """No limits at all are none; a repeat must have the same."""
    decided = given().when(submit(time_limits=START)).then(submitted(time_limits=START))
    assert decided.world.tasks["t"].time_limits == START
    given().when(submit(time_limits=TimeLimits())).then(submitted())
    given(submitted(time_limits=START)).when(submit(time_limits=START)).then_nothing()
    given(submitted(time_limits=START)).when(submit(time_limits=FINISH)).then_refused("id_taken", "time_limits")
    assert version_of(submitted(time_limits=START)) == 3


@pytest.mark.parametrize("name", ["start_within_s", "finish_within_s", "heartbeat_s"])
@pytest.mark.parametrize("wrong", [NAN, INFINITY, 0.0, -1.0, MOST_S + 1.0])
def test_a_limit_out_of_range_is_refused(name: str, wrong: float) -> None:
    """The refusal names the limit."""
    given().when(submit(time_limits=TimeLimits(**{name: wrong}))).then_refused("bad_number", name)


# --- commit time ------------------------------------------------------------------------------------------------------


def test_a_task_that_no_worker_takes_in_time_ends() -> None:
    """The time in the queue counts from when it is ready: its submit, its time, or the end of a pause."""
    first = said(submitted(time_limits=START), at=BEGIN)
    assert owed(first, now=9.9) == []
    assert owed(first, now=10.0) == [timed_out("start_within_s", 10.0, 10.0)]
    delayed = said(submitted(time_limits=START, not_before=BEGIN + 60.0), at=BEGIN)
    assert owed(delayed, now=69.9) == []
    assert owed(delayed, now=71.0) == [timed_out("start_within_s", 11.0, 10.0)]
    again = (first, at(1.0, started()), at(2.0, attempt_failed(retry_at=BEGIN + 20.0)))
    assert owed(*again, now=29.9) == []
    assert owed(*again, now=30.5) == [timed_out("start_within_s", 10.5, 10.0)]
    assert owed(first, at(1.0, started()), now=100.0) == []


def test_a_task_that_takes_too_long_with_all_attempts_ends() -> None:
    """Waiting or running; from its submit, or from its time."""
    first = said(submitted(time_limits=FINISH), at=BEGIN)
    assert owed(first, now=9.9) == []
    assert owed(first, now=10.0) == [timed_out("finish_within_s", 10.0, 10.0)]
    again = (first, at(1.0, started()), at(2.0, attempt_failed()), at(3.0, started(lease="c.1.2")))
    assert owed(*again, now=9.9) == []
    assert owed(*again, now=10.0) == [timed_out("finish_within_s", 10.0, 10.0, "c.1.2")]
    delayed = said(submitted(time_limits=FINISH, not_before=BEGIN + 60.0), at=BEGIN)
    assert owed(delayed, now=69.9) == []


def test_the_limit_that_comes_first_is_the_one_that_struck() -> None:
    """It is in the event, in the error and in the task; the usual one is the limit of an attempt."""
    both = TimeLimits(start_within_s=5.0, finish_within_s=10.0)
    limited = said(submitted(time_limits=both, timeout_s=3.0), at=BEGIN)
    for facts, now, wanted, error in (
        ((limited,), 6.0, timed_out("start_within_s", 6.0, 5.0), "waited for a worker for 6.000 s, limit start_"),
        (
            (limited, at(4.0, started())),
            7.5,
            timed_out("timeout_s", 3.5, 3.0, "c.1.1"),
            "ran for 3.500 s, limit 3 s",
        ),
        (
            (limited, at(4.0, started()), at(5.0, attempt_failed()), at(8.0, started(lease="c.1.2"))),
            10.0,
            timed_out("finish_within_s", 10.0, 10.0, "c.1.2"),
            "had not finished for 10.000 s, limit finish_within_s 10 s",
        ),
    ):
        assert owed(*facts, now=now) == [wanted]
        task = write(*facts, at(now, wanted)).world.tasks["t"]
        assert (task.status, task.error[: len(error)]) == (TaskStatus.TIMEOUT, error)
        assert task.exceeded == ("" if wanted.exceeded == "timeout_s" else wanted.exceeded)
        assert version_of(wanted) == 2


@for_all(
    st.one_of(st.none(), st.floats(0.5, 50.0)),
    st.one_of(st.none(), st.floats(0.5, 50.0)),
    st.one_of(st.none(), st.floats(0.5, 50.0)),
    st.booleans(),
    st.floats(0.0, 60.0),
)
def test_a_task_times_out_when_its_first_limit_is_reached(
    start_s: float | None, finish_s: float | None, timeout_s: float | None, runs: bool, now: float
) -> None:
    """With any limits, waiting or running since half a second after its submit."""
    limits = TimeLimits(start_within_s=start_s, finish_within_s=finish_s)
    facts: list[Event | Said] = [said(submitted(time_limits=limits, timeout_s=timeout_s), at=BEGIN)]
    if runs:
        facts.append(at(0.5, started()))
    ends = [finish_s, None if timeout_s is None else 0.5 + timeout_s] if runs else [finish_s, start_s]
    first = min((one for one in ends if one is not None), default=INFINITY)
    found = owed(*facts, now=now + 0.5)
    if now + 0.5 > first + 1e-6:
        assert [type(one) for one in found] == [TaskTimedOut]
    elif now + 0.5 < first - 1e-6:
        assert found == []


# --- more time --------------------------------------------------------------------------------------------------------


def extend(by_s: float = 5.0, lease: str = "c.1.1") -> ExtendTask:
    return ExtendTask(task_id="t", lease=lease, by_s=by_s)


def test_an_attempt_gets_more_time() -> None:
    """Its end moves by so much, as often as it asks; the next attempt has the usual time."""
    runs = (said(submitted(timeout_s=10.0), at=BEGIN), at(1.0, started()))
    extended = TaskExtended(task_id="t", lease="c.1.1", by_s=5.0)
    given(*runs).when(extend()).then(extended).then_answers(BEGIN + 16.0)
    more = (*runs, at(2.0, extended), at(3.0, extended))
    assert owed(*more, now=20.9) == []
    assert owed(*more, now=21.0) == [timed_out("timeout_s", 20.0, 20.0, "c.1.1")]
    again = (*more, at(4.0, attempt_failed()), at(5.0, started(lease="c.1.2")))
    assert len(owed(*again, now=15.0)) == 1


def test_who_may_extend_what() -> None:
    """Only the holder, and no longer than a task may be given at all; one without a limit has enough."""
    runs = (submitted(timeout_s=10.0), started())
    given(*runs).when(extend(lease="c.0.1")).then_refused("stale_lease", "c.0.1", facts=_facts(*runs))
    for wrong in (NAN, 0.0, -1.0, MOST_S + 1.0):
        given(*runs).when(extend(wrong)).then_refused("bad_number", "by_s")
    given(*runs).when(extend(MOST_S - 9.0)).then_refused("bad_number", "by_s", "'t'")
    given(submitted(), started()).when(extend()).then_nothing().then_answers(None)
    given(*runs, completed()).when(extend()).then_refused("stale_lease", facts=_facts(*runs, completed()))
    given().when(extend()).then_refused("not_found")


def _facts(*facts: Event) -> Any:
    """Return what is recorded of a refused report."""
    lease = "c.1.1" if len(facts) == 3 else "c.0.1"
    refused = given(*facts).when(extend(lease=lease)).error
    assert refused is not None
    assert len(refused.facts) == 1
    return refused.facts


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_an_attempt_that_reports_nothing_fails_and_is_retried() -> None:
    """Its worker has renewed the lease; the evidence is in the event, and the limit in the task."""
    runs = (submitted(time_limits=BEAT), started())
    assert owed(*runs, now=50.0, silent_s=10.0) == []
    (event,) = owed(*runs, now=50.0, silent_s=10.5)
    assert isinstance(event, TaskAttemptFailed)
    assert (event.reason, event.silent_for_s, event.limit_s) == ("heartbeat", 10.5, 10.0)
    assert not event.worker_ended
    assert "reported nothing for 10.500 s, limit heartbeat_s 10 s" in event.error
    assert write(*runs, event).world.tasks["t"].exceeded == "heartbeat_s"
    (last,) = owed(submitted(time_limits=BEAT, max_retries=0), started(), now=50.0, silent_s=10.5)
    assert isinstance(last, TaskFailed)
    assert last.reason == "heartbeat"
    assert write(*runs, last).world.tasks["t"].exceeded == "heartbeat_s"
    ended = write(*runs, event, started(lease="c.1.2"), completed(lease="c.1.2")).world.tasks["t"]
    assert ended.exceeded == ""


def test_what_counts_as_a_report() -> None:
    """The last report counts, and nothing is due for tasks without the limit, or that do not run."""
    runs = (submitted(time_limits=BEAT), started())
    assert owed(*runs, now=50.0, silent_s=18.0, reported=9.0) == []
    assert len(owed(*runs, now=50.0, silent_s=19.5, reported=9.0)) == 1
    assert owed(submitted(time_limits=START), started(), now=5.0, silent_s=19.5) == []
    assert owed(submitted(time_limits=BEAT), now=50.0, silent_s=19.5) == []
    assert [type(one) for one in owed(*runs, failed(), now=50.0, silent_s=19.5)] == []


def test_progress_without_a_number_only_shows_that_the_attempt_goes_on() -> None:
    """Nothing is recorded of it; a message alone keeps the number."""
    runs = given(submitted(), started())
    runs.when(ProgressTask(task_id="t", lease="c.1.1")).then_nothing()
    runs.when(ProgressTask(task_id="t", lease="c.1.1", message="on")).fold()
    task = runs.world.tasks["t"]
    assert (task.progress, task.progress_message) == (0.0, "on")


def test_reports_are_signs_of_life_of_attempts_that_have_the_limit() -> None:
    """Progress and an extension count; other leases are not kept."""
    signs, world = Signs(), World()
    signs.reports["c.1.1"] = 0.0
    signs.accepted(ProgressTask(task_id="t", lease="c.1.1"), 5.0, BEGIN, world)
    assert signs.reports == {"c.1.1": 5.0}
    signs.accepted(extend(), 6.0, BEGIN, world)
    signs.accepted(extend(lease="c.2.1"), 6.0, BEGIN, world)
    signs.accepted(complete(), 7.0, BEGIN, world)
    assert signs.reports == {"c.1.1": 6.0}


def test_a_paused_container_cannot_report() -> None:
    """Its attempts are not failed while it is paused, and are looked at again when it goes on."""
    frozen = (*a_container("running"), worker(container_id="k"), submitted(time_limits=BEAT), started())
    paused = (*frozen, ContainerPausing(container_id="k"), ContainerPaused(container_id="k"))
    for facts, count in ((paused, 0), (frozen, 1)):
        found = owed(*facts, now=50.0, silent_s=10.5)
        assert sum(isinstance(one, TaskAttemptFailed) for one in found) == count


def test_an_attempt_is_looked_at_when_its_limit_ends() -> None:
    """The index names it from its start on, and again when its worker's container changes."""
    scribe = write(submitted(time_limits=BEAT), submitted("u"))
    deadlines = Deadlines(scribe.world)
    assert deadlines.attempts.now(0.0, BEGIN) == ()
    for one in (started(), started("u", "c.2.1")):
        scribe.commit(one)
        deadlines.note([one])
    assert deadlines.attempts.now(0.0, BEGIN) == ("t",)
    deadlines.attempts.later("t", (10.0, INFINITY))
    assert deadlines.attempts.now(9.0, BEGIN) == ()
    changed = worker()
    scribe.commit(changed)
    deadlines.note([changed])
    assert deadlines.attempts.now(9.0, BEGIN) == ("t",)
    assert Deadlines(scribe.world).attempts.now(0.0, BEGIN) == ("t",)


def test_a_report_may_wait_among_commands_that_were_not_taken_up() -> None:
    """An attempt is silent only up to when all commands had been taken up, and is looked at again after that."""
    scribe = write(submitted(time_limits=BEAT), started())
    signs, deadlines = Signs(), Deadlines(scribe.world)
    signs.begin(0.0)
    signs.leases["c.1.1"] = 20.0
    context = DecisionContext(BEGIN + 20.0, Rules())
    signs.taken = 9.0
    assert list(due(scribe.world, signs, context, 20.0, deadlines)) == []
    signs.taken = 20.0
    (event,) = due(scribe.world, signs, context, 20.0, deadlines)
    assert isinstance(event, TaskAttemptFailed)
    assert event.silent_for_s == 20.0
