"""Matching of ready tasks to waiting claims."""

from __future__ import annotations

import time
from collections import Counter
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.deciders.task import LEASE_CHARS_MAX
from coordinator.placement.matching import SCHEDULE_VERSION, _answer_bytes, rounds_taken, schedule
from events.after import After
from events.base import Position
from events.coordinator import ClaimFilter, CoordinatorTurn, WaitingClaim
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.task import Debounce, Occurrence, Payload, Prefer, TaskStatus
from events.time_limits import TimeLimits
from events.worker import WorkerDraining, WorkerLeft
from projections.task import FailedAttempt, Task
from projections.world import World
from tests.specification import Scribe, fold, write
from tests.unit.deciders.facts import BEGIN, attempt_failed, completed, resources, started, submitted, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from events.base import Event
    from events.task import TaskStarted


def waiting(claim_id: str = "c", worker_id: str = "w", slots: int = 1, strategy: str = "fifo") -> WaitingClaim:
    return WaitingClaim(claim_id, worker_id, slots, strategy)


def deal(
    world: World, *claims: WaitingClaim, loads: dict[str, float] | None = None, most: int = 1000, **others: Any
) -> list[TaskStarted]:
    return list(schedule(world, claims, loads if loads is not None else {}, most=most, **others))


def dealt(world: World, *claims: WaitingClaim, **others: Any) -> list[tuple[str, str]]:
    """Return which task went to which worker, in order of assignment."""
    return [(event.task_id, event.worker_id) for event in deal(world, *claims, **others)]


def tasks(count: int, **others: Any) -> list[Event]:
    return [submitted(f"t{number}", **others) for number in range(1, count + 1)]


# --- which tasks a claim takes ----------------------------------------------------------------------------------------


def test_a_claim_takes_only_what_its_filter_says() -> None:
    """Tasks of its programs, with its names, among those that its worker handles; the others stay for other claims."""
    world = fold(
        worker("v"),
        worker("w", handles=("a", "b")),
        submitted("p1", task_name="a", program="p"),
        submitted("q1", task_name="a", program="q"),
        submitted("n1", task_name="b"),
        submitted("p2", task_name="b", program="p", priority=9),
        submitted("p3", task_name="c", program="p"),
    )

    def taken(filter_: ClaimFilter, worker_id: str = "v", **others: Any) -> list[str]:
        claim = waiting(worker_id=worker_id, slots=9, **others)
        return [event.task_id for event in schedule(world, [claim], {}, {"c": filter_}, most=100)]

    assert taken(ClaimFilter()) == ["p1", "q1", "n1", "p2", "p3"]
    assert taken(ClaimFilter(programs=("p",))) == ["p1", "p2", "p3"]
    assert taken(ClaimFilter(programs=("p",)), strategy="priority") == ["p2", "p1", "p3"]
    assert taken(ClaimFilter(programs=("q", "p", "q"))) == ["p1", "q1", "p2", "p3"]
    assert taken(ClaimFilter(programs=("nobody",))) == []
    assert taken(ClaimFilter(task_names=("b", "c"))) == ["n1", "p2", "p3"]
    assert taken(ClaimFilter(programs=("p",), task_names=("b",))) == ["p2"]
    assert taken(ClaimFilter(programs=("p",)), "w") == ["p1", "p2"]
    both = {"c": ClaimFilter(programs=("p",))}
    served = schedule(world, [waiting("c", "v", 9), waiting("d", "w", 9)], {}, both, most=100)
    assert [(event.task_id, event.worker_id) for event in served] == [
        ("p1", "v"),
        ("q1", "w"),
        ("p2", "v"),
        ("n1", "w"),
        ("p3", "v"),
    ]


# --- order of tasks ---------------------------------------------------------------------------------------------------


def test_tasks_go_by_age() -> None:
    """Of all names and shapes together."""
    world = fold(worker(), submitted("b", task_name="x"), submitted("a"), submitted("c", task_name="x"))
    assert dealt(world, waiting(slots=9)) == [("b", "w"), ("a", "w"), ("c", "w")]


