"""
Budgets: state, the keys that a task is charged to, windows of time, and what was spent in them. Pure.

A key is named `$<budget_id>:<value>`, that of a task for which the floor is kept `$<budget_id>+:<value>`. An attempt
is charged to the window in which it began, whenever it ends.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from events.base import Position
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, BudgetTerms
from events.errors import Corrupt, Refused
from projections.limit import FIELDS, value_in
from projections.prices import of_unit
from projections.stamp import Stamp, missing
from projections.task_fields import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from events.spend import Reservation, Spent
    from projections.task import Task

    AnyBudgetEvent = BudgetDefined | BudgetCorrected | BudgetRemoved

MARK, OF_FLOOR = "$", "+"
MONTH, ENDLESS = "month", "none"
WINDOWS_KEPT = 8
"""What was spent is kept for as long as so many windows take; what is told later of older ones is not."""
MOST_KEYS = 100_000
"""Of so many keys it is kept what they have spent; while it is of so many, no attempt of a further one begins."""

BY: dict[str, Callable[[Task], str]] = {
    **FIELDS,
    "source": lambda task: task.source,
    "program": lambda task: task.program,
}
"""What a budget may be by, besides attributes."""
MONTH_MOST_S = 31 * 86_400
_length = re.compile(r"([1-9][0-9]{0,4})([smhd])").fullmatch
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class TaskBudget(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One budget; `defined_at` is the commit time in seconds at which it got its terms."""

    budget_id: str
    defined: Position
    defined_at: float
    terms: BudgetTerms
    defined_by: str = ""
    reason: str = ""


class WindowUse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    What was spent in the window that began at `start`, without what is reserved.

    Of it, `overrun` is what attempts spent above their reservations, and `corrected` the sum of the corrections.
    """

    start: int
    spent: int = 0
    overrun: int = 0
    corrected: int = 0


class KeySpent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the tasks of a key have spent, by window, the last one last."""

    key: str
    windows: tuple[WindowUse, ...] = ()

    def in_window(self, start: int) -> WindowUse | None:
        """Return what was spent in a window, None if nothing was, or it is not kept any more."""
        return next((one for one in self.windows if one.start == start), None)


class Period(NamedTuple):
    """A window of time: from `start` on, before `end`, in seconds since 1970."""

    start: int
    end: float


def evolve(budget: TaskBudget | None, event: AnyBudgetEvent, stamp: Stamp) -> TaskBudget | None:
    """
    Fold one event into the budget it is about; None means that it exists no more.

    Raises:
        Corrupt: a filter or the window of it is none, or of a later release; or there is no such budget.
    """
    if isinstance(event, BudgetDefined):
        terms = event.terms
        try:
            lasting(terms.where or "true")
            lasting(terms.floor_for or "true")
            span_at(terms.window, 0.0)
        except Refused as error:
            msg = f"event {stamp.position} defines the budget {event.budget_id!r}, which cannot be kept: {error}"
            raise Corrupt(msg) from error
        return TaskBudget(
            budget_id=event.budget_id,
            defined=stamp.position,
            defined_at=stamp.time,
            terms=terms,
            defined_by=stamp.actor,
            reason=event.reason,
        )
    if budget is None:
        missing(event, stamp)
    return budget if isinstance(event, BudgetCorrected) else None


def counts(terms: BudgetTerms) -> tuple[object, ...]:
    """Return what the amounts that were spent are amounts of; with another one they mean nothing any more."""
    return terms.by, terms.where, terms.unit, terms.window, terms.floor_for


@lru_cache(maxsize=256)
def window_s(window: str) -> int:
    """
    Return the length of a window in seconds, 0 for `month` and `none`.

    Raises:
        Refused: it is no window.
    """
    if window in (MONTH, ENDLESS):
        return 0
    match = _length(window)
    if match is None:
        msg = f"window {window[:40]!r} is none: use none, month, or a length such as 5h or 1d (with s, m, h or d)"
        raise Refused(msg, reason="bad_budget")
    return int(match[1]) * _SECONDS[match[2]]


def span_at(window: str, time: float) -> Period:
    """Return the window that a time is in."""
    length = window_s(window)
    if length:
        start = int(time) // length * length
        return Period(start, start + length)
    if window == ENDLESS:
        return Period(0, inf)
    at = datetime.fromtimestamp(int(time), UTC)
    first = datetime(at.year, at.month, 1, tzinfo=UTC)
    then = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return Period(int(first.timestamp()), then.timestamp())


