"""Pools hold what was granted and not given back; sessions name the container that serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.base import Position
from events.errors import Corrupt
from events.pool import (
    PoolAllocated,
    PoolBound,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.resources import NONE, Resources
from events.session import SessionBound, SessionClosed
from projections.pool import Allocation, Pool
from projections.session import Session
from tests.specification import BEGIN, fold, said

if TYPE_CHECKING:
    from events.base import Event

MUCH = Resources(cpu_millis=100, memory_bytes=100, gpus=1)
SOME = Resources(cpu_millis=30, memory_bytes=10)
DEFINED = PoolDefined(pool_id="p", capacity=MUCH)
ALLOCATED = PoolAllocated(pool_id="p", request_id="r", resources=SOME, priority=5)
RELEASED = PoolReleased(pool_id="p", request_id="r")
REQUESTED = PoolRequested(pool_id="p", request_id="r", resources=SOME)


def test_a_pool_grants_and_takes_back() -> None:
    """The held amount is the sum of the grants; the free amount is the rest."""
    empty = Pool(pool_id="p", capacity=MUCH, defined=Position(1, 0), allocations={})
    assert fold(DEFINED).pools["p"] == empty
    granted = fold(DEFINED, ALLOCATED).pools["p"]
    held = Allocation(request_id="r", resources=SOME, allocated_at=BEGIN + 1, priority=5)
    assert granted == msgspec.structs.replace(empty, allocations={"r": held})
    assert (granted.held, granted.free) == (SOME, Resources(cpu_millis=70, memory_bytes=90, gpus=1))
    given_back = fold(DEFINED, ALLOCATED, RELEASED).pools["p"]
    assert given_back == empty
    assert (given_back.held, given_back.free) == (NONE, MUCH)


def test_a_pool_defined_anew_keeps_what_is_granted() -> None:
    """Grants stay even if they exceed the new capacity; the free amount is then negative."""
    pool = fold(DEFINED, ALLOCATED, PoolDefined(pool_id="p", capacity=NONE)).pools["p"]
    assert set(pool.allocations) == {"r"}
    assert (pool.capacity, pool.defined) == (NONE, Position(3, 0))
    assert pool.free == NONE - SOME


def test_a_pool_and_its_shares_belong_to_who_asked_for_them() -> None:
    """A pool stays with who defined it first; events of earlier releases do not say whose it is, and so nobody's."""
    owned = msgspec.structs.replace(DEFINED, owned=True), msgspec.structs.replace(ALLOCATED, owned=True)
    first, share = (said(one, actor=actor, tenant="blue") for one, actor in zip(owned, ("ann", "bob"), strict=True))
    pool = fold(first, share, said(owned[0], actor="eve", tenant="red")).pools["p"]
    assert (pool.source, pool.tenant) == ("ann", "blue")
    assert (pool.allocations["r"].source, pool.allocations["r"].tenant) == ("bob", "blue")
    before = fold(said(DEFINED, actor="ann"), said(ALLOCATED, actor="bob"), first).pools["p"]
    assert (before.source, before.tenant) == ("", "")
    assert (before.allocations["r"].source, before.allocations["r"].tenant) == ("", "")


def test_what_has_no_owner_is_written_as_by_earlier_releases() -> None:
    """So the digests of their snapshots stay what they are, and they can read ours."""
    for facts, shares in (((DEFINED,), {}), ((DEFINED, ALLOCATED), {"r"})):
        pool = fold(*facts).pools["p"]
        written = msgspec.msgpack.decode(msgspec.msgpack.encode(pool))
        assert list(written) == ["pool_id", "capacity", "defined", "allocations"]
        assert set(written["allocations"]) == set(shares)
        assert all("source" not in one and "tenant" not in one for one in written["allocations"].values())


