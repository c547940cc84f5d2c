"""Holds: how they are placed, lifted and expire, and which tasks they keep from the workers."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.hold import HOLD_S_MAX, HoldTasks, LiftHold
from coordinator.commands.task import CompleteTask
from coordinator.deciders.due import due
from coordinator.deciders.hold import MOST_HOLDS
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.errors import Corrupt
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from events.queue import DEFAULT, FairShare, Policy, QueueDefined, QueuePolicySet
from events.task import TaskCancelled, TaskCompleted, TaskUnblocked
from events.task_pause import TaskPaused, TaskResumed
from projections.world import World
from tests.specification import BEGIN, fold, given, said, write
from tests.unit.deciders.facts import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    INFINITY,
    NAN,
    attempt_failed,
    completed,
    started,
    submitted,
    worker,
)
from tests.unit.placement.test_sources import order

ACME = 'attributes.customer == "acme"'


def placed(hold_id: str = "h", where: str = 'task_name == "work"', **others: Any) -> HoldPlaced:
    return HoldPlaced(hold_id=hold_id, where=where, **others)


def place(hold_id: str = "h", where: str = 'task_name == "work"', **others: Any) -> HoldTasks:
    return HoldTasks(hold_id=hold_id, where=where, **others)


def of(customer: str, task_id: str, **others: Any) -> Any:
    return submitted(task_id, attributes={"customer": customer}, **others)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_hold_is_placed_and_says_who_placed_it() -> None:
    """The answer is its id; the same again changes nothing."""
    decided = given().when(place(reason="r", for_s=60.0)).then(placed(reason="r", expires_at=BEGIN + 60))
    decided.then_answers("h")
    hold = decided.world.holds["h"]
    assert (hold.placed_at, hold.placed_by, hold.reason, hold.expires_at) == (BEGIN, "tester", "r", BEGIN + 60)
    kept = given(placed(reason="r", expires_at=BEGIN + 60))
    kept.when(place(reason="r", for_s=60.0)).then_nothing().then_answers("h")
    given(placed()).when(place()).then_nothing()


@pytest.mark.parametrize("other", [{"where": "true"}, {"queue": DEFAULT}, {"reason": "x"}, {"for_s": 1.0}])
def test_an_id_has_one_hold_at_a_time(other: dict[str, Any]) -> None:
    """One that has ended may be used again."""
    given(placed()).when(place(**other)).then_refused("id_taken", "hold 'h'", "lift it")
    given(placed(), HoldLifted(hold_id="h")).when(place()).then(placed())
    given(placed(expires_at=BEGIN + 60)).when(place(for_s=61.0)).then_refused("id_taken")


@pytest.mark.parametrize(
    ("wrong", "reason", "why"),
    [
        ({"where": ""}, "bad_filter", "it is empty"),
        ({"where": "customer == 1"}, "bad_filter", "'customer' is not a field"),
        ({"where": 'status == "pending"'}, "bad_filter", "'status' is not a field"),
        ({"where": "attempt > 1"}, "bad_filter", "'attempt' is not a field"),
        ({"queue": "nothing"}, "unknown_queue", "queue 'nothing' does not exist"),
        *(({"for_s": one}, "bad_number", "for_s") for one in (0.0, -1.0, NAN, INFINITY, HOLD_S_MAX + 1)),
        *(({"reason": one}, "bad_text", "reason") for one in HOSTILE_TEXTS),
        *(({"hold_id": one}, "bad_id", "hold_id") for one in HOSTILE_IDS),
        *(({"queue": one}, "bad_id", "queue") for one in HOSTILE_IDS if one),
    ],
)
def test_a_hold_that_is_wrong_is_refused(wrong: dict[str, Any], reason: str, why: str) -> None:
    """It is told with its value."""
    given().when(place(**wrong)).then_refused(reason, why)


def test_there_may_be_so_many_holds() -> None:
    """One more may be placed when one was lifted."""
    full = given(*(placed(f"h{number}") for number in range(MOST_HOLDS)))
    full.when(place("one-more")).then_refused("too_many", "100 holds", "lift one")
    full.when(LiftHold(hold_id="h7")).then(HoldLifted(hold_id="h7"))
    full.when(place("one-more")).then(placed("one-more"))


def test_a_hold_is_lifted_once() -> None:
    """One that does not exist is told with those whose names are like it."""
    given(placed()).when(LiftHold(hold_id="h", reason="r")).then(HoldLifted(hold_id="h", reason="r"))
    given(placed("acme")).when(LiftHold(hold_id="amce")).then_refused("not_found", "did you mean acme?")
    given().when(LiftHold(hold_id="h")).then_refused("not_found", "`hold list`")
    given(placed()).when(LiftHold(hold_id="h", reason="\n")).then_refused("bad_text")
    given(placed()).when(LiftHold(hold_id="a b")).then_refused("bad_id")


def test_a_hold_expires_when_its_time_is_over() -> None:
    """By commit time, and not before."""
    scribe = write(placed("a", expires_at=BEGIN + 60), placed("b"), placed("c", expires_at=BEGIN + 30))

    def found(at: float) -> list[Any]:
        scribe.world.indexes.advance(at)
        return list(due(scribe.world, Signs(), DecisionContext(at, Rules()), at))

    assert found(BEGIN + 29.9) == []
    assert found(BEGIN + 30) == [HoldExpired(hold_id="c")]
    assert found(BEGIN + 99) == [HoldExpired(hold_id="a"), HoldExpired(hold_id="c")]
    scribe.commit(*found(BEGIN + 99))
    assert list(scribe.world.holds) == ["b"]


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_task_that_meets_a_hold_is_given_to_nobody() -> None:
    """Whether it was submitted before or after; neither by name, nor to a program, nor by its id."""
    facts = (worker(), of("acme", "t1"), of("blue", "t2", program="p"), of("acme", "t3", program="p"))
    world = fold(*facts, placed(where=ACME), of("acme", "t4"), of("blue", "t5"))
    assert order(world) == ["t2", "t5"]
    assert order(world, programs=("p",)) == ["t2"]
    assert order(world, task_names=("work",)) == ["t2", "t5"]
    assert order(world, task_ids=("t3", "t1", "t5")) == ["t5"]
    assert (world.indexes.ready, world.indexes.on_hold.count) == (2, 3)
    assert list(world.indexes.on_hold.of["h"]) == ["t1", "t3", "t4"]


@pytest.mark.parametrize("ended", [HoldLifted(hold_id="h"), HoldExpired(hold_id="h")])
def test_what_was_held_is_given_again_in_its_old_place(ended: Any) -> None:
    """Those that another hold keeps still wait."""
    facts = (worker(), of("acme", "t1", program="p"), of("blue", "t2"), of("acme", "t3", priority=1))
    held = (*facts, placed(where=ACME), placed("other", "priority == 1"))
    assert order(fold(*held)) == ["t2"]
    world = fold(*held, ended)
    assert order(world) == ["t1", "t2"]
    assert order(world, programs=("p",)) == ["t1"]
    assert world.indexes.on_hold.of == {"other": {"t3": world.tasks["t3"]}}
    lifted = fold(*held, ended, HoldLifted(hold_id="other"))
    assert order(lifted) == ["t1", "t2", "t3"]
    assert lifted.indexes.on_hold.count == 0


def test_a_task_that_was_held_is_ready_once() -> None:
    """However often it was held and let go, in every order, and among those of its program."""
    tasks = (submitted("t1", program="p"), submitted("t2", program="p"), submitted("t3", program="p"))
    scribe = write(worker(), *tasks)
    assert list(scribe.world.indexes.lanes_of) == ["p"]
    for _ in range(3):
        for ordering in ("fifo", "priority", "priority+60.0"):
            for lanes in (scribe.world.indexes.lanes, scribe.world.indexes.lanes_of["p"]):
                (shape,) = lanes.usual.shapes.values()
                assert [task.task_id for _, task in shape.ordered(ordering)] == ["t1", "t2", "t3"]
                assert shape.ahead_of(scribe.world.tasks["t3"], ordering) == 2
        scribe.commit(placed(where='task_id in ["t1", "t2"]'))
        scribe.commit(HoldLifted(hold_id="h"))


def test_a_held_task_never_keeps_those_behind_it() -> None:
    """By every policy, workers get as many tasks as without it."""
    tasks = (of("acme", "t1", priority=9), of("blue", "t2", fairness_key="x"), of("blue", "t3"))
    for strategy in ("fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin", "fair"):
        fair = FairShare(by="key") if strategy == "fair" else None
        policy = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy=strategy, fair=fair))
        world = fold(worker(), policy, *tasks, placed(where=ACME))
        assert sorted(order(world)) == ["t2", "t3"]


def test_a_hold_of_a_queue_is_only_about_this_one() -> None:
    """The default one has its name."""
    facts = (worker(), QueueDefined(queue_id="q"), submitted("t1"), submitted("t2", queue="q"))
    assert order(fold(*facts, placed(queue="q"))) == ["t1"]
    assert order(fold(*facts, placed(queue=DEFAULT))) == ["t2"]
    assert order(fold(*facts, placed(where='queue == "q"'))) == ["t1"]
    assert order(fold(*facts, placed(where='queue == "default"'))) == ["t2"]


def test_what_runs_goes_on_and_is_held_when_it_comes_back() -> None:
    """Its report is accepted; its retry waits."""
    running = given(worker(), submitted(), started(), placed())
    running.when(CompleteTask(task_id="t", lease="c.1.1")).then(completed())
    world = fold(worker(), submitted(), started(), placed(), attempt_failed())
    assert order(world) == []
    assert order(fold(worker(), submitted(), started(), placed(), attempt_failed(), HoldLifted(hold_id="h"))) == ["t"]


def test_a_task_that_waits_otherwise_is_held_when_it_would_be_ready() -> None:
    """A paused one, one that waits for others, and one whose time has not come."""
    paused = (worker(), submitted(), TaskPaused(task_id="t", reason="r"), placed())
    assert fold(*paused).indexes.on_hold.count == 0
    world = fold(*paused, TaskResumed(task_id="t"))
    assert (order(world), world.indexes.on_hold.count) == ([], 1)
    after = (submitted("first", task_name="other"), submitted(waits_for=("first",)))
    world = fold(worker(), *after, placed(), TaskUnblocked(task_id="t", predecessor="first"))
    assert (order(world), world.indexes.ready) == (["first"], 1)
    later = write(worker(), submitted(not_before=BEGIN + 50), placed()).world
    assert (later.indexes.ready, later.indexes.on_hold.count) == (0, 0)
    later.indexes.advance(BEGIN + 50)
    assert (later.indexes.ready, later.indexes.on_hold.count) == (0, 1)


def test_a_held_task_can_end_and_be_paused() -> None:
    """Then no hold keeps it, and nothing is left of it when the hold ends."""
    for end in (TaskCancelled(task_id="t", reason="r"), TaskPaused(task_id="t", reason="r")):
        world = fold(worker(), submitted(), placed(), end)
        assert world.indexes.on_hold.count == 0
        assert order(fold(worker(), submitted(), placed(), end, HoldLifted(hold_id="h"))) == []


def test_who_did_it_may_report_a_held_task() -> None:
    """Without a lease, as of a paused queue: it was not given to a worker."""
    decided = given(worker(), submitted(), placed()).when(CompleteTask(task_id="t"))
    started_directly = started(lease="direct.1", claim_id="direct", worker_id="direct")
    decided.then(started_directly, TaskCompleted(task_id="t", lease="direct.1"))
    assert decided.world.indexes.on_hold.count == 0


def test_a_restored_world_keeps_the_same_tasks() -> None:
    """Each by the hold that was placed first, although another had the id before."""
    world = fold(
        worker(),
        *(submitted("t1"), placed("a"), placed("b"), HoldLifted(hold_id="a"), placed("a", "true"), submitted("t2")),
        said(submitted("t3", task_name="other"), tenant="acme"),
    )
    restored = World.restore(world.snapshot())
    assert restored.holds == world.holds
    assert restored.indexes.on_hold.of == world.indexes.on_hold.of == {
        "b": {"t1": world.tasks["t1"], "t2": world.tasks["t2"]},
        "a": {"t3": world.tasks["t3"]},
    }  # fmt: skip


def test_a_journal_with_impossible_holds_is_corrupt() -> None:
    """One placed twice, one lifted that is not there, and one whose filter cannot be read."""
    for facts, why in (
        ((placed(), placed()), "already exists"),
        ((HoldLifted(hold_id="h"),), "does not exist"),
        ((HoldExpired(hold_id="h"),), "does not exist"),
        ((placed(where="colour == 1"),), "cannot be read: filter"),
    ):
        with pytest.raises(Corrupt, match=why):
            fold(*facts)