def keys_of(task: Task, budgets: Mapping[str, TaskBudget]) -> tuple[str, ...]:
    """Return the keys that the attempts at a task are charged to, in the order of the budgets."""
    if task.spend is None:
        return ()
    keys = []
    for budget_id, budget in budgets.items():
        terms = budget.terms
        if terms.where and not lasting(terms.where)(task):
            continue
        value = value_in(task, terms.by, BY)
        if value is not None:
            keys.append(key_named(budget_id, value, of_floor=is_of_floor(task, terms)))
    return tuple(keys)


def is_of_floor(task: Task, terms: BudgetTerms) -> bool:
    """Return whether the floor of a budget is kept for a task."""
    return bool(terms.floor_for) and lasting(terms.floor_for)(task)


def is_budget(key: str) -> bool:
    """Return whether a key is that of a budget, and not of a limit."""
    return key[0] == MARK


def key_named(budget_id: str, value: str, *, of_floor: bool = False) -> str:
    """Return the key of a value."""
    return f"{MARK}{budget_id}{OF_FLOOR if of_floor else ''}:{value}"


def budget_of(key: str) -> str:
    """Return the id of the budget that a key is of; ids have neither of the marks."""
    return key[1:].partition(":")[0].removesuffix(OF_FLOOR)


def value_of(key: str) -> str:
    """Return what the tasks of a key have in common."""
    return key.partition(":")[2]


def has_floor_mark(key: str) -> bool:
    """Return whether a key is that of tasks for which the floor is kept."""
    return key.partition(":")[0].endswith(OF_FLOOR)


def both_of(key: str) -> tuple[str, str]:
    """Return the key of the tasks for which no floor is kept, and that of the others, of the value of *key*."""
    budget_id, value = budget_of(key), value_of(key)
    return key_named(budget_id, value), key_named(budget_id, value, of_floor=True)


def most_for(terms: BudgetTerms, *, of_floor: bool) -> int:
    """Return what the tasks of a key may spend in a window if no others spend anything."""
    return terms.cap if of_floor else terms.cap - terms.floor


def held_by(task: Task, terms: BudgetTerms) -> int:
    """Return what a budget keeps for a running attempt: its reservation, or what it has spent if that is more."""
    reserved = 0 if task.reserved is None else of_unit(task.reserved, terms.unit)
    return reserved if task.spent is None else max(reserved, of_unit(task.spent, terms.unit))


def settled(
    known: KeySpent | None, key: str, terms: BudgetTerms, began_at: float, spent: Spent, reserved: Reservation | None
) -> KeySpent:
    """Return what a key has spent after one more attempt has ended."""
    amount = of_unit(spent, terms.unit)
    over = max(0, amount - (0 if reserved is None else of_unit(reserved, terms.unit)))
    return _added(known, key, span_at(terms.window, began_at).start, amount, over, 0)


def corrected(known: KeySpent | None, key: str, event: BudgetCorrected) -> KeySpent:
    """Return what a key has spent after a correction."""
    return _added(known, key, event.window, event.amount, 0, event.amount)


def _added(known: KeySpent | None, key: str, start: int, spent: int, overrun: int, correction: int) -> KeySpent:
    windows = () if known is None else known.windows
    before = next((one for one in windows if one.start == start), WindowUse(start))
    after = WindowUse(start, before.spent + spent, before.overrun + overrun, before.corrected + correction)
    others = [one for one in windows if one.start != start]
    return KeySpent(key, tuple(sorted((*others, after), key=_start)[-WINDOWS_KEPT:]))


def _start(use: WindowUse) -> int:
    return use.start


def is_past(spent: KeySpent, terms: BudgetTerms, now: float) -> bool:
    """Return whether what a key has spent is of no interest any more: all windows that are kept would be others."""
    return not is_kept(terms.window, spent.windows[-1].start, now)


def is_kept(window: str, start: int, now: float) -> bool:
    """Return whether it is kept what was spent in the window that began at *start*."""
    return window == ENDLESS or now < start + WINDOWS_KEPT * (window_s(window) or MONTH_MOST_S)
