"""Requests that wait for shares of a pool: their order, time-outs, quotas, parts, preemption, and their owners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.commands.pool import AllocatePool, DefinePool, MoveShare, ReleasePool
from coordinator.deciders import pool_owners
from coordinator.deciders.deadlines import Deadlines
from coordinator.deciders.due import due as all_due
from coordinator.deciders.pool import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.base import Event
from events.container import ContainerDestroyed
from events.pool import (
    Placing,
    PoolAllocated,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.resources import NONE, Resources
from events.service import ServiceDeregistered
from events.session import SessionBound, SessionClosed
from events.worker import WorkerLeft, WorkerLost
from projections.ledger import AGEING_S, waits_of
from projections.pool import Allocation, Request
from projections.world import World
from tests.specification import BEGIN, Given, Said, Scribe, given, said, write
from tests.unit.deciders.facts import NAN, created, resources, service, worker

FOUR = PoolDefined(pool_id="p", capacity=resources(cpu=4000), owned=True)
PARTS = PoolDefined(
    pool_id="p", capacity=resources(cpu=6000), owned=True, parts={"a": resources(cpu=4000), "b": resources(cpu=2000)}
)


def ask(request_id: str = "r", cpu: int = 1000, **others: Any) -> AllocatePool:
    return AllocatePool(**{"pool_id": "p", "request_id": request_id, "resources": resources(cpu=cpu), **others})


def granted(request_id: str = "r", cpu: int = 1000, **others: Any) -> PoolAllocated:
    said = {"pool_id": "p", "request_id": request_id, "resources": resources(cpu=cpu), "owned": True, **others}
    return PoolAllocated(**said)


def later(request_id: str = "r", cpu: int = 1000, **others: Any) -> PoolAllocated:
    """Return the share of a request that waited: whose it is, is known."""
    return granted(request_id, cpu, **{"owned": False, **others})


def asked(request_id: str = "r", cpu: int = 1000, until: float | None = BEGIN + 60, **others: Any) -> PoolRequested:
    told: dict[str, Any] = {"request_id": request_id, "resources": resources(cpu=cpu), "owned": True, "until": until}
    return PoolRequested(pool_id="p", **told | others)


def release(request_id: str = "r") -> ReleasePool:
    return ReleasePool(pool_id="p", request_id=request_id)


def released(request_id: str = "r", reason: str = "requested") -> PoolReleased:
    return PoolReleased(pool_id="p", request_id=request_id, reason=reason)


def passed(
    scribe: Scribe, at: float, owners: dict[str, None] | None = None, pools: dict[str, None] | None = None
) -> list[Event]:
    """Write what is due at that time, and return it."""
    found: list[Event] = []
    scribe.world.indexes.advance(at)

    def events() -> Any:
        looked = ({} if owners is None else owners), ({} if pools is None else pools)
        for event in due(scribe.world, DecisionContext(at, Rules()), *looked):
            found.append(event)
            yield Said(event, at=at, tenant="", actor="coordinator")

    each = iter(events())
    if (first := next(each, None)) is not None:
        scribe.commit_each(_chained(first, each), at=at)
    return found


def _chained(first: Any, rest: Any) -> Any:
    yield first
    yield from rest


def test_a_request_that_does_not_fit_waits_if_it_may() -> None:
    """The answer is False until it is granted; the same request again changes nothing, and tells."""
    full = given(FOUR, granted("a", 4000))
    waiting = full.when(ask(wait_s=30.0)).then(asked(until=BEGIN + 2 + 30.0)).then_answers(False)
    assert list(waiting.world.pools["p"].waiting) == ["r"]
    full.when(ask(wait_s=30.0)).then_nothing().then_answers(False)
    full.when(ask(wait_s=0.0)).then_nothing().then_answers(False)
    full.when(ask(cpu=2000)).then_refused("id_taken", "already waits for")
    full.when(release("a")).then(released("a"), later())
    full.when(ask()).then_nothing().then_answers(True)


def test_what_a_pool_can_never_give_is_not_waited_for() -> None:
    """More than it has, than its largest part has, or than the quota allows."""
    given(FOUR).when(ask(cpu=4001, wait_s=9.0)).then_nothing().then_answers(False)
    given(PARTS).when(ask(cpu=4001, wait_s=9.0)).then_nothing().then_answers(False)
    limited = PoolDefined(pool_id="p", capacity=resources(cpu=4000), quotas={"tenant:*": resources(cpu=1000)})
    given(limited).when(ask(cpu=1001, wait_s=9.0)).then_nothing().then_answers(False)


@pytest.mark.parametrize("wait_s", [-1.0, NAN, 31 * 86_400.0])
def test_a_wait_is_a_number_of_seconds(wait_s: float) -> None:
    """At most thirty days."""
    given(FOUR).when(ask(wait_s=wait_s)).then_refused("bad_number", "wait_s")


def test_the_higher_priority_is_first_and_then_who_came_first() -> None:
    """Whoever is granted by a release is decided together with it."""
    world = given(
        FOUR,
        granted("a", 4000),
        asked("low", 2000, priority=1),
        asked("first", 2000, priority=5),
        asked("second", 2000, priority=5),
    )
    world.when(release("a")).then(released("a"), later("first", 2000, priority=5), later("second", 2000, priority=5))
    world.when(release("first")).then(released("first"), later("low", 2000, priority=1))


def test_who_has_waited_sixty_seconds_longer_counts_as_one_higher() -> None:
    """So none waits for ever; a second before that, it does not."""
    late = BEGIN + 1 + AGEING_S
    for at, first in ((late - 1, "new"), (late + 1, "old")):
        facts = (said(FOUR, at=BEGIN - 9), granted("a", 4000), said(asked("old", 4000, None), at=BEGIN + 1))
        world = given(*facts, said(asked("new", 4000, None, priority=1), at=at))
        decided = world.when(release("a"))
        assert [one.request_id for one in decided.events if isinstance(one, PoolAllocated)] == [first]


def test_no_stream_of_higher_priorities_keeps_a_request_for_ever() -> None:
    """One of five higher comes each second, and two always wait: a low one gets its share within five minutes."""
    world = given(FOUR, granted("r0", 4000)).when(ask("low", 4000, wait_s=9999.0))
    world.fold()
    scribe, at, number = world._scribe, BEGIN + 10, 0
    while "low" not in scribe.world.pools["p"].allocations:
        at, number = at + 1, number + 1
        Given(scribe).when(ask(f"r{number}", 4000, priority=5, wait_s=9999.0), at=at).fold()
        (holder,) = scribe.world.pools["p"].allocations
        Given(scribe).when(release(holder), at=at + 0.5).fold()
        assert at < BEGIN + 5 * AGEING_S + 20
    assert at > BEGIN + 4 * AGEING_S


def test_a_small_request_passes_one_that_waits_but_never_delays_it() -> None:
    """What the first one asks for is set aside, of each kind that it needs; of others there may be all."""
    pool = PoolDefined(pool_id="p", capacity=resources(cpu=4000, memory=100, gpus=2), owned=True)
    holds = PoolAllocated(pool_id="p", request_id="a", resources=resources(cpu=1000, gpus=2))
    first = PoolRequested(pool_id="p", request_id="first", resources=resources(cpu=2000, gpus=1), owned=True)
    world = given(pool, holds, first)
    world.when(ask("fits", 1000)).then(granted("fits", 1000)).then_answers(True)
    world.when(ask("delays", 1000)).then_nothing().then_answers(False)
    memory = AllocatePool(pool_id="p", request_id="m", resources=resources(memory=100))
    world.when(memory).then(PoolAllocated(pool_id="p", request_id="m", resources=resources(memory=100), owned=True))
    wait, *rest = waits_of(world.world.pools["p"])
    assert not rest
    assert (wait.place, wait.code, wait.held_by) == (1, "room", ("a", "fits"))
    assert wait.text == "the pool has too little: gpu: asked 1, free 0"


def test_a_request_that_times_out_is_withdrawn_and_leaves_its_place() -> None:
    """At its time, not before; who is behind it gets what was set aside for it."""
    scribe = write(FOUR, granted("a", 3000), asked("first", 2000), asked("behind", 1000, BEGIN + 99))
    assert [(one.request_id, one.code) for one in waits_of(scribe.world.pools["p"])] == [
        ("first", "room"),
        ("behind", "behind"),
    ]
    assert passed(scribe, BEGIN + 59.9) == []
    gone = PoolWithdrawn(pool_id="p", request_id="first", reason="timed_out")
    assert passed(scribe, BEGIN + 60) == [gone, later("behind")]
    assert not scribe.world.indexes.in_pools.waiting


def test_a_request_that_waits_may_be_withdrawn() -> None:
    """By the command that releases a share; who is behind it moves up."""
    world = given(FOUR, granted("a", 3000), asked("first", 2000), asked("behind", 1000))
    gone = PoolWithdrawn(pool_id="p", request_id="first")
    world.when(release("first")).then(gone, later("behind")).then_answers(True)


def test_a_larger_pool_lets_those_in_that_wait() -> None:
    """And a smaller one takes nothing from anybody."""
    world = given(FOUR, granted("a", 4000), asked("r", 2000))
    larger = PoolDefined(pool_id="p", capacity=resources(cpu=6000), owned=True)
    world.when(DefinePool(pool_id="p", capacity=larger.capacity)).then(larger, later("r", 2000))
    world.when(DefinePool(pool_id="p", capacity=FOUR.capacity)).then(FOUR)
    world.when(ask("s", 1, wait_s=1.0)).then(asked("s", 1, until=BEGIN + 5 + 1.0))
    smaller = PoolDefined(pool_id="p", capacity=NONE, owned=True)
    world.when(DefinePool(pool_id="p", capacity=NONE)).then(smaller)
    (wait,) = waits_of(world.world.pools["p"])
    assert (wait.code, wait.text) == ("never", "no part of the pool has 1m cpu")


# --- quotas -----------------------------------------------------------------------------------------------------------

QUOTAS = PoolDefined(
    pool_id="p",
    capacity=resources(cpu=4000, memory=100),
    owned=True,
    quotas={"tenant:*": resources(cpu=2000), "tenant:big": resources(cpu=3000), "source:anna": resources(memory=10)},
)


def test_nobody_holds_more_than_its_quota() -> None:
    """That of its own before that of each; of a kind that the quota does not name, as much as there is."""
    world = given(QUOTAS, said(granted("a", 2000), tenant="acme"))
    acme = world.when(ask("b", 1, wait_s=60.0), tenant="acme")
    acme.then(asked("b", 1, until=BEGIN + 2 + 60.0)).then_answers(False)
    world.when(ask("c", 2000), tenant="big").then(granted("c", 2000))
    memory = AllocatePool(pool_id="p", request_id="m", resources=resources(memory=50))
    world.when(memory, tenant="acme").then(
        PoolAllocated(pool_id="p", request_id="m", resources=memory.resources, owned=True)
    )
    more = AllocatePool(pool_id="p", request_id="n", resources=resources(memory=11))
    world.when(more, actor="anna").then_nothing()


def test_quotas_are_part_of_what_a_pool_is_defined_as() -> None:
    """To define it again without them is a change."""
    defined = DefinePool(pool_id="p", capacity=QUOTAS.capacity, quotas=QUOTAS.quotas)
    given().when(defined).then(QUOTAS)
    given(QUOTAS).when(defined).then_nothing()
    without = PoolDefined(pool_id="p", capacity=QUOTAS.capacity, owned=True)
    given(QUOTAS).when(DefinePool(pool_id="p", capacity=QUOTAS.capacity)).then(without)


def test_who_waits_for_its_quota_holds_up_nobody_else() -> None:
    """But those of its own tenant behind it do not pass it."""
    world = given(QUOTAS, said(granted("a", 1500), tenant="acme"), said(asked("b", 1000, None), tenant="acme"))
    world.when(ask("small", 100), tenant="acme").then_nothing()
    world.when(ask("other", 2000), tenant="blue").then(granted("other", 2000))
    (wait,) = waits_of(world.world.pools["p"])
    assert (wait.code, wait.held_by) == ("quota", ("a",))
    assert wait.text == "tenant:acme may hold 2000m cpu, and it asks for 1000m cpu"
    world.when(release("a"), tenant="acme").then(released("a"), later("b", 1000))
    assert world.world.pools["p"].allocations["b"].tenant == "acme"


@pytest.mark.parametrize(
    ("quotas", "reason"),
    [
        ({"acme": resources(cpu=1)}, "bad_quota"),
        ({"tenant:": resources(cpu=1)}, "bad_quota"),
        ({"owner:x": resources(cpu=1)}, "bad_quota"),
        ({"tenant:a\n": resources(cpu=1)}, "bad_quota"),
        ({"tenant:a": NONE}, "bad_quota"),
        ({"tenant:a": resources(cpu=-1)}, "bad_number"),
        ({f"tenant:{number}": resources(cpu=1) for number in range(1001)}, "too_many"),
    ],
)
def test_a_quota_is_somebodys_and_limits_something(quotas: dict[str, Resources], reason: str) -> None:
    """The message names it."""
    given().when(DefinePool(pool_id="p", capacity=resources(cpu=4), quotas=quotas)).then_refused(reason, "quota")


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_share_lies_in_one_part() -> None:
    """To pack, in the fullest that has room for it; to spread, in the emptiest; never in two."""
    packed = given(PARTS)
    packed.when(ask("r1", 1000)).then(granted("r1", 1000, part="a"))
    packed.when(ask("r2", 2000)).then(granted("r2", 2000, part="a"))
    packed.when(ask("r3", 2000)).then(granted("r3", 2000, part="b"))
    packed.when(ask("r4", 1001)).then_nothing()
    spread = PoolDefined(
        pool_id="p",
        capacity=PARTS.capacity,
        owned=True,
        parts=PARTS.parts,
        placing=Placing.SPREAD,
    )
    apart = given(spread)
    apart.when(ask("r1", 1000)).then(granted("r1", 1000, part="a"))
    apart.when(ask("r2", 1000)).then(granted("r2", 1000, part="b"))
    apart.when(ask("r3", 1000)).then(granted("r3", 1000, part="a"))


@pytest.mark.parametrize(
    ("parts", "capacity", "reason"),
    [
        ({"a": resources(cpu=1)}, resources(cpu=2), "bad_resources"),
        ({"": resources(cpu=1)}, resources(cpu=1), "bad_id"),
        ({"a": resources(cpu=-1)}, resources(cpu=-1), "bad_number"),
        ({f"a{number}": NONE for number in range(1001)}, NONE, "too_many"),
    ],
)
def test_parts_are_the_capacity(parts: dict[str, Resources], capacity: Resources, reason: str) -> None:
    """Together they are as much as the pool has."""
    given().when(DefinePool(pool_id="p", capacity=capacity, parts=parts)).then_refused(reason)


def test_what_lies_in_a_part_that_is_gone_still_counts() -> None:
    """The pool never gives more than it has, whatever its parts were."""
    other = PoolDefined(pool_id="p", capacity=resources(cpu=4000), owned=True, parts={"c": resources(cpu=4000)})
    world = given(PARTS, granted("r1", 3000, part="a"), other)
    world.when(ask("r2", 1001)).then_nothing()
    world.when(ask("r2", 1000)).then(granted("r2", 1000, part="c"))


def test_a_movable_share_may_be_put_into_another_part() -> None:
    """If that has room; who waits for the room that it leaves gets it."""
    world = given(PARTS, granted("r1", 1000, part="a", movable=True), granted("r2", 1000, part="b"), asked("r3", 4000))
    world.when(MoveShare(pool_id="p", request_id="r1", part="a")).then_nothing()
    moved = PoolMoved(pool_id="p", request_id="r1", part="b")
    world.when(MoveShare(pool_id="p", request_id="r1", part="b")).then(moved, later("r3", 4000, part="a"))
    world.when(MoveShare(pool_id="p", request_id="r1", part="a")).then_refused("part_full", "'a'", "free 0m")
    world.when(MoveShare(pool_id="p", request_id="r2", part="a")).then_refused("not_movable", "'r2'")
    world.when(MoveShare(pool_id="p", request_id="r9", part="a")).then_refused("not_found", "'r9'")
    world.when(MoveShare(pool_id="p", request_id="r1", part="z")).then_refused("not_found", "'z'")
    world.when(MoveShare(pool_id="q", request_id="r1", part="z")).then_refused("not_found", "'q'")


# --- preemption -------------------------------------------------------------------------------------------------------


def taken(request_id: str, by: str = "r") -> PoolPreempted:
    return PoolPreempted(pool_id="p", request_id=request_id, by=by)


def test_a_request_takes_shares_of_lower_priorities_if_it_may() -> None:
    """The lowest first, and of equals those that are held shortest; none that is not needed."""
    world = given(FOUR, granted("p2", priority=2), granted("p1", priority=1), granted("p1b", priority=1))
    world.when(ask(cpu=1000, preempts=True)).then(granted())
    world.when(ask("s", priority=2, preempts=False)).then_nothing()
    world.when(ask("s", priority=2, preempts=True)).then(taken("r", "s"), granted("s", priority=2))
    world.when(ask("t", 2000, priority=9, preempts=True)).then(
        taken("p1b", "t"), taken("p1", "t"), granted("t", 2000, priority=9)
    )
    world.when(ask("u", priority=2, preempts=True)).then_nothing()


def test_a_small_share_that_a_larger_one_makes_needless_stays() -> None:
    """The victims are the fewest of those that were found, the highest priorities of them stay."""
    world = given(FOUR, granted("small", 500, priority=1), granted("large", 3500, priority=2))
    world.when(ask(cpu=3000, priority=5, preempts=True)).then(taken("large"), granted(cpu=3000, priority=5))


def test_shares_are_taken_in_one_part() -> None:
    """In that where the lowest priorities lie, if it is large enough."""
    world = given(PARTS, granted("a1", 4000, part="a", priority=3), granted("b1", 2000, part="b", priority=1))
    world.when(ask(cpu=2000, priority=5, preempts=True)).then(taken("b1"), granted(cpu=2000, priority=5, part="b"))
    world.when(ask("s", 3000, priority=5, preempts=True)).then(
        taken("a1", "s"), granted("s", 3000, priority=5, part="a")
    )


def test_nobody_preempts_past_one_of_its_own_priority() -> None:
    """Nor over its quota; past one of a lower priority that waits, it may."""
    world = given(FOUR, granted("a", 4000), asked("first", 4000, priority=5))
    world.when(ask(priority=5, preempts=True)).then_nothing()
    world.when(ask(priority=6, preempts=True)).then(taken("a"), granted(priority=6))
    limited = PoolDefined(pool_id="p", capacity=FOUR.capacity, owned=True, quotas={"tenant:*": resources(cpu=2000)})
    over = given(limited, said(granted("a", 2000), tenant="other"), granted("b", 2000))
    over.when(ask(priority=5, preempts=True)).then_nothing()
    full = given(limited, said(granted("a", 4000), tenant="other"), said(asked("w", 1, priority=9), tenant="other"))
    full.when(ask(priority=5, preempts=True)).then(taken("a"), granted(priority=5), later("w", 1, priority=9))


def test_a_request_that_waits_takes_shares_when_it_is_first() -> None:
    """As soon as those before it are gone."""
    world = given(FOUR, granted("a", 4000), asked("first", 4000, priority=5), asked("r", priority=5, preempts=True))
    gone = PoolWithdrawn(pool_id="p", request_id="first")
    world.when(release("first")).then(gone, taken("a"), later(priority=5))


def test_not_too_many_shares_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is limited in size."""
    monkeypatch.setattr("projections.ledger.MOST_VICTIMS", 1)
    world = given(FOUR, granted("a", 2000), granted("b", 2000))
    world.when(ask(cpu=4000, priority=5, preempts=True)).then_nothing()
    world.when(ask(cpu=2000, priority=5, preempts=True)).then(taken("b"), granted(cpu=2000, priority=5))


