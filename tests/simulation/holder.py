"""An operator who holds tasks that meet a filter, while tasks wait, and lets them go again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from coordinator.commands.hold import HoldTasks, LiftHold, ListHolds
from events.errors import NotFound
from tests.simulation.actors import Actor

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.task import TaskSubmitted

FILTERS: dict[str, Callable[[TaskSubmitted], bool]] = {
    "attributes.size >= 2": lambda one: size_of(one) >= 2,
    "priority == 1 || attributes.size == 0": lambda one: one.priority == 1 or size_of(one) == 0,
    'task_name == "work" && !(attributes.size in [1, 2, 3])': lambda one: (
        one.task_name == "work" and size_of(one) not in (1, 2, 3)
    ),
    "has(attributes.size) and priority > 0": lambda one: size_of(one) >= 0 and one.priority > 0,
}
"""Filters, and what they mean, said in another way."""
LASTS_MOST_S = 4.0


def size_of(task: TaskSubmitted) -> int:
    """Return the attribute that tasks of a run with holds have; those that schedules submit have none."""
    return int(task.attributes.get("size", -1))


class Holder(Actor):
    """Places and lifts holds while faults strike; some expire. Afterwards none is left that does not end by itself."""

    async def run(self) -> None:
        while self.sim.dice.on:
            await self.sleep(0.1, 0.8)
            if self.random.random() < 0.5:
                await self._place()
            else:
                await self._lift()
        while await self._lift():
            pass

    async def _place(self) -> None:
        lasts_s = self.random.choice((None, self.random.uniform(0.5, LASTS_MOST_S)))
        where = self.random.choice(list(FILTERS))
        await self.ask(HoldTasks(hold_id=self.sim.new_id("hold"), where=where, reason="drawn", for_s=lasts_s))
        self.sim.dice.fired["held"] += 1

    async def _lift(self) -> bool:
        """Lift one of the holds that do not end by themselves; return whether there was one."""
        holds = [view.hold_id for view in await self.look(ListHolds()) if view.hold.expires_at is None]
        if not holds:
            return False
        with suppress(NotFound):  # lifted by this command, before its answer was lost
            await self.ask(LiftHold(hold_id=self.random.choice(holds)))
            self.sim.dice.fired["lifted"] += 1
        return True
