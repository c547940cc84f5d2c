"""
What the world remembers of tasks, commands and idempotency keys that it no longer holds: repeats are recognized by it.

Everything noted is kept for `HARD_S` of commit time; an idempotency key for `SOFT_S`, unless it is forgotten before to
make room. Entries are grouped into slices: those of one period are collected in a dict, which is then sealed into bytes
sorted by name. A sealed slice never changes, costs 6 bytes an entry beyond name and value, and is dropped as a whole.
An index over the sealed slices, 8 bytes an entry, finds an entry without a look into each slice; it is derived and is
no part of a snapshot. Pure.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate, chain, pairwise, repeat
from struct import error as StructError  # noqa: N812  # the name of a class
from struct import pack, unpack_from
from typing import TYPE_CHECKING

import msgspec

from events.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

HARD_S = 600.0
"""How long everything is remembered, in seconds of commit time; no client resends a command for longer."""
SOFT_S = 7 * 86_400.0
"""How long idempotency keys are remembered while there is room."""

TASK, COMMAND, KEY = "task", "command", "key"
"""The kinds: ended tasks by id, commands by `actor/command id`, and idempotency keys, whose owner is the tenant."""

_PERIOD_S = {TASK: 60.0, COMMAND: 60.0, KEY: 3600.0}
_KEPT_S = {TASK: HARD_S, COMMAND: HARD_S, KEY: SOFT_S}
_MOST = {TASK: 8192, COMMAND: 8192, KEY: 1024}
"""Entries in a slice; sealing as many takes about 10 ms."""


class Slice(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Entries of one kind and owner, noted from *first* to *last* (commit times in seconds), as sorted bytes.

    `entries` is: their offsets in what follows and the end (32 bits each), the lengths of the names (16 bits), and then
    each name followed by its value; numbers are little-endian.
    """

    kind: str
    first: float
    last: float
    count: int
    entries: bytes
    owner: str = ""
    is_open: bool = False
    """Whether more may be added: it is of the current period."""

    def find(self, at: int, name: bytes) -> bytes | None:
        """Return the value of entry *at* if it is called *name*."""
        start, end = unpack_from("<2I", self.entries, 4 * at)
        (length,) = unpack_from("<H", self.entries, 4 * (self.count + 1) + 2 * at)
        start += (begin := 6 * self.count + 4)
        value = start + length
        return self.entries[value : begin + end] if self.entries[start:value] == name else None

    @property
    def greatest(self) -> str:
        """The last name."""
        (start,) = unpack_from("<I", self.entries, 4 * (self.count - 1))
        (length,) = unpack_from("<H", self.entries, 6 * self.count + 2)
        start += 6 * self.count + 4
        return self.entries[start : start + length].decode()

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Yield the names and values."""
        count, begin = self.count, 6 * self.count + 4
        offsets = unpack_from(f"<{count + 1}I", self.entries)
        for at, length in enumerate(unpack_from(f"<{count}H", self.entries, 4 * (count + 1))):
            start, end = begin + offsets[at], begin + offsets[at + 1]
            yield self.entries[start : start + length].decode(), self.entries[start + length : end]


class _Open(msgspec.Struct):
    """A slice that is being filled."""

    kind: str
    owner: str
    first: float
    last: float
    values: dict[str, bytes] = msgspec.field(default_factory=dict)
    until: float = 0.0
    """The end of its period."""

    def __post_init__(self) -> None:
        period_s = _PERIOD_S[self.kind]
        self.until = (self.first // period_s + 1.0) * period_s

    def sealed(self, texts: list[str], *, is_open: bool = False) -> Slice:
        """Return the slice as bytes, sorted like its names *texts*; equal entries give equal bytes."""
        count, names = len(texts), list(map(str.encode, texts))
        parts = list(map(bytes.__add__, names, map(self.values.__getitem__, texts)))
        return Slice(
            kind=self.kind,
            owner=self.owner,
            first=self.first,
            last=self.last,
            count=count,
            entries=b"".join(
                (
                    pack(f"<{count + 1}I", *accumulate(map(len, parts), initial=0)),
                    pack(f"<{count}H", *map(len, names)),
                    *parts,
                )
            ),
            is_open=is_open,
        )


class Memory:
    """All that is remembered; `count` entries, `keys` of them by tenant."""

    def __init__(self) -> None:
        self.count = 0
        self.keys: dict[str, int] = {}
        self._open: dict[tuple[str, str], _Open] = {}
        self._sealed: dict[int, Slice] = {}
        self._number = 0
        self._indexes = {kind: _Index() for kind in _KEPT_S}
        self._greatest = dict.fromkeys(_KEPT_S, "")
        self._period = 0.0

    def note(self, kind: str, name: str, value: bytes, time: float, owner: str = "") -> None:
        """Remember *value* under *name* from commit time *time* on."""
        being_filled = self._open.get((kind, owner))
        if being_filled is not None and time >= being_filled.until:
            self._seal(being_filled)
            being_filled = None
        if being_filled is None:
            being_filled = self._open[kind, owner] = _Open(kind, owner, time, time)
        values = being_filled.values
        before = len(values)
        values[name] = value
        being_filled.last = time
        if len(values) == before:
            return
        self.count += 1
        self._greatest[kind] = max(self._greatest[kind], name)
        if kind is KEY:
            self.keys[owner] = self.keys.get(owner, 0) + 1
        if len(values) >= _MOST[kind]:
            self._seal(being_filled)

    def note_all(self, kind: str, values: dict[str, bytes], time: float) -> None:
        """Remember each of *values* under its name; the same as to note one after the other."""
        being_filled = self._open.get((kind, ""))
        if being_filled is None or time >= being_filled.until or len(being_filled.values) + len(values) > _MOST[kind]:
            for name, value in values.items():
                self.note(kind, name, value, time)
            return
        filled = being_filled.values
        before = len(filled)
        filled.update(values)
        being_filled.last = time
        self.count += len(filled) - before
        self._greatest[kind] = max(self._greatest[kind], *values)
        if len(filled) >= _MOST[kind]:
            self._seal(being_filled)

    def find(self, kind: str, name: str, owner: str = "") -> bytes | None:
        """Return the value remembered under *name*, None if there is none (any more)."""
        if name > self._greatest[kind]:  # usual: identifiers made from the time are greater than all before
            return None
        found = self._found(kind, name, owner)
        return None if found is None else found[0]

    def since(self, kind: str, name: str, owner: str = "") -> float | None:
        """Return the commit time since which *name* is remembered at the latest; None if it is not."""
        found = self._found(kind, name, owner)
        return None if found is None else found[1]

    def _found(self, kind: str, name: str, owner: str) -> tuple[bytes, float] | None:
        """Return a value and the time of the first entry that was noted with it."""
        being_filled = self._open.get((kind, owner))
        if being_filled is not None and (value := being_filled.values.get(name)) is not None:
            return value, being_filled.first
        for place in sorted(self._indexes[kind].find(_hash(name, owner)), reverse=True):  # the newest first
            one = self._sealed.get(place >> _ENTRY_BITS)
            if one is not None and one.owner == owner:
                found = one.find(place & _ENTRY, name.encode())
                if found is not None:
                    return found, one.first
        return None

    def advance(self, time: float) -> None:
        """Seal what belongs to an earlier period, and drop what is too old, at most once a minute."""
        if time < self._period:
            return
        self._period = _next_period(time)
        for one in list(self._open.values()):
            if time >= one.until:
                self._seal(one)
        self._drop([number for number, one in self._sealed.items() if time - one.last > _KEPT_S[one.kind]])

    def forget(self, tenant: str, through: float) -> None:
        """Drop the slices of a tenant's idempotency keys that end at or before the commit time *through*."""
        self._drop(
            [
                number
                for number, one in self._sealed.items()
                if one.kind == KEY and one.owner == tenant and one.last <= through
            ]
        )

    def to_forget(self, entries: int, time: float) -> list[tuple[str, float]]:
        """
        Return tenants, those with the most keys first, and up to when each one's keys are to be forgotten.

        That makes room for *entries*, or for less if there are not as many sealed keys that are older than `HARD_S`.
        """
        old: dict[str, list[Slice]] = {}
        for one in self._sealed.values():
            if one.kind == KEY and time - one.last > HARD_S:
                old.setdefault(one.owner, []).append(one)
        chosen = dict[str, float]()
        for tenant in sorted(old, key=lambda one: (-self.keys[one], one)):
            for one in old[tenant]:
                if entries <= 0:
                    return list(chosen.items())
                entries -= one.count
                chosen[tenant] = max(one.last, chosen.get(tenant, 0.0))
        return list(chosen.items())

    def frozen(self) -> list[Slice]:
        """Return all slices in an order of their own; equal memories give equal lists."""
        slices = [
            *self._sealed.values(),
            *(one.sealed(sorted(one.values), is_open=True) for one in self._open.values()),
        ]
        # Those of the same times stay in the order in which they were filled: the newest has what was last noted.
        return sorted(slices, key=lambda one: (one.kind, one.owner, one.first, one.last))

    def restore(self, slices: Iterable[Slice], time: float) -> None:
        """
        Take over the slices of a snapshot that was made after `advance` with *time*.

        Raises:
            Corrupt: a slice is not one.
        """
        self._period = _next_period(time)
        for one in slices:
            try:
                values = dict(one.items())
                self._greatest[one.kind] = max(self._greatest[one.kind], *values)
                if one.is_open:
                    self._open[one.kind, one.owner] = _Open(one.kind, one.owner, one.first, one.last, values)
                else:
                    self._keep(one, list(values))
            except (StructError, LookupError, ValueError) as error:
                msg = f"a slice of {one.count} entries of the kind {one.kind!r} is unreadable: {error!r}"
                raise Corrupt(msg) from error
            self._counted(one.kind, one.owner, one.count)

    def _seal(self, one: _Open) -> None:
        del self._open[one.kind, one.owner]
        names = sorted(one.values)  # UTF-8 sorts like the text
        self._keep(one.sealed(names), names)

    def _keep(self, one: Slice, names: list[str]) -> None:
        """Keep a sealed slice, whose *names* are in its order."""
        self._number += 1
        self._sealed[self._number] = one
        # `_hash`, without a call for each.
        hashes = map(hash, zip(repeat(one.owner), names)) if one.owner else map(hash, names)
        self._indexes[one.kind].add(self._number, hashes, self._sealed)

    def _drop(self, numbers: list[int]) -> None:
        dropped = [self._sealed.pop(number) for number in numbers]
        for one in dropped:
            self._counted(one.kind, one.owner, -one.count)
        for kind in {one.kind for one in dropped}:
            self._indexes[kind].drop(self._sealed)
        for kind in {one.kind for one in dropped if one.greatest == self._greatest[one.kind]}:
            sealed = (one.greatest for one in self._sealed.values() if one.kind == kind)
            being_filled = (max(one.values) for one in self._open.values() if one.kind == kind)
            self._greatest[kind] = max(chain(sealed, being_filled), default="")

    def _counted(self, kind: str, owner: str, by: int) -> None:
        self.count += by
        if kind == KEY:
            self.keys[owner] = self.keys.get(owner, 0) + by
            if not self.keys[owner]:
                del self.keys[owner]


