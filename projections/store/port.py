"""
The port of the read model: every event, and the last state of everything there is or was, to be listed and searched.

Rows, events and position are written in one transaction: what a reader sees follows from the journal up to `position`,
whenever the process dies. A store holds nothing that the journal does not, and may be deleted at any moment.
`store_sqlite` keeps it in a file, `store_memory` in memory, under one contract.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from events.base import START, Position
from events.errors import Refused, Unavailable, shown
from projections.source import GENESIS
from projections.world import FOLD_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

INDEX_BITS = 20
"""A place is one integer, sequence · 2^20 + index; a commit of 64 MiB, the most NATS takes, has fewer events."""
PLACE_MAX = 2**63 - 1
MOST_LISTED = 10_000
PAGE_BYTES = 8 * 1024 * 1024

STORE_BUSY = "store_busy"
"""Reason of an `Unavailable` that passes: the disk is full, the file is locked."""
ANOTHER_WRITER = "another_writer"
"""Reason of an `Unavailable` that says that the store is not where its projector left it."""


class Kind(NamedTuple):
    """Where things of one kind are kept, and which fields of their state give id, name and origin."""

    table: str
    id: str
    name: str
    created: str


KINDS = {
    "task": Kind("tasks", "task_id", "task_name", "submitted"),
    "container": Kind("containers", "container_id", "agent_id", "created"),
    "service": Kind("services", "service_id", "service_name", "registered"),
    "worker": Kind("workers", "worker_id", "", "registered"),
    "node": Kind("nodes", "node_id", "", "registered"),
    "pool": Kind("pools", "pool_id", "", "defined"),
    "session": Kind("sessions", "session_id", "", "bound"),
}


class StoreUnfit(Unavailable):
    """The store is damaged or not of this journal: it must be built anew"""


class Mark(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    How far a store has taken the journal in.

    `chain` is the journal's hash up to there, `time` the last commit's, `unfoldable` the first event that the release
    which wrote the rows could not fold.
    """

    position: Position = START
    chain: str = GENESIS.hex()
    fold_version: int = FOLD_VERSION
    generation: int = 0
    time: float = 0.0
    unfoldable: str = ""


class EventRow(NamedTuple):
    """One event as it is kept; `body` holds the CloudEvent's bytes as they stand in the journal."""

    place: int
    type: str
    kind: str
    subject: str
    time: str
    tenant: str
    actor: str
    commandid: str
    body: bytes


class StateRow(NamedTuple):
    """One thing as it is kept; `created` is the place of the event that made it, `state` its folded state as JSON."""

    created: int
    id: str
    status: str
    tenant: str
    name: str
    ended_at: float | None
    state: str


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What lies between the positions *before* and *after*: all events, and the last state of what they touched."""

    before: Position
    after: Mark
    events: list[EventRow]
    states: dict[str, dict[str, Any]]
    """By kind and id; the states are those of the reducers."""


class Thing(NamedTuple):
    """One thing as it is read: the cursor to list on from, and its state (a `projections.task.Task`, …) as JSON."""

    cursor: Position
    id: str
    state: str


class StoredEvent(NamedTuple):
    """One event as it is read: where it stands, and the CloudEvent's bytes."""

    position: Position
    body: bytes


class Things(NamedTuple):
    """Part of a list of things; `more` when a limit cut it off."""

    items: list[Thing]
    more: bool


class StoredEvents(NamedTuple):
    """Part of a list of events; `more` when a limit cut it off."""

    items: list[StoredEvent]
    more: bool


