"""
The journal as the writer sees it: the port, and the rules by which a slot becomes ours.

The journal is a sequence of slots 1, 2, 3 … on one stream. A slot holds a *commit* (the events of one turn) or a
*claim* (the start of a writer's reign). Two fences, both checked by the server as it stores:

- a claim names the claim before it, so that of two claimants one must see the other;
- commit *n* names slot *n-1* as the last of the stream, and its writer's claim as the last claim. So a commit has one
place
  it can go to, and after another's claim there is none.

The network decides nothing. A request without answer may be stored, may not be, or may be stored later; all that is
certain comes from the journal itself:

| what came back                  | what it means                                | what is done                       |
| ------------------------------- | -------------------------------------------- | ---------------------------------- |
| stored, or duplicate, at slot n | ours                                         | done                               |
| time-out, 503, 10163, 10164, …  | not decided                                  | the same bytes again               |
| 10071: wrong expectation        | slot n is taken, or another has claimed      | read slot n from the stream leader |
| … slot n holds our message id   | ours, its acknowledgement was lost           | done                               |
| … slot n holds another's        | another reigns                               | `Deposed`                          |
| … slot n is empty               | not decided, if the last claim is still ours | the same bytes again, or `Deposed` |
| … the journal ends before n-1   | it went backwards                            | `Corrupt`                          |

`SlotWriter` is this table, for every implementation. It knows no NATS, and no time but `asyncio.sleep`. It must never
have two commits in flight: a prediction of slot n+1 would come true by accident after a foreign write to slot n.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, assert_never

import msgspec
import structlog

from coordinator.ids import Ids, TimeOrderedIds
from events.errors import CoordinationError, Corrupt, Unavailable
from projections.source import Bounds, CommitSource, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0
LOOK_EVERY = 8
"""After so many attempts without a decision, look whether the journal is still what it was."""

DEPOSED = "deposed"
"""Reason that every `Deposed` carries."""
NO_JOURNAL = "no_journal"
"""Reason of an `Unavailable` that says that there is no journal at all."""

log = structlog.get_logger(__name__)


class Epoch(NamedTuple):
    """A writer's reign: the generation, raised by a restore from a backup, and the sequence of the claim."""

    generation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.sequence}"


class Deposed(Unavailable):
    """Another writer has claimed the journal; this one must forget what it folded and stand by"""


