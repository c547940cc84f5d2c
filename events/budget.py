"""Events about budgets: how much attempts with something in common may spend in a window of time."""

from __future__ import annotations

from enum import Enum

import msgspec

from events.base import Event


class Unit(Enum):
    """What a budget counts."""

    TOKENS = "tokens"
    MONEY = "money"
    """Micro-units of money."""


class Stop(Enum):
    """What becomes of attempts that run when more was spent than was reserved for one, or than the budget has."""

    NO_NEW = "no_new"
    """Nothing: none begins, and those that run go on."""
    NO_FURTHER = "no_further"
    """They are asked to end, with the usual time for it."""
    KILL = "kill"
    """They are forced to end at once."""


class BudgetTerms(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a budget allows for each of its keys.

    `by` says what tasks of one key have in common: `all`, `tenant`, `source`, `program`, `queue`, `task_name`,
    `fairness_key` or `attributes.NAME`; only tasks that say what they may spend are charged, and of these only those
    that meet the filter `where`. In each `window` the attempts that begin in it may spend `cap` together: tokens, or
    micro-units of money. A window is `month`, or a length such as `5h` or `1d`, counted from 1970; all are in UTC. It
    is `none` if it never ends. Of the cap, `floor` is kept for tasks that meet the filter `floor_for`.
    """

    cap: int
    unit: Unit = Unit.TOKENS
    by: str = "all"
    where: str = ""
    window: str = "1d"
    floor: int = 0
    floor_for: str = ""
    stop: Stop = Stop.NO_NEW


class BudgetEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one budget."""

    SUBJECT = "budget_id"

    budget_id: str


class BudgetDefined(BudgetEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    From here on attempts are charged to this budget.

    What is spent already counts on, unless other tasks are charged now, or by another unit or window.
    """

    terms: BudgetTerms
    reason: str = ""


class BudgetCorrected(BudgetEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    In a window, a key has spent `amount` more than was reported, or less.

    `key` is the value that its tasks have in common, `window` the begin of the window in seconds since 1970.
    `of_floor` says that tasks spent it for which the floor is kept.
    """

    key: str
    window: int
    amount: int
    of_floor: bool = False
    reason: str = ""


class BudgetRemoved(BudgetEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The budget exists no more."""

    reason: str = ""
