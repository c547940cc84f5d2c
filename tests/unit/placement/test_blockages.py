"""Why the tasks of each shape wait is found as `explain` finds it of a task, recorded once, and said to be over."""

from __future__ import annotations

from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.deciders.rules import Rules
from coordinator.deciders.signs import Signs
from coordinator.placement.blockages import AGAIN_AFTER_S, EVENTS_AT_ONCE, MOST_HOLDERS, MOST_TENANTS, Blockages
from coordinator.placement.explain import explain
from events.budget import BudgetDefined, BudgetTerms, Unit
from events.limit import LimitDefined, LimitDeleted, Terms
from events.queue import (
    DEFAULT,
    FairShare,
    Policy,
    QueueBlocked,
    QueueDefined,
    QueuePaused,
    QueuePolicySet,
    QueueResumed,
)
from events.spend import Reservation, Spend
from events.task import Gang, Prefer
from events.task_pause import TaskPaused, TaskResumed
from events.worker import WorkerDraining, WorkerLeft
from projections.blockage import UNCLAIMED
from tests.specification import Scribe, said
from tests.unit.deciders.facts import a_container, completed, resources, started, submitted, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.task import Task

RULES = Rules(lease_s=30.0, max_concurrent_tasks=3)
HEARD = 1000.0


class Looked:
    """A world whose tasks are looked at; what is found is folded at once."""

    def __init__(self, *facts: Any, silent_s: float = 0.0) -> None:
        self.scribe = Scribe()
        for fact in facts:
            self.scribe.commit(fact)
        self.blockages = Blockages(self.scribe.world)
        self.signs = Signs()
        for worker_id in self.scribe.world.workers:
            self.signs.workers[worker_id] = HEARD - silent_s

    def again(self, *facts: Any, after_s: float = 1.0, most: int = 2**30) -> list[QueueBlocked]:
        """Commit *facts*, and return what is found in a look that ends after *most* shapes, and in the one before."""
        for fact in facts:
            self.scribe.commit(fact)
        found: list[QueueBlocked] = []
        for _ in range(2):  # the first one ends the round
            world, is_spent = self.scribe.world, partial(_is_spent, count(1), most)
            due = self.blockages.due(self.signs, RULES, HEARD, is_spent)
            at = world.time + after_s / 2
            world.indexes.advance(at)
            for event in due:
                self.scribe.commit(said(event, at=at))
                found.append(event)
        return found

    def cause(self) -> str:
        """Return the only cause that is found."""
        found = self.again()
        assert len(found) <= 1, found
        return found[0].cause if found else UNCLAIMED

    def told(self, task_id: str = "t") -> str:
        """Return the first reason that a task waits."""
        world = self.scribe.world
        reasons = explain(world, self.signs, world.tasks[task_id], RULES, HEARD).reasons
        return reasons[0].code


def _is_spent(looks: Iterator[int], most: int) -> bool:
    return next(looks) >= most


def limit(**terms: Any) -> LimitDefined:
    return LimitDefined(limit_id="l", terms=Terms(**terms))


BUSY = (worker(slots=1), submitted("a"), started("a"))


@pytest.mark.parametrize(("facts", "silent_s", "cause"), [
    ((), 0.0, "no_worker"),
    ((worker(), WorkerLeft(worker_id="w", reason="r")), 0.0, "no_worker"),
    ((worker(),), 0.0, UNCLAIMED),
    ((worker(handles=("other",)),), 0.0, "no_handler"),
    ((worker(handles=("work",)),), 0.0, UNCLAIMED),
    ((worker(), WorkerDraining(worker_id="w", reason="r")), 0.0, "workers_stopping"),
    ((*a_container("running"), worker(container_id="k")), 0.0, UNCLAIMED),
    ((*a_container("stopped"), worker(container_id="k")), 0.0, "workers_stopping"),
    ((worker(),), 60.0, "workers_silent"),
    (BUSY, 0.0, "workers_busy"),
    ((worker(slots=2), submitted("a"), started("a")), 0.0, UNCLAIMED),
    ((limit(running=1), worker(), submitted("a"), started("a")), 0.0, "key_full"),
    ((limit(starts=1, per_s=60.0), worker(), submitted("a"), started("a")), 0.0, "key_rests"),
    ((limit(running=2), worker(), submitted("a"), started("a")), 0.0, UNCLAIMED),
    ((worker(), *(one for n in range(3) for one in (submitted(f"x{n}"), started(f"x{n}", lease=f"d{n}.1.1")))),
     0.0, "fleet_full"),
])  # fmt: skip
def test_the_cause_is_the_first_reason_of_explain(facts: tuple[Any, ...], silent_s: float, cause: str) -> None:
    """By the same code."""
    looked = Looked(*facts, submitted(), silent_s=silent_s)
    assert looked.cause() == cause
    assert looked.told() == cause
    assert looked.again() == []  # it is recorded