class Journal(CommitSource, Protocol):
    """Read the journal, claim it, and append to it."""

    async def claim(self, body: bytes) -> int:
        """
        Begin a reign, and give the sequence of the claim; all that stands before it is final.

        Waits as long as it takes: whoever calls sets the time-out. A claim that another's came before is made again
        after it.

        Raises:
            Corrupt: the journal went backwards.
            Refused: the server will never take it, such as a body above its limit.
        """
        ...

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        """
        Append *body* in slot *sequence*; returns when it is there and ours.

        Waits as long as it takes: whoever calls sets the time-out. A commit given up is not decided; it may yet be
        stored.

        Args:
            sequence: the slot, one above the last of the journal.
            epoch: the writer's own.
            chain_before: hash of all before this slot (`chain_after` of the slot before), 32 bytes.
            body: the encoded events.

        Raises:
            Deposed: the slot, or the right to write, is another's.
            Corrupt: the journal ends before slot *sequence - 1*.
            Refused: the server will never take it, such as a body above its limit.
        """
        ...


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record on its way into the journal; the same draft is sent until its fate is known."""

    kind: Literal["commit", "claim"]
    message_id: str
    body: bytes
    last_claim: int
    """Sequence that the last claim must have, 0 for none."""
    last: int | None = None
    """Sequence that the stream must end with; commits only."""
    chain: str | None = None


class Stored(NamedTuple):
    """The draft is in the journal; *duplicate* when the server knew its message id already."""

    sequence: int
    duplicate: bool = False


class WrongLast(NamedTuple):
    """The draft was not stored now: an expectation was wrong. An earlier attempt may have been stored."""


class Undecided(NamedTuple):
    """Nobody knows: stored, not stored, or stored later."""

    reason: str


Outcome = Stored | WrongLast | Undecided


class Slots(Protocol):
    """What an implementation does for `SlotWriter`; reads come from the stream leader, or raise `Unavailable`."""

    async def publish_once(self, draft: Draft) -> Outcome:
        """Send *draft* once, and say what came back."""
        ...

    async def slot(self, sequence: int) -> Record | None:
        """Read one slot; None when it holds nothing."""
        ...

    async def last_claim(self) -> Record | None:
        """Read the last claim; None when there is none."""
        ...

    async def bounds(self) -> Bounds:
        """Say which slots there are."""
        ...


class SlotWriter:
    """
    Bring drafts into the journal by the table above.

    A replica cut off from the others still believes for some seconds that it leads, and shows an older journal: what
    only an older journal would explain is an error after *doubt_s* of seeing it (0 for a single replica).
    """

    def __init__(self, slots: Slots, *, doubt_s: float = 0.0, ids: Ids | None = None) -> None:
        self._slots = slots
        self._doubt_s = doubt_s
        self._ids: Ids = ids if ids is not None else TimeOrderedIds()
        self._writing = False

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        """See `Journal.commit`."""
        draft = Draft(
            kind="commit",
            message_id=f"{epoch}.{sequence}",
            body=body,
            last_claim=epoch.sequence,
            last=sequence - 1,
            chain=chain_before.hex(),
        )
        if self._writing:
            msg = f"commit {draft.message_id} while another is in flight"
            raise RuntimeError(msg)
        self._writing = True
        try:
            await self._commit(sequence, draft)
        finally:
            self._writing = False

    async def claim(self, body: bytes) -> int:
        """See `Journal.claim`."""
        # The bodies of two claimants may be equal; only an id of this very call tells whose claim was stored.
        call = self._ids.new("claim")
        before: int | None = None
        waited_s = 0.0
        for attempt, pause_s in enumerate(_pauses(), 1):
            try:
                if before is None:
                    before = _sequence_of(await self._slots.last_claim())
                draft = Draft(kind="claim", message_id=f"{call}.{before}", body=body, last_claim=before)
                outcome = await self._slots.publish_once(draft)
                match outcome:
                    case Stored(sequence=mine):
                        return mine
                    case WrongLast():
                        last = await self._slots.last_claim()
                        if last is not None and last.message_id == draft.message_id:
                            return last.sequence
                        # A replica that lags shows an earlier claim: believed only when it goes on saying so.
                        found = _sequence_of(last)
                        if found > before or (found < before and waited_s >= self._doubt_s):
                            before = _later_claim(before, last)
                            continue
                    case Undecided(reason=reason):
                        _log_undecided(draft, attempt, reason)
                    case _:
                        assert_never(outcome)
            except Unavailable as error:
                log.warning("claim_waits", attempt=attempt, reason=error.message)
            await asyncio.sleep(pause_s)
            waited_s += pause_s
        raise AssertionError

    async def _commit(self, sequence: int, draft: Draft) -> None:
        waited_s = 0.0
        for attempt, pause_s in enumerate(_pauses(), 1):
            certain = waited_s >= self._doubt_s
            outcome = await self._slots.publish_once(draft)
            match outcome:
                case Stored(sequence=at):
                    if at != sequence:
                        msg = f"commit {draft.message_id} is in slot {at}: the journal is not the one it was decided on"
                        raise Corrupt(msg)
                    return
                case WrongLast():
                    if await self._is_ours(sequence, draft, certain=certain):
                        return
                case Undecided(reason=reason):
                    _log_undecided(draft, attempt, reason)
                    if attempt % LOOK_EVERY == 0 and await self._is_ours(sequence, draft, certain=certain):
                        return
                case _:
                    assert_never(outcome)
            await asyncio.sleep(pause_s)
            waited_s += pause_s

    async def _is_ours(self, sequence: int, draft: Draft, *, certain: bool) -> bool:
        """Look into the slot; False means not decided."""
        try:
            record = await self._slots.slot(sequence)
            if record is None:
                await self._check_empty(sequence, draft, certain=certain)
                return False
        except Deposed:
            raise
        except Unavailable as error:
            if error.reason == NO_JOURNAL:
                _raise_if(
                    Corrupt(f"the journal is gone; it held {sequence - 1} slots: {error.message}"), certain=certain
                )
            log.warning("slot_not_readable", sequence=sequence, reason=error.message)
            return False
        if record.message_id != draft.message_id or record.body != draft.body:
            msg = f"slot {sequence} holds {record.kind} {record.message_id}, not our {draft.message_id}: another writes"
            raise Deposed(msg, reason=DEPOSED)
        log.info("commit_found", sequence=sequence)
        return True

    async def _check_empty(self, sequence: int, draft: Draft, *, certain: bool) -> None:
        """Slot *sequence* was seen empty: make sure that this commit may still go there."""
        bounds = await self._slots.bounds()
        if bounds.last < sequence - 1:
            msg = (
                f"the journal ends at {bounds.last}, but {sequence - 1} was there when commit {sequence} was decided: "
                "it went backwards, lost its tail, or was recreated"
            )
            _raise_if(Corrupt(msg), certain=certain)
        elif bounds.last >= sequence:
            if await self._slots.slot(sequence) is None:
                msg = f"slot {sequence} is empty, but the journal holds {bounds.first} to {bounds.last}: it was removed"
                _raise_if(Corrupt(msg), certain=certain)
        else:
            claim = await self._slots.last_claim()
            at = _sequence_of(claim)
            if claim is None or at != draft.last_claim:
                seen = f"the last one is {claim.message_id} in slot {at}" if claim else "there is none"
                msg = f"commit {draft.message_id} needs the claim in slot {draft.last_claim}, but {seen}"
                _raise_if(Deposed(msg, reason=DEPOSED), certain=certain or at > draft.last_claim)


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _raise_if(error: CoordinationError, *, certain: bool) -> None:
    if certain:
        raise error
    log.warning("journal_in_doubt", reason=error.message)


def _sequence_of(claim: Record | None) -> int:
    return 0 if claim is None else claim.sequence


def _later_claim(before: int, last: Record | None) -> int:
    sequence = _sequence_of(last)
    if sequence < before:
        msg = f"the last claim was in slot {before} and is now in slot {sequence}: the journal went backwards"
        raise Corrupt(msg)
    log.info("claim_overtaken", by=last.message_id if last else None, sequence=sequence)
    return sequence


def _log_undecided(draft: Draft, attempt: int, reason: str) -> None:
    if attempt.bit_count() == 1:  # 1, 2, 4, 8 …: an outage must not flood the log
        log.warning("slot_undecided", kind=draft.kind, message_id=draft.message_id, attempt=attempt, reason=reason)