class Store(Protocol):
    """Written by one projector, read by anyone; `position` never runs ahead of what readers see."""

    def position(self) -> Mark:
        """Say how far the journal is taken in."""
        ...

    async def write(self, batch: Batch) -> None:
        """
        Keep a batch, all of it or nothing; one that was kept already is left as it is.

        Raises:
            Unavailable: it cannot be written now; the same batch may be tried again when the reason is `store_busy`.
            StoreUnfit: it never will be: this store must be built anew.
        """
        ...

    async def wait_for(self, position: Position, timeout_s: float) -> None:
        """
        Return when *position* is taken in.

        Raises:
            Unavailable: it is not within *timeout_s*; reason `behind`.
        """
        ...

    async def get(self, kind: str, entity_id: str) -> Thing | None:
        """
        Read one thing, ended or not; None when there never was one.

        Raises:
            Refused: *kind* is none of `KINDS`.
            Unavailable: the store cannot be read now.
        """
        ...

    async def list(
        self,
        kind: str,
        *,
        status: str | None = None,
        tenant: str | None = None,
        name: str | None = None,
        limit: int = 100,
        before: Position | None = None,
        limit_bytes: int = PAGE_BYTES,
    ) -> Things:
        """
        List things, newest first, from below the cursor *before*; see `get` for errors.

        At most *limit* (up to 10,000), and no further one once they have *limit_bytes*.
        """
        ...

    async def events(
        self,
        *,
        subject: str | None = None,
        type_prefix: str | None = None,
        after: Position = START,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
    ) -> StoredEvents:
        """
        List events in order, from behind *after*; limits as for `list`.

        *type_prefix* is a kind (`task`) or the beginning of a type with its kind in full (`task.attempt`).
        """
        ...

    async def check(self) -> tuple[str, ...]:
        """Look for damage, which may take long; give what was found, nothing for a sound store."""
        ...


class Waits:
    """How far a store is, and those who wait for it to be further; what implementations share."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._moved = asyncio.Event()

    def position(self) -> Mark:
        """See `Store.position`."""
        return self._mark

    def move(self, mark: Mark) -> None:
        """Take *mark* for the position, and wake who waits."""
        self._mark = mark
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait_for(self, position: Position, timeout_s: float) -> None:
        """See `Store.wait_for`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._mark.position < position:
                    await self._moved.wait()
        if self._mark.position < position:
            msg = f"position {position} is not taken in within {timeout_s:g} s; the store is at {self._mark.position}"
            raise Unavailable(msg, reason="behind", retry_after_s=1.0)


def place_of(position: Position) -> int:
    """
    Write a position as one integer.

    Raises:
        Refused: no journal has such a position.
    """
    place = (position.sequence << INDEX_BITS) + position.index
    if not 0 <= position.index < 1 << INDEX_BITS or not 0 <= place <= PLACE_MAX:
        msg = f"position {shown(position)} is out of range: no journal has one like it"
        raise Refused(msg, reason="bad_position")
    return place


def position_of(place: int) -> Position:
    """Read what `place_of` wrote."""
    return Position(place >> INDEX_BITS, place & (1 << INDEX_BITS) - 1)


def kind_of(kind: str) -> Kind:
    """
    Look up a kind.

    Raises:
        Refused: there is no such kind.
    """
    found = KINDS.get(kind)
    if found is None:
        msg = f"kind {shown(kind)} is not known: use one of {', '.join(KINDS)}"
        raise Refused(msg, reason="bad_kind")
    return found


def checked_limit(limit: int) -> int:
    """
    Give *limit* back when so many may be listed at once.

    Raises:
        Refused: it is not 1 to 10,000.
    """
    if not 1 <= limit <= MOST_LISTED:
        msg = f"limit {shown(limit)} is out of range: use 1 to {MOST_LISTED}"
        raise Refused(msg, reason="bad_number")
    return limit


def state_rows(kind: str, states: Iterable[Any]) -> list[StateRow]:
    """Make rows of states: what they are searched by, and the whole as JSON."""
    where = KINDS[kind]
    return [
        StateRow(
            created=place_of(getattr(state, where.created)),
            id=getattr(state, where.id),
            status=_status(kind, state),
            tenant=getattr(state, "tenant", ""),
            name=getattr(state, where.name) if where.name else "",
            ended_at=getattr(state, "ended_at", None),
            state=_encode(state).decode(),
        )
        for state in states
    ]


def _status(kind: str, state: Any) -> str:
    if kind == "session":
        return "closed" if state.is_ended else "bound"
    return "" if kind == "pool" else str(state.status.value)


_encode = msgspec.json.Encoder().encode
