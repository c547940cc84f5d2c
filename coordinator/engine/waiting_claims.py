"""
Keeps the claims that wait for tasks, and places ready tasks with them.

It holds no facts: when a writer dies with its waiting claims, the workers send them again, under the same ids. Only
`deciders.matching.schedule` decides which task goes to which claim.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.task import WithdrawClaim
from coordinator.deciders.housing import said_of
from coordinator.deciders.matching import SCHEDULE_VERSION, rounds_taken, schedule
from coordinator.deciders.rules import present_s
from events.coordinator import ClaimFilter, CoordinatorTurn, WaitingClaim
from events.errors import Refused, Unavailable
from events.task import TaskStatus

if TYPE_CHECKING:
    from coordinator.commands.task import ClaimTasks
    from coordinator.commands.worker import DrainWorker, RegisterWorker
    from coordinator.deciders.rules import Rules
    from coordinator.deciders.signs import Signs
    from coordinator.engine.intake import Asked
    from events.base import Event
    from events.task import TaskStarted
    from projections.world import World

CLAIMS_A_TURN = 500
"""At most this many claims get tasks in one turn; the others wait for the next turn."""

MOST_WAITING = 10_000

PLACEMENT_BYTES = 800
"""Upper bound of a placement in a commit; used only to estimate how many still fit."""

_CLAIM_BYTES = 400
"""What a claim takes in a commit, about, besides its filter."""

FILTER_BYTES = 64 * 1024
"""The filters of the claims of one turn take at most this much of its commit; further claims wait."""

CLAIMS_SHARE = 2
"""Claims and their filters take one part in so many of the room for placements, so that tasks can be placed at all."""

_encode = msgspec.json.Encoder().encode


class SchedulingWorker:
    """The waiting claims, in order of arrival."""

    def __init__(self, world: World, signs: Signs, rules: Rules, *, instance: str, most: int = MOST_WAITING) -> None:
        self._world = world
        self._signs = signs
        self._rules = rules
        self._instance = instance
        self._most = most
        self._waiting: dict[str, _Waiting] = {}
        self._impatient: dict[str, None] = {}
        """The ids of claims that came without a wait since those were last answered."""

    def add(self, asked: Asked) -> None:
        """
        Add an admitted claim; a repeat replaces the claim with the same id.

        Raises:
            Refused: another worker waits under this id. Unavailable: too many claims wait.
        """
        command: ClaimTasks = asked.command  # type: ignore[assignment]  # the engine passes only claims
        before = self._waiting.get(command.claim_id)
        if before is not None:
            if before.claim.worker_id != command.worker_id:
                msg = f"claim_id {command.claim_id!r} is already used by another worker: use a new id"
                raise Refused(msg, reason="id_taken")
            before.answer(None, Unavailable("this claim was sent again: the repeat gets the answer"))
        elif len(self._waiting) >= self._most:
            msg = f"{self._most} claims are waiting, the limit of engine.waiting_max: claim later"
            raise Unavailable(msg, reason="overloaded", retry_after_s=1.0)
        strategy = command.strategy or self._rules.default_strategy
        claim = WaitingClaim(command.claim_id, command.worker_id, command.slots, strategy)
        waiting = self._waiting[command.claim_id] = _Waiting(claim, asked)
        if command.wait_s > 0:
            loop = asyncio.get_running_loop()
            waiting.timer = loop.call_later(command.wait_s, self._expire, command.claim_id)
        else:
            self._impatient[command.claim_id] = None

    def withdraw(self, command: WithdrawClaim | DrainWorker) -> None:
        """Answer and remove a waiting claim, or every claim of a draining worker."""
        if isinstance(command, WithdrawClaim):
            named = self._waiting.get(command.claim_id)
            found = [] if named is None else [named]
        else:
            found = list(self._waiting.values())
        for waiting in found:
            claim = waiting.claim
            if claim.worker_id == command.worker_id:
                del self._waiting[claim.claim_id]
                waiting.answer([], None)

    def replace(self, command: RegisterWorker) -> None:
        """Answer and remove the claims of earlier registrations of a worker; those that name none stay."""
        for waiting in tuple(self._waiting.values()):
            claim = waiting.claim
            if claim.worker_id == command.worker_id and waiting.registration not in ("", command.registration):
                del self._waiting[claim.claim_id]
                waiting.answer([], None)

    def place(self, now: float, heard_now: float, *, room: int) -> tuple[list[TaskStarted], list[Event], bool]:
        """
        Place ready tasks with waiting claims, in *room* bytes.

        Returns the placements, the event that records their inputs, and whether the room may have been too small.
        """
        if not self._waiting or not self._world.indexes.ready:
            return [], [], False
        running = len(self._world.indexes.tasks[TaskStatus.RUNNING])
        claims, filters, size, is_cut = self._considered(heard_now, room // CLAIMS_SHARE)
        fits = max(0, (room - size) // PLACEMENT_BYTES)
        most = min(fits, self._rules.max_concurrent_tasks - running)
        loads = {one.worker_id: self._signs.worker_loads.get(one.worker_id, 0.0) for one in claims}
        containers = self._ask_containers(claims)
        started = (
            list(schedule(self._world, claims, loads, filters, most=most, containers=containers)) if most > 0 else []
        )
        if is_cut:
            self._rotate(claims, started)
        if not started:
            return [], [], fits == 0
        turn = CoordinatorTurn(
            instance=self._instance,
            now=now,
            claims=tuple(claims),
            policy="schedule",
            policy_version=SCHEDULE_VERSION,
            placed=len(started),
            loads={worker_id: load for worker_id, load in loads.items() if load},
            filters=filters,
            rounds=rounds_taken(self._world, claims, started),
            containers=containers,
        )
        return started, [turn], len(started) == fits

    def _considered(
        self, heard_now: float, most_bytes: int
    ) -> tuple[list[WaitingClaim], dict[str, ClaimFilter], int, bool]:
        """
        Return the claims of this turn, their filters by claim id, the bytes of both, and whether others have to wait.

        The first claim always counts: it has the next turn's room, whatever its filter takes.
        """
        claims: list[WaitingClaim] = []
        filters: dict[str, ClaimFilter] = {}
        size = filters_size = 0
        for one in self._waiting.values():
            if not self._counts(one.claim, heard_now):
                continue
            size += _CLAIM_BYTES + one.filter_bytes
            filters_size += one.filter_bytes
            if claims and (size > most_bytes or filters_size > FILTER_BYTES):
                return claims, filters, size - _CLAIM_BYTES - one.filter_bytes, True
            if one.filter is not None:
                filters[one.claim.claim_id] = one.filter
            claims.append(one.claim)
            if len(claims) == CLAIMS_A_TURN:
                return claims, filters, size, True
        return claims, filters, size, False

    def _ask_containers(self, claims: list[WaitingClaim]) -> dict[str, str]:
        """Ask for the state of each container that a worker of these claims runs in."""
        workers = map(self._world.workers.get, {claim.worker_id for claim in claims})
        inside = (worker.container_id for worker in workers if worker is not None and worker.container_id)
        return {container_id: said_of(self._world, container_id) for container_id in inside}

    def _rotate(self, claims: list[WaitingClaim], started: list[TaskStarted]) -> None:
        """Move claims that got nothing behind those that this turn did not consider."""
        served = {event.claim_id for event in started}
        for claim in claims:
            if claim.claim_id not in served:
                self._waiting[claim.claim_id] = self._waiting.pop(claim.claim_id)

    def answer_placed(self, started: list[TaskStarted]) -> list[tuple[Asked, list[Any]]]:
        """Remove the claims that got tasks and return each with its tasks."""
        placed: dict[str, list[Any]] = {}
        for event in started:
            placed.setdefault(event.claim_id, []).append(self._world.tasks[event.task_id])
        return [(self._waiting.pop(claim_id).take(), tasks) for claim_id, tasks in placed.items()]

    def answer_impatient(self) -> list[Asked]:
        """Remove and return the claims that do not wait; they got no task."""
        if not self._impatient:
            return []
        impatient, self._impatient = self._impatient, {}
        found = ((claim_id, self._waiting.get(claim_id)) for claim_id in impatient)
        left = [claim_id for claim_id, waiting in found if waiting is not None and waiting.timer is None]
        return [self._waiting.pop(claim_id).take() for claim_id in left]

    def refuse_all(self, error: Unavailable) -> None:
        """Answer every waiting claim with *error*."""
        while self._waiting:
            _, waiting = self._waiting.popitem()
            waiting.answer(None, error)

    def _counts(self, claim: WaitingClaim, heard_now: float) -> bool:
        """Whether the worker of the claim was heard recently enough to get tasks."""
        return self._signs.silent_for(self._signs.workers, claim.worker_id, heard_now) < present_s(self._rules)

    def _expire(self, claim_id: str) -> None:
        waiting = self._waiting.pop(claim_id, None)
        if waiting is not None:
            waiting.answer([], None)


class _Waiting:
    """One waiting claim; without a timer it is answered at the end of its turn."""

    __slots__ = ("_asked", "claim", "filter", "filter_bytes", "timer")

    def __init__(self, claim: WaitingClaim, asked: Asked) -> None:
        command: ClaimTasks = asked.command  # type: ignore[assignment]  # only claims wait here
        self.claim = claim
        self.filter: ClaimFilter | None = None
        self.filter_bytes = 0
        if command.programs or command.task_names:
            self.filter = ClaimFilter(command.programs, command.task_names)
            self.filter_bytes = len(_encode({claim.claim_id: self.filter}))
        self.timer: asyncio.TimerHandle | None = None
        self._asked = asked

    @property
    def registration(self) -> str:
        """The registration of the worker that the claim names; '' if it names none."""
        command: ClaimTasks = self._asked.command  # type: ignore[assignment]  # only claims wait here
        return command.registration

    def take(self) -> Asked:
        if self.timer is not None:
            self.timer.cancel()
        return self._asked

    def answer(self, value: Any, error: Unavailable | None) -> None:
        self.take().reply(value, error)
