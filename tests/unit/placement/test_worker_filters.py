"""Which workers may run a task: by its filter over labels, by what it needs, and what it costs that some may not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.explain import Tier
from coordinator.placement.matching import offered, schedule
from coordinator.placement.sources import Sources, ready_for_custom
from events.after import After
from events.coordinator import ANY, ClaimFilter
from events.queue import FairShare, Policy, QueueDefined, QueuePolicySet
from events.resources import Resources
from events.task import Prefer, TaskUnblocked
from events.task_pause import TaskPaused, TaskResumed
from events.worker import WorkerDraining, WorkerLeft, WorkerRegistered
from projections.ready import ReadyTasks, ShapeKey
from projections.worker_filters import condition, facts_of
from tests.specification import BEGIN, Said, fold
from tests.unit.deciders.facts import (
    attempt_failed,
    completed,
    created,
    node,
    resources,
    started,
    starting,
    submitted,
    worker,
)
from tests.unit.placement.test_explain import codes, told
from tests.unit.placement.test_matching import dealt, waiting

if TYPE_CHECKING:
    from events.base import Event
    from projections.world import World

EU, US = 'labels.zone == "eu"', 'labels.zone == "us"'
CLAIMS = [waiting("v", "v", 99), waiting("w", "w", 99)]
TWO = (worker("v", labels={"zone": "us"}), worker("w", labels={"zone": "eu"}))


def test_a_task_goes_only_to_a_worker_that_meets_its_filter() -> None:
    """Whoever is first; the others of its name stay for the others."""
    world = fold(*TWO, submitted("a", worker_filter=EU), submitted("b"), submitted("c", worker_filter=US))
    assert sorted(dealt(world, *CLAIMS)) == [("a", "w"), ("b", "v"), ("c", "v")]
    assert dealt(world, CLAIMS[1]) == [("a", "w"), ("b", "w")]
    assert dealt(fold(worker(), submitted(worker_filter=EU)), waiting()) == []


def test_what_one_worker_may_not_run_another_still_finds() -> None:
    """Also one with less room: it is looked for again by workers with other labels."""
    small = worker("w", labels={"zone": "eu"}, resources=resources(cpu=1))
    world = fold(
        worker("v", resources=resources(cpu=9)), small, submitted(worker_filter=EU, resources=resources(cpu=1))
    )
    assert dealt(world, *CLAIMS) == [("t", "w")]


def test_a_filter_knows_the_worker_and_its_container() -> None:
    """Its id, its labels, and the type and the node of its container; '' without one."""
    inside = (node(), created(), starting(), worker(container_id="k", labels={"gpu": 16}))
    for text in ('worker_id == "w"', "labels.gpu >= 16", 'container_id == "k"', 'agent_type == "task_agent"'):
        assert dealt(fold(*inside, submitted(worker_filter=text)), waiting()) == [("t", "w")], text
    assert dealt(fold(*inside, submitted(worker_filter='node_id == "n"')), waiting()) == [("t", "w")]
    for text in ('container_id == ""', 'agent_type == ""', 'node_id == ""', "labels.gpu == null"):
        assert dealt(fold(worker(), submitted(worker_filter=text)), waiting()) == [("t", "w")], text
        assert dealt(fold(*inside, submitted(worker_filter=text)), waiting()) == [], text


def test_labels_that_are_equal_and_not_alike_are_told_apart() -> None:
    """1 and true are equal to Python, and are not to a filter."""
    world = fold(
        worker("v", labels={"x": 1}), worker("w", labels={"x": True}), submitted(worker_filter="labels.x == true")
    )
    assert dealt(world, *CLAIMS) == [("t", "w")]
    again = fold(worker("w", labels={"x": 1}), submitted(worker_filter="labels.x == true"))
    assert dealt(again, CLAIMS[1]) == []


def test_a_worker_that_registers_with_other_labels_is_another_one() -> None:
    """From then on."""
    facts = (worker(labels={"zone": "us"}), submitted(worker_filter=EU))
    assert dealt(fold(*facts), waiting()) == []
    assert dealt(fold(*facts, worker(labels={"zone": "eu"})), waiting()) == [("t", "w")]


def test_tasks_that_are_named_or_chosen_must_fit_as_well() -> None:
    """A claim may name a task that its worker may not run, and a custom policy may choose one: it gets others."""
    world = fold(*TWO, submitted("a", worker_filter=EU), submitted("b", worker_filter=US))
    wanted = {"v": ClaimFilter(task_ids=("a", "b"))}
    assert dealt(world, CLAIMS[0], filters=wanted) == [("b", "v")]
    chosen = schedule(world, [waiting("v", "v", 9, "")], {}, most=9, chosen={"v": ("a", "b")})
    assert [event.task_id for event in chosen] == ["b"]
    assert [task.task_id for task in ready_for_custom(world, 9)] == ["a", "b"]


def test_a_worker_is_offered_what_it_may_run() -> None:
    """One that is not known has no labels."""
    world = fold(*TWO, submitted("a", worker_filter=EU), submitted("b", worker_filter="worker_id == 'new'"))

    def names(worker_id: str) -> list[str]:
        return [task.task_id for task in offered(world, worker_id, ANY, "", most=9, containers={})]

    assert (names("v"), names("w"), names("new")) == ([], ["a"], ["b"])


def test_tasks_of_keys_are_shared_among_those_that_may_run_them() -> None:
    """A lane whose tasks do not fit is passed over."""
    world = fold(
        *TWO,
        QueuePolicySet(queue_id="default", policy=Policy(strategy="fair", fair=FairShare(by="key"))),
        submitted("a", fairness_key="x", worker_filter=EU),
        submitted("b", fairness_key="y", worker_filter=US),
        submitted("c", fairness_key="y"),
    )
    assert dealt(world, waiting("v", "v", 9, "")) == [("b", "v"), ("c", "v")]


def test_amounts_with_names_are_counted() -> None:
    """What a worker does not name it has none of; what is held is gone until it ends."""
    two = Resources(named={"licences": 2})
    licensed = worker("w", resources=Resources(named={"licences": 3}))
    world = fold(worker("v", resources=resources(cpu=9)), licensed, *(submitted(one, resources=two) for one in "ab"))
    assert dealt(world, *CLAIMS) == [("a", "w")]
    held = fold(licensed, submitted("a", resources=two), started("a", worker_id="w"), submitted("b", resources=two))
    assert dealt(held, CLAIMS[1]) == []
    assert held.indexes.held_resources["w"] == two
    assert dealt(fold(worker("w"), submitted("a", resources=two)), CLAIMS[1]) == [("a", "w")]


# --- why not ----------------------------------------------------------------------------------------------------------


def test_a_filter_that_no_worker_meets_is_told() -> None:
    """With what each worker has of what is asked."""
    asked = 'labels.zone == "eu" && labels.gpu >= 16'
    found = told(worker(labels={"zone": "us", "gpu": 8, "rack": 3}), submitted(worker_filter=asked))
    assert codes(found) == [("no_match", Tier.NEVER)]
    assert found.summary == f"none of 1 workers that handle 'work' meets its filter {asked}"
    assert found.workers[0].against == {"labels": f'has labels.gpu = 8, labels.zone = "us"; asked is {asked}'}
    assert told(worker(), submitted(worker_filter=EU)).workers[0].against == {
        "labels": f"has none of these labels; asked is {EU}"
    }


def test_no_name_no_match_and_too_little_are_told_apart() -> None:
    """The first of them that holds for all."""
    names = worker("u", handles=("x",), labels={"zone": "eu"})
    small = worker("w", labels={"zone": "eu"}, resources=Resources(cpu_millis=1000, named={"licences": 1}))
    large = submitted(worker_filter=EU, resources=Resources(named={"licences": 2}))
    assert codes(told(names, large)) == [("no_handler", Tier.NEVER)]
    assert codes(told(names, TWO[0], large)) == [("no_match", Tier.NEVER)]
    found = told(names, TWO[0], small, large)
    assert codes(found) == [("too_large", Tier.NEVER)]
    assert found.summary == "it needs 2 licences, more than any of 1 workers that may run 'work' has"
    assert found.worker_counts == {"labels": 1, "other_names": 1, "too_small": 1}


# --- what it costs ----------------------------------------------------------------------------------------------------


def _cheapest_claim_s(world: World) -> float:
    """Return how long it takes to place one task, at best."""
    best = 9.0
    for _ in range(20):
        begin = time.perf_counter()
        assert len(list(schedule(world, [waiting()], {}, most=9))) == 1
        best = min(best, time.perf_counter() - begin)
    return best


@pytest.mark.parametrize(
    "differing",
    [
        lambda number: {"task_name": f"n{number}"},
        lambda number: {"task_type": f"n{number}"},
        lambda number: {"resources": resources(cpu=1 + number)},
        lambda number: {"worker_filter": f'worker_id != "x{number}"'},
    ],
    ids=["names", "types", "amounts", "filters"],
)
def test_a_thousand_shapes_cost_a_claim_hardly_more_than_one(differing: Any) -> None:
    """Only those that may have the first task are looked at; what a worker meets is known from the turn before."""
    room = worker(resources=resources(cpu=2000))
    one = fold(room, *(submitted(f"t{number}", **differing(0)) for number in range(20_000)))
    many = fold(room, *(submitted(f"t{number}", **differing(number % 1000)) for number in range(20_000)))
    assert _cheapest_claim_s(many) < 5 * _cheapest_claim_s(one) + 0.0001


def test_what_fits_no_worker_of_a_turn_is_looked_at_once() -> None:
    """However many tasks a claim takes, and however many of them wait before those."""
    room = worker(resources=resources(cpu=100))
    large = [submitted(f"t{number}", resources=resources(cpu=1000 + number % 500)) for number in range(5000)]
    small = [submitted(f"s{number}", resources=resources(cpu=1)) for number in range(100)]
    world = fold(room, *large, *small)
    best = 9.0
    for _ in range(10):
        begin = time.perf_counter()
        placed = list(schedule(world, [waiting(slots=100)], {}, most=100))
        best = min(best, time.perf_counter() - begin)
        assert [event.task_id for event in placed] == [f"s{number}" for number in range(100)]
    assert best < 0.02


# --- what holds always ------------------------------------------------------------------------------------------------

LABELS = st.dictionaries(st.sampled_from(["zone", "gpu"]), st.sampled_from(["eu", "us", 8, 16, True]), max_size=2)
FILTERS = st.sampled_from(["", EU, US, "labels.gpu >= 16", "!(labels.gpu < 16)", 'worker_id in ["w0", "w2"]'])
ROOM = st.none() | st.builds(
    lambda cpu, licences: Resources(cpu_millis=cpu, named={"licences": licences} if licences else {}),
    st.integers(0, 3),
    st.integers(0, 3),
)
NEEDS = ROOM.map(lambda one: one or Resources())


@for_all(
    workers=st.lists(st.tuples(LABELS, ROOM), min_size=1, max_size=4),
    ready=st.lists(st.tuples(FILTERS, NEEDS), max_size=10),
    slots=st.integers(1, 4),
)
def test_tasks_go_where_they_fit_and_nowhere_else(workers: Any, ready: Any, slots: int) -> None:
    """The next of the claims with the fewest tasks takes the oldest that its worker may run and has room for."""
    facts: list[Event] = [
        worker(f"w{number}", labels=labels, resources=room) for number, (labels, room) in enumerate(workers)
    ]
    facts += [
        submitted(f"t{number}", worker_filter=asked, resources=needs) for number, (asked, needs) in enumerate(ready)
    ]
    world = fold(*facts)
    left = dict(enumerate(ready))
    free, had, expected = [room for _, room in workers], [0] * len(workers), []

    def fitting(number: int) -> list[int]:
        knows, room = facts_of(world.workers[f"w{number}"], {}), free[number]
        return [
            one
            for one, (asked, needs) in left.items()
            if (not asked or condition(asked)(knows)) and (room is None or needs.fits_in(room))
        ]

    while able := [(had[one], one) for one in range(len(workers)) if had[one] < slots and fitting(one)]:
        _, number = min(able)
        task = fitting(number)[0]
        room, (_, needs) = free[number], left.pop(task)
        free[number], had[number] = None if room is None else room - needs, had[number] + 1
        expected.append((f"t{task}", f"w{number}"))
    claims = [waiting(f"c{number}", f"w{number}", slots) for number in range(len(workers))]
    assert dealt(world, *claims) == expected


# --- preferences ------------------------------------------------------------------------------------------------------

PREFER_EU: dict[str, Any] = {"prefer": Prefer(filter=EU)}


def later(world: World, seconds: float, task_id: str = "a") -> World:
    """Let time pass since a task was submitted."""
    world.indexes.advance(world.tasks[task_id].submitted_at + seconds)
    return world


def test_a_task_waits_for_a_worker_that_it_prefers_and_then_takes_any() -> None:
    """For its time; the one that it prefers gets it at once."""
    facts = (*TWO, submitted("a", **PREFER_EU), submitted("b"))
    assert dealt(later(fold(*facts), 4.9), CLAIMS[0]) == [("b", "v")]
    assert dealt(fold(*facts), CLAIMS[1]) == [("a", "w"), ("b", "w")]
    assert dealt(later(fold(*facts), 5.0), CLAIMS[0]) == [("a", "v"), ("b", "v")]
    longer = fold(*TWO, submitted("a", prefer=Prefer(filter=EU, for_s=60.0)))
    assert dealt(later(longer, 59.0), CLAIMS[0]) == []
    assert dealt(later(longer, 60.0), CLAIMS[0]) == [("a", "v")]


@pytest.mark.parametrize(
    "other",
    [
        [],
        [WorkerDraining(worker_id="w")],
        [WorkerLeft(worker_id="w")],
        [worker("w", labels={"zone": "us"})],
        [worker("w", labels={"zone": "eu"}, handles=("x",))],
    ],
    ids=["none", "draining", "left", "other labels", "other names"],
)
def test_without_a_worker_that_it_prefers_a_task_goes_to_any_at_once(other: list[Any]) -> None:
    """What is draining, has left or handles other names does not count."""
    begin = TWO if other and not isinstance(other[0], WorkerRegistered) else TWO[:1]
    assert dealt(fold(*begin, *other, submitted("a", **PREFER_EU)), CLAIMS[0]) == [("a", "v")]


def test_the_time_begins_when_a_task_is_ready() -> None:
    """Again with each attempt, after those that it waits for, and when it is resumed."""
    once_failed = fold(
        *TWO,
        submitted("a", **PREFER_EU),
        started("a", worker_id="w"),
        Said(attempt_failed("a", retry_at=BEGIN + 100.0), BEGIN + 90.0, "default", "", ""),
    )
    once_failed.indexes.advance(BEGIN + 104.0)
    assert dealt(once_failed, CLAIMS[0]) == []
    once_failed.indexes.advance(BEGIN + 105.0)
    assert dealt(once_failed, CLAIMS[0]) == [("a", "v")]
    after = submitted("b", after=After(tasks=("a",)), waits_for=("a",), **PREFER_EU)
    unblocked = Said(TaskUnblocked(task_id="b", predecessor="a"), BEGIN + 50.0, "default", "", "")
    world = fold(*TWO, submitted("a"), after, unblocked)
    paused = fold(
        *TWO, submitted("b", **PREFER_EU), TaskPaused(task_id="b", reason=""),
        Said(TaskResumed(task_id="b"), BEGIN + 50.0, "default", "", ""),
    )  # fmt: skip
    for one in (world, paused):
        one.indexes.advance(BEGIN + 54.0)
        assert "b" not in dict(dealt(one, CLAIMS[0]))
        one.indexes.advance(BEGIN + 55.0)
        assert dict(dealt(one, CLAIMS[0]))["b"] == "v"


def test_a_task_sticks_to_the_worker_that_ran_another() -> None:
    """As its submission recorded it, or the event that unblocked it."""
    stuck = Prefer(sticky_to="x")
    facts = (*TWO, submitted("a", prefer=stuck, prefers_worker="w"))
    assert dealt(fold(*facts), CLAIMS[0]) == []
    assert dealt(fold(*facts), CLAIMS[1]) == [("a", "w")]
    assert dealt(fold(*TWO, submitted("a", prefer=stuck)), CLAIMS[0]) == [("a", "v")]
    waits = submitted("a", prefer=stuck, after=After(tasks=("x",)), waits_for=("x",))
    ran = (submitted("x"), started("x", worker_id="w"), completed("x"))
    world = fold(*TWO, waits, *ran, TaskUnblocked(task_id="a", predecessor="x", prefers_worker="w"))
    assert world.tasks["a"].preference == 'worker_id == "w"'
    assert (world.indexes.worker_filters, world.indexes.stuck_to) == ({}, {'worker_id == "w"': 1})
    assert world.tasks["a"].sticks_to == "w"
    gone = fold(TWO[0], submitted("a", prefer=stuck, prefers_worker="w"))
    assert dealt(gone, CLAIMS[0]) == [("a", "v")]
    assert dealt(world, CLAIMS[0]) == []
    assert dealt(world, CLAIMS[1]) == [("a", "w")]


def test_named_and_offered_tasks_wait_as_well() -> None:
    """A claim by id gets a task no sooner, and a worker is not offered what waits for another."""
    world = fold(*TWO, submitted("a", **PREFER_EU))
    wanted = {"v": ClaimFilter(task_ids=("a",)), "w": ClaimFilter(task_ids=("a",))}
    assert dealt(world, CLAIMS[0], filters=wanted) == []
    assert dealt(world, CLAIMS[1], filters=wanted) == [("a", "w")]
    assert list(offered(world, "v", ANY, "", most=9, containers={})) == []
    assert [task.task_id for task in ready_for_custom(world, 9)] == ["a"]
    assert dealt(later(world, 5.0), CLAIMS[0], filters=wanted) == [("a", "v")]


def test_of_many_tasks_that_wait_those_that_have_waited_long_enough_are_found() -> None:
    """Among the first of them."""
    old = [submitted(f"o{number}", **PREFER_EU) for number in range(3)]
    new = [Said(submitted(f"n{number}", **PREFER_EU), BEGIN + 10.0, "default", "", "") for number in range(3)]
    world = fold(*TWO, *old, *new)
    world.indexes.advance(world.tasks["o2"].submitted_at + 5.0)
    assert dealt(world, CLAIMS[0]) == [(f"o{number}", "v") for number in range(3)]


def test_a_task_that_waits_for_a_worker_says_so() -> None:
    """For how long, and which workers are not waited for."""
    busy = worker("w", slots=1, labels={"zone": "eu"})
    world = fold(TWO[0], busy, submitted("x"), started("x", worker_id="w"), submitted(**PREFER_EU))
    found = told(world)
    assert codes(found) == [("prefers", Tier.ITSELF), ("workers_busy", Tier.ITSELF)]
    assert found.summary == f"it waits 5.0 s more for a worker that meets {EU}"
    assert found.reasons[1].text == "all 1 workers that could run it are busy"
    assert {one.worker_id: one.against for one in found.workers} == {
        "v": {"preferred": "it waits 5.0 s more for another worker"},
        "w": {"no_slot": "1 of 1 slots are taken"},
    }
    assert codes(told(later(world, 5.0, "t"))) == [("not_claimed", Tier.ITSELF)]


def test_when_only_the_others_are_left_they_are_called_busy() -> None:
    """One that is preferred may be silent."""
    full = worker("v", slots=1, labels={"zone": "us"})
    facts = (full, TWO[1], submitted("x"), started("x", worker_id="v"), submitted(**PREFER_EU))
    found = told(*facts, silent={"w": 60.0})
    assert codes(found) == [("prefers", Tier.ITSELF), ("workers_busy", Tier.ITSELF)]


def test_a_worker_takes_first_what_sticks_to_it() -> None:
    """Of the names that it handles, in every queue; then what it may take as others may."""
    stuck: dict[str, Any] = {"prefer": Prefer(sticky_to="x"), "prefers_worker": "w"}
    world = fold(
        worker("v"),
        worker("w", handles=("work",), slots=9),
        QueueDefined(queue_id="q"),
        QueuePolicySet(queue_id="q", policy=Policy(strategy="fair", fair=FairShare(by="key"))),
        submitted("old", queue="q"),
        submitted("a", **stuck),
        submitted("b", queue="q", fairness_key="k", **stuck),
        submitted("c", queue="q", fairness_key="l", **stuck),
        submitted("other", task_name="x", **stuck),
    )
    two = [waiting("w1", "w", 2, ""), waiting("w2", "w", 9, "")]
    world.indexes.advance(world.tasks["a"].submitted_at)
    assert {task_id for task_id, _ in dealt(world, two[0])} < {"a", "b", "c"}
    assert sorted(dealt(world, *two)) == [("a", "w"), ("b", "w"), ("c", "w"), ("old", "w")]
    assert not Sources(world).of("", world.workers["w"], ANY).is_empty
    wanted = {"w1": ClaimFilter(task_ids=("old", "c"))}
    assert dealt(world, two[0], filters=wanted) == [("c", "w"), ("old", "w")]
    assert [task.task_id for task in offered(world, "w", ANY, "", most=9, containers={})][-1] == "old"


def test_shapes_of_preferences_are_forgotten_with_their_tasks() -> None:
    """As all shapes are, once they are many."""
    ready = ReadyTasks()
    for name in ("n", "m"):
        shape = ready.shape(ShapeKey(name, "", Resources(), preference=EU))
        assert ready.preferring[EU][shape.key] is shape
    for shape in list(ready.shapes.values()):
        ready.discard(shape)
    assert (ready.preferring, ready.shapes) == ({}, {})
