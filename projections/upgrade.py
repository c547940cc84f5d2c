"""
Snapshots of older folds, converted to this one.

A change of the fold raises `FOLD_VERSION` and adds a step to `_STEPS`, which turns a decoded snapshot of the version
before into one of the next. A step must lead to the world that folding all records again would lead to: new state is
either in the old snapshot, or comes only from events that older releases did not write. What cannot be derived is named
by the step; `remembers_since` says that the memory of evicted tasks is such a thing. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events.codec import UNREADABLE
from events.errors import Corrupt
from projections.memory import COMMAND, KEY, Memory
from projections.snapshot import Snapshot
from projections.task import KeyedTask, checksum

if TYPE_CHECKING:
    from collections.abc import Callable

FOLD_VERSION = 7
"""Raise it when the same records fold to another world, and add a step to `_STEPS`."""


class _Version(msgspec.Struct):
    fold_version: int


_version = msgspec.msgpack.Decoder(_Version).decode
_current = msgspec.msgpack.Decoder(Snapshot).decode


def decoded(data: bytes) -> Snapshot:
    """
    Decode a snapshot of this fold version, or of one that can be converted.

    Raises:
        Corrupt: the bytes are not a snapshot, or are one of a fold version that cannot be converted.
    """
    try:
        version = _version(data).fold_version
        if version == FOLD_VERSION:
            return _current(data)
        if version in _STEPS:
            value = msgspec.msgpack.decode(data)
            for step in range(version, FOLD_VERSION):
                value = _STEPS[step](value)
            return _current(msgspec.msgpack.encode(value | {"fold_version": FOLD_VERSION}))
    except (*UNREADABLE, LookupError, TypeError, AttributeError, ValueError) as error:
        msg = f"snapshot of {len(data)} bytes is unreadable: {error}"
        raise Corrupt(msg) from error
    msg = f"snapshot was folded by version {version}, this is version {FOLD_VERSION}: rebuild it"
    raise Corrupt(msg)


def _from_4(value: dict[str, Any]) -> dict[str, Any]:
    """
    Version 5 remembers ended tasks, and more commands and keys.

    What version 4 evicted cannot be derived: it is missing until it would have been dropped anyway.
    """
    memory, now = Memory(), value["time"]
    for name, at in value.pop("remembered").items():
        memory.note(COMMAND, name, b"-", at)
    for name, keyed in value.pop("keyed").items():
        tenant, _, key = name.partition("/")
        known = KeyedTask(keyed["task_id"], checksum(keyed.get("payload_digest", "")))
        memory.note(KEY, key, known.packed(), keyed["at"], tenant)
    memory.advance(now)
    return value | {"memory": msgspec.to_builtins(memory.frozen(), builtin_types=(bytes,)), "remembers_since": now}


def _from_5(value: dict[str, Any]) -> dict[str, Any]:
    """Version 6 folds events that version 5 did not know: there is nothing to convert."""
    return value


def _from_6(value: dict[str, Any]) -> dict[str, Any]:
    """Version 7 folds catalogues of agents, drains and removals of nodes, and moves: version 6 had none."""
    return value


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {4: _from_4, 5: _from_5, 6: _from_6}
READABLE = frozenset({*_STEPS, FOLD_VERSION})
"""The fold versions whose snapshots can be decoded."""
