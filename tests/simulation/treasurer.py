"""What tasks may spend in a run, what they use, and who changes budgets and prices meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.budget import CorrectBudget, DefineBudget, RemoveBudget
from coordinator.commands.prices import SetPrices
from events.budget import BudgetTerms, Stop, Unit
from events.prices import Price
from tests.simulation.operator import Changing

if TYPE_CHECKING:
    from coordinator.commands.command import Command

BUDGETS = ("b", "c")


class Treasurer(Changing):
    """Changes budgets and prices while faults strike, and corrects what was spent; afterwards there are no budgets."""

    async def run(self) -> None:
        await self._try(self._prices())
        for budget_id in BUDGETS:
            await self._try(self._drawn(budget_id))
        while self.sim.dice.on:
            await self.sleep(0.5, 4.0)
            drawn = self.random.random()
            if drawn < 0.15:
                await self._try(self._prices())
            elif drawn < 0.4:
                await self._try(self._late_bill())
            else:
                await self._try(self._drawn(self.random.choice(BUDGETS)))
        for budget_id in BUDGETS:
            await self._try(RemoveBudget(budget_id=budget_id))

    def _drawn(self, budget_id: str) -> Command:
        if self.random.random() < 0.1:
            return RemoveBudget(budget_id=budget_id)
        is_money = self.random.random() < 0.3
        has_floor = self.random.random() < 0.3
        cap = self.random.choice((60, 60, 90, 150))
        return DefineBudget(
            budget_id=budget_id,
            terms=BudgetTerms(
                cap=cap,
                unit=Unit.MONEY if is_money else Unit.TOKENS,
                by=self.random.choice(("all", "source", "source", "tenant")),
                window=self.random.choice(("2s", "3s", "3s", "1d", "month")),
                floor=cap // 3 if has_floor else 0,
                floor_for="priority >= 2" if has_floor else "",
                stop=self.random.choice(list(Stop)),
            ),
        )

    def _late_bill(self) -> Command:
        return CorrectBudget(
            budget_id=self.random.choice(BUDGETS),
            key=self.random.choice(("", "client0", "client1")),
            amount=self.random.choice((-30, -5, 10, 40)),
        )

    def _prices(self) -> Command:
        price = Price(
            input_micros=self.random.choice((100_000, 1_000_000)),
            output_micros=2_000_000,
            cached_micros=self.random.choice((None, 50_000)),
            reasoning_micros=self.random.choice((None, 2_500_000)),
        )
        return SetPrices(version=self.sim.new_id("v"), models={"m": price})
