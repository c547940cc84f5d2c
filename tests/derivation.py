"""Folds a journal and derives each placement again from what came before it and from what its turn recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.placement.matching import rounds_taken, schedule
from events import codec
from events.base import Position
from events.coordinator import CoordinatorTurn
from events.task import TaskStarted
from projections.considered import Considered
from projections.world import World

if TYPE_CHECKING:
    from events.base import Envelope
    from projections.source import Record


class Derivation:
    """A fold of records from the first one on; `differences` are placements that follow otherwise than recorded."""

    def __init__(self) -> None:
        self.world = World()
        self.differences: list[str] = []
        self.derived = 0
        self._considered = Considered()

    def apply_record(self, record: Record) -> list[Envelope]:
        """Fold one record and return its events; see `World.apply_record`."""
        envelopes = codec.decode(record.body) if record.kind == "commit" else []
        turn = next((one.data for one in envelopes if isinstance(one.data, CoordinatorTurn)), None)
        if turn is None:
            return self.world.apply_record(record)
        placed = [one.data for one in envelopes if isinstance(one.data, TaskStarted) and one.actor == "coordinator"]
        world, time = self.world, codec.seconds_of(envelopes[0].time)
        world.indexes.advance(time)
        for index, envelope in enumerate(envelopes):
            if envelope.data is placed[0]:
                self._derive(record, turn, placed)
            world.apply(envelope, Position(record.sequence, index), time)
        world.seal(record.sequence, len(envelopes), record.body, time)
        return envelopes

    def _derive(self, record: Record, turn: CoordinatorTurn, placed: list[TaskStarted]) -> None:
        seen = self._considered
        seen.take(turn)
        claims = tuple(seen.claims.values())
        again = list(
            schedule(
                self.world,
                claims,
                seen.loads,
                seen.filters,
                most=turn.placed,
                containers=seen.containers,
                chosen=turn.chosen if turn.chosen_by else None,
            )
        )
        rounds = rounds_taken(self.world, claims, again)
        if turn.claims_digest != seen.digest():
            self.differences.append(f"{record.sequence}: the claims of {turn} add up to {seen.digest()}: {claims}")
        if (again, rounds, len(again)) != (placed, turn.rounds, turn.placed):
            self.differences.append(f"{record.sequence}: recorded {placed} {turn.rounds}, derived {again} {rounds}")
        self.derived += len(again)
        seen.serve(placed)
