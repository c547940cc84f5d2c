"""
What budgets mean for the attempts at a task: which may be submitted, what they have spent, and which are stopped. Pure.

An attempt begins only when what is left of its budgets allows the most that it may spend (`placement/sources.py`). When
it ends, it is charged what it has used: what its worker has reported until then, or all that was reserved if it
completed without a report.
"""

from __future__ import annotations

from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from coordinator.commands.validation import AMOUNT_MAX, check_number, check_text
from events.base import START
from events.budget import BudgetCorrected, Stop
from events.cancel_ladder import TaskCancelAsked
from events.errors import CoordinationError, Refused, shown
from events.spend import Spent
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReportRefused,
    TaskStatus,
    TaskTimedOut,
    TaskUsage,
)
from events.task_pause import TaskPaused
from projections.budget import budget_of, has_floor_mark, is_kept, keys_of, most_for, span_at, value_of
from projections.prices import cost_of, need_of, of_unit, reservation_for
from projections.stamp import Stamp
from projections.task import submitted_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.task import CompleteTask, FailTask, ProgressTask
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
_NO_USAGE = TaskUsage()


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
    return task.usage if given is None else most_of(task.usage, given)


def most_of(before: TaskUsage | None, given: TaskUsage) -> TaskUsage:
    """Return the most of each kind that two reports of one attempt say."""
    if before is None:
        return given
    return TaskUsage(**{name: max(getattr(before, name), getattr(given, name)) for name in given.__struct_fields__})


def price_of(world: World, task: Task) -> Price | None:
    """Return the price at which an attempt is settled: that of its begin, or of now if it begins and ends at once."""
    if task.status is TaskStatus.RUNNING:
        return None if task.reserved is None else task.reserved.price
    assert task.spend is not None
    return world.prices.models.get(task.spend.model)


@contextmanager
def billed(world: World, report: CompleteTask | FailTask | ProgressTask, outcome: str, now: float) -> Iterator[None]:
    """
    Let a report that is refused, because its attempt has ended, correct the budgets by what it says was used.

    Raises:
        CoordinationError: that of the block, with what follows from the report as facts.
    """
    try:
        yield
    except CoordinationError as error:
        bill = tuple(_late_bill(world, report, outcome, now))
        if bill:  # it says more than the one without usage that is there perhaps
            error.facts = bill
        raise


def _late_bill(
    world: World, report: CompleteTask | FailTask | ProgressTask, outcome: str, now: float
) -> Iterator[Event]:
    """Yield what follows from what an attempt has used that nobody knew of when it ended."""
    task = world.tasks.get(report.task_id)
    attempt = None if task is None else task.unreported
    if report.usage is None or task is None or attempt is None or report.lease != attempt.lease:
        return
    usage = most_of(attempt.usage, report.usage)
    if usage == attempt.usage:
        return
    after, before = cost_of(usage, attempt.price), cost_of(attempt.usage or _NO_USAGE, attempt.price)
    more = Spent(tokens=after.tokens - before.tokens, money_micros=after.money_micros - before.money_micros)
    worker_id = getattr(report, "worker_id", "")
    yield TaskReportRefused(
        task_id=task.task_id, lease=attempt.lease, outcome=outcome, worker_id=worker_id, usage=usage, spent=more
    )
    for key in keys_of(task, world.budgets):
        terms = world.budgets[budget_of(key)].terms
        start = span_at(terms.window, attempt.began_at).start
        amount = of_unit(more, terms.unit)
        if amount and is_kept(terms.window, start, now):
            yield BudgetCorrected(
                budget_id=budget_of(key),
                key=value_of(key),
                window=start,
                amount=amount,
                of_floor=has_floor_mark(key),
                reason=f"a late report of the attempt {attempt.lease} at {task.task_id}",
            )


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
