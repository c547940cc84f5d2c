"""
A world as a value, and how it is written: in pieces, so that whoever writes a large one need not hold up anybody.

The pieces, joined, are one MessagePack map. It never looks into a world: what is handed over must not change any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events.base import Position
from projections import container, inbox, node, pool, service, session, task, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1000
"""Values in a piece; encoding so many takes about a millisecond."""


class KeyedTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which task an idempotency key made, and when."""

    task_id: str
    at: float
    payload_digest: str = ""


class MassSilence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    Many of one kind fell silent at *since*: none is given up for its silence; or, once *accepted*, each is.

    Of *alive* then alive *silent* were not heard.
    """

    since: float
    silent: int
    alive: int = 0
    accepted: bool = False


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A world as a value; tables are lists in the order of the world's own."""

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
    workers: list[worker.Worker]
    nodes: list[node.Node]
    pools: list[pool.Pool]
    sessions: list[session.Session]
    inboxes: list[inbox.Inbox]
    remembered: dict[str, float]
    keyed: dict[str, KeyedTask]
    totals: dict[str, int]
    silences: dict[str, MassSilence]


_encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Snapshot).decode
"""Read joined pieces; raises what `events.codec.UNREADABLE` names."""


def pieces(snapshot: Snapshot, size: int = PIECE) -> Iterator[bytes]:
    """Write *snapshot* in pieces of at most *size* values; equal snapshots give equal bytes, whatever the size."""
    names = snapshot.__struct_fields__
    yield _head(len(names), _MAP)
    for name in names:
        value: Any = getattr(snapshot, name)
        yield _encode(name)
        if isinstance(value, list):
            yield _head(len(value), _ARRAY)
            for at in range(0, len(value), size):
                part = value[at : at + size]
                yield _encode(part)[len(_head(len(part), _ARRAY)) :]
        elif isinstance(value, dict):
            yield _head(len(value), _MAP)
            items = list(value.items())
            for at in range(0, len(items), size):
                some = dict(items[at : at + size])
                yield _encode(some)[len(_head(len(some), _MAP)) :]
        else:
            yield _encode(value)


_ARRAY = (0x90, 0xDC, 0xDD)
_MAP = (0x80, 0xDE, 0xDF)
_FEW, _MANY = 16, 65_536


def _head(count: int, codes: tuple[int, int, int]) -> bytes:
    """Write how MessagePack begins an array or a map of *count*."""
    fixed, short, long = codes
    if count < _FEW:
        return bytes((fixed | count,))
    if count < _MANY:
        return bytes((short,)) + count.to_bytes(2, "big")
    return bytes((long,)) + count.to_bytes(4, "big")
