"""Which of the ready tasks a claim takes under budgets: never more than is left, and what is left is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.placement.matching import offered, schedule
from coordinator.placement.sources import TOO_DEAR_LOOKED_AT
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, BudgetTerms, Unit
from events.coordinator import ANY, ClaimFilter
from events.limit import LimitDefined, Terms
from events.prices import Price, PricesSet
from events.spend import Reservation, Spend, Spent
from projections.keyed import FEW_SHAPES
from tests.specification import BEGIN, fold, said, write
from tests.unit.deciders.facts import attempt_failed, completed, started, submitted, worker
from tests.unit.placement.test_matching import waiting

if TYPE_CHECKING:
    from events.base import Event
    from events.task import TaskStarted
    from projections.world import World

DAY = 86_400.0


def budget(budget_id: str = "b", cap: int = 100, **others: Any) -> BudgetDefined:
    return BudgetDefined(budget_id=budget_id, terms=BudgetTerms(cap=cap, **others))


def spends(task_id: str, tokens: int, value: str = "", **others: Any) -> Event:
    attributes = {"a": value} if value else {}
    spend = Spend(model="m", input_tokens=tokens - tokens // 2, output_tokens=tokens // 2)
    return submitted(task_id, spend=spend, attributes=attributes, **others)


def began(task_id: str, tokens: int, lease: str = "c.1.1") -> TaskStarted:
    return started(task_id, lease, reserved=Reservation(tokens=tokens))


def starts(world: World, *, slots: int = 99, **wanted: Any) -> list[TaskStarted]:
    return list(schedule(world, [waiting(slots=slots)], {}, {"c": ClaimFilter(**wanted)}, most=slots))


def taken(world: World, *, slots: int = 99, **wanted: Any) -> list[str]:
    """Return the tasks that one claim of worker `w` gets, in their order."""
    return [event.task_id for event in starts(world, slots=slots, **wanted)]


def test_attempts_begin_as_far_as_the_budget_goes() -> None:
    """Each reserves the most that it may spend; a task that does not say what it may spend is not charged."""
    world = fold(budget(cap=100), worker(), *(spends(one, 40) for one in "xyz"), submitted("free"))
    assert [(event.task_id, event.reserved) for event in starts(world)] == [
        ("x", Reservation(tokens=40)),
        ("y", Reservation(tokens=40)),
        ("free", None),
    ]
    assert taken(world, slots=1) == ["x"]


def test_what_runs_and_what_was_spent_count() -> None:
    """What an attempt did not spend is there for others at its end."""
    facts = (budget(cap=100), worker(), *(spends(one, 40) for one in "xyz"))
    ran = (*facts, began("x", 40))
    assert taken(fold(*ran)) == ["y"]
    assert taken(fold(*ran, completed("x", spent=Spent(tokens=40)))) == ["y"]
    assert taken(fold(*ran, completed("x", spent=Spent(tokens=20)))) == ["y", "z"]
    assert taken(fold(*ran, completed("x", spent=Spent(tokens=61)))) == []
    assert taken(fold(*ran, attempt_failed("x", retry_at=BEGIN, spent=Spent()))) == ["x", "y"]


def test_each_key_and_each_window_has_its_own() -> None:
    """An attempt is charged to the window in which it began, also if it ends in a later one."""
    facts = [budget(by="attributes.a", window="1d"), worker()]
    facts += [spends(f"{value}{number}", 100, value) for value in "xy" for number in range(3)]
    assert taken(fold(*facts)) == ["x0", "y0"]
    world = fold(*facts, began("x0", 100), began("y0", 100, "d.1.1"))
    assert taken(world) == []
    world.indexes.advance(DAY - 1)
    assert taken(world) == []
    world.indexes.advance(DAY)
    assert taken(world) == ["x1", "y1"]
    late = fold(
        *facts,
        began("x0", 100),
        said(began("x1", 100, "d.1.1"), at=DAY + 1),
        completed("x0", spent=Spent(tokens=100)),
    )
    assert taken(late) == ["y0"]


def test_several_budgets_and_limits_must_all_allow_it() -> None:
    """The tightest decides, and one that is removed decides nothing."""
    facts = (budget("a", cap=1000), budget("b", cap=50, where='task_name == "work"'), worker())
    tasks = (spends("x", 40), spends("y", 40))
    assert taken(fold(*facts, *tasks)) == ["x"]
    assert taken(fold(*facts, *tasks, BudgetRemoved(budget_id="b"))) == ["x", "y"]
    assert taken(fold(*facts, *tasks, budget("b", cap=80))) == ["x", "y"]
    one_runs = LimitDefined(limit_id="l", terms=Terms(running=1))
    assert taken(fold(budget("a", cap=1000), one_runs, worker(), *tasks)) == ["x"]


def test_a_task_that_does_not_fit_now_waits_first_of_its_shape() -> None:
    """A smaller one behind it does not overtake it for ever; one of another shape is not held up."""
    world = fold(
        *(budget(cap=100), worker(), spends("x", 60), spends("large", 60), spends("small", 10)),
        spends("other", 10, task_name="another"),
    )
    assert taken(world) == ["x", "other"]
    alone = fold(budget(cap=100), worker(), spends("x", 60), spends("large", 60), spends("small", 10))
    assert taken(alone, task_ids=("large", "x", "small")) == ["large", "small"]


def test_what_no_budget_could_ever_pay_holds_up_nobody() -> None:
    """Such tasks are passed over, as long as they are not very many."""
    dear = [spends(f"dear{number}", 200) for number in range(TOO_DEAR_LOOKED_AT)]
    assert taken(fold(budget(cap=100), worker(), *dear, spends("x", 60))) == ["x"]
    assert taken(fold(budget(cap=100), worker(), *dear, spends("more", 200), spends("x", 60))) == []


def test_money_needs_a_price() -> None:
    """What is reserved is the dearest that the tokens may be, rounded up; and what the task says it costs besides."""
    price = Price(input_micros=1_000_000, output_micros=4_000_000, cached_micros=3_000_000, reasoning_micros=100)
    prices = PricesSet(version="v1", models={"m": price})
    task = submitted("x", spend=Spend(model="m", input_tokens=3, output_tokens=2, money_micros=5))
    money = budget(cap=100, unit=Unit.MONEY)
    assert taken(fold(money, worker(), task)) == []
    (event,) = starts(fold(money, worker(), prices, task))
    assert event.reserved == Reservation(tokens=5, money_micros=3 * 3 + 2 * 4 + 5, prices="v1", price=price)
    assert taken(fold(budget(cap=21, unit=Unit.MONEY), worker(), prices, task)) == []
    assert taken(fold(budget(cap=22, unit=Unit.MONEY), worker(), prices, task)) == ["x"]
    only_money = submitted("y", spend=Spend(money_micros=22))
    assert taken(fold(budget(cap=22, unit=Unit.MONEY), worker(), only_money)) == ["y"]
    assert taken(fold(budget(cap=5), worker(), task)) == ["x"]


def test_a_floor_is_kept_for_those_it_is_for() -> None:
    """They use it first, and then what the others have; the others have nothing of it."""
    terms: dict[str, Any] = {"cap": 100, "floor": 40, "floor_for": "priority >= 8"}
    usual = [spends(f"u{number}", 20) for number in range(6)]
    urgent = [spends(f"v{number}", 20, priority=9) for number in range(6)]
    assert taken(fold(budget(**terms), worker(), *usual)) == ["u0", "u1", "u2"]
    assert taken(fold(budget(**terms), worker(), *urgent)) == ["v0", "v1", "v2", "v3", "v4"]
    assert taken(fold(budget(**terms), worker(), *usual, *urgent)) == ["u0", "u1", "u2", "v0", "v1"]
    both = [one for pair in zip(urgent, usual, strict=True) for one in pair]
    assert taken(fold(budget(**terms), worker(), *both)) == ["v0", "u0", "v1", "u1", "v2"]
    ran = (budget(**terms), worker(), *usual, *urgent, began("v0", 20), began("v1", 20, "d.1.1"))
    assert taken(fold(*ran)) == ["u0", "u1", "u2"]
    spent = (completed("v0", spent=Spent(tokens=20)), completed("v1", "d.1.1", spent=Spent(tokens=20)))
    assert taken(fold(*ran, *spent)) == ["u0", "u1", "u2"]


@pytest.mark.parametrize("shapes", [1, FEW_SHAPES + 10])
def test_a_correction_and_the_end_of_a_window_open_and_shut(shapes: int) -> None:
    """Shapes whose key has nothing left are in no order, and are again when there is something."""
    tasks = [spends(f"x{number}", 10, task_name=f"n{number}") for number in range(shapes)]
    scribe = write(budget(cap=10), worker(), *tasks)
    world = scribe.world
    assert taken(world) == ["x0"]
    scribe.commit(BudgetCorrected(budget_id="b", key="", window=0, amount=5))
    assert taken(world) == []
    scribe.commit(BudgetCorrected(budget_id="b", key="", window=0, amount=5))
    assert taken(world) == []
    scribe.commit(BudgetCorrected(budget_id="b", key="", window=0, amount=-10))
    assert taken(world) == ["x0"]
    scribe.commit(BudgetCorrected(budget_id="b", key="", window=0, amount=10))
    world.indexes.advance(DAY)
    assert taken(world) == ["x0"]


def test_what_is_offered_is_what_a_claim_would_get() -> None:
    """Each task that is offered is counted."""
    world = fold(budget(cap=100), worker(), *(spends(one, 40) for one in "xyz"))
    found = offered(world, "w", ANY, "", most=10, containers={})
    assert [task.task_id for task in found] == ["x", "y"]
