"""An operator who defines queues, pauses and resumes them, and sets other policies while tasks wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.queue import DefineQueue, DeleteQueue, PauseQueue, ResumeQueue, SetPolicy
from events.errors import NotFound, Refused
from events.queue import DEFAULT, FairShare, Policy
from tests.simulation.actors import Actor

if TYPE_CHECKING:
    from coordinator.commands.command import Command

QUEUES = ("a", "b")
KEYS = ("x", "y", "z")
STRATEGIES = ("fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin", "fair", "fair")


class Operator(Actor):
    """Changes queues and policies while faults strike; afterwards every queue is open."""

    async def run(self) -> None:
        for queue_id in QUEUES:
            await self._try(DefineQueue(queue_id=queue_id, weight=float(self.random.randint(1, 3))))
        while self.sim.dice.on:
            await self.sleep(0.2, 2.0)
            await self._try(self._drawn(self.random.choice((DEFAULT, *QUEUES))))
        for queue_id in (DEFAULT, *QUEUES):
            await self._try(DefineQueue(queue_id=queue_id))
            await self._try(ResumeQueue(queue_id=queue_id))

    async def _try(self, command: Command) -> None:
        try:
            await self.ask(command)
        except (Refused, NotFound):  # deleted, or in use
            return
        self.sim.dice.fired[command.NAME] += 1

    def _drawn(self, queue_id: str) -> Command:
        drawn = self.random.random()
        if drawn < 0.3:
            return PauseQueue(queue_id=queue_id, reason="drawn")
        if drawn < 0.6:
            return ResumeQueue(queue_id=queue_id)
        if drawn < 0.65:
            return DefineQueue(queue_id=queue_id, weight=float(self.random.randint(1, 3)))
        if drawn < 0.67 and queue_id != DEFAULT:
            return DeleteQueue(queue_id=queue_id)
        return SetPolicy(queue_id=queue_id, policy=self._policy(queue_id))

    def _policy(self, queue_id: str) -> Policy | None:
        if queue_id != DEFAULT and self.random.random() < 0.3:
            return None
        strategy = self.random.choice(STRATEGIES)
        fair = None
        if strategy == "fair":
            fair = FairShare(by=self.random.choice(("tenant", "key", "key")), half_life_s=2.0, weights={"x": 3.0})
        return Policy(strategy=strategy, ageing_s=self.random.choice((0.0, 1.0)), fair=fair)
