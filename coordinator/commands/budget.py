"""Commands and questions about budgets: how much attempts with something in common may spend in a window of time."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import BUDGET, BUDGET_KEYS, BUDGET_VIEW
from events.budget import BudgetTerms
from projections.budget import TaskBudget, WindowUse

KEYS_SHOWN = 100


class BudgetKey(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One key of a budget in the window that it is now, in tokens or micro-units of money.

    Its tasks have `spent` so much, and `reserved` is kept for those that run; new attempts may begin with what is
    `left`, and with `left_of_floor` those for which the floor is kept. `overrun` of it was spent above reservations,
    and `corrected` is the sum of the corrections. `windows` are the last ones before this one.
    """

    value: str
    spent: int = 0
    reserved: int = 0
    left: int = 0
    left_of_floor: int = 0
    overrun: int = 0
    corrected: int = 0
    running: int = 0
    pending: int = 0
    windows: list[WindowUse] = []


class BudgetView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A budget, and what its keys have spent in the window that it is now.

    The window began at `window_start` and ends at `window_end`, in seconds since 1970; it is null if it never ends.
    """

    budget: TaskBudget
    window_start: int
    window_end: float | None
    spent: int = 0
    reserved: int = 0
    keys: list[BudgetKey] = []
    """Those that have spent or keep something or whose tasks wait, at most 100, those that used most first."""


class DefineBudget(Command[TaskBudget], frozen=True, kw_only=True, gc=False):
    """
    Create a budget, or replace its terms; attempts that run are charged by it as well.

    Only tasks that say what they may spend (`spend` of `task.submit`) are charged. An attempt begins only when what is
    left in the window allows the most that it may spend. That is reserved until it ends, and then replaced by what it
    has used. What was spent counts on if only `cap`, `floor` or `stop` change.
    """

    KIND, VERB = "budget", "define"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_budget", "bad_filter", "bad_number", "bad_text", "too_many"})
    EXAMPLE = Example(
        {"budget_id": "team", "terms": {"by": "tenant", "unit": "tokens", "cap": 1_000_000}, "reason": "trial"}, BUDGET
    )

    budget_id: str
    terms: BudgetTerms
    reason: str = ""


class RemoveBudget(Command[None], frozen=True, kw_only=True, gc=False):
    """Remove a budget and what is known of it; removing one that does not exist changes nothing."""

    KIND, VERB = "budget", "remove"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text"})
    EXAMPLE = Example({"budget_id": "unused"})

    budget_id: str
    reason: str = ""


class CorrectBudget(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Say that a key of a budget has spent more than was reported, or less: a bill that came late, a price that changed.

    `key` is the value that its tasks have in common, '' for a budget of all; `amount` is in the unit of the budget, and
    below 0 if less was spent. It counts in the window that the time `at` is in, in seconds since 1970, or in that of
    now. `of_floor` says that tasks spent it for which the floor is kept.
    """

    KIND, VERB, REMEMBERED = "budget", "correct", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_text", "bad_time", "not_found"})
    EXAMPLE = Example(
        {"budget_id": "team", "key": "acme", "amount": 1200, "reason": "bill of the 3rd"},
    )

    budget_id: str
    key: str = ""
    amount: int
    at: float | None = None
    of_floor: bool = False
    reason: str = ""


class GetBudget(Question[BudgetView], frozen=True, kw_only=True, gc=False):
    """Get one budget with the keys that used most of it."""

    KIND, VERB = "budget", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"budget_id": "team"}, {**BUDGET_VIEW, "keys": BUDGET_KEYS})

    budget_id: str


class ListBudgets(Question[list[BudgetView]], frozen=True, kw_only=True, gc=False):
    """List the budgets by name, without their keys. With `after`, the list begins after that name."""

    KIND, VERB = "budget", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [BUDGET_VIEW])

    limit: int = 100
    after: str = ""