@pytest.mark.alone
@pytest.mark.parametrize("strategy", ["fifo", "priority"])
@pytest.mark.parametrize(
    "wanted",
    [ClaimFilter(), ClaimFilter(task_names=("n7",)), ClaimFilter(programs=("p",))],
    ids=["any", "name", "program"],
)
def test_a_claim_costs_the_same_however_many_names_wait(wanted: ClaimFilter, strategy: str) -> None:
    """Only the tasks that may be the first are looked at."""

    def cost_of(names: int) -> float:
        waiting_tasks = (submitted(f"t{number}", task_name=f"n{number}", program="p") for number in range(names))
        world = fold(worker(), *waiting_tasks)
        claim = waiting(strategy=strategy)
        costs = []
        for _ in range(7):
            began = time.process_time_ns()
            assert len(list(schedule(world, [claim], {}, {"c": wanted}, most=1))) == 1
            costs.append(time.process_time_ns() - began)
        return min(costs)

    assert cost_of(20_000) < 5 * cost_of(10)


def test_priority_goes_before_age_and_ties_go_by_age() -> None:
    """A higher number comes first, a negative one last."""
    ranks = {"low": -1, "old": 5, "new": 5, "high": 9, "none": 0}
    world = fold(worker(), *(submitted(name, priority=rank) for name, rank in ranks.items()))
    taken = [task_id for task_id, _ in dealt(world, waiting(slots=9, strategy="priority"))]
    assert taken == ["high", "old", "new", "none", "low"]


@pytest.mark.parametrize("strategy", ["fifo", "round_robin", "least_loaded", "weighted_round_robin"])
def test_other_strategies_take_tasks_by_age(strategy: str) -> None:
    """Priority counts only for claims that use it."""
    world = fold(worker(), submitted("old"), submitted("urgent", priority=9))
    assert dealt(world, waiting(strategy=strategy)) == [("old", "w")]


def test_claims_of_different_strategies_never_get_the_same_task() -> None:
    """Each claim takes the next remaining task in its own order."""
    world = fold(worker("v"), worker("w"), submitted("old"), submitted("urgent", priority=9), submitted("new"))
    got = dealt(world, waiting("c1", "v", 2), waiting("c2", "w", 2, "priority"))
    assert sorted(got) == [("new", "v"), ("old", "v"), ("urgent", "w")]


@pytest.mark.parametrize(
    ("state", "gets"),
    [("running", True), ("unknown", True), *((one, False) for one in ("created", "starting", "pausing", "paused"))],
)
def test_a_worker_gets_tasks_only_while_its_container_runs(state: str, gets: bool) -> None:
    """A container that is not known here is not asked; of turns before version 2, no state is on record."""
    world = fold(worker("in", container_id="k"), worker("out"), *tasks(1))
    assert bool(dealt(world, waiting("c", "in"), containers={"k": state})) is gets
    assert dealt(world, waiting("c", "in"), waiting("d", "out"), containers={"k": state, "l": "paused"})
    assert dealt(world, waiting("c", "in"))


def test_a_task_that_waits_for_its_retry_is_not_dealt() -> None:
    """At its retry time it is back at its old place in the queue, with the next attempt."""
    world = fold(worker(), submitted("t1"), submitted("t2"), started("t1"), attempt_failed("t1", retry_at=BEGIN + 60.0))
    assert dealt(world, waiting(slots=9)) == [("t2", "w")]
    world.indexes.advance(BEGIN + 60.0)
    first, second = deal(world, waiting(slots=9))
    assert (first.task_id, first.attempt, second.task_id) == ("t1", 2, "t2")


# --- order of claims --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fifo", "priority"])
def test_claims_are_served_in_turn(strategy: str) -> None:
    """One task each, the longest waiting first; then the second."""
    world = fold(worker("v"), worker("w"), *tasks(5))
    got = dealt(world, waiting("c1", "w", 9, strategy), waiting("c2", "v", 2, strategy))
    assert got == [("t1", "w"), ("t2", "v"), ("t3", "w"), ("t4", "v"), ("t5", "w")]


def test_the_least_loaded_worker_is_served_first() -> None:
    """By its reported load plus the share of its slots in use; then by waiting time."""
    world = fold(worker("v", slots=4), worker("w", slots=2), *tasks(9), started("t9", "c0.1.1", worker_id="v"))
    claims = (waiting("c1", "w", 9, "least_loaded"), waiting("c2", "v", 9, "least_loaded"))
    # v uses 1/4 and w nothing; then w 1/2; v 2/4, which ties, and w waits longer.
    assert [worker_id for _, worker_id in dealt(world, *claims)] == ["w", "v", "w", "v", "v"]
    loaded = dealt(world, *claims, loads={"w": 0.9})
    assert [worker_id for _, worker_id in loaded] == ["v", "v", "v", "w", "w"]


