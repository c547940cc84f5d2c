"""
Compares candidate policies with the live ones while the journal is folded, and reports the results to the coordinator.

Every turn of which the waiting claims are known could be compared; so that it costs little, it is done for a small part
of the time, and the other turns are counted as skipped. Each report goes on where the one before ended, whoever sent
that: what was compared before is dropped here. Nothing else follows from it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import msgspec
import structlog

from coordinator.clock import SystemClock
from coordinator.commands.shadow import ReportShadow
from coordinator.placement.matching import SCHEDULE_VERSION
from coordinator.placement.shadow import compare
from events.coordinator import CoordinatorTurn
from events.errors import CoordinationError
from events.task import TaskStarted
from projections.considered import Considered
from projections.queue import EXAMPLES_KEPT, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordinator.client.client import Door
    from coordinator.placement.shadow import Compared
    from events.base import Envelope, Position
    from projections.source import Record
    from projections.world import World

log = structlog.get_logger(__name__)

SHARE = 0.01
"""The part of the time in which turns are compared."""
PAUSE_S = 0.01
"""The least time between two turns that are compared."""
READY_SORTED = 2000
"""So many ready tasks are sorted for each turn that is compared; of more, their order is kept up with each event."""
SAMPLES_KEPT = 10_000
"""So many compared turns wait for a report, the newest; while nobody leads, older ones are skipped."""
LOOK_S = 1.0
REPORT_TIMEOUT_S = 5.0
_TURN = b'"coordinator.turn"'


class _Sample(NamedTuple):
    """What was compared in one commit, and how many turns were skipped before it since the last one."""

    sequence: int
    compared: Compared
    skipped: int


class _Tally:
    """What was compared of one candidate, and is not reported yet."""

    def __init__(self, candidate: Position) -> None:
        self.candidate = candidate
        self.samples: deque[_Sample] = deque()
        self.skipped = 0
        self.since: float | None = None
        """When the first of these was compared; None while there are none."""

    def add(self, sequence: int, compared: Compared, heard_now: float) -> None:
        if self.since is None:
            self.since = heard_now
        self.samples.append(_Sample(sequence, compared, self.skipped))
        self.skipped = 0
        if len(self.samples) > SAMPLES_KEPT:
            lost = self.samples.popleft()
            self.samples[0] = self.samples[0]._replace(skipped=self.samples[0].skipped + lost.skipped + 1)

    def drop(self, upto: int) -> None:
        """Drop what was reported."""
        while self.samples and self.samples[0].sequence <= upto:
            self.samples.popleft()
            self.since = None


class Shadows:
    """Folds the records of one world, by `apply_record`, and compares the candidates of its queues."""

    def __init__(self, heard: Callable[[], float] | None = None) -> None:
        self._heard = SystemClock().heard if heard is None else heard
        self._considered = Considered()
        self._is_known = False
        """Whether all waiting claims are known: since a turn that names them all."""
        self._is_looked_at = False
        self._tallies: dict[str, _Tally] = {}
        self._next_at = 0.0

    def apply_record(self, world: World, record: Record) -> list[Envelope]:
        """Fold one record, and compare the turn in it if it is time for that; see `World.apply_record`."""
        shadowed = world.indexes.shadowed
        if not shadowed and self._is_known:
            self._is_known = False
            self._tallies.clear()
        self._is_looked_at = False
        if not shadowed or self._heard() < self._next_at or record.kind != "commit" or _TURN not in record.body:
            envelopes = world.apply_record(record)
        else:
            envelopes = world.apply_record(record, lambda events, index: self._look(world, record, events, index))
        if shadowed and not self._is_looked_at:
            turn, started = _placed(envelopes)
            if turn is not None:
                self._take(turn)
                self._considered.serve(started)
                self._skip(world)
        return envelopes

    def reports(self, world: World, every_s: float) -> Iterator[ReportShadow]:
        """Yield what is to be reported, of each queue what was first compared *every_s* seconds ago, or longer."""
        for queue_id, tally in self._tallies.items():
            queue = world.queues.get(queue_id)
            if queue is None or queue.shadow is None or queue.shadow.set != tally.candidate:
                continue
            tally.drop(queue.shadow.upto)
            if not tally.samples or tally.since is None:
                tally.since = self._heard() if tally.samples else None
            elif self._heard() - tally.since >= every_s:
                yield _report(queue_id, queue.shadow.upto, tally.samples)

    def _look(self, world: World, record: Record, envelopes: list[Envelope], index: int) -> None:
        """Compare a turn before the first task is started that it placed."""
        if self._is_looked_at or not _is_placed(envelopes[index]):
            return
        turn, started = _placed(envelopes)
        if turn is None:
            return
        self._is_looked_at = True
        began = self._heard()
        self._take(turn)
        seen = self._considered
        if self._is_known and turn.policy_version == SCHEDULE_VERSION and turn.claims_digest == seen.digest():
            for queue_id, tally in self._open(world):
                shadow = world.queues[queue_id].shadow
                assert shadow is not None, "it is in the index of those that have one"
                compared = compare(world, queue_id, shadow.policy, seen, turn, started)
                if compared is not None:
                    tally.add(record.sequence, compared, began)
            if world.indexes.ready <= READY_SORTED:
                world.indexes.lanes.forget_aged()
        else:
            self._skip(world)
        seen.serve(started)
        now = self._heard()
        self._next_at = now + max(PAUSE_S, (now - began) / SHARE)

    def _take(self, turn: CoordinatorTurn) -> None:
        self._considered.take(turn)
        self._is_known = self._is_known or turn.fresh

    def _skip(self, world: World) -> None:
        for _, tally in self._open(world):
            tally.skipped += 1

    def _open(self, world: World) -> Iterator[tuple[str, _Tally]]:
        """Yield the queues with candidates, and what was compared of these."""
        shadowed = world.indexes.shadowed
        for queue_id in self._tallies.keys() - shadowed.keys():
            del self._tallies[queue_id]
        for queue_id, candidate in shadowed.items():
            tally = self._tallies.get(queue_id)
            if tally is None or tally.candidate != candidate:
                tally = self._tallies[queue_id] = _Tally(candidate)
            yield queue_id, tally


def _is_placed(envelope: Envelope) -> bool:
    return isinstance(envelope.data, TaskStarted) and envelope.actor == "coordinator"


def _placed(envelopes: list[Envelope]) -> tuple[CoordinatorTurn | None, list[TaskStarted]]:
    """Return the turn of a commit, and the tasks that it placed."""
    turn: CoordinatorTurn | None = None
    started: list[TaskStarted] = []
    for one in envelopes:
        event = one.data
        if isinstance(event, TaskStarted):
            if one.actor == "coordinator":
                started.append(event)
        elif isinstance(event, CoordinatorTurn):
            turn = event
    return turn, started


def _report(queue_id: str, after: int, samples: deque[_Sample]) -> ReportShadow:
    whole = reduce(together, (one.compared.numbers for one in samples))
    skipped = sum(one.skipped for one in samples)
    examples = tuple(chain.from_iterable(one.compared.examples for one in samples))
    return ReportShadow(
        queue_id=queue_id,
        after=after,
        upto=samples[-1].sequence,
        compared=msgspec.structs.replace(whole, skipped=skipped),
        examples=examples[-EXAMPLES_KEPT:],
    )


async def run_shadow_reports(
    door: Door, compared: Callable[[float], list[ReportShadow]], *, every_s: float
) -> NoReturn:
    """
    Report what was *compared*, about every *every_s* seconds, until cancelled.

    A report that fails is sent again, with what is compared meanwhile.
    """
    while True:
        await asyncio.sleep(min(LOOK_S, every_s))
        for report in compared(every_s):
            try:
                await door.execute(report, timeout_s=REPORT_TIMEOUT_S)
            except CoordinationError as error:
                log.warning("shadow_report_failed", queue_id=report.queue_id, reason=error.message)
