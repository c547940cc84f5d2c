"""Tasks that begin after others have ended."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.task import CancelTask
from coordinator.deciders.dependencies import MOST_LOOKED, ToLook, following
from coordinator.deciders.origins import ORIGINS
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.coordinator import CoordinatorStarted
from events.errors import Corrupt
from events.task import (
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
)
from projections.world import World
from tests.specification import Scribe, given, said, write
from tests.unit.deciders.facts import complete, fail, submit, submitted

if TYPE_CHECKING:
    from events.base import Event

ALL, ANY = AfterJoin.ALL, AfterJoin.ANY
SUCCESS, END = AfterOn.SUCCESS, AfterOn.END
RUN = Otherwise.RUN
FORGETS = CoordinatorStarted(instance="i", version="0", retention_s=0.0, ended_kept=0)
ENDS = ("completed", "failed", "cancelled", "timed out")


def after(*tasks: str, **more: Any) -> After:
    return After(tasks=tasks, **more)


def waiting(task_id: str, *tasks: str, **more: Any) -> TaskSubmitted:
    return submitted(task_id, after=after(*tasks, **more), waits_for=tasks)


def ended(task_id: str, how: str = "completed") -> tuple[Event, ...]:
    if how == "cancelled":
        return (TaskCancelled(task_id=task_id),)
    began = TaskStarted(task_id=task_id, worker_id="w", claim_id=f"c-{task_id}", attempt=1, lease=f"l-{task_id}")
    ends: dict[str, Event] = {
        "completed": TaskCompleted(task_id=task_id, lease=began.lease),
        "failed": TaskFailed(task_id=task_id, lease=began.lease, error="e", reason="failed"),
        "timed out": TaskTimedOut(task_id=task_id, lease=began.lease, ran_for_s=2.0, limit_s=1.0),
    }
    return (began, ends[how])


def unblocked(task_id: str, by: str, **more: Any) -> TaskUnblocked:
    return TaskUnblocked(task_id=task_id, predecessor=by, **more)


def cancelled(task_id: str, by: str, status: str) -> TaskCancelled:
    reason = f"it was to run after task {by}, which ended as {status}"
    return TaskCancelled(task_id=task_id, reason=reason, how="predecessor", predecessor=by)


def follows(scribe: Scribe, to_look: ToLook | None = None) -> list[Event]:
    """Commit what follows from the ends so far, as the writer does, and return it."""
    found: list[Event] = []
    to_look = ToLook(scribe.world) if to_look is None else to_look
    while to_look:
        for event in to_look.due():
            scribe.commit(event)
            to_look.note([event])
            found.append(event)
    return found


# --- submitting -------------------------------------------------------------------------------------------------------


def test_a_task_waits_for_those_that_have_not_ended() -> None:
    """It is pending, and no worker gets it."""
    facts = (submitted("a"), submitted("b"), submitted("c"), *ended("c"))
    order = submit("t", after=after("a", "c", "b"))
    decided = given(*facts).when(order).then(submitted("t", after=after("a", "c", "b"), waits_for=("a", "b")))
    world = decided.world
    assert (world.tasks["t"].status, world.tasks["t"].waiting_for) == (TaskStatus.PENDING, ("a", "b"))
    assert world.indexes.ready == 2


@pytest.mark.parametrize(
    ("given_after", "how"),
    [
        (after("a"), "completed"),
        (after("a", on=END), "failed"),
        (after("a", "b", join=ANY), "completed"),
        (after("a", "b", join=ANY, on=END), "cancelled"),
        (after("a", otherwise=RUN), "timed out"),
    ],
)
def test_what_has_come_about_is_not_waited_for(given_after: After, how: str) -> None:
    """The task is ready at once, as it also is if it runs in any case."""
    facts = (submitted("a"), submitted("b"), *ended("a", how))
    decided = given(*facts).when(submit("t", after=given_after)).then(submitted("t", after=given_after))
    assert decided.world.tasks["t"].waiting_for == ()
    assert decided.world.indexes.ready == 2


@pytest.mark.parametrize("how", ENDS[1:])
def test_what_can_never_begin_is_cancelled_at_once(how: str) -> None:
    """With the task that decided it, and its end as the cause."""
    facts = (submitted("a"), submitted("b"), *ended("a", how))
    status = "timeout" if how == "timed out" else how
    order = submit("t", after=after("b", "a"))
    given(*facts).when(order).then(submitted("t", after=after("b", "a")), cancelled("t", "a", status))


def test_the_end_of_an_evicted_task_is_remembered() -> None:
    """For ten minutes; then it is not known any more."""
    facts = (FORGETS, submitted("a"), *ended("a"), submitted("b"))
    world = given(*facts)
    assert "a" not in world.world.tasks
    world.when(submit("t", after=after("a"))).then(submitted("t", after=after("a")))
    late = given(*facts, said(submitted("c"), at=5_000.0), said(submitted("d"), at=9_000.0))
    late.when(submit("t", after=after("a"))).then_refused("unknown_predecessor", "'a'", "10 minutes")


@pytest.mark.parametrize(
    ("tasks", "reason", "said"),
    [
        ((), "bad_after", "1 to 64"),
        (tuple(f"t{number}" for number in range(65)), "bad_after", "65 ids"),
        (("a", "a"), "bad_after", "'a' twice"),
        (("a", "t"), "bad_after", "the task itself"),
        (("a", "a b"), "bad_id", "a b"),
        (("a", "none"), "unknown_predecessor", "'none'"),
    ],
)
def test_a_task_waits_only_for_tasks_that_exist(tasks: tuple[str, ...], reason: str, said: str) -> None:
    """So no task can wait for itself by a detour."""
    given(submitted("a")).when(submit("t", after=After(tasks=tasks))).then_refused(reason, said)


def test_a_repeat_is_recognized_whatever_has_ended_since() -> None:
    """It is another task if it waits for others."""
    world = given(submitted("a"), submitted("b"), waiting("t", "a"), *ended("a"))
    world.when(submit("t", after=after("a"))).then_nothing().then_answers("t")
    for other in (None, after("b"), after("a", on=END)):
        world.when(submit("t", after=other)).then_refused("id_taken", "after")
    gone = given(FORGETS, submitted("a"), waiting("t", "a"), TaskCancelled(task_id="t"), submitted("b"))
    assert "t" not in gone.world.tasks
    gone.when(submit("t", after=after("a"))).then_nothing().then_answers("t")
    gone.when(submit("t")).then_refused("id_taken")


# --- while it waits ---------------------------------------------------------------------------------------------------


def test_a_task_that_waits_can_be_cancelled_and_not_reported_on() -> None:
    """Nobody has begun it."""
    facts = (submitted("a"), waiting("t", "a"))
    given(*facts).when(CancelTask(task_id="t")).then(TaskCancelled(task_id="t"))
    world = given(*facts)
    world.when(complete(lease="")).then_refused("not_ready", "waits for a")
    world.when(fail(lease="")).then_refused("not_ready", "waits for a")


def test_a_journal_that_starts_a_waiting_task_is_corrupt() -> None:
    """No coordinator can have written it."""
    scribe = write(submitted("a"), waiting("t", "a"))
    with pytest.raises(Corrupt, match="starts 't', which waits for a"):
        scribe.commit(ended("t")[0])


# --- when others end --------------------------------------------------------------------------------------------------

THEN = [
    (ALL, SUCCESS, ("completed", "completed"), unblocked("t", "b")),
    (ALL, SUCCESS, ("completed", ""), None),
    (ALL, SUCCESS, ("failed", ""), cancelled("t", "a", "failed")),
    (ALL, SUCCESS, ("completed", "timed out"), cancelled("t", "b", "timeout")),
    (ALL, END, ("failed", "cancelled"), unblocked("t", "b")),
    (ALL, END, ("failed", ""), None),
    (ANY, SUCCESS, ("completed", ""), unblocked("t", "a")),
    (ANY, SUCCESS, ("failed", ""), None),
    (ANY, SUCCESS, ("failed", "completed"), unblocked("t", "b")),
    (ANY, SUCCESS, ("failed", "cancelled"), cancelled("t", "b", "cancelled")),
    (ANY, END, ("timed out", ""), unblocked("t", "a")),
]


@pytest.mark.parametrize(("join", "on", "hows", "wanted"), THEN)
def test_all_or_any_with_success_or_in_any_way(
    join: AfterJoin, on: AfterOn, hows: tuple[str, str], wanted: Event | None
) -> None:
    """What two predecessors mean for a task; also after they were evicted, and to the next writer."""
    facts = [FORGETS, submitted("a"), submitted("b"), waiting("t", "a", "b", join=join, on=on)]
    for task_id, how in zip(("a", "b"), hows, strict=True):
        facts += ended(task_id, how) if how else ()
    scribe = write(*facts, said(submitted("later"), at=90_000.0))
    assert scribe.world.ended_task("a") is None
    restored = World.restore(scribe.world.snapshot())
    assert follows(Scribe(restored)) == follows(scribe) == ([wanted] if wanted is not None else [])
    assert restored.snapshot() == scribe.world.snapshot()
    if wanted is not None:
        assert scribe.world.awaited == {}


def test_a_task_may_run_all_the_same() -> None:
    """If what it waits for cannot come about; the event says so."""
    scribe = write(submitted("a"), waiting("t", "a", otherwise=RUN), *ended("a", "failed"))
    assert follows(scribe) == [unblocked("t", "a", otherwise=True)]
    assert scribe.world.indexes.ready == 1


def test_the_end_of_a_chain_follows_from_that_of_its_first() -> None:
    """Cancelling a task cancels those after it, and those after them."""
    chain = [waiting(f"t{number + 1}", f"t{number}") for number in range(9)]
    scribe = write(submitted("t0"), *chain, TaskCancelled(task_id="t0"))
    assert [event.subject for event in follows(scribe)] == [f"t{number}" for number in range(1, 10)]
    assert {task.status for task in scribe.world.tasks.values()} == {TaskStatus.CANCELLED}


def test_the_cause_is_the_end_of_the_predecessor() -> None:
    """As long as it is there; else what happened to the task before."""
    scribe = write(submitted("a"), waiting("t", "a"), *ended("a"))
    (event,) = ToLook(scribe.world).due()
    assert ORIGINS[TaskUnblocked](scribe.world, event, {})[2] == str(scribe.world.tasks["a"].ended)
    evicted = write(FORGETS, submitted("a"), waiting("t", "a"), *ended("a"))
    (event,) = ToLook(evicted.world).due()
    assert ORIGINS[TaskUnblocked](evicted.world, event, {})[2] == str(evicted.world.tasks["t"].submitted)


def test_a_later_task_of_the_same_id_is_another() -> None:
    """What was waited for has ended, whatever becomes of what is called like it."""
    scribe = write(FORGETS, submitted("a"), submitted("b"), waiting("t", "a", "b"), *ended("a"))
    scribe.commit(said(submitted("a"), at=90_000.0))
    for event in ended("a", "failed"):
        scribe.commit(event)
    for event in ended("b"):
        scribe.commit(event)
    assert follows(scribe) == [unblocked("t", "b")]


def test_one_look_is_at_some_hundred_tasks() -> None:
    """A task that many wait for makes no turn long; a look that was broken off goes on with the same task."""
    count = 2 * MOST_LOOKED + 10
    scribe = write(submitted("a"), *(waiting(f"t{number}", "a") for number in range(count)))
    to_look = ToLook(scribe.world)
    began, end = ended("a")
    scribe.commit(began)
    to_look.note([began])
    assert not to_look
    scribe.commit(end)
    to_look.note([end])
    broken_off = to_look.due()
    first = next(broken_off)
    assert next(to_look.due()) == first == unblocked("t0", "a")
    looks: list[int] = []
    while to_look:
        events = []
        for event in to_look.due():
            scribe.commit(event)
            events.append(event)
        looks.append(len(events))
    assert looks == [MOST_LOOKED, MOST_LOOKED, 10]
    assert scribe.world.awaited == {}
    assert scribe.world.indexes.ready == count


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_ends_leads_to_the_same(seed: int) -> None:
    """Against the plain definition: each dependant begins when its condition holds, and none waits for ever."""
    random = Random(seed)
    scribe = write(FORGETS)
    to_look = ToLook(scribe.world)
    status: dict[str, TaskStatus | None] = {}
    afters: dict[str, After] = {}
    for number in range(60):
        task_id = f"t{number}"
        if number > 3 and random.random() < 0.7:
            tasks = tuple(random.sample([one for one in status if scribe.world.knows_task(one)], random.randint(1, 4)))
            afters[task_id] = After(
                tasks=tasks,
                on=random.choice(list(AfterOn)),
                join=random.choice(list(AfterJoin)),
                otherwise=random.choice(list(Otherwise)),
            )
        status[task_id] = None
        decided = given_world(scribe, submit(task_id, after=afters.get(task_id)))
        for event in decided:
            scribe.commit(event)
            if isinstance(event, TaskCancelled):
                status[task_id] = TaskStatus.CANCELLED
        living = [task for task in scribe.world.tasks.values() if not task.is_ended and not task.waiting_for]
        if living and random.random() < 0.6:
            task_id = random.choice(living).task_id
            assert begins(afters.get(task_id), status), task_id
            how = random.choice(ENDS)
            for event in ended(task_id, how):
                scribe.commit(event)
                to_look.note([event])
            status[task_id] = TaskStatus("timeout" if how == "timed out" else how)
        if random.random() < 0.2:
            to_look = ToLook(scribe.world)  # another writer
        for event in follows(scribe, to_look):
            if isinstance(event, TaskCancelled):
                status[event.task_id] = TaskStatus.CANCELLED
        for task in scribe.world.tasks.values():
            assert not task.waiting_for or following(scribe.world, task) is None
            assert bool(task.waiting_for) == (begins(afters.get(task.task_id), status) is None)


def given_world(scribe: Scribe, command: Any) -> tuple[Event, ...]:
    from coordinator.deciders.dispatch import decide
    from coordinator.deciders.rules import DecisionContext, Rules

    return decide(scribe.world, command, DecisionContext(scribe.world.time + 1, Rules()))


def begins(one: After | None, status: dict[str, TaskStatus | None]) -> bool | None:
    """Say by the plain definition whether a task may begin; None while it waits."""
    if one is None:
        return True
    good = [status[task] for task in one.tasks if status[task] is not None]
    held = [one.on is END or how is TaskStatus.COMPLETED for how in good]
    enough = all if one.join is ALL else any
    may_hold = enough([*held, *(True for _ in range(len(one.tasks) - len(held)))])
    holds = enough([*held, *(False for _ in range(len(one.tasks) - len(held)))])
    if holds or (not may_hold and one.otherwise is RUN):
        return True
    return False if not may_hold else None
