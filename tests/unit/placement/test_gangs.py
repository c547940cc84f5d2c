"""The tasks of a gang begin in one commit or not at all, in their turn, and no gang lets another one wait for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.placement import gangs
from coordinator.placement.gangs import MOST_TRIED, PATIENCE_S, key_too_narrow, most_at_once, room_kept_for, workers_of
from coordinator.placement.matching import _Candidate, _Capacity, _Rotation, offered, rounds_taken, schedule
from coordinator.placement.sources import ready_for_custom
from events.coordinator import ClaimFilter, WaitingClaim
from events.hold import HoldPlaced
from events.limit import LimitDefined, Terms
from events.queue import DEFAULT, Policy, QueueDefined, QueuePaused, QueuePolicySet
from events.spend import Spend
from events.task import Gang, Payload, Prefer, TaskCancelled, TaskSubmitted
from events.task_pause import TaskPaused, TaskResumed
from events.worker import WorkerDraining
from tests.specification import BEGIN, Scribe, fold, said, write
from tests.unit.deciders.facts import attempt_failed, completed, resources, started, submitted, worker
from tests.unit.placement.test_matching import deal, dealt, waiting

if TYPE_CHECKING:
    from events.base import Event
    from events.task import TaskStarted
    from projections.world import World


def member(task_id: str, size: int = 2, gang_id: str = "g", deadline_s: float = 100.0, **others: Any) -> TaskSubmitted:
    gang = Gang(gang_id=gang_id, size=size, deadline_s=deadline_s)
    return submitted(task_id, gang=gang, gang_until=BEGIN + deadline_s, **others)


def gang(size: int = 2, gang_id: str = "g", **others: Any) -> list[Event]:
    return [member(f"{gang_id}{number}", size, gang_id, **others) for number in range(1, size + 1)]


# --- all or none ------------------------------------------------------------------------------------------------------


def test_none_begins_before_all_are_submitted() -> None:
    """However much room there is; tasks behind them are not kept."""
    world = fold(worker(), *gang(3)[:2], submitted("t"))
    assert dealt(world, waiting(slots=9)) == [("t", "w")]
    assert world.indexes.ready == 1


def test_all_begin_in_one_turn() -> None:
    """In the place of the first one, over several claims and workers; each attempt has its own lease."""
    world = fold(worker("v"), worker("w"), submitted("a"), *gang(3), submitted("z"))
    claims = waiting("c", "v", 2), waiting("d", "w", 3)
    got = deal(world, *claims)
    assert [(one.task_id, one.claim_id) for one in got] == [
        ("a", "c"),
        ("g1", "d"),
        ("g2", "d"),
        ("g3", "c"),
        ("z", "d"),
    ]
    assert len({one.lease for one in got}) == 5


def test_none_begins_without_room_for_all() -> None:
    """Neither by the slots of the claims nor of the workers, nor by how many may start at most; others pass."""
    facts = [worker("w", slots=2), *gang(3), submitted("t")]
    assert dealt(fold(*facts), waiting(slots=9)) == [("t", "w")]
    assert dealt(fold(worker("w"), *facts[1:]), waiting(slots=2)) == [("t", "w")]
    assert dealt(fold(worker("w"), *facts[1:]), waiting(slots=9), most=2) == [("t", "w")]
    assert dealt(fold(worker("w"), *facts[1:]), waiting(slots=9), most=3) == [("g1", "w"), ("g2", "w"), ("g3", "w")]


def test_a_task_that_is_not_ready_keeps_all_of_its_gang() -> None:
    """Paused, held, delayed or cancelled; when it is ready again, they begin."""
    scribe = write(worker(), *gang(2))

    def begins() -> bool:
        got = dealt(scribe.world, waiting(slots=9))
        assert len(got) in (0, 2)
        return bool(got)

    assert begins()
    scribe.commit(TaskPaused(task_id="g2", reason="why"))
    assert not begins()
    assert scribe.world.indexes.gangs.apart == 1
    scribe.commit(TaskResumed(task_id="g2"))
    assert begins()
    scribe.commit(HoldPlaced(hold_id="h", where='task_id == "g1"'))
    assert not begins()
    scribe.commit(TaskCancelled(task_id="g1"))
    assert not begins()
    scribe.commit(member("g3"))
    assert begins()
    scribe.commit(TaskCancelled(task_id="g2"), TaskCancelled(task_id="g3"))
    assert not scribe.world.indexes.gangs.of


def test_a_hold_keeps_tasks_that_wait_for_their_gang() -> None:
    """The others come later, and wait for it."""
    scribe = write(worker(), member("g1"), HoldPlaced(hold_id="h", where='gang == "g"'))
    assert scribe.world.indexes.gangs.apart == 0
    assert scribe.world.indexes.on_hold.count == 1
    scribe.commit(member("g2"))
    assert dealt(scribe.world, waiting(slots=9)) == []


def test_after_its_begin_each_goes_on_alone() -> None:
    """A failed attempt is retried as that of any other task."""
    world = fold(worker(), *gang(2))
    scribe = write(worker(), *gang(2))
    for event in deal(world, waiting(slots=2)):
        scribe.commit(event)
    lease = scribe.world.tasks["g1"].lease
    scribe.commit(attempt_failed("g1", lease))
    assert dealt(scribe.world, waiting(claim_id="d", slots=9)) == [("g1", "w")]
    scribe.commit(completed("g2", scribe.world.tasks["g2"].lease))
    assert scribe.world.indexes.gangs.of["default/g"].begun == 1


def test_tenants_have_gangs_of_their_own() -> None:
    """The same id in another tenant is another gang."""
    world = fold(worker(), said(member("a"), tenant="acme"), said(member("b"), tenant="blue"))
    assert dealt(world, waiting(slots=9)) == []


# --- who may take which of them ---------------------------------------------------------------------------------------


def test_each_goes_where_it_may_run() -> None:
    """By name, filter, resources and queue; one that only one worker may run does not lose its place to another one."""
    world = fold(
        QueueDefined(queue_id="q"),
        worker("v", slots=1, labels={"zone": "eu"}, resources=resources(cpu=4)),
        worker("w", slots=2, handles=("work", "other"), resources=resources(cpu=2)),
        member("g1", 3),
        member("g2", 3, worker_filter='labels.zone == "eu"', resources=resources(cpu=3)),
        member("g3", 3, task_name="other", queue="q"),
    )
    claims = waiting("c", "v", 2), waiting("d", "w", 2)
    assert dealt(world, *claims) == [("g1", "w"), ("g2", "v"), ("g3", "w")]
    only = {"d": ClaimFilter(queues=(DEFAULT,))}
    assert list(schedule(world, claims, {}, only, most=9)) == []
    named = {"c": ClaimFilter(task_ids=("g2",)), "d": ClaimFilter(task_ids=("g1",))}
    assert list(schedule(world, claims, {}, named, most=9)) == []
    assert dealt(fold(worker(), member("g1"), member("g2", prefer=Prefer(filter='worker_id == "v"'))), waiting(slots=2))


def test_a_task_is_moved_for_another_one() -> None:
    """The first that fits is not always the right one: what only `v` has room for gets it."""
    world = fold(
        worker("v", slots=1, resources=resources(cpu=8)),
        worker("w", slots=2, resources=resources(cpu=4)),
        worker("x", slots=1, resources=resources(cpu=1)),
        *(member(f"g{number}", 4, resources=resources(cpu=cpu)) for number, cpu in ((1, 1), (2, 2), (3, 2), (4, 5))),
    )
    claims = waiting("c", "v"), waiting("d", "w"), waiting("e", "w"), waiting("f", "x")
    assert dealt(world, *claims) == [("g1", "x"), ("g2", "w"), ("g3", "w"), ("g4", "v")]


def test_what_sticks_to_a_worker_goes_there_with_its_gang() -> None:
    """Its worker takes it before anything else."""
    sticky = Prefer(sticky_to="old", for_s=60.0)
    world = fold(
        worker("v"),
        worker("w"),
        submitted("old"),
        started("old", worker_id="v", claim_id="x"),
        member("g1", prefer=sticky, prefers_worker="v"),
        member("g2"),
    )
    assert dealt(world, waiting("d", "w"), waiting("c", "v")) == [("g1", "v"), ("g2", "w")]


def test_an_answer_with_a_gang_fits_into_one_message() -> None:
    """Tasks with large payloads need several claims."""
    large = Payload(encoding="json", digest="0" * 64, data='"' + "x" * 300_000 + '"')
    world = fold(worker(), *gang(3, payload=large))
    assert dealt(world, waiting(slots=9)) == []
    assert len(dealt(world, waiting(slots=9), waiting("d", slots=9))) == 3


def test_limits_hold_for_all_of_a_gang_together() -> None:
    """One that does not fit is counted for nothing: others of the key may start."""
    limit = LimitDefined(limit_id="l", terms=Terms(by="task_name", running=2))
    world = fold(limit, worker(), *gang(3), submitted("t"))
    assert dealt(world, waiting(slots=9)) == [("t", "w")]
    world = fold(limit, worker(), *gang(2), submitted("t"))
    assert dealt(world, waiting(slots=9)) == [("g1", "w"), ("g2", "w")]


def test_the_parts_of_a_shared_queue_are_counted() -> None:
    """What a gang got counts for its tenant; what it did not get does not."""
    policy = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="fair", fair=None))
    world = fold(QueueDefined(queue_id="q"), policy, worker(), *gang(2, queue="q"), submitted("t"), submitted("u"))
    assert sorted(dealt(world, waiting(slots=4))) == [("g1", "w"), ("g2", "w"), ("t", "w"), ("u", "w")]
    assert sorted(dealt(world, waiting(slots=1))) == [("t", "w")]


def test_what_a_gang_may_spend_is_reserved() -> None:
    """As of any other task."""
    world = fold(worker(), *gang(2, spend=Spend(model="m", input_tokens=20)))
    assert [one.reserved.tokens for one in deal(world, waiting(slots=2)) if one.reserved is not None] == [20, 20]


@pytest.mark.parametrize("strategy", ["round_robin", "weighted_round_robin", "least_loaded", "priority", "fifo"])
def test_a_gang_is_spread_as_single_tasks_are(strategy: str) -> None:
    """Over the claims that were served least; the rotation counts it, and what follows goes on from there."""
    world = fold(worker("u", slots=2), worker("v", slots=2), worker("w", slots=2), *gang(3), submitted("t"))
    claims = [waiting(one, one, 2, strategy) for one in "uvw"]
    got = deal(world, *claims)
    assert len(got) == 4
    assert len({one.worker_id for one in got[:3]}) == 3
    rounds = rounds_taken(world, claims, got)
    assert bool(rounds) is ("robin" in strategy)


def test_a_worker_that_takes_no_more_part_in_the_rotation_is_not_counted() -> None:
    """It had no task of its own, and gets one of a gang: nothing follows for the others in this turn."""
    world = fold(worker("v"), worker("w"))
    rotation = _Rotation(world)
    candidates = [
        _Candidate(waiting(one, one), _Capacity(world.workers[one], 0, None, 0.0), "round_robin") for one in "vw"
    ]
    for one in candidates:
        rotation.add(one)
    gone = rotation.next()
    assert rotation.pass_over()
    rotation.note_given(gone)
    assert rotation.score() == 0
    rotation.note_given(next(one for one in candidates if one is not gone))
    assert rotation._assigned == 1


def test_who_chooses_tasks_alone_is_offered_none_of_a_gang() -> None:
    """A policy of a program, or a custom policy, chooses one task at a time: gangs begin before, by their age."""
    custom = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="custom"))
    world = fold(QueueDefined(queue_id="q"), custom, worker(), *gang(2), submitted("t"), *gang(2, "h", queue="q"))
    assert [one.task_id for one in ready_for_custom(world, 9)] == ["t"]
    assert [one.task_id for one in offered(world, "w", ClaimFilter(), "fifo", most=9, containers={})] == ["t"]
    chosen = {"c": ("g1", "t")}
    assert dealt(world, waiting("c", slots=9, strategy=""), chosen=chosen) == [
        ("t", "w"), ("g1", "w"), ("g2", "w"), ("h1", "w"), ("h2", "w"),
    ]  # fmt: skip
    assert dealt(world, waiting("c", slots=3, strategy=""), chosen={}, most=3) == [("g1", "w"), ("g2", "w")]
    assert dealt(world, waiting("c", slots=3, strategy=""), chosen=chosen, most=1) == [("t", "w")]


# --- room is kept for one of them -------------------------------------------------------------------------------------


def later(world: World, seconds: float) -> World:
    world.indexes.advance(world.time + seconds)
    return world


def kept(world: World, *claims: WaitingClaim, most: int = 1000) -> tuple[list[str], int]:
    """Return which tasks start, and for how many room is kept; they follow again from both together."""
    numbers: list[int] = []
    got = list(schedule(world, claims, {}, most=most, note_kept=numbers.append))
    again: list[int] = []
    assert list(schedule(world, claims, {}, most=len(got) + sum(numbers), note_kept=again.append)) == got
    assert sum(again) == sum(numbers)
    return [one.task_id for one in got], sum(numbers)


def test_room_is_kept_for_a_gang_that_has_waited_long() -> None:
    """As much as it finds; what comes before it passes, what comes behind it does not."""
    facts = [worker("v", slots=2), worker("w", slots=2), submitted("r"), started("r", worker_id="w"), *gang(4)]
    claims = waiting("c", "v", 2), waiting("d", "w", 1)
    world = later(fold(*facts, submitted("t")), PATIENCE_S / 2)
    assert kept(world, *claims) == (["t"], 0)
    assert room_kept_for(world) == ""
    assert kept(later(world, PATIENCE_S), *claims) == ([], 3)
    assert room_kept_for(world) == "default/g"
    world = later(fold(*facts, submitted("t", priority=9)), PATIENCE_S)
    assert kept(world, *(waiting(one.claim_id, one.worker_id, one.slots, "priority") for one in claims)) == (["t"], 2)
    world = later(fold(worker("x"), *facts, submitted("t")), PATIENCE_S)
    assert kept(world, *claims) == ([], 3)
    assert kept(world, *claims, waiting("e", "x", 2)) == (["g1", "g2", "g3", "g4", "t"], 0)


def test_with_a_short_deadline_it_is_kept_sooner() -> None:
    """After a quarter of it."""
    world = later(fold(worker("w", slots=2), *gang(2, deadline_s=8.0), submitted("t")), 0.5)
    assert room_kept_for(world) == ""
    assert room_kept_for(later(world, 2.0)) == "default/g"


def test_room_is_kept_for_one_gang_at_a_time() -> None:
    """For the one that is ready for the longest time, of those that could begin and whose queue is not paused."""
    facts = [worker("w", slots=3), *gang(4, "f"), *gang(3, "g"), *gang(3, "h")]
    world = later(fold(*facts), PATIENCE_S)
    assert room_kept_for(world) == "default/g"
    assert kept(world, waiting(slots=2)) == ([], 2)
    assert most_at_once(world, world.indexes.gangs.of["default/f"].in_order()) == 3
    queue = QueueDefined(queue_id="q")
    facts = [queue, worker("w", slots=3), *gang(3, "g", queue="q"), *gang(3, "h"), QueuePaused(queue_id="q")]
    assert room_kept_for(later(fold(*facts), PATIENCE_S)) == "default/h"
    facts = [worker("w", slots=3), *gang(3), WorkerDraining(worker_id="w")]
    assert room_kept_for(later(fold(*facts), PATIENCE_S)) == ""


def test_room_of_limits_is_kept_too() -> None:
    """Else small tasks of the same key would be faster for ever."""
    limit = LimitDefined(limit_id="l", terms=Terms(by="task_name", running=2))
    world = later(fold(limit, worker(), submitted("r"), started("r"), *gang(2), submitted("t")), PATIENCE_S)
    assert kept(world, waiting(slots=9)) == ([], 1)
    world = later(fold(limit, worker(), *gang(3), submitted("t")), PATIENCE_S)
    assert key_too_narrow(world, world.indexes.gangs.of["default/g"].in_order()) == "l:work"
    assert kept(world, waiting(slots=9)) == (["t"], 0)


def test_no_more_room_is_kept_than_may_start() -> None:
    """With one place left of `max_concurrent_tasks`, that is for the gang."""
    world = later(fold(worker(), *gang(3), submitted("t")), PATIENCE_S)
    assert kept(world, waiting(slots=9), most=1) == ([], 1)


def test_many_gangs_that_do_not_fit_are_tried_later() -> None:
    """The next turn tries the same, and the one that room is kept for is tried in each; without slots none is tried."""
    workers = worker("v", resources=resources(cpu=9)), worker("w", resources=resources(cpu=3))

    def got(*gangs: Event) -> list[tuple[str, str]]:
        scribe = Scribe()
        scribe.commit(*workers, *gangs, *gang(2, "z", resources=resources(cpu=1)), submitted("t"))
        return dealt(scribe.world, waiting(slots=2))

    facts = [one for number in range(MOST_TRIED + 1) for one in gang(2, f"a{number}", resources=resources(cpu=2))]
    assert got(*facts) == [("t", "w")]
    assert got(*facts[: 2 * (MOST_TRIED - 1)]) == [("z1", "w"), ("z2", "w")]
    facts = [one for number in range(MOST_TRIED + 1) for one in gang(3, f"a{number}")]
    assert got(*facts) == [("z1", "w"), ("z2", "w")]


def test_a_gang_whose_places_take_too_long_to_find_does_not_begin_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at a place counts."""
    world = fold(worker("w"), *gang(3), submitted("t"))
    monkeypatch.setattr(gangs, "MOST_LOOKS", 2)
    assert dealt(world, waiting(slots=9)) == [("t", "w")]
    monkeypatch.setattr(gangs, "MOST_LOOKS", 3)
    assert dealt(world, waiting(slots=9)) == [("g1", "w"), ("g2", "w"), ("g3", "w"), ("t", "w")]


