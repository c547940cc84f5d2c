"""
Keeps the claims that wait for tasks, and places ready tasks with them.

It holds no facts: when a writer dies with its waiting claims, the workers send them again, under the same ids. Only
`placement.matching.schedule` decides which task goes to which claim.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.commands.task import WithdrawClaim
from coordinator.deciders.housing import said_of
from coordinator.deciders.rules import present_s
from coordinator.engine.policy_child import OfferedWorker
from coordinator.placement.matching import SCHEDULE_VERSION, rounds_taken, schedule
from coordinator.placement.sources import ready_for_custom
from events.coordinator import ANY, ClaimFilter, CoordinatorTurn, WaitingClaim
from events.errors import Refused, Unavailable
from events.task import TaskStatus
from projections.considered import Considered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.commands.task import ClaimTasks
    from coordinator.commands.worker import DrainWorker, RegisterWorker
    from coordinator.deciders.rules import Rules
    from coordinator.deciders.signs import Signs
    from coordinator.engine.intake import Asked
    from events.base import Event, Position
    from events.task import TaskStarted
    from projections.task import Task
    from projections.world import World

CLAIMS_A_TURN = 500
"""At most this many claims get tasks in one turn; the others wait for the next turn."""

CLAIMS_OF_A_WORKER = 32
"""At most this many of them are of one worker: one that claims much does not stand before all others."""

MOST_WAITING, MOST_OF_A_WORKER = 10_000, 1000

FRESH_EVERY = 1000
"""So many recorded turns name all claims once, so that nobody has to read back further than that."""

FRESH_FOR_SHADOWS = 100
"""The same while candidate policies are compared: a follower that began later needs to know the claims."""

PLACEMENT_BYTES = 800
"""Upper bound of a placement in a commit; used only to estimate how many still fit."""

_CLAIM_BYTES, _WORKER_BYTES = 400, 150
"""Upper bounds of what a claim, and the load of a worker or the state of its container, take in a commit."""
_encode = msgspec.json.Encoder().encode


class _Seen(NamedTuple):
    """The claims of a turn, what is known of their workers, and whether other claims have to wait for the next."""

    claims: dict[str, WaitingClaim]
    filters: dict[str, ClaimFilter]
    loads: dict[str, float]
    containers: dict[str, str]
    is_cut: bool


class Placement(NamedTuple):
    """The placements of a turn, the event that records their inputs, and whether the next turn may make more."""

    started: list[TaskStarted]
    why: list[Event]
    is_full: bool


OFFER_BYTES = 256 * 1024
"""The claims of so many bytes of a turn are offered to a custom policy."""
_NONE_CHOSEN: Mapping[str, tuple[str, ...]] = MappingProxyType({})
_NOTHING, _NO_ROOM = Placement([], [], is_full=False), Placement([], [], is_full=True)
_NO_DIGEST = "0" * 16


class SchedulingWorker:
    """The waiting claims, in order of arrival."""

    def __init__(self, world: World, signs: Signs, rules: Rules, *, instance: str, most: int = MOST_WAITING) -> None:
        self._world = world
        self._signs = signs
        self._rules = rules
        self._instance = instance
        self._most = most
        self._waiting: dict[str, _Waiting] = {}
        self._of_worker: dict[str, dict[str, None]] = {}
        self._of_source: dict[str, int] = {}
        self.arrivals = 0
        """How many claims have come."""
        self._impatient: dict[str, None] = {}
        """The ids of claims that came without a wait since those were last answered."""
        self._recorded = Considered()
        self._turns = 0
        """How many turns were recorded since all claims were last named."""
        self._named_for: dict[str, Position] = {}
        """The candidate policies for which all claims were named: a follower has to know them."""
        self._passed: set[str] = set()
        """The ids of claims that gave way to others since the last recorded turn."""

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
            self._forget(command.claim_id, keeps_place=True)
        else:
            self._check_room(command.worker_id, asked.caller.actor)
        self.arrivals += 1
        claim = WaitingClaim(command.claim_id, command.worker_id, command.slots, command.strategy)
        waiting = self._waiting[command.claim_id] = _Waiting(claim, asked)
        self._of_worker.setdefault(command.worker_id, {})[command.claim_id] = None
        self._of_source[waiting.source] = self._of_source.get(waiting.source, 0) + 1
        if command.wait_s > 0:
            loop = asyncio.get_running_loop()
            waiting.timer = loop.call_later(command.wait_s, self._expire, command.claim_id)
        else:
            self._impatient[command.claim_id] = None

    def _check_room(self, worker_id: str, source: str) -> None:
        """Raise `Unavailable` if all places are taken, or too many of them by this worker or source."""
        left = self._most - len(self._waiting)
        if left <= 0:
            msg = f"{self._most} claims are waiting, the limit of engine.waiting_max: claim later"
        elif (mine := len(self._of_worker.get(worker_id, ()))) >= MOST_OF_A_WORKER:
            msg = f"{mine} claims of worker {worker_id} are waiting, the most of one worker: claim later"
        elif (its := self._of_source.get(source, 0)) >= left:
            msg = f"{its} claims of {source} are waiting, half of what others leave of engine.waiting_max: claim later"
        else:
            return
        raise Unavailable(msg, reason="overloaded", retry_after_s=1.0)

    def _forget(self, claim_id: str, *, keeps_place: bool = False) -> _Waiting:
        """Remove a claim and return it; one that is replaced keeps its place in the order of arrival."""
        waiting = self._waiting[claim_id]
        if not keeps_place:
            del self._waiting[claim_id]
            self._passed.discard(claim_id)
        mine = self._of_worker[waiting.claim.worker_id]
        del mine[claim_id]
        if not mine:
            del self._of_worker[waiting.claim.worker_id]
        left = self._of_source[waiting.source] - 1
        if left:
            self._of_source[waiting.source] = left
        else:
            del self._of_source[waiting.source]
        return waiting

    def withdraw(self, command: WithdrawClaim | DrainWorker) -> None:
        """Answer and remove a waiting claim, or every claim of a draining worker."""
        mine = self._of_worker.get(command.worker_id, {})
        found = tuple(mine)
        if isinstance(command, WithdrawClaim):
            found = (command.claim_id,) if command.claim_id in mine else ()
        for claim_id in found:
            self._forget(claim_id).answer([], None)

    def replace(self, command: RegisterWorker) -> None:
        """Answer and remove the claims of earlier registrations of a worker; those that name none stay."""
        for claim_id in tuple(self._of_worker.get(command.worker_id, ())):
            if self._waiting[claim_id].registration not in ("", command.registration):
                self._forget(claim_id).answer([], None)

    def place(
        self,
        now: float,
        heard_now: float,
        *,
        room: int,
        chosen: Mapping[str, tuple[str, ...]] = _NONE_CHOSEN,
        chosen_by: str = "",
    ) -> Placement:
        """
        Place ready tasks with waiting claims, in *room* bytes; `forget_recorded` if this does not get recorded.

        *chosen* and *chosen_by* are those of `CoordinatorTurn`.
        """
        if not self._waiting or not self._world.indexes.ready:
            return _NOTHING
        if self._must_name_all() or self._went_bytes() > room // 4:
            self.forget_recorded()
        seen = self._considered(heard_now, room // 2)
        turn = CoordinatorTurn(
            instance=self._instance,
            now=now,
            policy="schedule",
            policy_version=SCHEDULE_VERSION,
            placed=0,
            fresh=self._turns == 0,
            claims_digest=_NO_DIGEST,
            chosen=dict(chosen),
            chosen_by=chosen_by,
            **self._recorded.changes(seen.claims, seen.filters, seen.loads, seen.containers, self._passed),
        )
        fitting = max(0, room - len(_encode(turn))) // PLACEMENT_BYTES
        indexes = self._world.indexes
        running = len(indexes.tasks[TaskStatus.RUNNING])
        most = min(fitting, self._rules.max_concurrent_tasks - running, indexes.ready)
        if most <= 0:
            return _NO_ROOM if fitting == 0 else _NOTHING
        claims, kept = tuple(seen.claims.values()), list[int]()
        started = list(
            schedule(
                self._world,
                claims,
                seen.loads,
                seen.filters,
                most=most,
                containers=seen.containers,
                chosen=chosen if chosen_by else None,
                note_kept=kept.append,
            )
        )
        if seen.is_cut and len(started) < most:
            self._pass_over(claims, started)
        if not started:
            return _NO_ROOM if seen.is_cut and not claims else _NOTHING
        is_full = len(started) == fitting or (seen.is_cut and len(started) < indexes.ready)
        turn = msgspec.structs.replace(turn, kept=sum(kept)) if kept else turn
        return Placement(started, [self._record(turn, claims, started)], is_full=is_full)

    def _must_name_all(self) -> bool:
        """Return whether the next turn names all claims: for readers that begin later, such as those of a candidate."""
        shadowed = self._world.indexes.shadowed
        is_new = shadowed != self._named_for
        if is_new:
            self._named_for = shadowed.copy()
        return is_new or self._turns >= (FRESH_FOR_SHADOWS if shadowed else FRESH_EVERY)

    def offer(self, heard_now: float, most: int) -> tuple[list[Task], list[OfferedWorker]] | None:
        """Return up to *most* ready tasks and the workers that wait for a custom policy's choice; None without both."""
        world = self._world
        if not self._waiting or not world.indexes.ready:
            return None
        seen = self._considered(heard_now, OFFER_BYTES)
        wanted: dict[str, int] = {}
        for claim in seen.claims.values():
            if not claim.strategy:
                wanted[claim.worker_id] = wanted.get(claim.worker_id, 0) + claim.slots
        known = (world.workers[worker_id] for worker_id in wanted if worker_id in world.workers)
        workers = [worker for worker in known if worker.build_id not in world.versions]
        tasks = [msgspec.structs.replace(task, payload=None) for task in ready_for_custom(world, most)]
        if not workers or not tasks:
            return None
        offered = [
            OfferedWorker(
                worker_id=worker.worker_id,
                load=seen.loads.get(worker.worker_id, 0.0),
                weight=float(worker.slots or 1),
                slots=wanted[worker.worker_id],
            )
            for worker in workers
        ]
        return tasks, offered

    def dealt(self, of_worker: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Return the tasks that were chosen for workers by the claims that get them, in the order of arrival."""
        found: dict[str, tuple[str, ...]] = {}
        for worker_id, tasks in of_worker.items():
            left = list(tasks)
            for claim_id in self._of_worker.get(worker_id, ()):
                claim = self._waiting[claim_id].claim
                if left and not claim.strategy:
                    found[claim_id], left = tuple(left[: claim.slots]), left[claim.slots :]
        return found

    def forget_recorded(self) -> None:
        """Name all claims in the next recorded turn."""
        self._recorded.clear()
        self._passed.clear()
        self._turns = 0

    def _record(
        self, turn: CoordinatorTurn, claims: Sequence[WaitingClaim], started: list[TaskStarted]
    ) -> CoordinatorTurn:
        """Return the turn with what follows from it, and take it for recorded."""
        recorded = self._recorded
        recorded.take(turn)
        self._passed.clear()
        self._turns += 1
        rounds, digest = rounds_taken(self._world, claims, started), recorded.digest()
        recorded.serve(started)
        return msgspec.structs.replace(turn, placed=len(started), rounds=rounds, claims_digest=digest)

    def _went_bytes(self) -> int:
        """Return how many bytes it takes to say which recorded claims wait no more."""
        waiting, passed = self._waiting, self._passed
        return sum(len(one) + 3 for one in self._recorded.claims if one not in waiting or one in passed)

    def _considered(self, heard_now: float, room: int) -> _Seen:
        """
        Return the claims of this turn, as many as can be recorded in *room* bytes.

        Those of the last recorded turn come first, since they need not be written again; then by arrival.
        """
        seen = _Seen({}, {}, {}, {}, is_cut=False)
        is_cut = False
        of_worker: dict[str, int] = {}
        signs, most_silent_s = self._signs, present_s(self._rules)
        known = (claim_id for claim_id in self._recorded.claims if claim_id not in self._passed)
        for claim_id in chain(known, self._waiting):
            waiting = self._waiting.get(claim_id)
            if waiting is None or claim_id in seen.claims:
                continue
            worker_id = waiting.claim.worker_id
            if signs.silent_for(signs.workers, worker_id, heard_now) >= most_silent_s:
                continue
            if len(seen.claims) == CLAIMS_A_TURN or room < _CLAIM_BYTES:
                is_cut = True
                break
            number = of_worker.get(worker_id, 0)
            if number == CLAIMS_OF_A_WORKER or (size := self._look_at(waiting, seen)) > room:
                is_cut = True
                continue
            room -= size
            of_worker[worker_id] = number + 1
            seen.claims[claim_id] = waiting.claim
            if waiting.filter is not None:
                seen.filters[claim_id] = waiting.filter
        return seen._replace(is_cut=is_cut)

    def _look_at(self, waiting: _Waiting, seen: _Seen) -> int:
        """Note what is known of the worker of a claim, and return how many bytes it takes to record both."""
        recorded, claim = self._recorded, waiting.claim
        is_known = recorded.claims.get(claim.claim_id) is claim and claim.claim_id not in self._passed
        size = 0 if is_known else _CLAIM_BYTES + waiting.filter_bytes
        worker_id = claim.worker_id
        if worker_id in seen.loads:
            return size
        load = seen.loads[worker_id] = self._signs.worker_loads.get(worker_id, 0.0)
        if load != recorded.loads.get(worker_id, 0.0):
            size += _WORKER_BYTES
        worker = self._world.workers.get(worker_id)
        if worker is not None and worker.container_id:
            said = seen.containers[worker.container_id] = said_of(self._world, worker.container_id)
            if said != recorded.containers.get(worker.container_id):
                size += _WORKER_BYTES
        return size

    def _pass_over(self, claims: Sequence[WaitingClaim], started: list[TaskStarted]) -> None:
        """Move claims that can take none of the ready tasks behind those that this turn did not consider."""
        served = {event.claim_id for event in started}
        for claim in claims:
            if claim.claim_id not in served:
                self._waiting[claim.claim_id] = self._waiting.pop(claim.claim_id)
                self._passed.add(claim.claim_id)

    def answer_placed(self, started: list[TaskStarted]) -> list[tuple[Asked, list[Any]]]:
        """Remove the claims that got tasks and return each with its tasks."""
        placed: dict[str, list[Any]] = {}
        for event in started:
            placed.setdefault(event.claim_id, []).append(self._world.tasks[event.task_id])
        return [(self._forget(claim_id).take(), tasks) for claim_id, tasks in placed.items()]

    def answer_impatient(self) -> list[Asked]:
        """Remove and return the claims that do not wait; they got no task."""
        if not self._impatient:
            return []
        impatient, self._impatient = self._impatient, {}
        found = ((claim_id, self._waiting.get(claim_id)) for claim_id in impatient)
        left = [claim_id for claim_id, waiting in found if waiting is not None and waiting.timer is None]
        return [self._forget(claim_id).take() for claim_id in left]

    def refuse_all(self, error: Unavailable) -> None:
        """Answer every waiting claim with *error*."""
        for claim_id in tuple(self._waiting):
            self._forget(claim_id).answer(None, error)

    def _expire(self, claim_id: str) -> None:
        if claim_id in self._waiting:
            self._forget(claim_id).answer([], None)


class _Waiting:
    """One waiting claim; without a timer it is answered at the end of its turn."""

    __slots__ = ("_asked", "claim", "filter", "filter_bytes", "source", "timer")

    def __init__(self, claim: WaitingClaim, asked: Asked) -> None:
        command: ClaimTasks = asked.command  # type: ignore[assignment]  # only claims wait here
        self.claim = claim
        self.source = asked.caller.actor
        self.filter: ClaimFilter | None = None
        self.filter_bytes = 0
        wanted = ClaimFilter(command.programs, command.task_names, command.queues, command.task_ids)
        if wanted != ANY:
            self.filter = wanted
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
