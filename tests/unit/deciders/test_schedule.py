"""Schedules: what may be asked of them, and what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.commands.schedule import (
    BackfillSchedule,
    DefineSchedule,
    DeleteSchedule,
    PauseSchedule,
    ResumeSchedule,
)
from coordinator.deciders import schedule as schedules
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.schedule import due, task_id_of
from events.base import Event
from events.coordinator import CoordinatorStarted
from events.errors import Corrupt
from events.limit import LimitDefined, Terms, WhenBusy
from events.queue import QueueDefined
from events.retry import RetryPolicy
from events.schedule import (
    Catchup,
    Overlap,
    ScheduleDefined,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleQueued,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleStatus,
    TaskContent,
    Timing,
)
from events.task import Occurrence, TaskCancelled, TaskSubmitted
from projections.schedule import fires_at
from projections.world import World
from tests.specification import Said, Scribe, given, said, write
from tests.unit.deciders.facts import INFINITY, NAN, completed, payload, started

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = 1_795_953_600
"""2026-11-29 12:00 UTC."""
WORK = TaskContent(task_name="work")
CONTENT = TaskContent(task_name="work", max_retries=3)


def define(**others: Any) -> DefineSchedule:
    return DefineSchedule(**{"schedule_id": "s", "task": WORK, "every_s": 600, **others})


def defined(next_slot: int | None = NOON + 600, **others: Any) -> ScheduleDefined:
    usual: dict[str, Any] = {"schedule_id": "s", "timing": Timing(every_s=600), "task": CONTENT, "next_slot": next_slot}
    return ScheduleDefined(**usual | others)


def at_noon(event: Event, after_s: float = 0.0) -> Said:
    return said(event, at=NOON + after_s)


def fired(slot: int, then: int | None, **others: Any) -> ScheduleFired:
    return ScheduleFired(schedule_id="s", slot=slot, task_id=task_id_of("s", slot), next_slot=then, **others)


def task_of(slot: int, **others: Any) -> TaskSubmitted:
    occurrence = Occurrence(schedule_id="s", slot=slot, source="tester")
    usual: dict[str, Any] = {
        "task_id": task_id_of("s", slot),
        "task_name": "work",
        "max_retries": 3,
        "occurrence": occurrence,
    }
    return TaskSubmitted(**usual | others)


def skipped(slot: int, through: int, reason: str, then: int | None) -> ScheduleSkipped:
    return ScheduleSkipped(schedule_id="s", slot=slot, through=through, reason=reason, next_slot=then)


def look(scribe: Scribe, now: float, rules: Rules | None = None, most: int = 10_000) -> list[Event]:
    """Say what is due, at most *most* events of it, each folded before the next is asked for."""
    context = DecisionContext(now, rules if rules is not None else Rules())
    scribe.world.indexes.advance(now)

    def found() -> Iterator[Event]:
        for number, event in enumerate(due(scribe.world, context)):
            if number == most:
                return
            given_.append(event)
            yield event

    given_: list[Event] = []
    first = next(iter(due(scribe.world, context)), None)
    if first is not None:
        scribe.commit_each(found(), at=now)
    return given_


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_schedule_is_defined_with_its_next_slot() -> None:
    """The answer is the schedule; the number of retries is that of the settings."""
    decided = given().when(define(), at=NOON).then(defined())
    schedule = decided.world.schedules["s"]
    decided.then_answers(schedule)
    assert (schedule.status, schedule.next_slot, schedule.source, schedule.tenant) == (
        *(ScheduleStatus.ACTIVE, NOON + 600, "tester"),
        "default",
    )
    assert list(decided.world.indexes.due_schedules(NOON + 600)) == ["s"]
    wanted = defined(NOON + 7200, timing=Timing(cron="0 14 * * *"))
    given().when(define(every_s=None, cron=" 0  14 * * *"), at=NOON).then(wanted)
    given().when(define(end=float(NOON)), at=NOON).then(defined(None, timing=Timing(every_s=600, end=float(NOON))))


def test_the_same_definition_again_changes_nothing() -> None:
    """Another one does, and goes on where it was if its slots are the same."""
    known = at_noon(defined())
    given(known).when(define(), at=NOON + 700).then_nothing()
    other = replace(WORK, priority=5)
    given(known).when(define(task=other), at=NOON + 700).then(defined(task=replace(CONTENT, priority=5)))
    given(known).when(define(every_s=60), at=NOON + 630).then(defined(NOON + 660, timing=Timing(every_s=60)))
    paused = (known, SchedulePaused(schedule_id="s"))
    decided = given(*paused).when(define(overlap=Overlap.QUEUE), at=NOON + 9).then(defined(overlap=Overlap.QUEUE))
    assert decided.world.schedules["s"].status is ScheduleStatus.PAUSED
    ended = (known, ScheduleDeleted(schedule_id="s"))
    decided = given(*ended).when(define(), at=NOON + 9).then(defined())
    assert decided.world.schedules["s"].status is ScheduleStatus.ACTIVE


@pytest.mark.parametrize(
    ("wrong", "reason", "named"),
    [
        ({"schedule_id": "a b"}, "bad_id", "schedule_id"),
        ({"schedule_id": "x" * 48}, "bad_id", "47"),
        ({"every_s": None}, "bad_schedule", "exactly one"),
        ({"catchup_most": 0}, "bad_number", "catchup_most"),
        ({"task": replace(WORK, task_name="")}, "bad_text", "task_name"),
        ({"task": replace(WORK, priority=10**9)}, "bad_number", "priority"),
        ({"task": replace(WORK, timeout_s=NAN)}, "bad_number", "timeout_s"),
        ({"task": replace(WORK, payload=payload(encoding="x"))}, "bad_payload", "payload"),
        ({"task": replace(WORK, payload=payload("x" * 70_000))}, "payload_too_large", "payload"),
    ],
)
def test_what_is_no_schedule_is_refused(wrong: dict[str, Any], reason: str, named: str) -> None:
    """By the same rules as a task."""
    given().when(define(**wrong), at=NOON).then_refused(reason, named)


def test_the_number_of_schedules_and_the_bytes_of_their_payloads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload that stays as it is needs no more room."""
    big = replace(WORK, payload=payload("x" * 3_000))
    rules = Rules(max_pending_bytes=4_000)
    given().when(define(task=big), at=NOON, rules=rules).then_refused("queue_full", "3000 bytes")
    kept = at_noon(defined(task=replace(CONTENT, payload=payload("x" * 3_000))))
    given(kept).when(define(task=replace(big, priority=1)), at=NOON + 1, rules=rules).fold()
    world = write(kept).world
    assert world.indexes.owned_payload_bytes.by_source == {"tester": 3_000}
    monkeypatch.setattr(schedules, "MOST_SCHEDULES", 1)
    given(kept).when(define(schedule_id="t"), at=NOON).then_refused("too_many", "1 schedules")
    given(kept, ScheduleDeleted(schedule_id="s")).when(define(schedule_id="t"), at=NOON + 9).fold()