def test_behind_many_gangs_that_could_never_begin_no_room_is_kept() -> None:
    """To look at all of them would take long; they end at their deadlines."""
    facts = [one for number in range(MOST_TRIED) for one in gang(3, f"a{number}")]
    scribe = Scribe()
    scribe.commit(worker("w", slots=2), *facts, *gang(2, "z"))
    assert room_kept_for(later(scribe.world, PATIENCE_S)) == ""
    scribe = Scribe()
    scribe.commit(worker("w", slots=2), *facts[3:], *gang(2, "z"))
    assert room_kept_for(later(scribe.world, PATIENCE_S)) == "default/z"


def test_which_workers_may_run_a_gang() -> None:
    """One that may run any of its tasks is one."""
    world = fold(
        worker("u"),
        worker("v", handles=("x",)),
        worker("w", handles=("other",)),
        member("g1"),
        member("g2", task_name="other"),
    )
    assert workers_of(world, world.indexes.gangs.of["default/g"].in_order()) == {"u", "w"}


# --- properties -------------------------------------------------------------------------------------------------------

_SIZES = st.integers(1, 4)
_SLOTS = st.sampled_from((None, 1, 2, 3))
_HANDLES = st.sampled_from(((), ("a",), ("a", "b")))
_NAMES = st.sampled_from("ab")


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Event], list[WaitingClaim]]:
    """Some workers, gangs and single tasks in any order, and claims."""
    workers = [
        worker(
            f"w{number}",
            slots=draw(st.sampled_from((None, 1, 2, 3))),
            handles=draw(st.sampled_from(((), ("a",), ("a", "b")))),
        )
        for number in range(draw(_SIZES))
    ]
    tasks: list[Event] = []
    for number in range(draw(_SIZES)):
        size = draw(st.integers(2, 4))
        there = draw(st.integers(size - 1, size))
        tasks += [
            member(f"g{number}_{one}", size, f"g{number}", task_name=draw(_NAMES), priority=draw(_SIZES))
            for one in range(there)
        ]
    tasks += [submitted(f"t{number}", task_name=draw(_NAMES), priority=draw(_SIZES)) for number in range(draw(_SIZES))]
    strategy = st.sampled_from(("fifo", "priority", "round_robin", "weighted_round_robin", "least_loaded"))
    claims = [
        waiting(f"c{number}", f"w{draw(st.integers(0, len(workers) - 1))}", draw(_SIZES), draw(strategy))
        for number in range(draw(st.integers(1, 5)))
    ]
    return [*workers, *draw(st.permutations(tasks))], claims


