"""
The port to read and follow the journal, and the hash chain of its records.

A record is one message of the journal: a commit, or a claim of the right to write. Every reader checks what it reads:
sequences have no gap, and the `Chain` header of each commit equals the hash of the journal before it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec

from events.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GENESIS = bytes(32)
_is_hash = re.compile(r"[0-9a-f]{64}").fullmatch


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One journal message; `chain` is the hexadecimal `Chain` header of a commit."""

    sequence: int
    kind: Literal["commit", "claim"]
    body: bytes
    chain: str | None = None
    message_id: str | None = None


class Bounds(NamedTuple):
    """First and last sequence the journal holds; an empty journal has `last == first - 1`."""

    first: int
    last: int


def chain_after(before: bytes, sequence: int, body: bytes) -> bytes:
    """Return the hash of the journal up to and including record *sequence*: h(n) = sha256(h(n-1) ‖ n ‖ body)."""
    chain = sha256(before + sequence.to_bytes(8, "big"))
    chain.update(body)  # separately: a commit is large, and to copy it costs as much as to hash it
    return chain.digest()


class ChainCheck:
    """Checks record after record, from any point on; it trusts the chain of the first commit that it gets."""

    def __init__(self) -> None:
        self._before: bytes | None = None

    def take(self, record: Record) -> None:
        """
        Check that *record* was written after the records taken before.

        Raises:
            Corrupt: its chain is missing, or differs from the hash of the records before.
        """
        before = self._before
        if record.kind == "commit":
            carried = record.chain or ""
            if not _is_hash(carried) or (before is not None and carried != before.hex()):
                right = (
                    "which is not a hexadecimal hash"
                    if before is None
                    else f"but the journal before it hashes to {before.hex()}"
                )
                msg = f"commit {record.sequence} carries the chain {record.chain}, {right}: the journal was changed"
                raise Corrupt(msg)
            before = bytes.fromhex(carried)
        if before is not None:
            self._before = chain_after(before, record.sequence, record.body)


class CommitSource(Protocol):
    """Read the journal. Implementations raise `Corrupt` on a gap and `Unavailable` when it cannot be reached."""

    async def bounds(self) -> Bounds:
        """Return the first and last sequence."""
        ...

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """Yield all records with after < sequence ≤ until, in batches, in order."""
        ...

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """Yield all records with sequence > after, in order, and then new ones as they arrive, without end."""
        ...
