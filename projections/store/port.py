"""
The port of the read model: every event, and the last state of every entity, ended or not, to list and search.

Rows, events and position are written in one transaction: what a reader sees follows from the journal up to `position`,
whenever the process dies. A store holds nothing that is not in the journal, and may be deleted at any time.
`store.sqlite` keeps it in a file, `store.memory` in memory, under one contract.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from events.base import START, Position
from events.errors import Refused, Unavailable, shown
from projections.source import GENESIS
from projections.upgrade import FOLD_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

INDEX_BITS = 20
"""A place is one integer, sequence · 2^20 + index; a commit of 64 MiB, the limit of NATS, has fewer events."""
PLACE_MAX = 2**63 - 1
MOST_LISTED = 10_000
PAGE_BYTES = 8 * 1024 * 1024

STORE_BUSY = "store_busy"
"""Reason of a temporary `Unavailable`: the disk is full, the file is locked."""
ANOTHER_WRITER = "another_writer"
"""Reason of an `Unavailable` when the position of the store is not the one that its projector wrote."""


class Kind(NamedTuple):
    """
    The table of one kind of entity, and the fields of its state with id, name and position of creation.

    `summed` are the fields whose sum over all that ever existed is counted.
    """

    table: str
    id: str
    name: str
    created: str
    summed: tuple[str, ...] = ()


KINDS = {
    "task": Kind("tasks", "task_id", "task_name", "submitted"),
    "container": Kind("containers", "container_id", "agent_id", "created", ("starts", "failures")),
    "service": Kind("services", "service_id", "service_name", "registered"),
    "worker": Kind("workers", "worker_id", "", "registered"),
    "node": Kind("nodes", "node_id", "", "registered"),
    "pool": Kind("pools", "pool_id", "", "defined"),
    "session": Kind("sessions", "session_id", "", "bound"),
    "schedule": Kind("schedules", "schedule_id", "", "defined"),
}


class StoreUnfit(Unavailable):
    """The store is damaged or does not belong to this journal: it must be rebuilt"""


class Mark(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    The position up to which a store contains the journal.

    `chain` is the hash of the journal up to there, `time` the last commit time, `unfoldable` the first event that the
    release which wrote the rows could not fold.
    """

    position: Position = START
    chain: str = GENESIS.hex()
    fold_version: int = FOLD_VERSION
    generation: int = 0
    time: float = 0.0
    unfoldable: str = ""


class EventRow(NamedTuple):
    """One stored event; `body` holds the bytes of the CloudEvent as in the journal."""

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
    """One stored entity; `created` is the place of the event that created it, `state` its folded state as JSON."""

    created: int
    id: str
    status: str
    tenant: str
    name: str
    ended_at: float | None
    state: str


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """All events between the positions *before* and *after*, and the last state of each entity that they changed."""

    before: Position
    after: Mark
    events: list[EventRow]
    states: dict[str, dict[str, Any]]
    """By kind and id; the states are the values of the reducers."""


class Thing(NamedTuple):
    """One entity as read: the cursor for the next page, and its state (a `projections.task.Task`, …) as JSON."""

    cursor: Position
    id: str
    state: str


class StoredEvent(NamedTuple):
    """One event as read: its position, and the bytes of the CloudEvent."""

    position: Position
    body: bytes


class Things(NamedTuple):
    """One page of a list of entities; `more` is true when a limit cut it off."""

    items: list[Thing]
    more: bool


class StoredEvents(NamedTuple):
    """One page of a list of events; `more` is true when a limit cut it off."""

    items: list[StoredEvent]
    more: bool


class Counts(msgspec.Struct, frozen=True, gc=False):
    """How many entities of a kind ever existed, by their last status, and the sums of the fields `Kind.summed`."""

    by_status: dict[str, int]
    sums: dict[str, int]


