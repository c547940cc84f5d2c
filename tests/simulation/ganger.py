"""A user whose tasks begin together or not at all; of some gangs a task is missing, and they end at their deadline."""

from __future__ import annotations

from contextlib import suppress

from coordinator.commands.task import GetTask, SubmitTask
from events.errors import NotFound, Refused
from events.task import Gang
from tests.simulation.actors import Actor

SIZES = (2, 2, 2, 3)
DEADLINES_S = (3.0, 8.0, 20.0)
AT_A_TIME = 2


class Ganger(Actor):
    """Submits gangs while faults strike, two at a time, and waits for the end of each task."""

    async def run(self) -> None:
        await self.several(AT_A_TIME, "gang", self._one)

    async def _one(self, gang_id: str) -> None:
        size = self.random.choice(SIZES)
        gang = Gang(gang_id=gang_id, size=size, deadline_s=self.random.choice(DEADLINES_S))
        missing = self.random.random() < 0.2
        ids = [f"{gang_id}-{number}" for number in range(size - missing)]
        for task_id in ids:
            try:
                await self.until_admitted(SubmitTask(task_id=task_id, task_name="work", max_retries=1, gang=gang))
            except (NotFound, Refused) as error:  # the deadline has passed, or limits took a task away
                self.sim.dice.fired[f"gang_{error.reason}"] += 1
                return
        self.sim.dice.fired["gang_incomplete" if missing else "gang_submitted"] += 1
        for task_id in ids:
            with suppress(NotFound):
                while not (await self.look(GetTask(task_id=task_id, wait_s=5.0))).is_ended:
                    pass