def test_a_worker_without_limits_counts_each_task_as_a_slot() -> None:
    """It comes first only while it is as idle as the others."""
    world = fold(worker("v"), worker("w"), *tasks(3), started("t3", "c0.1.1", worker_id="v"))
    claims = (waiting("c1", "v", 9, "least_loaded"), waiting("c2", "w", 9, "least_loaded"))
    assert dealt(world, *claims) == [("t1", "w"), ("t2", "v")]


def test_weights_are_slots() -> None:
    """A worker with three times the slots gets three times the tasks."""
    world = fold(worker("v", slots=30), worker("w", slots=10), *tasks(12))
    claims = (waiting("c1", "v", 99, "weighted_round_robin"), waiting("c2", "w", 99, "weighted_round_robin"))
    assert Counter(worker_id for _, worker_id in dealt(world, *claims)) == {"v": 9, "w": 3}


def turns(scribe: Scribe, *claims: WaitingClaim, most: int = 1) -> list[str]:
    """Place up to *most* tasks like the writer, end them at once, and return the workers in order."""
    world = scribe.world
    started = deal(world, *claims, most=most)
    rounds = rounds_taken(world, claims, started)
    if started:
        turn = CoordinatorTurn(
            instance="i",
            now=world.time,
            claims=claims,
            policy="schedule",
            policy_version=SCHEDULE_VERSION,
            placed=len(started),
            rounds=rounds,
        )
        scribe.commit(*started, turn)
        scribe.commit(*(completed(event.task_id, event.lease) for event in started))
    return [event.worker_id for event in started]


def rotating(*slots: int | None, strategy: str = "weighted_round_robin") -> tuple[list[Event], list[WaitingClaim]]:
    """Return workers a, b, c … with these slots, and a claim of each for more than it can take."""
    names = ascii_lowercase[: len(slots)]
    workers: list[Event] = [worker(name, slots=most) for name, most in zip(names, slots, strict=True)]
    return workers, [waiting(f"c{name}", name, 99, strategy) for name in names]


def singly(scribe: Scribe, claims: Sequence[WaitingClaim], count: int) -> str:
    """Place *count* tasks in as many turns."""
    return "".join(one for _ in range(count) for one in turns(scribe, *claims))


def test_weights_count_when_tasks_come_singly() -> None:
    """Each turn continues where the last one ended: three to one, spread evenly, in any four in a row."""
    workers, claims = rotating(3, 1)
    assert singly(write(*workers, *tasks(12)), claims, 12) == "abaa" * 3


def test_a_heavy_worker_does_not_get_its_tasks_in_one_run() -> None:
    """Its tasks alternate with those of many light ones."""
    workers, claims = rotating(8, *[1] * 8)
    got = singly(write(*workers, *tasks(16)), claims, 16)
    assert got[::2] == "a" * 8 or got[1::2] == "a" * 8
    assert set(got) == set("abcdefghi")


def test_round_robin_rotates_over_the_workers_whoever_asked_first() -> None:
    """In the order of their registration; a worker that asks again at once waits until all others had their turn."""
    workers, claims = rotating(5, 1, None, strategy="round_robin")
    scribe = write(*workers, *tasks(9))
    assert singly(scribe, claims[::-1], 4) == "abca"
    assert singly(scribe, claims, 5) == "bcabc"


def test_a_worker_that_was_away_gets_no_more_than_its_turn() -> None:
    """What others got in the meantime is not made up for, and does not count against them."""
    workers, claims = rotating(1, 1, strategy="round_robin")
    scribe = write(*workers, *tasks(20))
    assert singly(scribe, claims, 2) == "ab"
    assert singly(scribe, claims[:1], 7) == "aaaaaaa"
    assert singly(scribe, claims, 6) == "bababa"


def test_a_new_worker_begins_where_the_others_are() -> None:
    """It is not given all that the others had before it came."""
    workers, claims = rotating(1, 1, 1, strategy="round_robin")
    scribe = write(*workers[:2], *tasks(20))
    assert singly(scribe, claims[:2], 6) == "ababab"
    scribe.commit(workers[2])
    assert singly(scribe, claims, 6) == "cabcab"


