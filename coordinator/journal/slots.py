"""
The journal as the writer sees it: the port, and the rules that decide whether a slot is ours.

The journal is a sequence of slots 1, 2, 3 … on one stream. A slot holds a *commit* (the events of one turn) or a
*claim* (the start of a writer's reign). Two fences, both checked by the server as it stores:

- a claim names the claim before it, so of two concurrent claimants only one succeeds;
- commit *n* names slot *n-1* as the last of the stream, and its writer's claim as the last claim. So a commit fits into
  one slot only, and into none after another writer's claim.

The network decides nothing. A request without an answer may be stored now, later or never; only the journal itself is
certain:

| answer                          | meaning                             | what is done                       |
| ------------------------------- | ----------------------------------- | ---------------------------------- |
| stored at slot n                | ours                                | done                               |
| duplicate of what is at slot n  | our message id was stored before    | read slot n from the stream leader |
| timeout, 503, 10163, 10164, …   | undecided                           | send the same bytes again          |
| 10071: wrong expectation        | slot n is taken, or another claimed | read slot n from the stream leader |
| … slot n holds our record       | ours, the acknowledgement was lost  | done                               |
| … slot n holds another record   | another writer leads                | `Deposed`                          |
| … slot n is empty               | undecided, if our claim is the last | same bytes again, or `Deposed`     |
| … the journal ends before n-1   | the journal lost records            | `Corrupt`                          |

`SlotWriter` implements this table for every transport. It knows nothing of NATS, and uses no clock, only
`asyncio.sleep`. It must never have two commits in flight: after a foreign write to slot n, the expectation of the
commit for slot n+1 would hold by accident.
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
"""After this many undecided attempts the writer reads the slot, to notice that the journal has changed."""

DEPOSED = "deposed"
"""The reason code of every `Deposed`."""
NO_JOURNAL = "no_journal"
"""The reason code of an `Unavailable` raised because the journal's stream does not exist."""

log = structlog.get_logger(__name__)


class Epoch(NamedTuple):
    """A writer's reign: the generation, which a restore from a backup raises, and the sequence of the claim."""

    generation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.sequence}"


class Deposed(Unavailable):
    """Another writer has claimed the journal; this one must discard its world and go to standby"""


