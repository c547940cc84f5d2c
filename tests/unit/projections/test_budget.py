"""Budgets: their keys, their windows, what was spent in them, and what is left."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, BudgetTerms, Stop, Unit
from events.errors import Corrupt, Refused
from events.prices import Price
from events.spend import Reservation, Spend, Spent
from events.task import TaskProgressed, TaskUsage
from projections import funds
from projections.budget import (
    WINDOWS_KEPT,
    KeySpent,
    Period,
    WindowUse,
    both_of,
    budget_of,
    has_floor_mark,
    is_budget,
    keys_of,
    span_at,
    value_of,
)
from projections.prices import NO_PRICES, PriceTable, cost_of, reservation_for
from projections.world import World
from tests.specification import BEGIN, fold, said, write
from tests.unit.deciders.facts import attempt_failed, completed, started, submitted, worker

if TYPE_CHECKING:
    from events.base import Event
    from projections.task import Task

DAY = 86_400


def budget(budget_id: str = "b", **terms: Any) -> BudgetDefined:
    return BudgetDefined(budget_id=budget_id, terms=BudgetTerms(**{"cap": 100, **terms}))


def spending(task_id: str = "t", tokens: int = 30, **others: Any) -> Event:
    return submitted(task_id, spend=Spend(model="m", input_tokens=tokens), **others)


def began(task_id: str = "t", tokens: int = 30, lease: str = "c.1.1") -> Event:
    return started(task_id, lease, reserved=Reservation(tokens=tokens, money_micros=2 * tokens))


def ended(task_id: str = "t", tokens: int = 20, lease: str = "c.1.1") -> Event:
    return completed(task_id, lease, spent=Spent(tokens=tokens, money_micros=2 * tokens))


def test_the_keys_of_a_task_are_those_of_the_budgets_that_it_is_charged_to() -> None:
    """By what it has in common with others, as a limit; and apart if a floor is kept for it."""
    task = spending(attributes={"a": 1.0, "b": "x:y"}, priority=9, queue="", program="p", fairness_key="k")
    made = {"all": "", "tenant": "acme", "source": "planning", "program": "p", "queue": "default", "task_name": "work"}
    made |= {"fairness_key": "k", "attributes.a": "1", "attributes.b": "x:y"}
    for by, value in made.items():
        world = fold(budget(by=by), said(task, tenant="acme", actor="planning"))
        assert keys_of(world.tasks["t"], world.budgets) == (f"$b:{value}",)
    for terms, keys in (
        ({"by": "attributes.c"}, ()),
        ({"where": "priority > 9"}, ()),
        ({"floor": 5, "floor_for": "priority >= 9"}, ("$b+:",)),
        ({"floor": 5, "floor_for": "priority > 9"}, ("$b:",)),
    ):
        world = fold(budget(**terms), task)
        assert keys_of(world.tasks["t"], world.budgets) == keys
    world = fold(budget(), submitted())
    assert keys_of(world.tasks["t"], world.budgets) == ()


def test_a_key_says_what_it_is_of() -> None:
    """Of which budget, of which value, and whether the floor is kept for its tasks."""
    for key, floor in (("$b-1:x:y", False), ("$b-1+:x:y", True)):
        assert (budget_of(key), value_of(key), has_floor_mark(key)) == ("b-1", "x:y", floor)
        assert both_of(key) == ("$b-1:x:y", "$b-1+:x:y")
        assert is_budget(key)
    assert not is_budget("b-1:x")


@pytest.mark.parametrize(
    ("window", "at", "start", "end"),
    [
        ("1d", "2026-11-30T23:59:59", "2026-11-30T00:00:00", "2026-12-01T00:00:00"),
        ("month", "2026-11-30T23:59:59", "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
        ("month", "2026-12-01T00:00:00", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("5h", "1970-01-01T09:59:59", "1970-01-01T05:00:00", "1970-01-01T10:00:00"),
        ("30s", "1970-01-01T00:01:00", "1970-01-01T00:01:00", "1970-01-01T00:01:30"),
        ("90m", "1970-01-01T01:29:59", "1970-01-01T00:00:00", "1970-01-01T01:30:00"),
    ],
)
def test_windows_follow_the_calendar_in_utc(window: str, at: str, start: str, end: str) -> None:
    """A month is a month, and a length is counted from 1970."""

    def seconds(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert span_at(window, seconds(at) + 0.5) == Period(seconds(start), seconds(end))
    assert span_at("none", seconds(at)) == Period(0, inf)


@pytest.mark.parametrize("odd", ["", "d", "0d", "1w", "-1h", "1.5h", "month ", "1000000s", "١d"])
def test_other_words_are_no_windows(odd: str) -> None:
    """The message says what is."""
    with pytest.raises(Refused, match="use none, month, or a length such as 5h or 1d"):
        span_at(odd, 0.0)


@pytest.mark.parametrize("terms", [{"where": "x =="}, {"floor_for": "attempt > 1"}, {"window": "1 fortnight"}])
def test_a_budget_that_cannot_be_kept_is_corrupt(terms: dict[str, str]) -> None:
    """A later release may know more filters and windows."""
    with pytest.raises(Corrupt, match="the budget 'b', which cannot be kept"):
        fold(budget(**terms))


def test_what_happens_to_no_budget_is_corrupt() -> None:
    """It is never written."""
    with pytest.raises(Corrupt):
        fold(BudgetRemoved(budget_id="b"))
    with pytest.raises(Corrupt):
        fold(BudgetCorrected(budget_id="b", key="", window=0, amount=1))


def test_what_is_reserved_becomes_what_was_spent() -> None:
    """In the unit of each budget, at the end of each attempt; a retry is charged as well."""
    scribe = write(budget(), budget("m", unit=Unit.MONEY), worker(), spending())
    world, held = scribe.world, scribe.world.indexes.keyed.funds.held
    scribe.commit(began())
    assert held == {"$b:": {0: 30}, "$m:": {0: 60}}
    assert world.tasks["t"].reserved == Reservation(tokens=30, money_micros=60)
    scribe.commit(attempt_failed(retry_at=BEGIN, spent=Spent(tokens=10, money_micros=20)))
    assert held == {}
    assert world.spent == {
        "$b:": KeySpent("$b:", (WindowUse(0, 10),)), "$m:": KeySpent("$m:", (WindowUse(0, 20),))
    }  # fmt: skip
    scribe.commit(began(lease="c.1.2"))
    scribe.commit(ended(tokens=45, lease="c.1.2"))
    assert world.spent["$b:"].windows == (WindowUse(0, 55, 15),)
    task: Task = world.tasks["t"]
    assert (task.reserved, task.total_spent) == (None, Spent(tokens=55, money_micros=110))
    assert held == {}


def test_more_than_was_reserved_is_kept_as_soon_as_it_is_reported() -> None:
    """So that nobody else begins with it; less changes nothing."""
    scribe = write(budget(stop=Stop.KILL, cap=50), worker(), spending(), began())
    world = scribe.world
    for tokens, kept in ((20, 30), (40, 40), (55, 55)):
        usage = TaskUsage(input_tokens=tokens)
        scribe.commit(TaskProgressed(task_id="t", lease="c", progress=0.0, usage=usage, spent=Spent(tokens=tokens)))
        assert world.indexes.keyed.funds.held == {"$b:": {0: kept}}
    assert (world.indexes.keyed.room("$b:"), world.tasks["t"].usage) == (-5, TaskUsage(input_tokens=55))
    assert list(world.indexes.keyed.funds.perhaps_over) == ["$b:"]
    scribe.commit(TaskProgressed(task_id="t", lease="c", progress=0.5))
    assert world.tasks["t"].spent == Spent(tokens=55)
    scribe.commit(attempt_failed(retry_at=BEGIN, spent=Spent(tokens=55)))
    task: Task = world.tasks["t"]
    assert (task.usage, task.spent) == (None, None)
    scribe.commit(BudgetCorrected(budget_id="b", key="", window=0, amount=-10))
    assert not world.indexes.keyed.funds.perhaps_over


def test_other_terms_keep_what_was_spent_unless_it_means_something_else() -> None:
    """A cap, a floor and a stop mode may change; tasks, unit, window and what the floor is for may not."""
    floor = {"floor": 10, "floor_for": "priority > 5"}
    facts = (budget(), worker(), spending(), began(), ended())
    for same in ({"cap": 7}, {"stop": Stop.KILL}):
        assert fold(*facts, budget(**same)).spent == fold(*facts).spent != {}
    others: list[dict[str, Any]] = [
        {"by": "tenant"}, {"where": "true"}, {"unit": Unit.MONEY}, {"window": "5h"}, floor,
    ]  # fmt: skip
    for other in others:
        assert fold(*facts, budget(**other)).spent == {}
    assert fold(*facts, budget("c"), BudgetRemoved(budget_id="c")).spent == fold(*facts).spent
    assert fold(*facts, BudgetRemoved(budget_id="b")).spent == {}


def test_an_attempt_is_charged_to_the_window_in_which_it_began() -> None:
    """However late it ends; of each key, the last windows are kept in which something was spent."""
    scribe = write(budget(), worker(), spending("old"), began("old"))
    for day in range(1, WINDOWS_KEPT + 2):
        scribe.commit(said(spending(f"t{day}"), at=float(day * DAY)))
        scribe.commit(began(f"t{day}", lease=f"t{day}.1.1"))
        scribe.commit(ended(f"t{day}", lease=f"t{day}.1.1"))
        if day == 2:
            scribe.commit(ended("old"))
            assert scribe.world.spent["$b:"].windows == tuple(WindowUse(one * DAY, 20) for one in range(3))
    assert scribe.world.spent["$b:"].windows == tuple(WindowUse(one * DAY, 20) for one in range(2, WINDOWS_KEPT + 2))
    assert scribe.world.spent["$b:"].in_window(5) is None


@pytest.mark.parametrize(("window", "is_kept"), [("1d", False), ("month", True), ("none", True)])
def test_keys_that_spent_long_ago_are_forgotten(window: str, is_kept: bool) -> None:
    """If all windows that are kept would be others; a budget that never ends forgets nothing."""
    scribe = write(budget(window=window, by="tenant"))
    for value in "xyx":
        scribe.commit(BudgetCorrected(budget_id="b", key=value, window=0, amount=1))
    assert list(scribe.world.spent) == ["$b:y", "$b:x"]  # those that spent last are the last
    start = span_at(window, 9.0 * DAY).start
    for value in "uvw":
        scribe.commit(said(BudgetCorrected(budget_id="b", key=value, window=start, amount=1), at=9.0 * DAY + 1.0))
    kept = ["$b:y", "$b:x"] if is_kept else []
    assert list(scribe.world.spent) == [*kept, "$b:u", "$b:v", "$b:w"]


def test_when_too_many_keys_have_spent_no_other_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than forget what was spent: those that are known go on."""
    world = fold(budget(by="tenant"), BudgetCorrected(budget_id="b", key="x", window=0, amount=1))
    monkeypatch.setattr(funds, "MOST_KEYS", 1)
    assert (world.indexes.keyed.room("$b:x"), world.indexes.keyed.room("$b:y")) == (99, 0)


