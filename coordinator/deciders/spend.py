"""
What budgets mean for the attempts at a task: which may be submitted, what they have spent, and which are stopped. Pure.

An attempt begins only when what is left of its budgets allows the most that it may spend (`placement/sources.py`). When
it ends, it is charged what it has used: what its worker has reported until then, or all that was reserved if it
completed without a report.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from coordinator.commands.validation import AMOUNT_MAX, check_number, check_text
from events.base import START
from events.budget import Stop
from events.cancel_ladder import TaskCancelAsked
from events.errors import Refused, shown
from events.spend import Spent
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStatus,
    TaskTimedOut,
    TaskUsage,
)
from events.task_pause import TaskPaused
from projections.budget import budget_of, has_floor_mark, keys_of, most_for, value_of
from projections.prices import cost_of, need_of, of_unit, reservation_for
from projections.stamp import Stamp
from projections.task import submitted_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from events.base import Event
    from events.prices import Price
    from events.spend import Spend
    from events.task import TaskSubmitted
    from projections.prices import PriceTable
    from projections.task import Task
    from projections.world import World

MODEL_CHARS_MAX = 128
_ENDS = frozenset({TaskCompleted, TaskAttemptFailed, TaskFailed, TaskCancelled, TaskTimedOut, TaskPaused})
_NOTHING = Spent()


def check_spend(spend: Spend) -> None:
    """
    Accept what a task says that it may spend.

    Raises:
        Refused: an amount is out of range, or the name of the model is none.
    """
    check_text("spend.model", spend.model, MODEL_CHARS_MAX)
    for name in ("input_tokens", "output_tokens", "money_micros"):
        check_number(f"spend.{name}", getattr(spend, name), 0, AMOUNT_MAX)


def check_usage(usage: TaskUsage) -> None:
    """
    Accept what an attempt has used.

    Raises:
        Refused: an amount is out of range.
    """
    for name in usage.__struct_fields__:
        check_number(f"usage.{name}", getattr(usage, name), 0, AMOUNT_MAX)


def check_affordable(world: World, event: TaskSubmitted, tenant: str, context: DecisionContext) -> None:
    """
    Accept a task whose budgets could pay for an attempt if nothing else were spent.

    Raises:
        Refused: one could not, or counts money and there is no price for the model.
    """
    spend = event.spend
    assert spend is not None
    made = submitted_as(event, Stamp(START, context.now, tenant, context.actor, "", ""))
    for key in keys_of(made, world.budgets):
        budget_id = budget_of(key)
        terms = world.budgets[budget_id].terms
        need = need_of(spend, terms.unit, world.prices)
        if need is None:
            raise _no_price(spend.model, budget_id, world.prices)
        most = most_for(terms, of_floor=has_floor_mark(key))
        if need > most:
            msg = (
                f"an attempt may spend {need} {terms.unit.value}, but of the budget {budget_id!r} {value_of(key)!r} "
                f"may spend only {most}: submit it with less, or raise the budget"
            )
            raise Refused(msg, reason="over_budget")


def _no_price(model: str, budget_id: str, prices: PriceTable) -> Refused:
    near = get_close_matches(model, prices.models, n=3)
    known = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(prices.models)[:10])}"
    what = known if prices.models else "no prices are set"
    table = f"version {prices.version}" if prices.version else "the price table"
    msg = f"model {shown(model)} has no price in {table}, and the budget {budget_id!r} counts money: {what}"
    return Refused(msg, reason="no_price")


def usage_of(task: Task, given: TaskUsage | None) -> TaskUsage | None:
    """Return what an attempt has used, by all reports of it: each is of all so far, so none takes anything back."""
    before = task.usage
    if before is None or given is None:
        return given if before is None else before
    return TaskUsage(**{name: max(getattr(before, name), getattr(given, name)) for name in given.__struct_fields__})


def price_of(world: World, task: Task) -> Price | None:
    """Return the price at which an attempt is settled: that of its begin, or of now if it begins and ends at once."""
    if task.status is TaskStatus.RUNNING:
        return None if task.reserved is None else task.reserved.price
    assert task.spend is not None
    return world.prices.models.get(task.spend.model)


def with_spent(world: World, events: Events) -> Events:
    """Return *events*, which are not folded yet, with what the attempts that they end have spent."""
    return tuple(_with_spent(world, event) if type(event) in _ENDS else event for event in events)


def _with_spent(world: World, event: Any) -> Any:
    task = world.tasks.get(event.task_id)
    if task is None or task.spend is None or not (task.status is TaskStatus.RUNNING or event.lease):
        return event  # it ends no attempt, neither one that runs nor one that begins and ends at once
    usage = usage_of(task, event.usage)
    if usage is not None:
        return replace(event, usage=usage, spent=cost_of(usage, price_of(world, task)))
    if type(event) is not TaskCompleted:
        return replace(event, spent=_NOTHING)
    reserved = task.reserved if task.status is TaskStatus.RUNNING else reservation_for(task.spend, world.prices)
    if reserved is None:
        return replace(event, spent=_NOTHING)
    return replace(event, spent=Spent(tokens=reserved.tokens, money_micros=reserved.money_micros))


def stops(world: World, task: Task, spent: Spent, context: DecisionContext) -> Iterator[Event]:
    """Yield what follows for a running attempt that has spent so much, if that is more than was reserved for it."""
    reserved = task.reserved
    if reserved is None:
        return
    keyed = world.indexes.keyed
    for key in keys_of(task, keyed.funds.budgets):
        terms = keyed.funds.terms_of(key)
        amount, most = of_unit(spent, terms.unit), of_unit(reserved, terms.unit)
        if terms.stop is not Stop.NO_NEW and amount > most:
            why = f"it has used {amount} {terms.unit.value}, and {most} were reserved for it by budget {budget_of(key)}"
            yield from stopped(task, terms.stop, why, context.now, context.rules)
            return


def stopped(task: Task, stop: Stop, why: str, now: float, rules: Rules) -> Iterator[Event]:
    """Yield that an attempt is to end, unless it ends as soon anyway."""
    grace_s = 0.0 if stop is Stop.KILL else rules.cancel_grace_s
    if task.cancelling is None or (stop is Stop.KILL and task.cancelling.until > now):
        yield TaskCancelAsked(task_id=task.task_id, grace_s=grace_s, reason=why)