@pytest.mark.parametrize(("terms", "cause"), [
    ({"cap": 100}, "budget"), ({"cap": 120}, UNCLAIMED), ({"cap": 59}, "over_budget"),
    ({"cap": 100, "unit": Unit.MONEY}, "no_price"),
])  # fmt: skip
def test_a_budget_that_has_too_little_is_a_cause(terms: dict[str, Any], cause: str) -> None:
    """With its key, and what is reserved for whom."""
    spend: dict[str, Any] = {"spend": Spend(model="m", input_tokens=60)}
    ran = (submitted("a", **spend), started("a", reserved=Reservation(tokens=60)), submitted(**spend))
    looked = Looked(worker(), *ran, BudgetDefined(budget_id="b", terms=BudgetTerms(by="queue", **terms)))
    found = looked.again()
    assert [one.cause for one in found] == ([] if cause == UNCLAIMED else [cause])
    assert [(one.key, one.holders) for one in found] == ([] if cause == UNCLAIMED else [("b:default", ("a",))])
    assert looked.told() == cause


@pytest.mark.parametrize(("has", "needs", "cause"), [
    ({"resources": resources(cpu=1000)}, {"resources": resources(cpu=2000)}, "too_large"),
    ({"resources": resources(cpu=2000)}, {"resources": resources(cpu=2000)}, "workers_busy"),
    ({"resources": resources(cpu=4000)}, {"resources": resources(cpu=2000)}, UNCLAIMED),
    ({"resources": resources(cpu=2000)}, {}, UNCLAIMED),
    ({}, {"resources": resources(cpu=2000)}, UNCLAIMED),
    ({"labels": {"zone": "us"}}, {"worker_filter": 'labels.zone == "eu"'}, "no_match"),
    ({"labels": {"zone": "eu"}}, {"worker_filter": 'labels.zone == "eu"'}, UNCLAIMED),
])  # fmt: skip
def test_what_a_worker_must_have(has: dict[str, Any], needs: dict[str, Any], cause: str) -> None:
    """And what of it is taken by what runs."""
    runs = submitted("a", resources=resources(cpu=1000))
    looked = Looked(worker(**has), runs, started("a"), submitted(**needs))
    assert looked.cause() == looked.told() == cause


def test_a_preference_is_waited_for() -> None:
    """While a worker that meets it exists, and for as long as it may be waited for."""
    prefers = submitted(prefer=Prefer(filter='labels.zone == "eu"', for_s=60.0))
    there = worker("b", labels={"zone": "eu"})
    looked = Looked(worker(), there, prefers)
    assert looked.cause() == looked.told() == "prefers"
    assert looked.again(after_s=100.0)[-1].cause == ""


def test_the_holders_are_named() -> None:
    """At most ten, with their tenants, and how many of whose tasks wait."""
    ran = [one for n in range(12) for one in (submitted(f"r{n:02}"), started(f"r{n:02}", lease=f"d{n}.1.1"))]
    looked = Looked(limit(running=12), worker(), *ran, said(submitted("x"), tenant="other"), submitted())
    (found,) = looked.again()
    assert found.key == "l:"
    assert found.holders == tuple(f"r{n:02}" for n in range(MOST_HOLDERS))
    assert found.held_by == {"default": MOST_HOLDERS}
    assert found.waiting == {"other": 1, "default": 1}
    looked = Looked(*BUSY, submitted())
    (found,) = looked.again()
    assert (found.holders, found.held_by, found.waiting) == (("a",), {"default": 1}, {"default": 1})


