"""
Any state of the past, folded anew from the journal.

It never keeps what it folds and never writes; a long journal takes its time, about ten microseconds for each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.base import Position
from events.errors import Refused
from projections.world import World

if TYPE_CHECKING:
    from events.base import Envelope
    from projections.source import CommitSource


async def world_at(source: CommitSource, position: Position) -> World:
    """
    Fold the journal up to and including the event at *position*, which may stand in the middle of a commit.

    Raises:
        Refused: the journal has no such position.
        Corrupt: it is damaged before it.
        Unavailable: it cannot be read now.
    """
    last = (await source.bounds()).last
    if not 0 <= position.sequence <= last:
        msg = f"position {position} is not in the journal, which ends at {last}"
        raise Refused(msg, reason="bad_position")
    world = _WorldUntil(position)
    async for records in source.read(0, position.sequence):
        for record in records:
            world.apply_record(record)
    if world.position < position:
        msg = f"position {position} is not in the journal: record {position.sequence} ends at {world.position}"
        raise Refused(msg, reason="bad_position")
    world.position = position
    return world


async def replay_digest(source: CommitSource, until: int | None = None) -> str:
    """Fold the journal up to sequence *until* (default: its end) and hash the world; every replay gives the same."""
    last = (await source.bounds()).last if until is None else until
    world = World()
    async for records in source.read(0, last):
        for record in records:
            world.apply_record(record)
    return world.digest()


class _WorldUntil(World):
    """A world that folds nothing behind a position."""

    def __init__(self, until: Position) -> None:
        super().__init__()
        self._until = until

    def apply(self, envelope: Envelope, position: Position, time: float) -> None:
        if position <= self._until:
            super().apply(envelope, position, time)