class Journal(CommitSource, Protocol):
    """Read the journal, claim it, and append to it."""

    async def claim(self, body: bytes) -> int:
        """
        Begin a reign and return the sequence of the claim; all slots before it are final.

        Waits without limit: the caller sets the timeout. When another claim was stored first, this one is tried again
        after it.

        Raises:
            Corrupt: the journal lost records.
            Refused: the server will never accept it, for example because the body is above its limit.
        """
        ...

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        """
        Append *body* in slot *sequence*; return when it is stored there.

        Waits without limit: the caller sets the timeout. A commit whose call was cancelled is undecided: it may still
        be stored.

        Args:
            sequence: the slot, one above the last of the journal.
            epoch: the epoch of this writer.
            chain_before: hash of all before this slot (`chain_after` of the slot before), 32 bytes.
            body: the encoded events.

        Raises:
            Deposed: another writer has the slot, or the last claim.
            Corrupt: the journal ends before slot *sequence - 1*.
            Refused: the server will never accept it, for example because the body is above its limit.
        """
        ...


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record to be stored in the journal; the same draft is sent until the outcome is known."""

    kind: Literal["commit", "claim"]
    message_id: str
    body: bytes
    last_claim: int
    """The sequence that the last claim must have; 0: there must be none."""
    last: int | None = None
    """The sequence that the stream must end with; only for commits."""
    chain: str | None = None


class Stored(NamedTuple):
    """The draft is in the journal; *duplicate*: the server already knew its message id."""

    sequence: int
    duplicate: bool = False


class WrongLast(NamedTuple):
    """This attempt was not stored because an expectation was wrong. An earlier attempt may have been stored."""


class Undecided(NamedTuple):
    """It is unknown whether the draft was stored, was not stored, or will be stored later."""

    reason: str


Outcome = Stored | WrongLast | Undecided


class Slots(Protocol):
    """What `SlotWriter` needs of an implementation; reads ask the stream leader, or raise `Unavailable`."""

    async def publish_once(self, draft: Draft) -> Outcome:
        """Send *draft* once and return the outcome."""
        ...

    async def slot(self, sequence: int) -> Record | None:
        """Read one slot; None if it is empty."""
        ...

    async def last_claim(self) -> Record | None:
        """Read the last claim; None if there is none."""
        ...

    async def bounds(self) -> Bounds:
        """Return the first and the last slot."""
        ...


class SlotWriter:
    """
    Store drafts in the journal by the table above.

    A replica cut off from the others believes for some seconds that it leads, and shows an older journal. So a journal
    that looks older is an error only after it has looked so for *doubt_s* (0 for a single replica).
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
        # The bodies of two claims may be equal; only an id unique to this call tells which one was stored.
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
                        # A replica that lags shows an earlier claim: accept it only after doubt_s.
                        found = _sequence_of(last)
                        if found > before or (found < before and waited_s >= self._doubt_s):
                            before = _later_claim(before, last)
                            continue
                    case Undecided(reason=reason):
                        _log_undecided(draft, attempt, reason)
                    case _:
                        assert_never(outcome)
            except Unavailable as error:
                log.warning("claim_delayed", attempt=attempt, reason=error.message)
            await asyncio.sleep(pause_s)
            waited_s += pause_s
        raise AssertionError

    async def _commit(self, sequence: int, draft: Draft) -> None:
        waited_s = 0.0
        for attempt, pause_s in enumerate(_pauses(), 1):
            certain = waited_s >= self._doubt_s
            outcome = await self._slots.publish_once(draft)
            match outcome:
                case Stored(sequence=at, duplicate=duplicate):
                    if at != sequence:
                        msg = (
                            f"commit {draft.message_id} was stored in slot {at}, but slot {sequence} was expected: "
                            "this is not the journal that the writer folded"
                        )
                        raise Corrupt(msg)
                    # An equal id is no proof: whoever wrongly believes that our epoch is its own makes the same ids.
                    if not duplicate or await self._is_ours(sequence, draft, certain=certain):
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
        """Return whether the slot holds our draft; False means undecided."""
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
                    Corrupt(f"the journal does not exist any more; it had {sequence - 1} slots: {error.message}"),
                    certain=certain,
                )
            log.warning("slot_read_failed", sequence=sequence, reason=error.message)
            return False
        if record.message_id != draft.message_id or record.body != draft.body:
            msg = (
                f"slot {sequence} holds {record.kind} {record.message_id}, not our {draft.message_id}: another writer "
                "leads"
            )
            raise Deposed(msg, reason=DEPOSED)
        log.info("commit_found", sequence=sequence)
        return True

    async def _check_empty(self, sequence: int, draft: Draft, *, certain: bool) -> None:
        """Check that this commit may still be stored in slot *sequence*, which was empty when read."""
        bounds = await self._slots.bounds()
        if bounds.last < sequence - 1:
            msg = (
                f"the journal ends at {bounds.last}, but slot {sequence - 1} was there when commit {sequence} was "
                "decided: it went backwards, lost its tail, or was recreated"
            )
            _raise_if(Corrupt(msg), certain=certain)
        elif bounds.last >= sequence:
            if await self._slots.slot(sequence) is None:
                msg = (
                    f"slot {sequence} is empty, but the journal has slots {bounds.first} to {bounds.last}: the record "
                    "was removed"
                )
                _raise_if(Corrupt(msg), certain=certain)
        else:
            claim = await self._slots.last_claim()
            at = _sequence_of(claim)
            if claim is None or at != draft.last_claim:
                seen = f"the last one is {claim.message_id} in slot {at}" if claim else "there is none"
                msg = f"commit {draft.message_id} needs the claim in slot {draft.last_claim} to be the last, but {seen}"
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
        msg = (
            f"the last claim was in slot {before} and is now in slot {sequence}: the journal went backwards (an older "
            "copy, or its tail was lost)"
        )
        raise Corrupt(msg)
    log.info("claim_overtaken", by=last.message_id if last else None, sequence=sequence)
    return sequence


def _log_undecided(draft: Draft, attempt: int, reason: str) -> None:
    if attempt.bit_count() == 1:  # 1, 2, 4, 8 …: an outage must not flood the log
        log.warning("slot_undecided", kind=draft.kind, message_id=draft.message_id, attempt=attempt, reason=reason)
