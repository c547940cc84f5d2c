"""Budgets as they are shown: what their keys have spent in the window that it is now. Pure."""

from __future__ import annotations

from heapq import nsmallest
from math import inf
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.budget import KEYS_SHOWN, BudgetKey, BudgetView
from projections.budget import WindowUse, both_of, budget_of, is_budget, key_named, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from projections.budget import TaskBudget
    from projections.world import World


def budget_view(world: World, budget: TaskBudget) -> BudgetView:
    """Return a budget with the keys of it that used most."""
    keyed = world.indexes.keyed
    known = (*world.spent, *keyed.funds.held, *filter(is_budget, (*keyed.pending, *keyed.running)))
    values = {value_of(key) for key in known if budget_of(key) == budget.budget_id}
    keys = [_key(world, budget, value) for value in values]
    most = nsmallest(KEYS_SHOWN, keys, key=lambda one: (-one.spent - one.reserved, one.value))
    return msgspec.structs.replace(next(budget_views(world, (budget,))), keys=most)


def budget_views(world: World, budgets: Iterable[TaskBudget]) -> Iterator[BudgetView]:
    """Yield several budgets with what all their keys have spent together."""
    funds = world.indexes.keyed.funds
    sums: dict[str, list[int]] = {}
    for key in dict.fromkeys((*world.spent, *funds.held)):
        terms = funds.terms_of(key)
        for number, amount in enumerate(funds.used(key, funds.span(terms.window).start)):
            sums.setdefault(budget_of(key), [0, 0])[number] += amount
    for budget in budgets:
        span = funds.span(budget.terms.window)
        spent, reserved = sums.get(budget.budget_id, (0, 0))
        yield BudgetView(
            budget=budget,
            window_start=span.start,
            window_end=None if span.end == inf else span.end,
            spent=spent,
            reserved=reserved,
        )


def _key(world: World, budget: TaskBudget, value: str) -> BudgetKey:
    keyed = world.indexes.keyed
    funds, terms = keyed.funds, budget.terms
    start = funds.span(terms.window).start
    both = both_of(key_named(budget.budget_id, value))
    uses = [one for key in both if key in world.spent for one in world.spent[key].windows]
    by_window: dict[int, WindowUse] = {}
    for one in uses:
        before = by_window.get(one.start, WindowUse(one.start))
        by_window[one.start] = WindowUse(
            one.start, before.spent + one.spent, before.overrun + one.overrun, before.corrected + one.corrected
        )
    now = by_window.pop(start, WindowUse(start))
    plain, floored = (max(0, funds.left(key)) for key in both)
    return BudgetKey(
        value=value,
        spent=now.spent,
        reserved=sum(funds.used(key, start)[1] for key in both),
        left=plain,
        left_of_floor=floored if terms.floor_for else 0,
        overrun=now.overrun,
        corrected=now.corrected,
        running=sum(len(keyed.running.get(key, ())) for key in both),
        pending=sum(len(keyed.pending.get(key, ())) for key in both),
        windows=sorted(by_window.values(), key=lambda one: one.start),
    )