def test_a_schedule_is_paused_resumed_and_deleted() -> None:
    """What it missed while it was paused is not caught up."""
    known = at_noon(defined())
    paused = SchedulePaused(schedule_id="s", reason="r")
    decided = given(known).when(PauseSchedule(schedule_id="s", reason="r"), at=NOON + 9).then(paused)
    assert decided.world.schedules["s"].reason == "r"
    assert look(decided._scribe, NOON + 5_000) == []
    given(known, paused).when(PauseSchedule(schedule_id="s")).then_nothing()
    resumed = ScheduleResumed(schedule_id="s", next_slot=NOON + 5_400)
    decided = given(known, paused).when(ResumeSchedule(schedule_id="s"), at=NOON + 5_000).then(resumed)
    assert look(decided._scribe, NOON + 5_100) == []
    given(known).when(ResumeSchedule(schedule_id="s")).then_nothing()
    gone = ScheduleDeleted(schedule_id="s", reason="r")
    decided = given(known).when(DeleteSchedule(schedule_id="s", reason="r")).then(gone)
    assert decided.world.schedules["s"].task is None
    assert look(decided._scribe, NOON + 5_000) == []
    ended = given(known, gone)
    ended.when(DeleteSchedule(schedule_id="s")).then_nothing()
    for command in (PauseSchedule(schedule_id="s"), ResumeSchedule(schedule_id="s")):
        ended.when(command).then_refused("not_found", "'s'")
        given().when(command).then_refused("not_found", "'s'")
    given().when(DeleteSchedule(schedule_id="s")).then_refused("not_found")