@pytest.mark.parametrize(
    ("path", "event", "why"),
    [
        ((), ALLOCATED, "does not exist"),
        ((), RELEASED, "does not exist"),
        ((DEFINED,), RELEASED, "does not exist"),
        ((DEFINED, ALLOCATED, RELEASED), RELEASED, "does not exist"),
        ((DEFINED, ALLOCATED), ALLOCATED, "already exists"),
        ((DEFINED, ALLOCATED), REQUESTED, "already exists"),
        ((DEFINED, REQUESTED), REQUESTED, "already exists"),
        ((DEFINED, REQUESTED), RELEASED, "does not exist"),
        ((DEFINED, ALLOCATED), PoolWithdrawn(pool_id="p", request_id="r"), "does not exist"),
        ((DEFINED,), PoolBound(pool_id="p", request_id="r", owner="task:t"), "does not exist"),
        ((DEFINED, REQUESTED), PoolPreempted(pool_id="p", request_id="r", by="s"), "does not exist"),
        ((DEFINED,), PoolMoved(pool_id="p", request_id="r", part="a"), "does not exist"),
    ],
    ids=[
        *("no pool to take from", "no pool to give to", "never granted", "given back twice", "granted twice"),
        *("asked for what it has", "asked twice", "given back while it waits", "withdrawn though it holds"),
        *("nothing to bind", "nothing to take", "nothing to move"),
    ],
)
def test_a_pool_that_could_not_be_is_corrupt(path: tuple[Event, ...], event: Event, why: str) -> None:
    """A coordinator never grants from a missing pool, grants twice or takes back what was not granted."""
    with pytest.raises(Corrupt, match=rf"about 'p', which {why}"):
        fold(*path, event)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 50), st.integers(0, 9)), max_size=30))
def test_what_is_held_never_leaks(requests: list[tuple[str, int, int]]) -> None:
    """Whatever the sequence of requests, held is the sum of the grants, and held plus free is the capacity."""
    standing: dict[str, Resources] = {}
    events: list[Event] = [DEFINED]
    for request_id, cpu_millis, gpus in requests:
        if standing.pop(request_id, None) is None:
            standing[request_id] = Resources(cpu_millis=cpu_millis, gpus=gpus)
            events.append(PoolAllocated(pool_id="p", request_id=request_id, resources=standing[request_id]))
        else:
            events.append(PoolReleased(pool_id="p", request_id=request_id))
    pool = fold(*events).pools["p"]
    assert pool.held == sum(standing.values(), NONE)
    assert pool.held + pool.free == MUCH
    assert set(pool.allocations) == set(standing)


def test_a_session_is_bound_moved_and_closed() -> None:
    """One container serves it at a time; its end has a reason and a time."""
    bound = SessionBound(session_id="s", container_id="c")
    first = Session(session_id="s", container_id="c", bound=Position(1, 0), bound_at=BEGIN, tenant="acme")
    assert fold(said(bound, tenant="acme")).sessions["s"] == first
    assert not first.is_ended
    moved = fold(bound, SessionBound(session_id="s", container_id="d")).sessions["s"]
    assert (moved.container_id, moved.bound, moved.bound_at) == ("d", Position(2, 0), BEGIN + 1)
    closed = fold(said(bound, tenant="acme"), SessionClosed(session_id="s", reason="left")).sessions["s"]
    assert closed == msgspec.structs.replace(first, reason="left", ended_at=BEGIN + 1, ended=Position(2, 0))
    assert closed.is_ended


def test_a_closed_session_may_be_bound_again() -> None:
    """It is open as if it had never been closed."""
    bound, closed = SessionBound(session_id="s", container_id="c"), SessionClosed(session_id="s")
    again = fold(bound, closed, bound).sessions["s"]
    assert again == Session(
        session_id="s", container_id="c", bound=Position(3, 0), bound_at=BEGIN + 2, tenant="default"
    )


@pytest.mark.parametrize(
    "path",
    [(), (SessionBound(session_id="s", container_id="c"), SessionClosed(session_id="s"))],
    ids=["never bound", "closed already"],
)
def test_only_an_open_session_can_be_closed(path: tuple[Event, ...]) -> None:
    """A coordinator never closes a session that is not open."""
    with pytest.raises(Corrupt, match="about 's', which does not exist"):
        fold(*path, SessionClosed(session_id="s"))