def test_a_worker_that_registers_again_keeps_its_place() -> None:
    """To register again is no way to be first, with other slots neither."""
    workers, claims = rotating(1, 1, strategy="round_robin")
    scribe = write(*workers, *tasks(20))
    assert singly(scribe, claims, 1) == "a"
    scribe.commit(worker("a", slots=7))
    assert singly(scribe, claims, 5) == "bbaba"


def test_a_worker_without_a_fitting_task_holds_up_nobody() -> None:
    """It earns nothing while there is no task for it; when there is one, it gets its task of the current round."""
    scribe = write(worker("a", handles=("ocr",)), worker("b"), worker("c"), *tasks(8))
    claims = [waiting(f"c{name}", name, 9, "round_robin") for name in "abc"]
    assert singly(scribe, claims, 6) == "bcbcbc"
    scribe.commit(*(submitted(f"o{number}", task_name="ocr") for number in range(6)))
    assert singly(scribe, claims, 8) == "aabcabca"


def test_two_claims_of_one_worker_are_one_in_the_rotation() -> None:
    """The longest waiting one is filled first."""
    world = fold(worker("a"), worker("b"), *tasks(6))
    claims = [
        waiting(name, worker_id, slots, "round_robin")
        for name, worker_id, slots in (("c1", "a", 1), ("c2", "a", 1), ("c3", "b", 9))
    ]
    assert [event.claim_id for event in deal(world, *claims)] == ["c1", "c3", "c2", "c3", "c3", "c3"]


def test_a_claim_whose_filter_finds_nothing_does_not_hold_up_its_worker() -> None:
    """The other claims of the worker keep its place in the rotation."""
    world = fold(worker("a"), worker("b"), *tasks(4))
    claims = [
        waiting(name, worker_id, slots, "round_robin")
        for name, worker_id, slots in (("c1", "a", 9), ("c2", "a", 9), ("c3", "b", 9))
    ]
    filters = {"c1": ClaimFilter(programs=("nobody",))}
    assert [event.claim_id for event in deal(world, *claims, filters=filters)] == ["c2", "c3", "c2", "c3"]
    assert deal(world, claims[0], filters=filters) == []


def test_claims_that_rotate_share_a_turn_with_others() -> None:
    """One task for each claim, as among claims in turn."""
    world = fold(worker("a"), worker("b"), worker("c"), *tasks(6))
    claims = [waiting("c1", "a", 9, "round_robin"), waiting("c2", "b", 9), waiting("c3", "c", 9, "round_robin")]
    placed = deal(world, *claims)
    got = [event.worker_id for event in placed]
    assert Counter(got[:3]) == Counter(got[3:]) == Counter("abc")
    assert rounds_taken(world, claims, placed) == {"a": 2.0, "c": 2.0}
    assert rounds_taken(world, claims[1:2], placed) == {}


# --- limits -----------------------------------------------------------------------------------------------------------


def test_no_more_is_dealt_than_asked_for() -> None:
    """By the claim, by the worker's slots less what it holds, and by the turn."""
    world = fold(worker(slots=3), *tasks(9), started("t9"))
    assert len(deal(world, waiting(slots=1))) == 1
    assert len(deal(world, waiting(slots=9))) == 2
    assert len(deal(world, waiting(slots=9), most=1)) == 1
    assert deal(world, waiting(slots=9), most=0) == []


def test_a_full_worker_gets_nothing() -> None:
    """Nor one whose slots were made fewer than what it holds."""
    facts = (*tasks(3), worker(slots=2), started("t1"), started("t2", "c.2.1"))
    assert deal(fold(*facts), waiting()) == []
    assert deal(fold(*facts, worker(slots=1)), waiting()) == []


def test_two_claims_of_one_worker_share_its_slots_and_resources() -> None:
    """A worker that sent a second claim before the first expired must not get twice its capacity."""
    claims = (waiting("c1"), waiting("c2"))
    assert len(deal(fold(worker(slots=1), *tasks(3)), *claims)) == 1
    assert len(deal(fold(worker(slots=9), *tasks(3)), *claims)) == 2
    tight = fold(worker(resources=resources(cpu=3)), *tasks(3, resources=resources(cpu=2)))
    assert len(deal(tight, *claims)) == 1