def backfill(since: float, until: float) -> BackfillSchedule:
    return BackfillSchedule(schedule_id="s", since=since, until=until)


def test_slots_of_the_past_are_filled() -> None:
    """Those whose task is known are left out; the answer has all of them, and the schedule goes on as before."""
    known = given(at_noon(defined()))
    decided = known.when(backfill(NOON - 1200, NOON - 600), at=NOON + 9).then(
        task_of(NOON - 1200),
        fired(NOON - 1200, NOON + 600, is_backfill=True),
        task_of(NOON - 600),
        fired(NOON - 600, NOON + 600, is_backfill=True),
    )
    both = [task_id_of("s", NOON - 1200), task_id_of("s", NOON - 600)]
    decided.then_answers(both)
    assert decided.world.schedules["s"].last_slot is None
    more = [*both, task_id_of("s", NOON)]
    known.when(backfill(NOON - 1200.5, NOON + 9), at=NOON + 10).then(
        task_of(NOON), fired(NOON, NOON + 600, is_backfill=True)
    ).then_answers(more)
    known.when(backfill(NOON - 1200, NOON), at=NOON + 11).then_nothing().then_answers(more)


@pytest.mark.parametrize(
    ("since", "until", "reason"),
    [
        (NOON, NOON + 60, "bad_time"),
        (NOON, NOON - 60, "bad_time"),
        (NAN, NOON, "bad_time"),
        (0.0, NAN, "bad_time"),
        (-1.0, NOON, "bad_time"),
        (0.0, INFINITY, "bad_time"),
        (NOON - 600 * 100, NOON, "too_many"),
    ],
)
def test_a_backfill_is_of_a_hundred_slots_of_the_past(since: float, until: float, reason: str) -> None:
    """More are asked for in parts."""
    given(at_noon(defined())).when(backfill(since, until), at=NOON).then_refused(reason)


def test_a_backfill_needs_room_in_the_queue() -> None:
    """For all of it."""
    rules = Rules(max_pending_tasks=1)
    given(at_noon(defined())).when(backfill(NOON - 600, NOON), at=NOON, rules=rules).then_refused("queue_full")


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_slot_is_fired_when_its_time_has_come() -> None:
    """The task comes first; it is its schedule's, and the next slot is recorded."""
    scribe = write(at_noon(defined()))
    assert look(scribe, NOON + 599.9) == []
    assert look(scribe, NOON + 600.2) == [task_of(NOON + 600), fired(NOON + 600, NOON + 1200)]
    assert look(scribe, NOON + 600.7) == []
    schedule, task = scribe.world.schedules["s"], scribe.world.tasks[task_id_of("s", NOON + 600)]
    assert task.task_id == "s-20261129T121000Z"
    assert (task.source, task.occurrence) == ("tester", Occurrence(schedule_id="s", slot=NOON + 600, source="tester"))
    assert (schedule.last_slot, schedule.last_task_id, schedule.fired) == (NOON + 600, task.task_id, 1)


def test_a_slot_whose_task_is_there_only_moves_the_schedule_on() -> None:
    """A turn that was full, or a crash, may have come between the two events."""
    scribe = write(at_noon(defined()))
    assert look(scribe, NOON + 600.2, most=1) == [task_of(NOON + 600)]
    assert look(scribe, NOON + 601.0) == [fired(NOON + 600, NOON + 1200)]


def test_jitter_delays_a_slot_always_by_the_same() -> None:
    """It lies between nothing and `jitter_s`, and slots stay in their order."""
    timing = Timing(every_s=600, jitter_s=600.0)
    scribe = write(at_noon(defined(timing=timing)))
    schedule = scribe.world.schedules["s"]
    ats = [fires_at(schedule, NOON + 600 * number) - NOON - 600 * number for number in range(50)]
    assert 0.0 <= min(ats) < 60.0
    assert 540.0 < max(ats) < 600.0
    at = fires_at(schedule, NOON + 600)
    assert look(scribe, at - 0.001) == []
    assert [type(one) for one in look(scribe, at + 0.001)][-1] is ScheduleFired


THREE_HOURS = NOON + 3 * 3600 + 30


