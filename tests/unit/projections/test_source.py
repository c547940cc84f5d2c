"""The chain ties each record to all before it."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from projections.source import GENESIS, Bounds, chain_after


def test_the_chain_is_spelled_as_the_format_says() -> None:
    """h(n) = sha256(h(n-1) ‖ n ‖ body), n as eight bytes, most significant first: others must be able to check it."""
    assert GENESIS == b"\0" * 32
    assert chain_after(GENESIS, 1, b"[]") == sha256(b"\0" * 32 + b"\0\0\0\0\0\0\0\1" + b"[]").digest()
    assert chain_after(GENESIS, 1042, b"x").hex() == sha256(b"\0" * 32 + (1042).to_bytes(8, "big") + b"x").hexdigest()
    assert chain_after(GENESIS, 1, b"[]").hex()[:12] == "e77b194c7811"


@given(st.binary(max_size=20), st.binary(max_size=20), st.integers(1, 2**63), st.integers(1, 2**63))
def test_another_body_place_or_past_gives_another_chain(one: bytes, other: bytes, here: int, there: int) -> None:
    """Nothing can be changed, moved or cut without the hash telling."""
    chain = chain_after(GENESIS, here, one)
    assert (chain_after(GENESIS, here, other) == chain) == (one == other)
    assert (chain_after(GENESIS, there, one) == chain) == (here == there)
    assert chain_after(chain, here, one) != chain


def test_an_empty_journal_has_its_last_before_its_first() -> None:
    """So `last - first + 1` counts the records, always."""
    assert Bounds(first=1, last=0) == (1, 0)
