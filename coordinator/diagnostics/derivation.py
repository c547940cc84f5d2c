"""
Folds a journal and derives each placement again, from what came before it and from what its turn recorded.

What is derived is compared with what was recorded: whoever reads the journal can see that every task was given to its
worker by the rules, and by which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.placement.matching import SCHEDULE_VERSION, rounds_taken, schedule
from coordinator.placement.sources import ordering_of
from events import codec
from events.base import Position
from events.coordinator import CoordinatorTurn
from events.queue import DEFAULT
from events.task import TaskStarted
from projections.considered import Considered
from projections.queue import policy_of
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.base import Envelope
    from projections.source import Record


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """
    How one attempt of a task was placed: at which position, with whom, and among what; times in seconds.

    `ahead` is how many ready tasks of its queue came before it by the policy. `claims` and `workers` are how many were
    considered, `ready` how many tasks waited for them. `derived` is whether the same follows again from the journal:
    `yes`, `no`, `chosen` (a custom policy chose it, which is recorded) or `unknown` (by another version of the rules,
    or without the turns before).
    """

    task_id: str
    attempt: int
    position: str
    time: str
    worker_id: str
    claim_id: str
    queue: str
    policy: str
    ahead: int
    ready: int
    claims: int
    workers: int
    derived: str
    waited_s: float


class Derivation:
    """
    A fold of records, from the first one on or after *world*; `differences` are placements that follow otherwise.

    Of the task *task_id* the `decisions` are kept, one for each attempt that a turn placed. What was placed by another
    version of the rules, or before the first turn that names all claims, is counted in `skipped`.
    """

    def __init__(self, world: World | None = None, *, task_id: str = "") -> None:
        self.world = World() if world is None else world
        self.differences: list[str] = []
        self.decisions: list[Decision] = []
        self.derived = self.skipped = 0
        self._task_id = task_id
        self._considered = Considered()
        self._is_known = world is None

    def apply_record(self, record: Record) -> list[Envelope]:
        """Fold one record and return its events; see `World.apply_record`."""
        if record.kind != "commit" or b'"coordinator.turn"' not in record.body:
            return self.world.apply_record(record)
        envelopes = codec.decode(record.body)
        turn = next((one.data for one in envelopes if isinstance(one.data, CoordinatorTurn)), None)
        placed = {
            index: one.data
            for index, one in enumerate(envelopes)
            if isinstance(one.data, TaskStarted) and one.actor == "coordinator"
        }
        world = self.world
        if turn is None or not placed or record.sequence != world.position.sequence + 1:
            return world.apply_record(record)
        if record.chain != world.chain.hex():
            return world.apply_record(record)  # it says what is wrong
        time = codec.seconds_of(envelopes[0].time)
        world.indexes.advance(time)
        first = next(iter(placed))
        for index, envelope in enumerate(envelopes):
            if index == first:
                self._derive(record, turn, placed, envelope.time)
            world.apply(envelope, Position(record.sequence, index), time)
        world.seal(record.sequence, len(envelopes), record.body, time)
        return envelopes

    def _derive(self, record: Record, turn: CoordinatorTurn, placed: dict[int, TaskStarted], time: str) -> None:
        seen, recorded = self._considered, list(placed.values())
        seen.take(turn)
        self._is_known = self._is_known or turn.fresh or not turn.claims_digest
        derived = self._again(record, turn, recorded)
        if self._task_id:
            self.decisions += self._told(record, turn, placed, time, derived)
        seen.serve(recorded)

    def _again(self, record: Record, turn: CoordinatorTurn, recorded: list[TaskStarted]) -> str:
        """Derive the placements of a turn, and note what is different; return `Decision.derived` of them."""
        seen = self._considered
        if turn.policy_version != SCHEDULE_VERSION or not self._is_known:
            self.skipped += len(recorded)
            return "unknown"
        claims = tuple(seen.claims.values())
        chosen = turn.chosen if turn.chosen_by else None
        again = list(
            schedule(
                self.world,
                claims,
                seen.loads,
                seen.filters,
                most=turn.placed + turn.kept,
                containers=seen.containers,
                chosen=chosen,
            )
        )
        rounds = rounds_taken(self.world, claims, again)
        before = len(self.differences)
        if turn.claims_digest != seen.digest():
            self.differences.append(f"{record.sequence}: the claims of {turn} add up to {seen.digest()}: {claims}")
        if (again, rounds, len(again)) != (recorded, turn.rounds, turn.placed):
            self.differences.append(f"{record.sequence}: recorded {recorded} {turn.rounds}, derived {again} {rounds}")
        self.derived += len(again)
        return "yes" if len(self.differences) == before else "no"

    def _told(
        self, record: Record, turn: CoordinatorTurn, placed: dict[int, TaskStarted], time: str, derived: str
    ) -> Iterator[Decision]:
        world, seen = self.world, self._considered
        for index, event in placed.items():
            task = world.tasks.get(event.task_id)
            if event.task_id != self._task_id or task is None:
                continue
            policy = policy_of(world.queues, task.queue)
            is_chosen = derived == "yes" and event.task_id in turn.chosen.get(event.claim_id, ())
            yield Decision(
                task_id=task.task_id,
                attempt=event.attempt,
                position=str(Position(record.sequence, index)),
                time=time,
                worker_id=event.worker_id,
                claim_id=event.claim_id,
                queue=task.queue or DEFAULT,
                policy=policy.strategy,
                ahead=world.indexes.lanes.ahead_of(task, ordering_of(policy, "")),
                ready=world.indexes.ready,
                claims=len(seen.claims),
                workers=len({claim.worker_id for claim in seen.claims.values()}),
                derived="chosen" if is_chosen else derived,
                waited_s=max(0.0, world.indexes.now - task.submitted_at),
            )