@pytest.mark.parametrize(
    ("catchup", "most", "caught_up"),
    [
        (Catchup.NONE, 1, [18]),
        (Catchup.LAST, 1, [18]),
        (Catchup.ALL, 5, [14, 15, 16, 17, 18]),
        (Catchup.ALL, 100, list(range(1, 19))),
    ],
)
@pytest.mark.parametrize("late_s", [0, 300])
def test_a_stop_of_three_hours_is_caught_up_as_told(
    catchup: Catchup, most: int, caught_up: list[int], late_s: int
) -> None:
    """The newest ones; the last slot is only a little late if the writer comes back soon after it."""
    timing = replace(defined(), catchup=catchup, catchup_most=most, overlap=Overlap.CANCEL)
    scribe = write(at_noon(timing))
    found = look(scribe, THREE_HOURS + late_s)
    if catchup is Catchup.NONE and late_s:
        caught_up = []
    assert [one.slot for one in found if isinstance(one, ScheduleFired)] == [NOON + 600 * one for one in caught_up]
    left_out = [(one.slot, one.through, one.reason) for one in found if isinstance(one, ScheduleSkipped)]
    first = caught_up[0] if caught_up else 19
    assert left_out == ([(NOON + 600, NOON + 600 * (first - 1), "missed")] if first > 1 else [])
    assert scribe.world.schedules["s"].next_slot == NOON + 600 * 19
    assert look(scribe, THREE_HOURS + late_s + 1) == []


def test_one_slot_that_was_missed_is_left_out_without_catching_up() -> None:
    """A minute late is not missed."""
    kept = at_noon(replace(defined(), catchup=Catchup.NONE))
    assert len(look(write(kept), NOON + 659.0)) == 2
    assert look(write(kept), NOON + 661.0) == [skipped(NOON + 600, NOON + 600, "missed", NOON + 1200)]


def test_a_schedule_ends() -> None:
    """After its last slot there is none."""
    scribe = write(at_noon(defined(timing=Timing(every_s=600, end=NOON + 600.0))))
    assert look(scribe, NOON + 600.0)[-1] == fired(NOON + 600, None)
    assert look(scribe, NOON + 1e6) == []


def test_a_slot_of_other_zone_data_is_fired_as_recorded() -> None:
    """What was computed before, perhaps by another release, counts."""
    scribe = write(at_noon(defined(NOON + 30)))
    assert look(scribe, NOON + 31.0) == [task_of(NOON + 30), fired(NOON + 30, NOON + 600)]
    several = replace(defined(NOON + 30), catchup=Catchup.ALL, overlap=Overlap.CANCEL)
    found = look(write(at_noon(several)), NOON + 1200.0)
    assert [one.slot for one in found if isinstance(one, ScheduleFired)] == [NOON + 30, NOON + 600, NOON + 1200]
    timing = Timing(every_s=600, end=float(NOON))
    scribe = write(at_noon(defined(NOON + 30, timing=timing)))
    assert look(scribe, NOON + 900.0)[-1] == fired(NOON + 30, None)


def runs(overlap: Overlap) -> Scribe:
    """Return a schedule whose first task has not ended."""
    scribe = write(at_noon(replace(defined(), overlap=overlap)))
    assert len(look(scribe, NOON + 600.0)) == 2
    return scribe


def end_of(scribe: Scribe, slot: int) -> None:
    """Complete the task of a slot."""
    task_id = task_id_of("s", slot)
    scribe.commit(started(task_id))
    scribe.commit(completed(task_id))


def test_a_slot_is_left_out_while_the_task_before_runs() -> None:
    """The next one after its end is fired."""
    scribe = runs(Overlap.SKIP)
    assert look(scribe, NOON + 1200.0) == [skipped(NOON + 1200, NOON + 1200, "overlap", NOON + 1800)]
    end_of(scribe, NOON + 600)
    assert look(scribe, NOON + 1300.0) == []
    assert look(scribe, NOON + 1800.0) == [task_of(NOON + 1800), fired(NOON + 1800, NOON + 2400)]