def test_a_restored_world_keeps_the_same() -> None:
    """What is spent is in a snapshot, and what is reserved follows from what runs."""
    facts = (
        budget(stop=Stop.KILL, cap=40),
        worker(),
        spending(),
        began(),
        ended(),
        spending("r"),
        began("r", lease="r.1.1"),
    )
    world = fold(*facts)
    again = World.restore(world.snapshot())
    assert again.indexes.keyed.funds.held == world.indexes.keyed.funds.held == {"$b:": {0: 30}}
    assert again.indexes.keyed.room("$b:") == world.indexes.keyed.room("$b:") == -10
    assert again.snapshot() == world.snapshot()
    assert again.indexes.spending == {"r": None}


def test_what_is_reserved_is_never_less_than_what_it_costs() -> None:
    """Each token counts at its dearest, and the sum is rounded up, once."""
    dear_cache = Price(
        input_micros=1_000_000, output_micros=2_000_000, cached_micros=1_500_000, reasoning_micros=2_500_000
    )
    spend = Spend(model="m", input_tokens=3, output_tokens=1)
    table = PriceTable(version="v", models={"m": dear_cache})
    reserved = reservation_for(spend, table)
    assert (reserved.tokens, reserved.money_micros, reserved.prices, reserved.price) == (4, 7, "v", dear_cache)
    assert cost_of(TaskUsage(cached_tokens=3, reasoning_tokens=1), dear_cache) == Spent(tokens=4, money_micros=7)
    assert cost_of(TaskUsage(input_tokens=3, output_tokens=1), dear_cache) == Spent(tokens=4, money_micros=5)
    assert reservation_for(spend, NO_PRICES) == Reservation(tokens=4)


def test_what_an_attempt_used_can_be_added_up() -> None:
    """Each kind of tokens, and money."""
    once = TaskUsage(input_tokens=1, cached_tokens=2, output_tokens=3, reasoning_tokens=4, money_micros=5)
    assert once + once == TaskUsage(
        input_tokens=2, cached_tokens=4, output_tokens=6, reasoning_tokens=8, money_micros=10
    )
    assert (once + once).tokens == 20