# --- owners -----------------------------------------------------------------------------------------------------------

ENDS: list[tuple[str, list[Event], list[Event]]] = [
    ("worker:w", [worker()], [WorkerLeft(worker_id="w", reason="r")]),
    ("worker:w", [worker()], [WorkerLost(worker_id="w", silent_for_s=70.0, limit_s=60.0)]),
    ("service:s", [service()], [ServiceDeregistered(service_id="s", reason="r")]),
    (
        "session:s",
        [created("c"), SessionBound(session_id="s", container_id="c")],
        [SessionClosed(session_id="s", reason="r")],
    ),
    ("container:c", [created("c")], [ContainerDestroyed(container_id="c")]),
]


@pytest.mark.parametrize(("owner", "lives", "end"), ENDS)
def test_a_share_ends_with_its_owner(owner: str, lives: list[Event], end: list[Event]) -> None:
    """So does a request that waits; who waits behind them gets what they leave."""
    scribe = write(*lives, FOUR)
    Given(scribe).when(ask("r", 4000, owner=owner)).then(granted("r", 4000, owner=owner))
    scribe.commit(asked("s", 4000, owner=owner))
    scribe.commit(asked("t", 3000))
    deadlines = Deadlines(scribe.world)
    assert passed(scribe, BEGIN + 30, deadlines.owners) == []  # it lives
    assert not deadlines.owners
    scribe.commit(*end)
    deadlines.note(end)
    assert list(deadlines.owners) == [owner]
    assert passed(scribe, BEGIN + 40, deadlines.owners) == [
        released("r", "owner_ended"),
        later("s", 4000, owner=owner),
        released("s", "owner_ended"),
        later("t", 3000),
    ]
    assert not deadlines.owners
    assert not scribe.world.indexes.in_pools.owners
    gone = f"owner '{owner}' not found"
    Given(scribe).when(ask("u", owner=owner)).then_refused("unknown_owner", gone, code="not_found")


