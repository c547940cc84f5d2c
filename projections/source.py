"""
The port through which commits are read and followed, and the hash chain that ties them together.

A record is one message of the journal: a commit, or a claim of the right to write. Every reader checks what it reads:
sequences without a gap, and each commit's `Chain` header equal to the hash of all that stands before it.
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
    """Hash the journal up to and including the record at *sequence*: h(n) = sha256(h(n-1) ‖ n ‖ body)."""
    chain = sha256(before + sequence.to_bytes(8, "big"))
    chain.update(body)  # apart: a commit is large, and copying it costs as much as hashing it
    return chain.digest()


class ChainCheck:
    """Checks record after record, from any point on: it takes the first commit's word for what stands before it."""

    def __init__(self) -> None:
        self._before: bytes | None = None

    def take(self, record: Record) -> None:
        """
        Make sure that *record* is the one that was written behind those before it.

        Raises:
            Corrupt: it carries no chain, or another than that of what was read.
        """
        before = self._before
        if record.kind == "commit":
            carried = record.chain or ""
            if not _is_hash(carried) or (before is not None and carried != before.hex()):
                right = "a hash in hexadecimal is due" if before is None else f"what stands before is {before.hex()}"
                msg = f"commit {record.sequence} carries the chain {record.chain}, and {right}: the journal was changed"
                raise Corrupt(msg)
            before = bytes.fromhex(carried)
        if before is not None:
            self._before = chain_after(before, record.sequence, record.body)


class CommitSource(Protocol):
    """Read the journal. Implementations raise `Corrupt` on a gap and `Unavailable` when it cannot be reached."""

    async def bounds(self) -> Bounds:
        """Say which sequences there are."""
        ...

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """Give all records with after < sequence ≤ until, in batches, in order."""
        ...

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """Give all records with sequence > after, in order, and then new ones as they come, for ever."""
        ...
