"""A user that lists all tasks, from writers that make some items of a list in a turn, and go on in the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.task import CancelTask, ListTasks, SubmitTask
from coordinator.commands.wire import value_of
from events.base import Position
from tests.simulation.actors import PATIENCE_S, Actor
from tests.simulation.promises import Promise

if TYPE_CHECKING:
    from coordinator.commands.wire import Answer

AT_A_TIME = 4
ITEMS_AT_ONCE = 2
"""Of a list, in one turn; `NEXT_TO_NO_TIME_S` is more than none, and none when it is added to any time."""
NEXT_TO_NO_TIME_S = 5e-324
EVERYTHING = ListTasks(limit=1000)
LATER_S = 100_000.0
"""So that nobody runs the task that is looked for."""


class Lister(Actor):
    """Submits a task, looks for it in a list of all, and cancels it."""

    async def run(self) -> None:
        await self.several(AT_A_TIME, "listed", self._one)

    async def _one(self, task_id: str) -> None:
        await self.until_admitted(SubmitTask(task_id=task_id, task_name="work", delay_s=LATER_S))
        since = self.sim.watch.newest
        answer = await self.client.answer(EVERYTHING, timeout_s=PATIENCE_S)
        self.sim.watch.returned(self.client, EVERYTHING, answer, since)
        self._check(task_id, answer)
        await self.ask(CancelTask(task_id=task_id, reason="seen"))

    def _check(self, task_id: str, answer: Answer) -> None:
        """Check that the list has what was there before, the newest first, and nothing from after its position."""
        shown, position = value_of(answer, EVERYTHING), Position.parse(answer.position)
        ids = {task.task_id for task in shown}
        if task_id not in ids:
            self.sim.watch.violate(Promise.LISTED, f"{task_id} was submitted before, and is not in the list")
        leader = self.sim.leader()
        left_out = (
            []
            if leader is None
            else [
                one.task_id
                for one in leader.world.tasks.values()
                if one.submitted <= position and one.task_id not in ids
            ]
        )
        if left_out:
            self.sim.watch.violate(Promise.LISTED, f"a list of {position} leaves out {left_out}, which are there still")
        submitted = [task.submitted for task in shown]
        if submitted != sorted({*submitted}, reverse=True):
            self.sim.watch.violate(Promise.LISTED, f"tasks are listed in the order of their submits {submitted}")
        # It is asked for within a turn, whose commit is the one behind the last that is known.
        if submitted[0].sequence > position.sequence + 1:
            self.sim.watch.violate(Promise.LISTED, f"a list of {position} shows a task that came at {submitted[0]}")
        self.sim.dice.fired["listed"] += 1
