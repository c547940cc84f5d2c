"""Why the budgets of a task let it not begin now, and what would change that. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from coordinator.commands.explain import Blocker, Reason, Tier
from events.budget import Unit
from projections.budget import both_of, budget_of, has_floor_mark, keys_of, most_for, value_of
from projections.prices import need_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.task import Task
    from projections.world import World

MOST_HOLDERS = 10
HOLDERS_LOOKED_AT = 1000
MICROS = 1_000_000
BUDGET, OVER_BUDGET, NO_PRICE = "budget", "over_budget", "no_price"


def of_budgets(world: World, task: Task) -> Iterator[Reason]:
    """Yield which budgets have too little for an attempt, by whom what they have is kept, and until when."""
    for key in keys_of(task, world.budgets):
        code, need = code_of(world, key, task), _need(world, key, task)
        terms = world.indexes.keyed.funds.terms_of(key)
        if need is None:
            yield _no_price(world, task, budget_of(key))
        elif code == OVER_BUDGET:
            most = most_for(terms, of_floor=has_floor_mark(key))
            yield _too_dear(key, need, most, terms.cap + need - most, terms.unit)
        elif code:
            yield _too_little(world, key, need)


def code_of(world: World, key: str, task: Task) -> str:
    """Return why the budget of a key of a task lets it not begin now, '' if it does."""
    need = _need(world, key, task)
    if need is None:
        return NO_PRICE
    if need > most_for(world.indexes.keyed.funds.terms_of(key), of_floor=has_floor_mark(key)):
        return OVER_BUDGET
    return BUDGET if need > world.indexes.keyed.room(key) else ""


def _need(world: World, key: str, task: Task) -> int | None:
    """Return the most that an attempt may spend of the budget of a key; None without a price for it."""
    assert task.spend is not None, "only tasks that say what they may spend have such keys"
    return need_of(task.spend, world.indexes.keyed.funds.terms_of(key).unit, world.prices)


def _no_price(world: World, task: Task, budget_id: str) -> Reason:
    model = "" if task.spend is None else task.spend.model
    table = f"the price table {world.prices.version}" if world.prices.version else "no price table, as none is set,"
    return Reason(
        code=NO_PRICE,
        tier=Tier.OPERATOR,
        text=f"{table} has no price for the model {model!r}, and the budget {budget_id} counts money",
        blockers=[Blocker(kind="budget", id=budget_id)],
        change="coordinator prices set VERSION --add --price MODEL=INPUT,OUTPUT",
    )


def _too_dear(key: str, need: int, most: int, cap: int, unit: Unit) -> Reason:
    budget_id = budget_of(key)
    return Reason(
        code=OVER_BUDGET,
        tier=Tier.OPERATOR,
        text=f"an attempt may spend {amount(need, unit)}, and {_named(key)} never has more than {amount(most, unit)}",
        blockers=[Blocker(kind="budget", id=budget_id)],
        change=f"coordinator budget define {budget_id}, with --cap {cap}",
    )


def _too_little(world: World, key: str, need: int) -> Reason:
    keyed, budget_id = world.indexes.keyed, budget_of(key)
    funds, terms = keyed.funds, keyed.funds.terms_of(key)
    span, left = funds.span(terms.window), funds.left(key)
    spent, held = (sum(both) for both in zip(*(funds.used(one, span.start) for one in both_of(key)), strict=True))
    until = "" if span.end == inf else f" until {datetime.fromtimestamp(span.end, UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"
    kept = f", {amount(terms.floor, terms.unit)} of it for tasks of its floor" if terms.floor else ""
    clears = span.end < inf or need <= left + held
    running = (one for each in both_of(key) for one in keyed.running.get(each, ()))
    holders = [world.tasks[one] for one in islice(running, HOLDERS_LOOKED_AT)]
    begun = sorted((world.indexes.now if one.started_at is None else one.started_at, one.task_id) for one in holders)
    return Reason(
        code=BUDGET,
        tier=Tier.ITSELF if clears else Tier.OPERATOR,
        text=(
            f"an attempt may spend {amount(need, terms.unit)}, and of {_named(key)} only "
            f"{amount(max(0, left), terms.unit)} are left{until}: of {amount(terms.cap, terms.unit)}{kept}, "
            f"{amount(spent, terms.unit)} are spent and {amount(held, terms.unit)} reserved for what runs"
        ),
        blockers=[Blocker(kind="task", id=one, for_s=world.indexes.now - since) for since, one in begun[:MOST_HOLDERS]],
        change=f"coordinator budget define {budget_id}, with --cap {terms.cap + need - left}",
    )


def _named(key: str) -> str:
    value = value_of(key)
    return f"the budget {budget_of(key)} of {value!r}" if value else f"the budget {budget_of(key)}"


def amount(of: int, unit: Unit) -> str:
    """Return an amount in words: `1,200 tokens`, `0.0025 of money`."""
    if unit is Unit.TOKENS:
        return f"{of:,} tokens"
    whole, micros = divmod(of, MICROS)
    return f"{whole:,}.{f'{micros:06d}'.rstrip('0'):0<2} of money"