def test_slots_wait_for_the_task_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in order, over a restore too; no more than there is room for."""
    monkeypatch.setattr(schedules, "QUEUED_MOST", 2)
    scribe = runs(Overlap.QUEUE)
    assert look(scribe, NOON + 1200.0) == [ScheduleQueued(schedule_id="s", slot=NOON + 1200, next_slot=NOON + 1800)]
    assert len(look(scribe, NOON + 1800.0)) == 1
    assert look(scribe, NOON + 2400.0) == [skipped(NOON + 2400, NOON + 2400, "queue_full", NOON + 3000)]
    assert look(scribe, NOON + 2401.0) == []
    end_of(scribe, NOON + 600)
    scribe.world = World.restore(scribe.world.snapshot())
    assert look(scribe, NOON + 2500.0) == [task_of(NOON + 1200), fired(NOON + 1200, NOON + 3000)]
    assert look(scribe, NOON + 2501.0) == []
    end_of(scribe, NOON + 1200)
    assert look(scribe, NOON + 2600.0) == [task_of(NOON + 1800), fired(NOON + 1800, NOON + 3000)]
    assert scribe.world.schedules["s"].queued == ()


def test_a_slot_cancels_the_task_before() -> None:
    """The reason names the schedule."""
    scribe = runs(Overlap.CANCEL)
    assert look(scribe, NOON + 1200.0) == [
        TaskCancelled(task_id=task_id_of("s", NOON + 600), reason="schedule s replaced it"),
        task_of(NOON + 1200),
        fired(NOON + 1200, NOON + 1800),
    ]


def test_queued_slots_are_not_overtaken_after_a_change_of_the_overlap() -> None:
    """Slots that wait are fired first; one that would replace them is fired in its turn."""
    scribe = runs(Overlap.QUEUE)
    assert len(look(scribe, NOON + 1200.0)) == 1
    scribe.commit(replace(defined(NOON + 1800), overlap=Overlap.CANCEL))
    assert [type(one) for one in look(scribe, NOON + 1800.0)] == [TaskCancelled, TaskSubmitted, ScheduleFired]
    assert scribe.world.schedules["s"].queued == ()


def test_nothing_is_fired_while_there_is_no_room() -> None:
    """The slot waits until there is."""
    scribe = write(at_noon(defined()), said(TaskSubmitted(task_id="t", task_name="n"), at=NOON + 1))
    assert look(scribe, NOON + 600.0, Rules(max_pending_tasks=1)) == []
    assert len(look(scribe, NOON + 601.0)) == 2


def test_the_fold_stops_at_a_slot_that_was_fired_before() -> None:
    """And at events of a schedule that does not exist."""
    scribe = write(at_noon(defined()), fired(NOON + 600, NOON + 1200))
    for event in (fired(NOON + 600, NOON + 1200), fired(NOON, NOON + 1200)):
        with pytest.raises(Corrupt, match="fires slot"):
            scribe.commit(event)
    with pytest.raises(Corrupt, match="does not exist"):
        write(SchedulePaused(schedule_id="x"))
    with pytest.raises(Corrupt, match="does not exist"):
        write(at_noon(defined()), ScheduleDeleted(schedule_id="s"), SchedulePaused(schedule_id="s"))


STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0.1, 900.0), st.just(3 * 3600.0), st.floats(3600.0, 90_000.0)),
        st.sampled_from(["look", "look", "look", "cut", "restore", "end", "pause", "resume", "again"]),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None)
@for_all(
    st.sampled_from([Timing(every_s=600), Timing(every_s=60, jitter_s=50.0), Timing(cron="*/20 * * * *")]),
    st.sampled_from(Catchup),
    st.sampled_from(Overlap),
    STEPS,
)
def test_each_slot_is_fired_once_at_most(timing: Timing, catchup: Catchup, overlap: Overlap, steps: Any) -> None:
    """Over stops, cuts between its events, restores, pauses and repeated definitions; never early, and in order."""
    first = replace(defined(), timing=timing, catchup=catchup, catchup_most=3, overlap=overlap)
    leads = CoordinatorStarted(instance="i", version="0", retention_s=60.0, ended_kept=3)
    scribe, now = write(at_noon(leads), at_noon(first)), NOON + 0.0
    slots: list[int] = []
    for pause_s, what in steps:
        now += pause_s
        schedule = scribe.world.schedules["s"]
        if what == "restore":
            scribe.world = World.restore(scribe.world.snapshot())
        elif what == "end" and schedule.last_task_id in scribe.world.tasks:
            if not scribe.world.tasks[schedule.last_task_id].is_ended:
                scribe.commit(said(TaskCancelled(task_id=schedule.last_task_id), at=now))
        elif what == "pause":
            given_ = PauseSchedule(schedule_id="s")
            scribe.commit_each(schedules.pause(scribe.world, given_, DecisionContext(now, Rules())), at=now)
        elif what == "resume":
            back = ResumeSchedule(schedule_id="s")
            scribe.commit_each(schedules.resume(scribe.world, back, DecisionContext(now, Rules())), at=now)
        elif what == "again":
            assert (
                schedules.define(
                    scribe.world,
                    define(
                        every_s=timing.every_s,
                        cron=timing.cron,
                        jitter_s=timing.jitter_s,
                        catchup=catchup,
                        catchup_most=3,
                        overlap=overlap,
                    ),
                    DecisionContext(now, Rules()),
                )
                == ()
            )
        found = look(scribe, now, most=1 if what == "cut" else 10_000)
        for event in found:
            if isinstance(event, TaskSubmitted):
                assert event.occurrence is not None
                assert fires_at(schedule, event.occurrence.slot) <= now
                slots.append(event.occurrence.slot)
    assert slots == sorted(set(slots))


def test_a_look_at_schedules_that_are_not_due_touches_none_of_them() -> None:
    """Whatever their number: only the heap of their times is looked at, and of that the first."""

    class Untouched(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise AssertionError(key)

        get = pop = __getitem__  # type: ignore[assignment]  # likewise
        __iter__ = items = values = None  # type: ignore[assignment]  # nor all of them

    scribe = write(*(at_noon(defined(NOON + 600 + number, schedule_id=f"s{number}")) for number in range(300)))
    scribe.world.schedules = Untouched(scribe.world.schedules)
    context = DecisionContext(NOON + 500.0, Rules())
    assert list(due(scribe.world, context)) == []
    with pytest.raises(AssertionError, match="s0"):
        list(due(scribe.world, DecisionContext(NOON + 600.0, Rules())))


# --- where its tasks wait ---------------------------------------------------------------------------------------------


def test_its_tasks_have_the_queue_key_retries_and_attributes_that_it_says() -> None:
    """The queue must exist, and `default` is the usual one."""
    wanted = TaskContent(
        task_name="work", queue="q", fairness_key="k", retry=RetryPolicy(factor=3.0), attributes={"a": "x"}
    )
    given().when(define(task=wanted), at=NOON).then_refused("unknown_queue", "'q'")
    known = given(QueueDefined(queue_id="q"))
    known.when(define(task=wanted), at=NOON).then(defined(task=replace(wanted, max_retries=3)))
    scribe = write(QueueDefined(queue_id="q"), at_noon(defined(task=replace(wanted, max_retries=3))))
    task, _ = look(scribe, NOON + 600)
    assert task == task_of(
        NOON + 600, queue="q", fairness_key="k", retry=RetryPolicy(factor=3.0), attributes={"a": "x"}
    )
    scribe = write(at_noon(defined(task=replace(CONTENT, queue="default"))))
    assert look(scribe, NOON + 600)[0] == task_of(NOON + 600)


@pytest.mark.parametrize("when", [WhenBusy.REJECT, WhenBusy.RETURN_EXISTING])
def test_a_slot_whose_task_a_limit_does_not_want_is_left_out(when: WhenBusy) -> None:
    """The schedule goes on with the next one."""
    limit = LimitDefined(limit_id="l", terms=Terms(running=1, when_busy=when))
    scribe = write(limit, at_noon(TaskSubmitted(task_id="b", task_name="work")), at_noon(defined(), 1.0))
    assert look(scribe, NOON + 600) == [skipped(NOON + 600, NOON + 600, "busy", NOON + 1200)]
    scribe.commit(TaskCancelled(task_id="b"))
    assert [type(event) for event in look(scribe, NOON + 1200)] == [TaskSubmitted, ScheduleFired]


def test_a_slot_takes_the_place_of_those_that_wait() -> None:
    """As any other submit, by the limit that says so."""
    limit = LimitDefined(limit_id="l", terms=Terms(running=1, when_busy=WhenBusy.REPLACE_WAITING))
    scribe = write(limit, at_noon(TaskSubmitted(task_id="b", task_name="work")), at_noon(defined(), 1.0))
    replaced = TaskCancelled(task_id="b", reason=f"task {task_id_of('s', NOON + 600)} takes its place", how="replaced")
    assert look(scribe, NOON + 600) == [replaced, task_of(NOON + 600), fired(NOON + 600, NOON + 1200)]