def test_two_claims_of_one_worker_count_as_one_load() -> None:
    """Tasks of one claim count as load for the other."""
    world = fold(worker("v", slots=4), worker("w", slots=4), *tasks(4))
    claims = [
        waiting(name, worker_id, 9, "least_loaded") for name, worker_id in (("c1", "v"), ("c2", "v"), ("c3", "w"))
    ]
    assert Counter(worker_id for _, worker_id in dealt(world, *claims)) == {"v": 2, "w": 2}


@pytest.mark.parametrize("end", [WorkerDraining(worker_id="w"), WorkerLeft(worker_id="w")])
def test_only_active_workers_get_tasks(end: Event) -> None:
    """Draining, left and unknown workers get no tasks."""
    assert deal(fold(worker(), *tasks(1), end), waiting()) == []
    assert deal(fold(*tasks(1)), waiting()) == []


def test_a_worker_gets_what_it_handles() -> None:
    """Without a list it handles everything."""
    world = fold(worker("v", handles=("ocr",)), worker("w"), submitted("t1"), submitted("t2", task_name="ocr"))
    assert dealt(world, waiting("c1", "v", 9)) == [("t2", "v")]
    assert dealt(world, waiting("c1", "w", 9)) == [("t1", "w"), ("t2", "w")]
    assert dealt(world, waiting("c1", "v", 9), waiting("c2", "w", 9)) == [("t2", "v"), ("t1", "w")]


def test_what_a_worker_holds_takes_room() -> None:
    """A task that does not fit stays for other workers, and smaller ones pass it."""
    big, small = resources(cpu=3), resources(cpu=1)
    facts = (
        worker(resources=resources(cpu=4)),
        submitted("held", resources=small),
        started("held"),
        submitted("huge", resources=resources(cpu=9)),
        submitted("first", resources=big),
        submitted("second", resources=big),
        submitted("tiny"),
    )
    assert dealt(fold(*facts), waiting(slots=9)) == [("first", "w"), ("tiny", "w")]
    assert dealt(fold(*facts, worker("v")), waiting(slots=9), waiting("c2", "v", 1)) == [
        ("first", "w"),
        ("huge", "v"),
        ("tiny", "w"),
    ]


def test_every_attempt_has_a_lease_of_its_own() -> None:
    """Two tasks of one claim can be renewed, ended and lost each by itself; the next attempt has another lease."""
    world = fold(worker(), *tasks(3))
    leases = [event.lease for event in deal(world, waiting(slots=3))]
    assert leases == ["c.1.1", "c.2.1", "c.3.1"]
    again = fold(worker(), submitted(), started(), attempt_failed())
    assert [event.lease for event in deal(again, waiting())] == ["c.1.2"]


def test_the_longest_lease_is_one_that_deciders_take() -> None:
    """Ids of 64 characters, the last of a thousand slots and many attempts included."""
    name = "x" * 64
    (event,) = deal(fold(worker(name), submitted(name)), waiting(name, name, 1000))
    assert event.lease == f"{name}.1.1"
    assert len(f"{name}.1000.100000") <= LEASE_CHARS_MAX


# --- what always holds ------------------------------------------------------------------------------------------------

AMOUNTS = st.one_of(st.just(NONE), st.builds(resources, cpu=st.integers(0, 4), gpus=st.integers(0, 1)))
TASKS = st.lists(st.tuples(st.sampled_from(["ocr", "work"]), AMOUNTS, st.integers(-2, 2), st.booleans()), max_size=14)
WORKERS = st.lists(
    st.tuples(st.none() | st.integers(1, 4), st.none() | AMOUNTS, st.sampled_from([(), ("ocr",), ("work", "ocr")])),
    min_size=1,
    max_size=4,
)
STRATEGIES = st.sampled_from(["fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin"])
CLAIMS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), STRATEGIES), min_size=1, max_size=6)


