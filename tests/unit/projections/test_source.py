"""The chain ties each record to all before it."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import Corrupt
from projections.source import GENESIS, Bounds, ChainCheck, Record, chain_after


def test_the_chain_is_spelled_as_the_format_says() -> None:
    """h(n) = sha256(h(n-1) ‖ n ‖ body), n as eight bytes, most significant first: others must be able to check it."""
    assert GENESIS == b"\0" * 32
    assert chain_after(GENESIS, 1, b"[]") == sha256(b"\0" * 32 + b"\0\0\0\0\0\0\0\1" + b"[]").digest()
    assert chain_after(GENESIS, 1042, b"x").hex() == sha256(b"\0" * 32 + (1042).to_bytes(8, "big") + b"x").hexdigest()
    assert chain_after(GENESIS, 1, b"[]").hex()[:12] == "e77b194c7811"


@given(st.binary(max_size=20), st.binary(max_size=20), st.integers(1, 2**63), st.integers(1, 2**63))
def test_another_body_place_or_past_gives_another_chain(one: bytes, other: bytes, here: int, there: int) -> None:
    """Any change, move or cut changes the hash."""
    chain = chain_after(GENESIS, here, one)
    assert (chain_after(GENESIS, here, other) == chain) == (one == other)
    assert (chain_after(GENESIS, there, one) == chain) == (here == there)
    assert chain_after(chain, here, one) != chain


def test_an_empty_journal_has_its_last_before_its_first() -> None:
    """So `last - first + 1` counts the records, always."""
    assert Bounds(first=1, last=0) == (1, 0)


def records(*kinds: str) -> list[Record]:
    """Return a journal with a correct chain."""
    made, chain = [], GENESIS
    for sequence, kind in enumerate(kinds, 1):
        carried = chain.hex() if kind == "commit" else None
        made.append(Record(sequence=sequence, kind=kind, body=b"%d" % sequence, chain=carried))  # type: ignore[arg-type]
        chain = chain_after(chain, sequence, made[-1].body)
    return made


def take_all(journal: list[Record]) -> None:
    """Check records one after the other."""
    check = ChainCheck()
    for record in journal:
        check.take(record)


@pytest.mark.parametrize("begin", range(5))
def test_a_whole_chain_passes_from_any_point_on(begin: int) -> None:
    """Claims carry no chain but are part of it; the first commit is trusted."""
    take_all(records("claim", "commit", "commit", "claim", "commit")[begin:])


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_what_was_changed_is_corrupt_at_the_next_commit(changed: int) -> None:
    """A replaced body is found at the next commit; the error states the right hash."""
    whole = records("claim", "commit", "commit", "claim", "commit")
    whole[changed] = msgspec.structs.replace(whole[changed], body=b"forged")
    with pytest.raises(Corrupt, match=r"commit [35] carries the chain [0-9a-f]{64}, but the journal before it hashes "):
        take_all(whole)


@pytest.mark.parametrize("carried", [None, "", "00", "x" * 64])
def test_a_commit_without_a_chain_is_corrupt(carried: str | None) -> None:
    """A coordinator always writes a chain, so another program wrote the commit."""
    with pytest.raises(Corrupt, match=r"commit 7 carries the chain .* which is not a hexadecimal hash"):
        ChainCheck().take(Record(sequence=7, kind="commit", body=b"", chain=carried))