def assert_whole(world: World, got: list[TaskStarted]) -> None:
    """Assert that of each gang all tasks start, or none."""
    begun: dict[str, int] = {}
    for one in got:
        task = world.tasks[one.task_id]
        if task.gang is not None and not task.attempt:
            begun[task.gang.gang_id] = begun.get(task.gang.gang_id, 0) + 1
    sizes = {task.gang.gang_id: task.gang.size for task in world.tasks.values() if task.gang is not None}
    assert all(count == sizes[gang_id] for gang_id, count in begun.items())


@settings(max_examples=300, deadline=None)
@for_all(scenes(), st.integers(1, 12), st.sampled_from((0.0, 2 * PATIENCE_S)))
def test_never_does_a_part_of_a_gang_begin(
    scene: tuple[list[Event], list[WaitingClaim]], most: int, waited_s: float
) -> None:
    """Nor more at a worker or a claim than it may have; and the same follows again from what is recorded."""
    facts, claims = scene
    world = later(fold(*facts), waited_s)
    numbers: list[int] = []
    got = list(schedule(world, claims, {}, most=most, note_kept=numbers.append))
    assert_whole(world, got)
    assert len(got) + sum(numbers) <= most
    for claim in claims:
        assert sum(one.claim_id == claim.claim_id for one in got) <= claim.slots
    for one in world.workers.values():
        assert one.slots is None or sum(start.worker_id == one.worker_id for start in got) <= one.slots
    assert list(schedule(world, claims, {}, most=len(got) + sum(numbers))) == got