@for_all(offered=TASKS, workers=WORKERS, asked=CLAIMS, most=st.integers(0, 20))
def test_nobody_is_given_more_than_he_can_take(offered: Any, workers: Any, asked: Any, most: int) -> None:
    """Slots, resources, handles and the limit of the turn hold; no task goes twice; equal inputs give equal results."""
    facts: list[Event] = [
        worker(f"w{number}", slots=slots, resources=room, handles=handles)
        for number, (slots, room, handles) in enumerate(workers)
    ]
    for number, (name, needs, priority, held) in enumerate(offered):
        facts.append(submitted(f"t{number}", task_name=name, resources=needs, priority=priority))
        if held:
            facts.append(started(f"t{number}", f"h{number}.1.1", worker_id="w0", claim_id=f"h{number}"))
    world = fold(*facts)
    claims = [waiting(f"c{number}", f"w{who}", slots, how) for number, (who, slots, how) in enumerate(asked)]
    before = world.digest()
    placed = deal(world, *claims, most=most)
    assert deal(world, *claims, most=most) == placed
    assert world.digest() == before
    assert len(placed) <= most
    assert len({event.task_id for event in placed}) == len(placed)
    assert len({event.lease for event in placed}) == len(placed)
    for event in placed:
        assert len([one for one in placed if one.claim_id == event.claim_id]) <= claims[int(event.claim_id[1:])].slots
    _expect_kept(world, placed)


@st.composite
def turn_sizes(draw: st.DrawFn) -> list[int]:
    """Return how many tasks are placed in each of some turns: one by one, in batches, or both."""
    return draw(st.lists(st.integers(1, 9), min_size=1, max_size=25))


@settings(deadline=None)
@for_all(
    slots=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    sizes=turn_sizes(),
    restored=st.sets(st.integers(0, 24)),
    strategy=st.sampled_from(["round_robin", "weighted_round_robin"]),
)
def test_every_worker_has_its_share_after_any_number_of_tasks(
    slots: list[int], sizes: list[int], restored: set[int], strategy: str
) -> None:
    """
    Smooth weighted round robin, by its definition: n tasks times the weight's share, rounded up or down.

    However the tasks are spread over turns, and whether the writer changes between them. In a window as long as the sum
    of the weights, each has had exactly its weight.
    """
    workers, claims = rotating(*slots, strategy=strategy)
    weights = slots if strategy == "weighted_round_robin" else [1] * len(slots)
    scribe = write(*workers, *tasks(sum(sizes)))
    got = ""
    for number, size in enumerate(sizes):
        if number in restored:
            scribe = Scribe(World.restore(scribe.world.snapshot()))
        until = len(got) + size
        while len(got) < until:
            # In one turn nobody gets more than its slots: the tasks of a turn end after it.
            got += "".join(turns(scribe, *claims, most=min(until - len(got), *slots)))
    names, total = ascii_lowercase[: len(slots)], sum(weights)
    for count in range(len(got) + 1):
        for name, weight in zip(names, weights, strict=True):
            assert count * weight // total <= got[:count].count(name) <= -(-count * weight // total)
    for begin in range(len(got) - total + 1):
        window = Counter(got[begin : begin + total])
        assert window == dict(zip(names, weights, strict=True))


READY = st.lists(st.tuples(st.sampled_from(["ocr", "work"]), st.integers(-2, 2)), max_size=12)
PLACES = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([(), ("ocr",), ("work",)]), st.integers(1, 5), st.floats(0, 1)),
    min_size=1,
    max_size=5,
)


@for_all(ready=READY, places=PLACES, strategy=st.sampled_from(["fifo", "priority", "least_loaded"]))
def test_claims_and_tasks_are_chosen_by_the_definition(ready: Any, places: Any, strategy: str) -> None:
    """
    FIFO, PRIORITY and LEAST_LOADED, as their table in the guide says it.

    The next task goes to the longest waiting of the claims with the fewest tasks, or to the least loaded worker, among
    those that can take one; it is the oldest, or the first by priority.
    """
    facts: list[Event] = [worker(f"w{number}", slots=one[0], handles=one[1]) for number, one in enumerate(places)]
    facts += [submitted(f"t{number}", task_name=name, priority=rank) for number, (name, rank) in enumerate(ready)]
    claims = [waiting(f"c{number}", f"w{number}", one[2], strategy) for number, one in enumerate(places)]
    loads = {f"w{number}": one[3] for number, one in enumerate(places)}
    left = {f"t{number}": one for number, one in enumerate(ready)}
    if strategy == "priority":
        left = dict(sorted(left.items(), key=lambda one: -one[1][1]))
    had = [0] * len(places)
    expected = []
    while True:
        able = []
        for number, (slots, handles, asked, load) in enumerate(places):
            fitting = [task_id for task_id, (name, _) in left.items() if not handles or name in handles]
            if fitting and had[number] < min(slots, asked):
                use = load + had[number] / slots if strategy == "least_loaded" else had[number]
                able.append((use, number, fitting[0]))
        if not able:
            break
        _, number, task_id = min(able)
        del left[task_id]
        had[number] += 1
        expected.append((task_id, f"w{number}"))
    assert dealt(fold(*facts), *claims, loads=loads) == expected


