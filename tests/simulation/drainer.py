"""An operator who drains, uncordons and removes nodes while their containers start, run and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.node import CordonNode, DrainNode, RemoveNode, UncordonNode
from tests.simulation.operator import Changing

if TYPE_CHECKING:
    from coordinator.commands.command import Command


class Drainer(Changing):
    """Empties nodes while faults strike, also several at once; afterwards every node gets containers again."""

    async def run(self) -> None:
        nodes = [f"node{number}" for number in range(self.sim.plan.nodes)]
        while self.sim.dice.on:
            await self.sleep(0.3, 3.0)
            await self._try(self._drawn(self.random.choice(nodes)))
        for node_id in nodes:
            await self._try(UncordonNode(node_id=node_id))

    def _drawn(self, node_id: str) -> Command:
        drawn = self.random.random()
        if drawn < 0.45:
            return DrainNode(node_id=node_id, reason="drawn", deadline_s=self.random.choice((0.0, 3.0, 60.0)))
        if drawn < 0.8:
            return UncordonNode(node_id=node_id)
        if drawn < 0.85:
            return CordonNode(node_id=node_id)
        return RemoveNode(node_id=node_id, force=self.random.random() < 0.5)