@settings(max_examples=60, deadline=None)
@for_all(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_two_gangs_that_need_more_than_half_both_finish(slots: list[int], data: st.DataObject) -> None:
    """Beside small tasks that come all the time: room is kept for one after the other."""
    total = sum(slots)
    if total < 2:
        return
    sizes = [data.draw(st.integers(max(2, total // 2 + 1), total)) for _ in range(2)] if total > 2 else [2, 2]
    scribe = write(*(worker(f"w{number}", slots=some) for number, some in enumerate(slots)))
    for name, size in zip("gh", sizes, strict=True):
        for event in gang(size, name):
            scribe.commit(event)
    finished: set[str] = set()
    for turn in range(200):
        finished |= play_turn(scribe, turn, data)
        if finished == {"g", "h"}:
            return
    pytest.fail(f"{finished} finished of gangs of {sizes} over {slots}")


def play_turn(scribe: Scribe, turn: int, data: st.DataObject) -> set[str]:
    """Submit small tasks, place what fits, and end some of what runs; return the gangs of which a task began."""
    world = scribe.world
    scribe.commit(submitted(f"s{turn}a"), submitted(f"s{turn}b"))
    later(world, 1.0)
    claims = [
        waiting(f"c{turn}_{one.worker_id}", one.worker_id, free)
        for one in world.workers.values()
        if (free := (one.slots or 0) - len(world.indexes.held.get(one.worker_id, ())))
    ]
    got = list(schedule(world, claims, {}, most=100))
    assert_whole(world, got)
    begun = {task.gang.gang_id for one in got if (task := world.tasks[one.task_id]).gang is not None}
    if got:
        scribe.commit(*got)
    running = [task for held in world.indexes.held.values() for task in held]
    for task_id in running[: data.draw(st.integers(1, 2))]:
        scribe.commit(completed(task_id, world.tasks[task_id].lease))
    return begun


def test_amounts_of_a_gang_fit_together() -> None:
    """Two that each fit alone do not both fit."""
    world = fold(worker("w", resources=resources(cpu=3)), *gang(2, resources=resources(cpu=2)))
    assert dealt(world, waiting(slots=2)) == []
    assert most_at_once(world, world.indexes.gangs.of["default/g"].in_order(), now=True) == 1


def test_what_moving_another_task_does_not_make_fit_stays() -> None:
    """Each of the others alone is in the way."""
    has = resources(cpu=4, memory=9)
    small, large = resources(cpu=1, memory=1), resources(cpu=4)
    tasks = member("g1", 3, resources=small), member("g2", 3, resources=small), member("g3", 3, resources=large)
    assert dealt(fold(worker("w", resources=has), *tasks), waiting(slots=9)) == []
