"""Users of the pool `tasks`, which is too small for all: requests that wait, preempt, have owners, and tasks."""

from __future__ import annotations

from contextlib import suppress

from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.task import GetTask, SubmitTask
from events.errors import NotFound, Refused
from events.pool import TASKS
from events.resources import Resources
from tests.simulation.actors import Actor

PARTS = {"a": Resources(cpu_millis=900), "b": Resources(cpu_millis=500)}
CAPACITY = Resources(cpu_millis=1400)
SIZES = (200, 300, 300, 500, 900)
QUOTA = Resources(cpu_millis=900)
AT_A_TIME = 3


class Sharer(Actor):
    """Requests shares while faults strike, and holds each for some time; some are for a task, which frees it."""

    async def run(self) -> None:
        quotas = {"source:sharer0": QUOTA}
        await self.ask(DefinePool(pool_id=TASKS, capacity=CAPACITY, parts=PARTS, quotas=quotas))
        await self.several(AT_A_TIME, "share", self._one)

    async def _one(self, request_id: str) -> None:
        """Request a share, and hold it for some time, or give it to a task; it ends with a worker in any case."""
        asked = AllocatePool(
            pool_id=TASKS,
            request_id=request_id,
            resources=Resources(cpu_millis=self.random.choice(SIZES)),
            priority=self.random.choice((0, 0, 1, 2, 5)),
            wait_s=self.random.choice((0.0, 2.0, 6.0, 20.0)),
            preempts=self.random.random() < 0.25,
            owner=self.random.choice(("", "", "worker:worker0", "worker:worker1")),
        )
        try:
            granted = await self.ask(asked)
        except (NotFound, Refused) as error:  # no such worker now, or more than the quota
            self.sim.dice.fired[f"share_{error.reason}"] += 1
            return
        self.sim.dice.fired["share_granted" if granted else "share_waits"] += 1
        if not asked.owner and self.random.random() < 0.5:
            await self._to_task(request_id)
            return
        await self.sleep(0.5, 3.0)
        with suppress(Refused):
            await self.ask(ReleasePool(pool_id=TASKS, request_id=request_id))

    async def _to_task(self, request_id: str) -> None:
        """Submit a task that names the request, if it is there still, and wait for its end."""
        task = SubmitTask(task_id=f"{request_id}-task", task_name="work", request=request_id)
        try:
            await self.until_admitted(task)
        except (NotFound, Refused):
            self.sim.dice.fired["share_gone"] += 1
            with suppress(Refused):
                await self.ask(ReleasePool(pool_id=TASKS, request_id=request_id))
            return
        self.sim.dice.fired["share_named"] += 1
        with suppress(NotFound):
            while not (await self.look(GetTask(task_id=task.task_id, wait_s=5.0))).is_ended:
                pass
