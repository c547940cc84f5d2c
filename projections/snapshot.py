"""
A world as a value, and its encoding in pieces, so that encoding a large world does not block the event loop.

The joined pieces are one MessagePack map. This file never reads a world: the values in a snapshot must not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events.base import Position
from events.task import TaskStatus
from projections import (
    blockage,
    budget,
    container,
    hold,
    inbox,
    limit,
    node,
    pool,
    queue,
    schedule,
    service,
    session,
    shares,
    task,
    version,
    worker,
)
from projections.agents import NO_CATALOGUE, Catalogue
from projections.memory import Slice
from projections.prices import NO_PRICES, PriceTable

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE, PIECE_BYTES = 1000, 256 * 1024
"""A piece has so many values, and ends with the one that makes it as large; to encode it takes about a millisecond."""


class SealedPiece(bytes):
    """A piece that later snapshots have too, byte for byte: a sealed slice of the memory."""

    __slots__ = ()


class MassSilence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    A mass silence of one kind since *since*: until it is *accepted*, no entity of that kind is declared lost.

    At its beginning *silent* of *alive* entities were silent.
    """

    since: float
    silent: int
    alive: int = 0
    accepted: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A world as a value; its tables are lists in the order of the tables of the world."""

    fold_version: int
    position: Position
    time: float
    chain: bytes
    generation: int
    epoch: int
    holder: str
    leader: str
    retention_s: float
    ended_kept: int
    unfoldable: str
    restored_at: float
    containers: list[container.Container]
    services: list[service.Service]
    tasks: list[task.Task]
    workers: list[worker.WorkerState]
    nodes: list[node.Node]
    pools: list[pool.Pool]
    sessions: list[session.Session]
    inboxes: list[inbox.Inbox]
    totals: dict[str, int]
    silences: dict[str, MassSilence]
    memory: list[Slice]
    remembers_since: float
    latest: dict[str, str] = {}
    queues: list[queue.Queue] = []
    holds: list[hold.Hold] = []
    accounts: list[shares.Account] = []
    awaited: dict[str, TaskStatus] = {}
    schedules: list[schedule.Schedule] = []
    limits: list[limit.Limit] = []
    uses: list[limit.KeyUse] = []
    versions: list[version.Version] = []
    blockages: list[blockage.Blockage] = []
    made_wait: list[blockage.Pair] = []
    past_holds: list[hold.PastHold] = []
    past_pauses: list[queue.PastPause] = []
    budgets: list[budget.TaskBudget] = []
    spent: list[budget.KeySpent] = []
    prices: PriceTable = NO_PRICES
    agents: Catalogue = NO_CATALOGUE


_encoder = msgspec.msgpack.Encoder()
_encode, _encode_into = _encoder.encode, _encoder.encode_into


def pieces(snapshot: Snapshot, size: int = PIECE) -> Iterator[bytes]:
    """Encode *snapshot* in pieces of at most *size* values; equal snapshots give equal bytes for any size."""
    names = snapshot.__struct_fields__
    yield _head(len(names), _MAP)
    for name in names:
        value: Any = getattr(snapshot, name)
        yield _encode(name)
        if isinstance(value, list):
            yield _head(len(value), _ARRAY)
            if name == "memory":  # a slice is itself as large as a piece
                for one in value:
                    yield _encode(one) if one.is_open else SealedPiece(_encode(one))
            else:
                yield from _pieces_of(value, size)
        elif isinstance(value, dict):
            yield _head(len(value), _MAP)
            items = list(value.items())
            for at in range(0, len(items), size):
                some = dict(items[at : at + size])
                yield _encode(some)[len(_head(len(some), _MAP)) :]
        else:
            yield _encode(value)


def _pieces_of(values: list[Any], size: int) -> Iterator[bytes]:
    """Encode *values* in pieces; a task may have a payload of 64 KiB."""
    piece = bytearray()
    for number, value in enumerate(values, 1):
        _encode_into(value, piece, -1)
        if number % size == 0 or len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


_ARRAY = (0x90, 0xDC, 0xDD)
_MAP = (0x80, 0xDE, 0xDF)
_FEW, _MANY = 16, 65_536


def _head(count: int, codes: tuple[int, int, int]) -> bytes:
    """Return the MessagePack header of an array or a map of *count* entries."""
    fixed, short, long = codes
    if count < _FEW:
        return bytes((fixed | count,))
    if count < _MANY:
        return bytes((short,)) + count.to_bytes(2, "big")
    return bytes((long,)) + count.to_bytes(4, "big")
