"""Budgets as they are shown: what their keys have spent in the window that it is now."""

from __future__ import annotations

from typing import Any

from coordinator.commands.budget import KEYS_SHOWN, BudgetKey, BudgetView
from coordinator.engine.budget_views import budget_view, budget_views
from events.budget import BudgetCorrected, BudgetDefined, BudgetTerms
from events.spend import Reservation, Spend, Spent
from projections.budget import WindowUse
from tests.specification import fold, said
from tests.unit.deciders.facts import completed, started, submitted, worker

DAY = 86_400


def budget(**terms: Any) -> BudgetDefined:
    return BudgetDefined(budget_id="b", terms=BudgetTerms(**{"cap": 100, "by": "attributes.a", **terms}))


def spends(task_id: str, value: str, **others: Any) -> Any:
    return submitted(task_id, spend=Spend(input_tokens=30), attributes={"a": value}, **others)


def test_a_budget_is_shown_with_its_keys() -> None:
    """What was spent, what is reserved and left, above what was reserved, corrected; and the windows before."""
    floor = {"floor": 40, "floor_for": "priority >= 8"}
    yesterday = BudgetCorrected(budget_id="b", key="x", window=0, amount=7)
    facts = [budget(**floor), worker(), yesterday, said(spends("x1", "x"), at=DAY + 1.0), spends("x2", "x", priority=9)]
    facts += [started("x1", reserved=Reservation(tokens=30)), started("x2", "d.1.1", reserved=Reservation(tokens=30))]
    facts += [completed("x1", spent=Spent(tokens=35)), spends("x3", "x"), spends("y1", "y")]
    world = fold(*facts, BudgetCorrected(budget_id="b", key="x", window=DAY, amount=5, of_floor=True))
    x = BudgetKey(
        value="x", spent=40, reserved=30, left=25, left_of_floor=30, overrun=5, corrected=5, running=1, pending=1,
        windows=[WindowUse(0, 7, 0, 7)],
    )  # fmt: skip
    y = BudgetKey(value="y", left=60, left_of_floor=100, pending=1)
    defined = world.budgets["b"]
    view = BudgetView(budget=defined, window_start=DAY, window_end=2.0 * DAY, spent=40, reserved=30)
    assert budget_view(world, defined) == BudgetView(
        budget=defined, window_start=DAY, window_end=2.0 * DAY, spent=40, reserved=30, keys=[x, y]
    )
    assert list(budget_views(world, [defined])) == [view]


def test_only_the_keys_that_used_most_are_shown() -> None:
    """Of very many; a window that never ends has no end, and nothing is left below 0."""
    corrections = [
        BudgetCorrected(budget_id="b", key=f"k{number}", window=0, amount=number + 1)
        for number in range(KEYS_SHOWN + 5)
    ]
    world = fold(budget(window="none"), *corrections)
    view = budget_view(world, world.budgets["b"])
    assert (view.window_start, view.window_end) == (0, None)
    assert [one.spent for one in view.keys] == list(range(KEYS_SHOWN + 5, 5, -1))
    assert (view.keys[0].left, view.keys[-1].left) == (0, 94)
