"""
Deciders of the budget and price commands, and the stop of attempts for which a budget has not enough. Pure.

What budgets mean for the attempts at a task is in `spend.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.budget import CorrectBudget, DefineBudget, RemoveBudget
from coordinator.commands.command import Command
from coordinator.commands.prices import SetPrices
from coordinator.commands.validation import AMOUNT_MAX, check_number, check_text
from coordinator.deciders.rules import Decider, Teller, not_found
from coordinator.deciders.spend import MODEL_CHARS_MAX, stopped
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved
from events.errors import Refused, shown
from events.ids import checked
from events.prices import PricesSet
from projections.budget import (
    BY,
    WINDOWS_KEPT,
    both_of,
    budget_of,
    held_by,
    is_kept,
    key_named,
    span_at,
    window_s,
)
from projections.limit import ATTRIBUTES
from projections.task_fields import lasting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Events
    from events.base import Event
    from events.budget import BudgetTerms
    from projections.budget import TaskBudget
    from projections.prices import PriceTable
    from projections.task import Task
    from projections.world import World

MOST_BUDGETS = 100
MOST_MODELS = 1000
WINDOW_MOST_S = 366 * 86_400
PRICE_MOST_MICROS = 10**12
"""A million for a million tokens."""
KEY_CHARS_MAX = 1024


def define(world: World, command: DefineBudget, context: DecisionContext) -> Events:
    """Create a budget or replace its terms."""
    budget_id = checked(command.budget_id, "budget_id")
    check_text("reason", command.reason, context.rules.text_chars_max)
    _check_terms(command.terms)
    known = world.budgets.get(budget_id)
    if known is not None and known.terms == command.terms:
        return ()
    if known is None and len(world.budgets) >= MOST_BUDGETS:
        msg = f"there are {len(world.budgets)} budgets, the maximum: change an existing one, or remove one"
        raise Refused(msg, reason="too_many")
    return (BudgetDefined(budget_id=budget_id, terms=command.terms, reason=command.reason),)


def _check_terms(terms: BudgetTerms) -> None:
    """
    Accept terms that can be kept.

    Raises:
        Refused: one is out of range, or does not fit the others.
    """
    attribute = terms.by.removeprefix(ATTRIBUTES)
    if terms.by not in BY and not (
        terms.by.startswith(ATTRIBUTES) and attribute.isidentifier() and attribute.isascii()
    ):
        msg = f"by {shown(terms.by)} is not known: use {', '.join(BY)} or {ATTRIBUTES}NAME"
        raise Refused(msg, reason="bad_budget")
    check_number("cap", terms.cap, 1, AMOUNT_MAX)
    check_number("floor", terms.floor, 0, terms.cap)
    if bool(terms.floor) is not bool(terms.floor_for):
        msg = f"floor {terms.floor} and floor_for {shown(terms.floor_for)}: give both, or none"
        raise Refused(msg, reason="bad_budget")
    for filter_ in filter(None, (terms.where, terms.floor_for)):
        lasting(filter_)
    if window_s(terms.window) > WINDOW_MOST_S:
        msg = f"window {terms.window} is too long: use at most 366d, or none"
        raise Refused(msg, reason="bad_budget")


def remove(world: World, command: RemoveBudget, context: DecisionContext) -> Events:
    """Remove a budget; what it kept for attempts that run is kept no longer."""
    budget_id = checked(command.budget_id, "budget_id")
    check_text("reason", command.reason, context.rules.text_chars_max)
    return (BudgetRemoved(budget_id=budget_id, reason=command.reason),) if budget_id in world.budgets else ()


def correct(world: World, command: CorrectBudget, context: DecisionContext) -> Events:
    """Correct what a key has spent in a window."""
    budget = world.budgets.get(checked(command.budget_id, "budget_id"))
    if budget is None:
        raise not_found(command.budget_id, "budget")
    check_text("reason", command.reason, context.rules.text_chars_max)
    check_text("key", command.key, KEY_CHARS_MAX)
    check_number("amount", command.amount, -AMOUNT_MAX, AMOUNT_MAX)
    start = _window_of(budget, command.at, context.now)
    if not command.amount:
        return ()
    known = world.spent.get(key_named(command.budget_id, command.key, of_floor=command.of_floor))
    use = None if known is None else known.in_window(start)
    spent = 0 if use is None else use.spent
    if spent + command.amount < 0:
        msg = f"amount {command.amount} leaves less than nothing: {command.key!r} has spent {spent} in this window"
        raise Refused(msg, reason="bad_number")
    return (
        BudgetCorrected(
            budget_id=command.budget_id,
            key=command.key,
            window=start,
            amount=command.amount,
            of_floor=command.of_floor,
            reason=command.reason,
        ),
    )


def _window_of(budget: TaskBudget, at: float | None, now: float) -> int:
    """
    Return the begin of the window that a correction is for.

    Raises:
        Refused: it is in the future, or too long ago.
    """
    window, time = budget.terms.window, now if at is None else at
    if not 0 <= time <= now:
        msg = f"at {time:.0f} is not a time of the past: use seconds since 1970, at most {now:.0f}"
        raise Refused(msg, reason="bad_time")
    start = span_at(window, time).start
    if not is_kept(window, start, now):
        msg = f"at {time:.0f} is too long ago: what was spent is kept of the last {WINDOWS_KEPT} windows"
        raise Refused(msg, reason="bad_time")
    return start


def set_prices(world: World, command: SetPrices, context: DecisionContext) -> Events:
    """Replace the price table."""
    version, known = checked(command.version, "version"), world.prices
    check_text("reason", command.reason, context.rules.text_chars_max)
    if len(command.models) > MOST_MODELS:
        msg = f"models has {len(command.models)} entries: use at most {MOST_MODELS}"
        raise Refused(msg, reason="too_many")
    for model, price in command.models.items():
        check_text("the name of a model", model, MODEL_CHARS_MAX, least=1)
        for name in price.__struct_fields__:
            micros = getattr(price, name)
            if micros is not None:
                check_number(f"{name} of {model}", micros, 0, PRICE_MOST_MICROS)
    if known.version == version:
        if known.models == command.models:
            return ()
        msg = f"version {version!r} is that of the table in force, which has other prices: use a new one"
        raise Refused(msg, reason="id_taken")
    return (PricesSet(version=version, models=command.models, reason=command.reason),)


def due(world: World, context: DecisionContext) -> Iterator[Event]:
    """Yield the stop of attempts for which their budget has not enough any more, those that began last first."""
    keyed = world.indexes.keyed
    funds = keyed.funds
    for key in tuple(funds.perhaps_over):
        terms = funds.terms_of(key)
        start = funds.span(terms.window).start
        over = sum(sum(funds.used(one, start)) for one in both_of(key)) - terms.cap
        running = [world.tasks[task_id] for one in both_of(key) for task_id in keyed.running.get(one, ())]
        running = [task for task in running if span_at(terms.window, task.started_at or 0.0).start == start]
        why = f"the budget {budget_of(key)} has not enough for it any more"
        for task in sorted(running, key=_stops_first):
            if over <= 0:
                break
            over -= held_by(task, terms)
            yield from stopped(task, terms.stop, why, context.now, context.rules)


def _stops_first(task: Task) -> tuple[bool, float, str]:
    """Return the order in which attempts are stopped: those that end anyway, then those that began last."""
    return task.cancelling is None, -(task.started_at or 0.0), task.task_id


def _told(world: World, command: DefineBudget, *_: object) -> TaskBudget:
    return world.budgets[command.budget_id]


def _told_prices(world: World, *_: object) -> PriceTable:
    return world.prices


DECIDERS: dict[type[Command], Decider] = {
    DefineBudget: define,
    RemoveBudget: remove,
    CorrectBudget: correct,
    SetPrices: set_prices,
}
TELLERS: dict[type[Command], Teller] = {DefineBudget: _told, SetPrices: _told_prices}
