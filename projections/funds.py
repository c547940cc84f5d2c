"""
What budgets keep for the attempts that run, and what is left of them. Pure.

Every entry follows from the running tasks, the budgets and what their keys have spent, all in the world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.budget import Stop
from projections.budget import MOST_KEYS, both_of, budget_of, has_floor_mark, held_by, span_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.budget import BudgetTerms
    from projections.budget import KeySpent, Period, TaskBudget
    from projections.task import Task


class Funds:
    """
    The money and the tokens that attempts may begin with; `budgets` and `spent` are those of the world.

    `held` has what running attempts may still spend, by key and by the begin of the window in which they began.
    `perhaps_over` has the keys that may have spent more than they may, of budgets that stop attempts then.
    """

    def __init__(self) -> None:
        self.budgets: Mapping[str, TaskBudget] = {}
        self.spent: Mapping[str, KeySpent] = {}
        self.held: dict[str, dict[int, int]] = {}
        self.perhaps_over: dict[str, None] = {}
        self.now = 0.0
        self._spans: dict[str, Period] = {}

    def terms_of(self, key: str) -> BudgetTerms:
        """Return the terms of the budget that a key is of."""
        return self.budgets[budget_of(key)].terms

    def span(self, window: str) -> Period:
        """Return the window that it is now."""
        span = self._spans.get(window)
        if span is None or not span.start <= self.now < span.end:
            span = self._spans[window] = span_at(window, self.now)
        return span

    def hold(self, key: str, task: Task) -> None:
        """Keep for a running attempt what it may spend."""
        self._change(key, task, 1)

    def release(self, key: str, task: Task) -> None:
        """Keep it no longer, with the value of the task while it ran."""
        self._change(key, task, -1)

    def _change(self, key: str, task: Task, sign: int) -> None:
        terms = self.terms_of(key)
        amount = sign * held_by(task, terms)
        if not amount:
            return
        start = span_at(terms.window, task.started_at or 0.0).start
        windows = self.held.setdefault(key, {})
        windows[start] = windows.get(start, 0) + amount
        if not windows[start]:
            del windows[start]
            if not windows:
                del self.held[key]

    def used(self, key: str, start: int) -> tuple[int, int]:
        """Return what the tasks of a key have spent in a window, and what is kept for those that run."""
        spent, held = self.spent.get(key), self.held.get(key)
        use = None if spent is None else spent.in_window(start)
        return (0 if use is None else use.spent), (0 if held is None else held.get(start, 0))

    def left(self, key: str) -> int:
        """Return what the tasks of a key may still begin with now; it may be below 0 after a change of the terms."""
        if key not in self.spent and len(self.spent) >= MOST_KEYS:
            return 0
        terms = self.terms_of(key)
        plain, floored = both_of(key)
        start = self.span(terms.window).start
        of_floor = sum(self.used(floored, start)) if terms.floor_for else 0
        left = terms.cap - sum(self.used(plain, start)) - of_floor
        return left if has_floor_mark(key) else left - max(0, terms.floor - of_floor)

    def is_over(self, key: str) -> bool:
        """Return whether more is spent and kept of the value of a key, in the window that it is now, than may be."""
        terms = self.terms_of(key)
        start = self.span(terms.window).start
        return sum(sum(self.used(one, start)) for one in both_of(key)) > terms.cap

    def look(self, key: str) -> None:
        """Note whether attempts of a key may have to stop, after what it has spent or is kept has changed."""
        if self.terms_of(key).stop is Stop.NO_NEW:
            return
        plain = both_of(key)[0]
        if self.is_over(key):
            self.perhaps_over[plain] = None
        else:
            self.perhaps_over.pop(plain, None)

    def begin_anew(self) -> None:
        """Forget what is kept, after the budgets changed; the caller holds it again for all that run."""
        self.held.clear()
        self.perhaps_over.clear()
        self._spans.clear()

    def look_at_all(self) -> None:
        """Look at all keys, after the caller has held what is kept."""
        for key in (*self.spent, *self.held):
            self.look(key)