class Store(Protocol):
    """Written by one projector, read by any number of readers; `position` is never ahead of what readers see."""

    def position(self) -> Mark:
        """Return the mark up to which the store contains the journal."""
        ...

    def begins(self) -> Position:
        """Return the position from which on every event is kept; what ended before it may be gone, too."""
        ...

    async def write(self, batch: Batch) -> None:
        """
        Write a batch, all of it or nothing; a batch that was written already changes nothing.

        Raises:
            Unavailable: it cannot be written now; the same batch may be tried again when the reason is `store_busy`.
            StoreUnfit: it can never be written: this store must be rebuilt.
        """
        ...

    async def wait_for(self, position: Position, timeout_s: float) -> None:
        """
        Wait until the store contains *position*.

        Raises:
            Unavailable: the store does not reach it within *timeout_s*; reason `behind`.
        """
        ...

    async def get(self, kind: str, entity_id: str) -> Thing | None:
        """
        Return one entity, ended or not; None when it never existed.

        Raises:
            Refused: *kind* is not one of `KINDS`.
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
        error_type: str | None = None,
        ended_since: float | None = None,
        limit: int = 100,
        before: Position | None = None,
        limit_bytes: int = PAGE_BYTES,
    ) -> Things:
        """
        List entities, newest first, created before the cursor *before*; see `get` for errors.

        *error_type* is the `error_type` of the state, or the last part of it, after a dot; *ended_since* is in seconds.
        A page has at most *limit* entities (up to 10,000) and ends with the one that reaches *limit_bytes*.
        """
        ...

    async def count(self, kind: str) -> Counts:
        """Count all entities of a kind that ever existed; reads every row of the kind. See `get` for errors."""
        ...

    async def events(
        self,
        *,
        subject: str | None = None,
        type_prefix: str | None = None,
        after: Position = START,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
        newest_first: bool = False,
    ) -> StoredEvents:
        """
        List events in order or *newest_first*, after the position *after*; limits as for `list`.

        *type_prefix* is a kind (`task`), or a kind with the beginning of a type (`task.attempt`).
        """
        ...

    async def check(self) -> tuple[str, ...]:
        """Check the store for damage, which may take long; return the findings, none for an intact store."""
        ...


class Waits:
    """The position of a store and the wait for it; shared by the implementations."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._moved = asyncio.Event()

    def position(self) -> Mark:
        """See `Store.position`."""
        return self._mark

    def move(self, mark: Mark) -> None:
        """Set the position and wake the waiters."""
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
            msg = (
                f"position {position} is not in the store after {timeout_s:g} s: "
                f"the store is at {self._mark.position}; wait longer or try again"
            )
            raise Unavailable(msg, reason="behind", retry_after_s=1.0)


def place_of(position: Position) -> int:
    """
    Encode a position as one integer.

    Raises:
        Refused: no journal can have this position.
    """
    place = (position.sequence << INDEX_BITS) + position.index
    if not 0 <= position.index < 1 << INDEX_BITS or not 0 <= place <= PLACE_MAX:
        msg = (
            f"position {shown(position)} is out of range: use a sequence of 0 to {PLACE_MAX >> INDEX_BITS} "
            f"and an index of 0 to {(1 << INDEX_BITS) - 1}"
        )
        raise Refused(msg, reason="bad_position")
    return place


def position_of(place: int) -> Position:
    """Decode an integer of `place_of`."""
    return Position(place >> INDEX_BITS, place & (1 << INDEX_BITS) - 1)


def kind_of(kind: str) -> Kind:
    """
    Return the description of a kind.

    Raises:
        Refused: the kind is unknown.
    """
    found = KINDS.get(kind)
    if found is None:
        msg = f"kind {shown(kind)} is not known: use one of {', '.join(KINDS)}"
        raise Refused(msg, reason="bad_kind")
    return found


def checked_limit(limit: int) -> int:
    """
    Return *limit* if it is valid for one page.

    Raises:
        Refused: it is not 1 to 10,000.
    """
    if not 1 <= limit <= MOST_LISTED:
        msg = f"limit {shown(limit)} is out of range: use 1 to {MOST_LISTED}"
        raise Refused(msg, reason="bad_number")
    return limit


def state_rows(kind: str, states: Iterable[Any]) -> list[StateRow]:
    """Return the rows of states: the columns to search by, and the whole state as JSON."""
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
