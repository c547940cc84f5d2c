"""Budgets of tasks: how much attempts with something in common may spend, and what the tokens of models cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coordinator.app.facade import Facade
from coordinator.client.paging import listed
from coordinator.commands.arguments import flag, member, moment, text, wanted, whole
from coordinator.commands.budget import CorrectBudget, DefineBudget, GetBudget, ListBudgets, RemoveBudget
from coordinator.commands.prices import GetPrices, SetPrices
from events.budget import BudgetTerms, Stop, Unit
from events.errors import shown
from events.prices import Price

if TYPE_CHECKING:
    from datetime import datetime

    from coordinator.commands.budget import BudgetView
    from projections.budget import TaskBudget
    from projections.prices import PriceTable

PAGE = 100


class TaskBudgets(Facade):
    """The budgets of the cluster. Where access is restricted, changing them needs the administrator's rights."""

    async def define_budget(
        self,
        budget: str,
        cap: int,
        *,
        unit: Unit | str = Unit.TOKENS,
        by: str = "all",
        where: str = "",
        window: str = "1d",
        floor: int = 0,
        floor_for: str = "",
        stop: Stop | str = Stop.NO_NEW,
        reason: str = "",
    ) -> TaskBudget:
        """
        Create a budget, or replace its terms; what was spent counts on if only *cap*, *floor* or *stop* change.

        Args:
            budget: the name of the budget.
            cap: what the tasks of a key may spend in a window: tokens, or micro-units of money.
            unit: `tokens` or `money`, as a member or its value.
            by: what tasks of one key have in common: `all`, `tenant`, `source`, `program`, `queue`, `task_name`,
                `fairness_key` or `attributes.NAME`. A task without that attribute is not charged.
            where: a filter such as `queue == "reports"`: tasks that do not meet it are not charged.
            window: `month`, a length such as `5h` or `1d`, or `none` for one that never ends; all are in UTC.
            floor: how much of the cap is kept for the tasks of *floor_for*.
            floor_for: a filter such as `priority >= 8`.
            stop: what becomes of attempts that run when there is not enough for them any more.
            reason: why, for the journal.

        Raises:
            Refused: an argument is out of range, or the terms contradict each other.
        """
        terms = BudgetTerms(
            cap=whole("cap", cap),
            unit=member("unit", unit, Unit),
            by=text("by", by),
            where=text("where", where),
            window=text("window", window),
            floor=whole("floor", floor),
            floor_for=text("floor_for", floor_for),
            stop=member("stop", stop, Stop),
        )
        command = DefineBudget(budget_id=text("budget", budget), terms=terms, reason=text("reason", reason))
        defined: TaskBudget = await self.execute(command)
        return defined

    async def remove_budget(self, budget: str, reason: str = "") -> None:
        """Remove a budget; one that does not exist is already so."""
        await self.execute(RemoveBudget(budget_id=text("budget", budget), reason=text("reason", reason)))

    async def correct_budget(
        self,
        budget: str,
        amount: int,
        key: str = "",
        *,
        at: datetime | None = None,
        of_floor: bool = False,
        reason: str = "",
    ) -> None:
        """
        Say that a key has spent *amount* more than was reported, or less: a bill that came late, a price that changed.

        Args:
            budget: the name of the budget.
            amount: tokens, or micro-units of money; below 0 if less was spent.
            key: the value that the tasks have in common; '' for a budget of all.
            at: a time in the window that it counts in; by default the window of now.
            of_floor: whether tasks spent it for which the floor is kept.
            reason: why, for the journal.

        Raises:
            Refused: an argument is invalid, less than nothing would be left, or the window is too long ago.
            NotFound: the budget does not exist.
        """
        command = CorrectBudget(
            budget_id=text("budget", budget),
            key=text("key", key),
            amount=whole("amount", amount),
            at=None if at is None else moment("at", at),
            of_floor=flag("of_floor", of_floor),
            reason=text("reason", reason),
        )
        await self.execute(command)

    async def get_budget(self, budget: str) -> BudgetView:
        """
        Return a budget with the keys that used most of it.

        Raises:
            NotFound: the budget does not exist.
        """
        found: BudgetView = await self.execute(GetBudget(budget_id=text("budget", budget)))
        return found

    async def list_budgets(self) -> list[BudgetView]:
        """Return all budgets by name, without their keys."""
        found: list[BudgetView] = []
        while True:
            after = found[-1].budget.budget_id if found else ""
            page: list[BudgetView] = await listed(self, ListBudgets(limit=PAGE, after=after))
            found += page
            if len(page) < PAGE:
                return found

    async def set_prices(self, version: str, models: Mapping[str, Price], reason: str = "") -> PriceTable:
        """
        Replace the price table by this one.

        Args:
            version: a name that no table before it had.
            models: what a million tokens of each model cost, in micro-units of money.
            reason: why, for the journal.

        Raises:
            Refused: an argument is invalid, or the version is that of the table in force, with other prices.
        """
        given = wanted("models", models, Mapping, "a mapping of names of models to prices")
        command = SetPrices(
            version=text("version", version),
            models={text("models: a name", name): _price(f"models[{shown(name)}]", one) for name, one in given.items()},
            reason=text("reason", reason),
        )
        made: PriceTable = await self.execute(command)
        return made

    async def get_prices(self) -> PriceTable:
        """Return the price table in force."""
        found: PriceTable = await self.execute(GetPrices())
        return found


def _price(place: str, given: Any) -> Price:
    """Return *given* if it is a Price with whole numbers."""
    price: Price = wanted(place, given, Price, "a Price, such as Price(input_micros=2_500_000, …)")
    for name in price.__struct_fields__:
        if (micros := getattr(price, name)) is not None:
            whole(f"{place}.{name}", micros)
    return price
