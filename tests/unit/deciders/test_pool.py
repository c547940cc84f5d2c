"""Deciders of the pool commands; no pool allocates more than its capacity."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.commands.command import Command
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from events.pool import PoolAllocated, PoolDefined, PoolReleased
from events.resources import Resources
from tests.specification import given
from tests.unit.deciders.facts import ABSURD, HOSTILE_IDS, INFINITY, NAN, resources

POOL = PoolDefined(pool_id="p", capacity=resources(cpu=4000, memory=100, gpus=1), owned=True)


def allocate(request_id: str = "r", cpu: int = 1000, **others: int) -> AllocatePool:
    return AllocatePool(pool_id="p", request_id=request_id, resources=resources(cpu=cpu, **others))


def allocated(request_id: str = "r", cpu: int = 1000) -> PoolAllocated:
    return PoolAllocated(pool_id="p", request_id=request_id, resources=resources(cpu=cpu), owned=True)


def test_a_pool_is_defined_and_told() -> None:
    """The answer is the pool."""
    decided = given().when(DefinePool(pool_id="p", capacity=POOL.capacity)).then(POOL)
    decided.then_answers(decided.world.pools["p"])


def test_the_same_definition_again_is_already_so() -> None:
    """The answer is the current pool."""
    world = given(POOL, allocated())
    world.when(DefinePool(pool_id="p", capacity=POOL.capacity)).then_nothing().then_answers(world.world.pools["p"])


def test_another_capacity_leaves_what_was_granted() -> None:
    """The capacity may become smaller than the allocations; nothing more is allocated then."""
    smaller = PoolDefined(pool_id="p", capacity=resources(cpu=500), owned=True)
    world = given(POOL, allocated()).when(DefinePool(pool_id="p", capacity=smaller.capacity)).then(smaller).world
    assert world.pools["p"].held == resources(cpu=1000)
    given(POOL, allocated(), smaller).when(allocate("s", cpu=1)).then_nothing().then_answers(False)


def test_what_fits_is_granted() -> None:
    """A pool is allocated down to the last unit."""
    order = AllocatePool(pool_id="p", request_id="r", resources=resources(cpu=4000, memory=100, gpus=1), priority=10)
    wanted = PoolAllocated(pool_id="p", request_id="r", resources=POOL.capacity, priority=10, owned=True)
    given(POOL).when(order).then(wanted).then_answers(True)


@pytest.mark.parametrize("asked", [resources(cpu=3001), resources(memory=101), resources(gpus=2)])
def test_what_does_not_fit_is_answered_no(asked: Resources) -> None:
    """A request that does not fit is no error: nothing changes, and the answer is False."""
    order = AllocatePool(pool_id="p", request_id="s", resources=asked)
    given(POOL, allocated()).when(order).then_nothing().then_answers(False)


def test_the_same_request_again_is_already_so() -> None:
    """A repeated request holds its resources once."""
    given(POOL, allocated()).when(allocate()).then_nothing().then_answers(True)


def test_another_share_under_the_same_request_is_refused() -> None:
    """The refusal states what the request already holds."""
    given(POOL, allocated()).when(allocate(cpu=2000)).then_refused("id_taken", "'r'", "1000")


def test_a_share_is_given_back_once() -> None:
    """The answer is whether there was an allocation; to release none, even of no pool, is no error."""
    order = ReleasePool(pool_id="p", request_id="r")
    given(POOL, allocated()).when(order).then(PoolReleased(pool_id="p", request_id="r")).then_answers(True)
    given(POOL).when(order).then_nothing().then_answers(False)
    given().when(order).then_nothing().then_answers(False)


def test_a_pool_that_never_was_is_not_found() -> None:
    """The error says what to do."""
    given().when(allocate()).then_refused("not_found", "'p'", "initialize", code="not_found")


@pytest.mark.parametrize("bad", HOSTILE_IDS)
def test_pools_and_requests_need_ids(bad: str) -> None:
    """Every command checks its ids."""
    given().when(DefinePool(pool_id=bad, capacity=resources())).then_refused("bad_id", "pool_id")
    given(POOL).when(allocate(bad)).then_refused("bad_id", "request_id")
    given(POOL).when(ReleasePool(pool_id="p", request_id=bad)).then_refused("bad_id", "request_id")
    given(POOL).when(ReleasePool(pool_id=bad, request_id="r")).then_refused("bad_id", "pool_id")


@pytest.mark.parametrize("asked", ABSURD)
def test_nobody_asks_for_less_than_nothing(asked: Resources) -> None:
    """A negative request would let others allocate more than the capacity."""
    given(POOL).when(AllocatePool(pool_id="p", request_id="r", resources=asked)).then_refused("bad_number", "resources")
    given().when(DefinePool(pool_id="p", capacity=asked)).then_refused("bad_number", "capacity")


@pytest.mark.parametrize("priority", [NAN, INFINITY, 1_000_001])
def test_a_priority_is_a_number(priority: float) -> None:
    """The priority has a range."""
    order = replace(allocate(), priority=priority)
    given(POOL).when(order).then_refused("bad_number", "priority")


AMOUNTS = st.builds(resources, cpu=st.integers(-1000, 5000), memory=st.integers(-10, 120), gpus=st.integers(-1, 2))
REQUESTS = st.sampled_from(["a", "b", "c", "d"])
ORDERS = st.one_of(
    st.builds(AllocatePool, pool_id=st.just("p"), request_id=REQUESTS, resources=AMOUNTS),
    st.builds(ReleasePool, pool_id=st.just("p"), request_id=REQUESTS),
)


@for_all(st.lists(ORDERS, max_size=30))
def test_a_pool_never_gives_more_than_it_has(orders: list[Command]) -> None:
    """For any sequence of requests and releases, the allocations fit into the capacity."""
    world = given(POOL)
    for order in orders:
        decided = world.when(order)
        if decided.events:
            decided.fold()
        held = world.world.pools["p"].held
        assert held.fits_in(POOL.capacity)
        assert min(held.cpu_millis, held.memory_bytes, held.gpus) >= 0


def test_there_are_not_more_pools_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing pool may still be changed."""
    monkeypatch.setattr("coordinator.deciders.pool.MOST_POOLS", 1)
    given(POOL).when(DefinePool(pool_id="q", capacity=POOL.capacity)).then_refused("too_many")
    larger = resources(cpu=8000)
    given(POOL).when(DefinePool(pool_id="p", capacity=larger)).then(
        PoolDefined(pool_id="p", capacity=larger, owned=True)
    )


def test_a_pool_has_not_more_allocations_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small allocations count too; a repeat changes nothing."""
    monkeypatch.setattr("coordinator.deciders.pool.MOST_ALLOCATIONS", 1)
    given(POOL, allocated()).when(allocate("another", cpu=0)).then_refused("too_many")
    given(POOL, allocated()).when(allocate()).then_nothing()