def _next_period(time: float) -> float:
    return time - time % 60.0 + 60.0


def _hash(name: str, owner: str) -> int:
    """Return a hash of 64 bits that nobody outside this process can foresee."""
    return hash((owner, name)) if owner else hash(name)


_ENTRY_BITS, _NUMBER_BITS = 13, 27
_PLACE_BITS = _ENTRY_BITS + _NUMBER_BITS
_ENTRY, _PLACE = (1 << _ENTRY_BITS) - 1, (1 << _PLACE_BITS) - 1
_TAG = (1 << 64) - (1 << _PLACE_BITS)
"""The highest 24 of the 64 bits of a hash are its tag."""
_FAN, _LEVELS = 4, 10
_MERGED_MOST = 131_072


class _Index:
    """
    Runs of sorted numbers; each has 24 bits of a hash, 27 of the number of a slice, and 13 of the entry in it.

    Each slice makes a run, and four runs of one level are merged into one of the next, so that many small slices make
    few runs. A run of more than a quarter of `_MERGED_MOST` entries is not merged any more: no merge takes longer than
    about 30 ms.
    """

    def __init__(self) -> None:
        self._levels: list[list[tuple[array[int], tuple[int, ...]]]] = [[] for _ in range(_LEVELS)]

    def find(self, hashed: int) -> Iterator[int]:
        """Yield the places of entries that may have this hash: number of the slice, shifted, and entry in it."""
        least = hashed & _TAG
        for level in self._levels:
            for slots, _ in level:
                at = bisect_left(slots, least)
                while at < len(slots) and slots[at] & _TAG == least:
                    yield slots[at] & _PLACE
                    at += 1

    def add(self, number: int, hashes: Iterable[int], kept: Container[int]) -> None:
        """Add the entries of slice *number*; those of slices that are not in *kept* may go."""
        place = number << _ENTRY_BITS
        made = [hashed & _TAG | entry for entry, hashed in enumerate(hashes, place)]
        self._levels[0].append((array("Q", sorted(made)), (number,)))
        for level, above in pairwise(self._levels):
            small = [run for run in level if len(run[0]) <= _MERGED_MOST // _FAN]
            if len(small) < _FAN:
                return
            numbers = tuple(one for _, some in small for one in some)
            live = {one for one in numbers if one in kept}
            slots: Iterable[int] = chain.from_iterable(some for some, _ in small)
            if len(live) < len(numbers):
                slots = (slot for slot in slots if (slot & _PLACE) >> _ENTRY_BITS in live)
            above.append((array("Q", sorted(slots)), tuple(sorted(live))))
            level[:] = [run for run in level if len(run[0]) > _MERGED_MOST // _FAN]

    def drop(self, kept: Container[int]) -> None:
        """Drop the runs in which no slice is left that is in *kept*."""
        for level in self._levels:
            level[:] = [run for run in level if any(number in kept for number in run[1])]