def test_no_number_of_tenants_makes_an_event_large() -> None:
    """The ten that have most are named."""
    tasks = [said(submitted(f"t{n:02}"), tenant=f"tenant{n % 30}") for n in range(45)]
    (found,) = Looked(*BUSY, *tasks).again()
    assert found.waiting == {f"tenant{n}": 2 for n in range(MOST_TENANTS)}


def test_a_change_is_recorded_once_and_the_end_too() -> None:
    """What lasts is recorded again after a while, for the sums of who waits for whom."""
    looked = Looked(*BUSY, submitted())
    assert [one.cause for one in looked.again()] == ["workers_busy"]
    assert looked.again(after_s=AGAIN_AFTER_S / 2) == []
    assert [one.cause for one in looked.again(after_s=2 * AGAIN_AFTER_S)] == ["workers_busy"] * 2
    freed = looked.again(completed("a"))
    assert [(one.cause, one.holders) for one in freed] == [("", ())]
    assert looked.again() == []
    assert [one.cause for one in looked.again(started(lease="e.1.1"), submitted("u"))] == ["workers_busy"]
    over = looked.again(completed(lease="e.1.1"), started("u", lease="f.1.1"))
    assert [one.cause for one in over] == [""]
    assert looked.again() == []


def test_it_is_known_since_when() -> None:
    """Since the task was ready, but not before the round before, in which it was not so."""
    looked = Looked(*BUSY)
    looked.again()
    (found,) = looked.again(submitted())
    assert found.since == looked.scribe.world.tasks["t"].submitted_at
    looked = Looked(worker(slots=1), submitted())
    looked.again(after_s=60.0)
    for number in range(100):
        looked.scribe.commit(submitted(f"x{number}"))
    at = looked.scribe.world.indexes.now + 0.5
    looked.again()
    (again,) = looked.again(started("x0"))
    assert again.since == at


def test_a_worker_that_changes_is_looked_at_again() -> None:
    """Which workers may run a shape is kept until one of them comes, changes or goes."""
    looked = Looked(worker(handles=("other",)), submitted())
    assert looked.cause() == "no_handler"
    looked.signs.workers["v"] = HEARD
    assert [one.cause for one in looked.again(worker("v", handles=("work",)))] == [""]
    assert [one.cause for one in looked.again(WorkerLeft(worker_id="v", reason="r"))] == ["no_handler"]


def test_what_shares_a_queue_is_one_shape() -> None:
    """Tenants have lanes of their own there; their tasks wait for the same."""
    fair = QueuePolicySet(queue_id="q", policy=Policy(strategy="fair", fair=FairShare()))
    mine, others = submitted("b", queue="q"), said(submitted("c", queue="q"), tenant="other")
    looked = Looked(QueueDefined(queue_id="q"), fair, *BUSY, mine, others)
    (found,) = looked.again()
    assert (found.queue_id, found.waiting) == ("q", {"default": 1, "other": 1})


def test_a_look_ends_and_goes_on_where_it_was() -> None:
    """After some changes, or when its time is over."""
    names = [f"n{number:03}" for number in range(2 * EVENTS_AT_ONCE)]
    looked = Looked(*(submitted(name, task_name=name) for name in names))
    found = [one.task_name for one in islice(_until_done(looked), len(names))]
    assert sorted(found) == names
    assert looked.again() == []
    slow = Looked(*(submitted(name, task_name=name) for name in names[:3]))
    assert [len(slow.again(most=1)) for _ in range(3)] == [1, 2, 0]


def _until_done(looked: Looked) -> list[QueueBlocked]:
    found: list[QueueBlocked] = []
    while more := looked.again():
        assert len(more) <= 2 * EVENTS_AT_ONCE
        found += more
    return found


