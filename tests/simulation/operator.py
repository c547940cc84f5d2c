"""Operators who change queues, policies and limits while tasks wait and run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.agents import ApplyAgents
from coordinator.commands.limit import DefineLimit, DeleteLimit
from coordinator.commands.queue import (
    DefineQueue,
    DeleteQueue,
    GetQueue,
    PauseQueue,
    ResumeQueue,
    RouteQueue,
    SetPolicy,
)
from coordinator.commands.shadow import PromotePolicy, RollBackPolicy, SetShadow
from coordinator.commands.version import ReinstateVersion, RetireVersion
from events.container import RestartPolicy
from events.errors import NotFound, Refused
from events.limit import Terms, WhenBusy
from events.queue import DEFAULT, FairShare, Policy, Route
from tests.simulation.actors import Actor

if TYPE_CHECKING:
    from coordinator.commands.command import Command

QUEUES = ("a", "b")
KEYS = ("x", "y", "z")
STRATEGIES = ("fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin", "fair", "fair")


LIMITS = ("l", "m")
VERSIONS = ("b1", "b2")
BUSY = (WhenBusy.QUEUE, WhenBusy.QUEUE, WhenBusy.REPLACE_WAITING, WhenBusy.CANCEL_RUNNING)


PROMOTED = "p"
"""A queue that nobody deletes."""


class Changing(Actor):
    """Sends commands, of which some are refused."""

    async def _try(self, command: Command) -> None:
        try:
            await self.ask(command)
        except (Refused, NotFound):  # deleted, or in use
            return
        self.sim.dice.fired[command.NAME] += 1


class Limiter(Changing):
    """Changes limits while faults strike; afterwards there are none."""

    async def run(self) -> None:
        while self.sim.dice.on:
            await self._try(self._drawn(self.random.choice(LIMITS)))
            await self.sleep(0.5, 3.0)
        for limit_id in LIMITS:
            await self._try(DeleteLimit(limit_id=limit_id))

    def _drawn(self, limit_id: str) -> Command:
        if self.random.random() < 0.1:
            return DeleteLimit(limit_id=limit_id)
        if self.random.random() < 0.2:
            budget = Terms(by="queue", starts=self.random.choice((1, 3)), per_s=2.0, retries_only=True)
            return DefineLimit(limit_id=limit_id, terms=budget)
        by = self.random.choice(("all", "queue", "attributes.customer", "attributes.customer"))
        rate, cooldown = self.random.random() < 0.5, self.random.random() < 0.2
        return DefineLimit(
            limit_id=limit_id,
            terms=Terms(
                by=by,
                running=self.random.choice((1, 2, 3)),
                starts=self.random.choice((1, 2, 3)) if rate else None,
                per_s=self.random.choice((0.5, 2.0)) if rate else 0.0,
                cooldown_s=0.7 if cooldown else 0.0,
                debounce_s=self.random.choice((0.0, 0.0, 0.0, 1.0)),
                when_busy=self.random.choice(BUSY),
            ),
        )


class Cataloguer(Changing):
    """Replaces the catalogue of agents, with other commands and other policies of restarts."""

    async def run(self) -> None:
        usual = self.sim.rules.agents["task_agent"]
        while self.sim.dice.on:
            await self.sleep(0.2, 3.0)
            policy = RestartPolicy(
                attempts=self.random.choice((None, 0, 1, 1)),
                interval_s=self.random.choice((2.0, 30.0)),
                mode=self.random.choice(("fail", "delay")),
                delay_s=self.random.choice((None, 0.0, 0.0)),
                reset_s=self.random.choice((None, 1.0)),
                finished_codes=self.random.choice(((), (1,))),
            )
            number = self.random.randint(1, 9)
            moves = self.random.random() < 0.8
            agent = msgspec.structs.replace(usual, command=("agent", str(number)), restart=policy, moves=moves)
            await self._try(ApplyAgents(agents={"task_agent": agent}))


class Releaser(Changing):
    """Ramps versions up, rolls them back and retires them; afterwards no queue has a route, and none is retired."""

    async def run(self) -> None:
        queues = (DEFAULT, DEFAULT, *(QUEUES if self.sim.plan.has_queues else ()))
        while self.sim.dice.on:
            await self.sleep(0.2, 1.5)
            await self._try(self._drawn(self.random.choice(queues)))
        for queue_id in queues:
            await self._try(RouteQueue(queue_id=queue_id))
        for build_id in VERSIONS:
            await self._try(ReinstateVersion(build_id=build_id))

    def _drawn(self, queue_id: str) -> Command:
        drawn = self.random.random()
        build_id, other = self.random.choice((VERSIONS, VERSIONS[::-1]))
        if drawn < 0.2:
            return RetireVersion(build_id=build_id, move_to=self.random.choice(("", other)), without_workers=True)
        if drawn < 0.4:
            return ReinstateVersion(build_id=build_id)
        if drawn < 0.5:
            return RouteQueue(queue_id=queue_id)
        share = self.random.choice((0.0, 10.0, 50.0, 100.0))
        route = Route(current=self.random.choice((build_id, build_id, "")), ramping=other, percent=share)
        return RouteQueue(queue_id=queue_id, route=route, without_workers=True)


class Promoter(Changing):
    """Lets candidate policies be compared, promotes them if that is allowed, and rolls back; at last none is left."""

    async def run(self) -> None:
        queues = (DEFAULT, PROMOTED)
        await self._try(DefineQueue(queue_id=PROMOTED))
        while self.sim.dice.on:
            for queue_id in queues:
                await self._try(await self._candidate(queue_id))
            await self.sleep(2.0, 6.0)
            for queue_id in queues:
                await self._try(PromotePolicy(queue_id=queue_id))
            if self.random.random() < 0.5:
                await self._try(RollBackPolicy(queue_id=self.random.choice(queues)))
        for queue_id in queues:
            await self._try(SetShadow(queue_id=queue_id))

    async def _candidate(self, queue_id: str) -> Command:
        """Return one, in a third of the cases the live policy itself."""
        strategy, ageing_s = self.random.choice(STRATEGIES[:4]), self.random.choice((0.0, 1.0))
        policy = Policy(strategy=strategy, ageing_s=ageing_s)
        if self.random.random() < 0.34:
            policy = (await self.ask(GetQueue(queue_id=queue_id))).policy
        bound, least = self.random.choice((-1.0, 0.0, 0.0, 0.5, 100.0)), self.random.choice((1, 4))
        return SetShadow(queue_id=queue_id, policy=policy, regret_max=bound, min_decisions=least)


class Operator(Changing):
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