def _expect_kept(world: World, placed: list[TaskStarted]) -> None:
    for one in world.workers.values():
        got = [world.tasks[event.task_id] for event in placed if event.worker_id == one.worker_id]
        assert not one.handles or {task.task_name for task in got} <= set(one.handles)
        held = [world.tasks[task_id] for task_id in world.indexes.held.get(one.worker_id, ())]
        if got and one.slots is not None:
            assert len(held) + len(got) <= one.slots
        if any(task.resources != NONE for task in got) and one.resources is not None:
            needed = NONE
            for task in held + got:
                needed += task.resources
            assert needed.fits_in(one.resources)


@pytest.mark.parametrize("encoding", ["json", "base64", "text"])
@pytest.mark.parametrize("data", ["", "x" * 1000, '"\\' * 500, "\x01" * 100, "é" * 300])
def test_what_a_task_takes_in_an_answer_is_never_guessed_too_small(encoding: str, data: str) -> None:
    """The bound holds for tasks with every number, id and text at its maximum."""
    if encoding != "text" and "\x01" in data:
        return  # neither JSON nor base64 holds a control character
    longest = "i" * 64
    task = Task(
        task_id=longest,
        task_name="\x01" * 128,
        task_type="\x01" * 128,
        status=TaskStatus.RUNNING,
        submitted=Position(10**12, 10**5),
        submitted_at=1763900000.123456,
        tenant=longest,
        priority=-1_000_000,
        timeout_s=12345678.123456,
        max_retries=1000,
        resources=Resources(cpu_millis=2**53, memory_bytes=2**53, gpus=2**53),
        payload=Payload(encoding=encoding, digest="f" * 64, data=data, ref="r" * 1024),
        payload_digest="base64:" + "f" * 64,
        idempotency_key="k" * 256,
        attempt=100_000,
        failures=100_000,
        lease="l" * 80,
        claim_id=longest,
        worker_id=longest,
        started_at=1763900000.123456,
        ended_by=longest,
        retry_at=1763900000.123456,
        error="\x01" * 1024,
        progress=0.123456789012345,
        progress_message="m" * 1024,
        refused_lease="l" * 80,
    )
    task = msgspec.structs.replace(
        task, latest=Position(10**12, 10**5), lapses=100_000, source=longest, program=longest, traceparent="t" * 55
    )
    claim = WaitingClaim(longest, longest, 1, "fifo")
    assert len(msgspec.json.encode(task)) <= _answer_bytes(task, claim)
    for name, value in LARGE.items():
        one = msgspec.structs.replace(task, **{name: value})
        assert len(msgspec.json.encode(one)) <= _answer_bytes(one, claim), name


LARGE: dict[str, Any] = {
    "queue": "q" * 64,
    "fairness_key": "\x01" * 128,
    "retry": RetryPolicy(non_retryable=("e" * 256,) * 20),
    "error_type": "e" * 256,
    "attempts": (
        FailedAttempt(attempt=1, worker_id="w", started_at=1.0, ended_at=2.0, reason="failed", error="e" * 1024),
    )
    * 10,
    "after": After(tasks=tuple(f"{number:064}" for number in range(64))),
    "checkpoint": Payload(encoding="json", digest="f" * 64, data="x" * 16_384),
    "attributes": {"a" * 500: "b" * 500},
    "worker_filter": "f" * 1000,
    "prefer": Prefer("f" * 1000),
    "preference": "f" * 1000,
    "resources": Resources(named={f"{'n' * 31}{number}": 2**53 for number in range(8)}),
    "time_limits": TimeLimits(start_within_s=12345678.9, finish_within_s=12345678.9, heartbeat_s=12345678.9),
    "occurrence": Occurrence(schedule_id="s" * 47, slot=2**53, source="x" * 64),
    "pause_reason": "p" * 1024,
    "requeued_from": "r" * 64,
    "debounce": Debounce(since=1763900000.123456, until=1763900000.123456),
}
"""What may be large in a task besides the fields of every task."""
