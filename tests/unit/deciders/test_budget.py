"""Deciders of the budget and price commands, and which attempts are stopped when a budget has not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.budget import CorrectBudget, DefineBudget, RemoveBudget
from coordinator.commands.prices import SetPrices
from coordinator.deciders.budget import MOST_BUDGETS, MOST_MODELS
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, BudgetTerms, Stop, Unit
from events.cancel_ladder import TaskCancelAsked
from events.prices import Price, PricesSet
from events.spend import Reservation, Spend, Spent
from projections.budget import WindowUse
from tests.specification import BEGIN, fold, given, said
from tests.unit.deciders.facts import HOSTILE_IDS, HOSTILE_TEXTS, NAN, completed, started, submitted, worker

if TYPE_CHECKING:
    from events.base import Event
    from projections.world import World

DAY = 86_400


def terms(**given_: Any) -> BudgetTerms:
    return BudgetTerms(**{"cap": 100, **given_})


def budget(budget_id: str = "b", **given_: Any) -> BudgetDefined:
    return BudgetDefined(budget_id=budget_id, terms=terms(**given_))


def define(budget_id: str = "b", reason: str = "", **given_: Any) -> DefineBudget:
    return DefineBudget(budget_id=budget_id, terms=terms(**given_), reason=reason)


def correct(amount: int, **given_: Any) -> CorrectBudget:
    return CorrectBudget(**{"budget_id": "b", "amount": amount, **given_})


# --- definition -------------------------------------------------------------------------------------------------------


def test_a_budget_is_defined_changed_and_removed() -> None:
    """The answer is the budget; the same again changes nothing, and what does not exist is removed already."""
    decided = given().when(define(reason="why")).then(BudgetDefined(budget_id="b", terms=terms(), reason="why"))
    decided.then_answers(decided.world.budgets["b"])
    assert decided.world.budgets["b"].defined_by == "tester"
    given(budget()).when(define()).then_nothing()
    given(budget()).when(define(cap=200)).then(budget(cap=200))
    removed = given(budget()).when(RemoveBudget(budget_id="b", reason="r"))
    assert removed.then(BudgetRemoved(budget_id="b", reason="r")).world.budgets == {}
    given().when(RemoveBudget(budget_id="b")).then_nothing()


@pytest.mark.parametrize(
    ("given_", "reason", "named"),
    [
        ({"by": "color"}, "bad_budget", "'color'"),
        ({"by": "attributes."}, "bad_budget", "'attributes.'"),
        ({"by": "attributes.ä"}, "bad_budget", "attributes.NAME"),
        ({"cap": 0}, "bad_number", "cap 0"),
        ({"cap": 2**60}, "bad_number", "cap"),
        ({"floor": 5}, "bad_budget", "give both"),
        ({"floor_for": "priority > 5"}, "bad_budget", "give both"),
        ({"floor": 101, "floor_for": "true"}, "bad_number", "floor 101"),
        ({"floor": 5, "floor_for": "priority >"}, "bad_filter", "priority >"),
        ({"where": "attempt > 1"}, "bad_filter", "'attempt' is not a field"),
        ({"window": "5 h"}, "bad_budget", "use none, month, or a length"),
        ({"window": "0h"}, "bad_budget", "'0h'"),
        ({"window": ""}, "bad_budget", "''"),
        ({"window": "367d"}, "bad_budget", "at most 366d"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(given_: dict[str, Any], reason: str, named: str) -> None:
    """The message says which, and what would be right."""
    given().when(define(**given_)).then_refused(reason, named)


@pytest.mark.parametrize("window", ["none", "month", "5h", "1d", "30s", "90m", "366d"])
@pytest.mark.parametrize(
    "by", ["all", "tenant", "source", "program", "queue", "task_name", "fairness_key", "attributes.a"]
)
def test_what_a_budget_may_be(window: str, by: str) -> None:
    """Every window, and everything that tasks may have in common."""
    given().when(define(window=window, by=by)).then(budget(window=window, by=by))


def test_there_are_not_too_many() -> None:
    """One that exists may still be changed."""
    facts = [budget(f"b{number}") for number in range(MOST_BUDGETS)]
    given(*facts).when(define("more")).then_refused("too_many", str(MOST_BUDGETS))
    given(*facts).when(define("b7", cap=7)).then(budget("b7", cap=7))


@pytest.mark.parametrize("odd", HOSTILE_IDS)
def test_odd_names_are_refused(odd: str) -> None:
    """Of budgets, and of versions of the price table."""
    given().when(define(odd)).then_refused("bad_id")
    given().when(RemoveBudget(budget_id=odd)).then_refused("bad_id")
    given().when(CorrectBudget(budget_id=odd, amount=1)).then_refused("bad_id")
    given().when(SetPrices(version=odd, models={})).then_refused("bad_id")


@pytest.mark.parametrize("odd", HOSTILE_TEXTS)
def test_odd_texts_are_refused(odd: str) -> None:
    """As a reason, a key and the name of a model."""
    given().when(define(reason=odd)).then_refused("bad_text")
    given(budget()).when(RemoveBudget(budget_id="b", reason=odd)).then_refused("bad_text")
    given(budget()).when(correct(1, reason=odd)).then_refused("bad_text")
    given(budget()).when(correct(1, key=odd)).then_refused("bad_text")
    given().when(SetPrices(version="v1", models={}, reason=odd)).then_refused("bad_text")
    given().when(SetPrices(version="v1", models={odd: Price(input_micros=1, output_micros=1)})).then_refused("bad_text")


# --- corrections ------------------------------------------------------------------------------------------------------


def test_a_correction_counts_in_its_window() -> None:
    """In that of now, or of a time; a repeat is known by its command, and 0 changes nothing."""
    facts = (budget(by="tenant"),)
    now = 10 * DAY + 5.0
    decided = given(*facts).when(correct(30, key="acme", reason="bill"), at=now)
    decided.then(BudgetCorrected(budget_id="b", key="acme", window=10 * DAY, amount=30, reason="bill"))
    assert decided.world.spent["$b:acme"].windows == (WindowUse(10 * DAY, 30, 0, 30),)
    before = given(*facts).when(correct(30, key="acme", at=9 * DAY + 1.0), at=now)
    before.then(BudgetCorrected(budget_id="b", key="acme", window=9 * DAY, amount=30))
    given(*facts).when(correct(0), at=now).then_nothing()
    given(budget(window="none")).when(correct(1, at=1.0), at=now).then(
        BudgetCorrected(budget_id="b", key="", window=0, amount=1)
    )
    given(budget(floor=9, floor_for="true")).when(correct(1, of_floor=True), at=now).then(
        BudgetCorrected(budget_id="b", key="", window=10 * DAY, amount=1, of_floor=True)
    )


def test_a_correction_leaves_no_less_than_nothing() -> None:
    """Neither where something was spent, nor where nothing was."""
    facts = (budget(), said(BudgetCorrected(budget_id="b", key="", window=0, amount=30), at=BEGIN))
    given(*facts).when(correct(-30)).then(BudgetCorrected(budget_id="b", key="", window=0, amount=-30))
    given(*facts).when(correct(-31)).then_refused("bad_number", "has spent 30")
    given(*facts).when(correct(-1, key="x")).then_refused("bad_number", "'x' has spent 0")
    given(*facts).when(correct(2**60)).then_refused("bad_number")


@pytest.mark.parametrize(
    ("at", "named"),
    [(NAN, "not a time"), (-1.0, "not a time"), (20.0 * DAY, "of the past"), (1.5 * DAY, "too long ago")],
)
def test_a_correction_of_a_window_that_is_not_kept_is_refused(at: float, named: str) -> None:
    """In the future, or longer ago than eight windows."""
    given(budget()).when(correct(1, at=at), at=10 * DAY).then_refused("bad_time", named)
    given(budget(window="month")).when(correct(1, at=1.0), at=300 * DAY).then_refused("bad_time", "too long ago")


def test_what_does_not_exist_is_not_corrected() -> None:
    """It says so."""
    given().when(correct(1)).then_refused("not_found", "'b'")


# --- prices -----------------------------------------------------------------------------------------------------------

PRICE = Price(input_micros=1_000_000, output_micros=4_000_000)


def test_prices_are_set_under_new_versions() -> None:
    """The answer is the table; the same again changes nothing, and a version has one content."""
    decided = given().when(SetPrices(version="v1", models={"m": PRICE}, reason="r"))
    decided.then(PricesSet(version="v1", models={"m": PRICE}, reason="r")).then_answers(decided.world.prices)
    assert (decided.world.prices.set_by, decided.world.prices.set_at) == ("tester", BEGIN)
    again = given(PricesSet(version="v1", models={"m": PRICE}))
    again.when(SetPrices(version="v1", models={"m": PRICE})).then_nothing()
    again.when(SetPrices(version="v1", models={})).then_refused("id_taken", "'v1'")
    again.when(SetPrices(version="v2", models={})).then(PricesSet(version="v2"))


def test_odd_prices_are_refused() -> None:
    """Too many, below nothing, or absurd."""
    given().when(SetPrices(version="v", models={"m": Price(input_micros=-1, output_micros=1)})).then_refused(
        "bad_number", "input_micros of m"
    )
    absurd = Price(input_micros=1, output_micros=1, cached_micros=10**13)
    given().when(SetPrices(version="v", models={"m": absurd})).then_refused("bad_number", "cached_micros of m")
    given().when(SetPrices(version="v", models={"": PRICE})).then_refused("bad_text")
    many = {f"m{number}": PRICE for number in range(MOST_MODELS + 1)}
    given().when(SetPrices(version="v", models=many)).then_refused("too_many")


# --- attempts that have to stop ---------------------------------------------------------------------------------------


def running(*task_ids: str, tokens: int = 30) -> list[Event]:
    spend = Spend(model="m", input_tokens=tokens)
    facts: list[Event] = [submitted(one, spend=spend, max_retries=0) for one in task_ids]
    facts += [started(one, f"{one}.1.1", reserved=Reservation(tokens=tokens)) for one in task_ids]
    return facts


def stopped(world: World, **rules: Any) -> list[tuple[str, float]]:
    """Return what is asked to end, and the time that it has for it."""
    now = world.time + 1.0
    world.indexes.advance(now)
    context = DecisionContext(now, Rules(**rules))
    found = due(world, Signs(), context, 0.0)
    return [(event.task_id, event.grace_s) for event in found if isinstance(event, TaskCancelAsked)]


def test_without_a_stop_mode_what_runs_goes_on() -> None:
    """Nothing new begins, that is all."""
    facts = (worker(), budget(cap=90), *running("x", "y", "z"))
    assert stopped(fold(*facts, budget(cap=10))) == []


def test_those_that_began_last_stop_until_the_others_fit() -> None:
    """After the cap was lowered, or more was spent than anybody knew of."""
    terms_: dict[str, Any] = {"stop": Stop.NO_FURTHER}
    facts = (worker(), budget(cap=90, **terms_), *running("x", "y", "z"))
    assert stopped(fold(*facts)) == []
    assert stopped(fold(*facts, budget(cap=89, **terms_)), cancel_grace_s=7.0) == [("z", 7.0)]
    assert stopped(fold(*facts, budget(cap=59, **terms_))) == [("z", 10.0), ("y", 10.0)]
    late = BudgetCorrected(budget_id="b", key="", window=0, amount=31)
    assert stopped(fold(*facts, late)) == [("z", 10.0), ("y", 10.0)]
    undone = BudgetCorrected(budget_id="b", key="", window=0, amount=-31)
    assert stopped(fold(*facts, late, undone)) == []
    overrun = completed("x", "x.1.1", spent=Spent(tokens=61))
    assert stopped(fold(*facts, overrun)) == [("z", 10.0), ("y", 10.0)]


def test_those_that_are_asked_already_count_first() -> None:
    """Nobody else has to stop for what they will not spend; only kill makes their time shorter."""
    terms_: dict[str, Any] = {"stop": Stop.NO_FURTHER}
    facts: list[Any] = [
        worker(),
        budget(cap=90, **terms_),
        *running("x", "y", "z"),
        TaskCancelAsked(task_id="x", grace_s=50.0),
    ]
    assert stopped(fold(*facts, budget(cap=60, **terms_))) == []
    assert stopped(fold(*facts, budget(cap=30, **terms_))) == [("z", 10.0)]
    kill = [worker(), budget(cap=90, stop=Stop.KILL), *facts[2:]]
    assert stopped(fold(*kill, budget(cap=30, stop=Stop.KILL))) == [("x", 0.0), ("z", 0.0)]
    over = [*kill, budget(cap=30, stop=Stop.KILL), TaskCancelAsked(task_id="x", grace_s=0.0)]
    assert stopped(fold(*over)) == [("z", 0.0)]


def test_what_began_in_another_window_goes_on() -> None:
    """It spends nothing of this one; and a window that is over stops nobody."""
    terms_: dict[str, Any] = {"stop": Stop.KILL}
    facts: list[Any] = [
        worker(),
        budget(cap=90, **terms_),
        *running("x"),
        said(submitted("y", spend=Spend()), at=DAY + 5.0),
    ]
    facts += [said(started("y", "y.1.1", reserved=Reservation(tokens=30)), at=DAY + 6.0)]
    assert stopped(fold(*facts, budget(cap=20, **terms_))) == [("y", 0.0)]
    world = fold(worker(), budget(cap=90, **terms_), *running("x"), budget(cap=20, **terms_))
    world.indexes.advance(float(DAY))
    context = DecisionContext(float(DAY), Rules())
    assert [event for event in due(world, Signs(), context, 0.0) if isinstance(event, TaskCancelAsked)] == []


def test_money_is_stopped_as_tokens_are() -> None:
    """By what was reserved in money."""
    facts: list[Any] = [
        worker(),
        budget(cap=90, unit=Unit.MONEY, stop=Stop.KILL),
        submitted("x", spend=Spend(money_micros=80)),
    ]
    facts += [started("x", reserved=Reservation(money_micros=80))]
    assert stopped(fold(*facts, budget(cap=79, unit=Unit.MONEY, stop=Stop.KILL))) == [("x", 0.0)]