def test_a_new_writer_looks_at_all_owners() -> None:
    """The one before may have ended between the end of an owner and what follows."""
    scribe = write(worker(), FOUR, granted("r", owner="worker:w"), WorkerLeft(worker_id="w", reason="r"))
    assert passed(scribe, BEGIN + 9, Deadlines(World.restore(scribe.world.snapshot())).owners) == [
        released("r", "owner_ended")
    ]


@pytest.mark.parametrize("owner", ["w", "worker", "task:t", "node:n", "worker:", "worker:a b", ":w"])
def test_an_owner_is_one_that_may_own(owner: str) -> None:
    """A task names its request instead."""
    error = given(worker(), FOUR).when(ask(owner=owner)).error
    assert error is not None
    assert error.reason in {"bad_owner", "bad_id"}
    assert "owner" in error.message


def test_events_of_others_end_nothing() -> None:
    """Only the end of an owner of something is looked at."""
    world = given(worker(), worker("x"), FOUR, granted("r", owner="worker:w")).world
    assert pool_owners.ended(world, [WorkerLeft(worker_id="x", reason="r"), FOUR]) == []


def test_not_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all pools; and a pool has not too many shares and requests together."""
    monkeypatch.setattr("coordinator.deciders.pool.MOST_WAITING", 1)
    world = given(FOUR, granted("a", 4000), asked("b"))
    world.when(ask(wait_s=1.0)).then_refused("too_many", "1 requests wait")
    world.when(ask()).then_nothing()
    monkeypatch.setattr("coordinator.deciders.pool.MOST_ALLOCATIONS", 2)
    world.when(ask()).then_refused("too_many", "2 allocations")


# --- for any sequence -------------------------------------------------------------------------------------------------

AMOUNTS = st.builds(
    resources, cpu=st.sampled_from([500, 1000, 2000, 3000]), memory=st.sampled_from([0, 0, 40]), gpus=st.just(0)
)
NAMES = [f"r{number}" for number in range(9)]
STEPS = st.one_of(
    st.builds(
        AllocatePool,
        pool_id=st.just("p"),
        request_id=st.sampled_from(NAMES),
        resources=AMOUNTS,
        priority=st.sampled_from([0, 0, 1, 5]),
        wait_s=st.sampled_from([0.0, 30.0, 500.0, 500.0, 500.0]),
        preempts=st.sampled_from([False, False, True]),
    ),
    st.builds(ReleasePool, pool_id=st.just("p"), request_id=st.sampled_from(NAMES)),
    st.sampled_from([1.0, 70.0]),
)
POOLS = st.sampled_from(
    [
        PoolDefined(pool_id="p", capacity=resources(cpu=4000, memory=100), owned=True),
        PoolDefined(
            pool_id="p",
            capacity=resources(cpu=5000, memory=100),
            owned=True,
            parts={"a": resources(cpu=3000, memory=50), "b": resources(cpu=2000, memory=50)},
            quotas={"tenant:*": resources(cpu=3000)},
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@for_all(POOLS, st.lists(st.tuples(STEPS, st.sampled_from(["acme", "blue"])), min_size=20, max_size=40))
def test_whatever_is_asked_in_any_order(pool: PoolDefined, steps: list[tuple[Any, str]]) -> None:
    """Never more than there is, none is overtaken, no victim is needless, and nobody waits for what is free."""
    scribe, at, kept = write(said(pool, at=BEGIN)), BEGIN, Kept(pool)
    for step, tenant in steps:
        at += 1.0
        if isinstance(step, float):
            at += step
            kept.take(passed(scribe, at), tenant, at)
        else:
            decided = Given(scribe).when(step, at=at, tenant=tenant)
            assert decided.error is None or decided.error.reason == "id_taken"
            if decided.events:
                decided.fold()
            kept.take(decided.events, tenant, at)
        found = scribe.world.pools["p"]
        assert {name: (one.resources, one.part) for name, one in found.allocations.items()} == {
            name: (one.resources, one.part) for name, one in kept.held.items()
        }
        kept.check_rest(at)


class Kept:
    """What the events say of a pool, without the code that is checked."""

    def __init__(self, pool: PoolDefined) -> None:
        self.pool = pool
        self.held: dict[str, Allocation] = {}
        self.waiting: dict[str, Request] = {}
        self.victims: list[Allocation] = []

    def take(self, events: Any, tenant: str, at: float) -> None:
        for event in events:
            match event:
                case PoolRequested():
                    self.waiting[event.request_id] = Request(
                        request_id=event.request_id,
                        resources=event.resources,
                        asked_at=at,
                        priority=event.priority,
                        tenant=tenant,
                        until=event.until,
                    )
                case PoolAllocated():
                    self._grant(event, tenant, at)
                case PoolReleased():
                    del self.held[event.request_id]
                case PoolPreempted():
                    self.victims.append(self.held.pop(event.request_id))
                    assert event.waits is False
                case PoolWithdrawn():
                    gone = self.waiting.pop(event.request_id)
                    assert event.reason == "requested" or (gone.until or 0) <= at
                case _:
                    assert isinstance(event, PoolDefined)

    def _grant(self, event: PoolAllocated, tenant: str, at: float) -> None:
        waited = self.waiting.pop(event.request_id, None)
        came = at if waited is None else waited.asked_at
        tenant = tenant if waited is None else waited.tenant
        self.held[event.request_id] = Allocation(
            request_id=event.request_id,
            resources=event.resources,
            allocated_at=at,
            priority=event.priority,
            tenant=tenant,
            part=event.part,
        )
        assert not self.over(event.resources), f"more than there is: {self.held}"
        mine = Request(
            request_id=event.request_id,
            resources=event.resources,
            asked_at=came,
            priority=event.priority,
            tenant=tenant,
        )
        held = sum(one.resources.cpu_millis for one in self.held.values() if one.tenant == tenant)
        assert not [one for _, one in quotas_of_pool(self.pool, mine) if held > one.cpu_millis], "more than its quota"
        for other in self.waiting.values():
            if rank(other) < rank(mine) and not self.is_over_quota(other, with_victims=True):
                self._check_passed(event, other)
        for victim in self.victims:
            assert victim.priority < event.priority
            self.held[victim.request_id] = victim
            assert self.over(event.resources), f"{victim} was not needed for {event}"
            del self.held[victim.request_id]
        self.victims = []

    def _check_passed(self, event: PoolAllocated, other: Request) -> None:
        """Check that a share delays none that waits before it: what that asks for was set aside for it."""
        if self.victims:
            assert other.priority < event.priority, f"{event} preempted past {other}"
            return
        if other.priority > event.priority:
            assert not at_least(event.resources, other.resources), f"{event} overtook {other}"
        has = self.pool.parts.get(event.part, self.pool.capacity)
        if not at_least(has, other.resources):
            return  # it never goes there
        shares = [one.resources for one in self.held.values() if one.part == event.part]
        cpu = sum(one.cpu_millis for one in shares) + other.resources.cpu_millis
        memory = sum(one.memory_bytes for one in shares) + other.resources.memory_bytes
        assert not event.resources.cpu_millis or not other.resources.cpu_millis or cpu <= has.cpu_millis
        assert not event.resources.memory_bytes or not other.resources.memory_bytes or memory <= has.memory_bytes

    def over(self, asked: Resources) -> bool:
        """Return whether more is held of a kind that is asked for, in all or in a part, than there is."""
        return any(
            (asked.cpu_millis and sum(one.resources.cpu_millis for one in shares) > has.cpu_millis)
            or (asked.memory_bytes and sum(one.resources.memory_bytes for one in shares) > has.memory_bytes)
            for shares, has in self._groups()
        )

    def _groups(self) -> Iterator[tuple[list[Allocation], Resources]]:
        yield list(self.held.values()), self.pool.capacity
        for part, has in self.pool.parts.items():
            yield [one for one in self.held.values() if one.part == part], has

    def is_over_quota(self, request: Request, *, with_victims: bool = False) -> bool:
        """Return whether its tenant may not hold it, with what it holds and what was asked for before it."""
        before = [one for one in self.waiting.values() if rank(one) < rank(request)]
        cpu = sum(one.resources.cpu_millis for one in (*before, request) if one.tenant == request.tenant)
        held = [*self.held.values(), *(self.victims if with_victims else ())]
        cpu += sum(one.resources.cpu_millis for one in held if one.tenant == request.tenant)
        return any(cpu > most.cpu_millis for _, most in quotas_of_pool(self.pool, request))

    def check_rest(self, at: float) -> None:
        """The first in order that is within its quota does not fit, or it would not wait; none waits too long."""
        ranked = sorted(self.waiting.values(), key=rank)
        first = next((one for one in ranked if not self.is_over_quota(one)), None)
        if first is not None:
            for part in self.pool.parts or {"": self.pool.capacity}:
                self.held["?"] = Allocation(request_id="?", resources=first.resources, allocated_at=at, part=part)
                assert self.over(first.resources), f"{first} waits, and {part!r} has room"
                del self.held["?"]
        assert all(one.until is None or one.until > at - 80.0 for one in ranked)


def rank(request: Request) -> tuple[float, float]:
    return request.asked_at - request.priority * 60.0, request.asked_at


def quotas_of_pool(pool: PoolDefined, request: Request) -> Any:
    return [(name, most) for name, most in pool.quotas.items() if name in {"tenant:*", f"tenant:{request.tenant}"}]


def at_least(one: Resources, other: Resources) -> bool:
    return one.cpu_millis >= other.cpu_millis and one.memory_bytes >= other.memory_bytes


def test_nobody_takes_what_one_that_waits_is_about_to_get() -> None:
    """A full turn had no room for that yet."""
    given(FOUR, asked("first", 4000)).when(ask("s", 1000)).then_nothing().then_answers(False)
    given(FOUR, asked("first", 3000)).when(ask("s", 1000)).then(granted("s", 1000))


def test_pools_are_looked_at_with_all_that_is_due() -> None:
    """A request that times out is found by the writer."""
    scribe = write(FOUR, granted("a", 4000), asked(until=BEGIN + 30))
    context = DecisionContext(BEGIN + 30, Rules())
    gone = PoolWithdrawn(pool_id="p", request_id="r", reason="timed_out")
    assert next(all_due(scribe.world, Signs(), context, 0.0)) == gone


def test_what_a_full_turn_had_no_room_for_follows_with_the_next() -> None:
    """A release whose commit has not who gets what it left; a pool is looked at once after each change."""
    scribe = write(FOUR, granted("a", 4000), asked(cpu=2000))
    deadlines = Deadlines(scribe.world)
    assert list(deadlines.pools) == ["p"]
    assert passed(scribe, BEGIN + 5, {}, deadlines.pools) == []
    assert not deadlines.pools
    gone = released("a", "owner_ended")
    scribe.commit(gone)
    deadlines.note([gone])
    assert list(deadlines.pools) == ["p"]
    assert passed(scribe, BEGIN + 6, {}, deadlines.pools) == [later(cpu=2000)]
    deadlines.note([gone])
    assert not deadlines.pools