def test_what_went_during_a_round_is_passed_over() -> None:
    """A shape may have lost its last task since the round began."""
    looked = Looked(submitted("a", task_name="a"), submitted())
    assert [one.task_name for one in looked.again(most=1)] == ["a"]
    gone: Task = looked.scribe.world.tasks["t"]
    looked.scribe.world.indexes.lanes.shape(gone).members.clear()
    assert looked.again() == []


def test_shapes_that_became_others_are_not_looked_at() -> None:
    """A limit that comes or goes puts the tasks into other shapes, in the middle of a round too."""
    looked = Looked(limit(by="task_name"), submitted("a", task_name="a"), submitted("b", task_name="b"))
    assert [one.task_name for one in looked.again(most=1)] == ["a"]
    found = looked.again(LimitDeleted(limit_id="l"))
    assert [(one.task_name, one.cause) for one in found] == [("a", "no_worker"), ("b", "no_worker"), ("a", "")]


def test_a_pause_of_the_queue_is_known_without_a_look() -> None:
    """What was recorded before holds on, under it."""
    looked = Looked(*BUSY, submitted())
    assert looked.cause() == "workers_busy"
    assert looked.again(QueuePaused(queue_id=DEFAULT), completed("a")) == []
    assert [one.cause for one in looked.again(QueueResumed(queue_id=DEFAULT))] == [""]


# --- gangs ------------------------------------------------------------------------------------------------------------


def of_gang(task_id: str, **others: Any) -> Any:
    return submitted(task_id, gang=Gang(gang_id="g", size=2, deadline_s=600.0), gang_until=2000.0, **others)


def test_a_gang_waits_for_its_tasks_and_then_for_room_for_all() -> None:
    """Each is a cause of its own; without room for any of them it is that of single tasks."""
    looked = Looked(worker(slots=2), of_gang("t"))
    assert looked.cause() == "gang_gathers"
    looked.scribe.commit(submitted("r"))
    looked.scribe.commit(started("r"))
    looked.scribe.commit(of_gang("u"))
    looked.again()
    (found,) = looked.scribe.world.blockages.values()
    assert (found.cause, found.holders) == ("gang_waits", ("r",))
    looked.scribe.commit(submitted("s"))
    looked.scribe.commit(started("s", "d.1.1", claim_id="d"))
    assert [one.cause for one in looked.again()] == ["workers_busy"]
    waited = explain(looked.scribe.world, looked.signs, looked.scribe.world.tasks["t"], RULES, HEARD).waited
    assert set(waited) == {"gang_gathers", "gang_waits", "workers_busy"}


def test_room_that_is_kept_for_a_gang_is_the_cause_of_others() -> None:
    """The tasks of the gang are in the way; shapes for other workers have another cause."""
    facts = worker(slots=3), submitted("r"), started("r"), of_gang("t"), of_gang("u", worker_filter='worker_id == "w"')
    looked = Looked(*facts, TaskPaused(task_id="u", reason="why"), worker("x", handles=("other",)))
    assert {one.cause for one in looked.again()} == {"gang_gathers"}
    looked.again(TaskResumed(task_id="u"), submitted("z"), submitted("o", task_name="other"), after_s=100.0)
    world = looked.scribe.world
    assert world.indexes.gangs.gathered
    world.indexes.advance(world.time + 100.0)
    found = {one.task_name: one for one in looked.again(after_s=100.0)}
    causes = {one.cause for one in world.blockages.values()}
    assert causes - {""} == {"gang_waits", "kept_for_gang"}
    kept = next(one for one in world.blockages.values() if one.cause == "kept_for_gang")
    assert kept.holders == ("t", "u")
    assert "other" not in found


def test_what_its_gang_waited_for_is_known_after_its_begin() -> None:
    """A retry has causes of its own."""
    looked = Looked(worker(slots=2), of_gang("t"))
    looked.again(after_s=4.0)
    looked.scribe.commit(of_gang("u"))
    looked.scribe.commit(started("t"), started("u", "c.2.1"))
    world = looked.scribe.world
    waited = explain(world, looked.signs, world.tasks["t"], RULES, HEARD).waited
    assert "gang_gathers" in waited
