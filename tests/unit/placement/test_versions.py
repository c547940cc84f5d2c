"""To which versions of workers tasks go, what is said of one without workers, and that a ramp costs a claim little."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.commands.explain import Blocker, Tier
from coordinator.commands.version import ListVersions, VersionView
from coordinator.deciders.rules import Rules
from coordinator.deciders.signs import Signs
from coordinator.engine.questions import ask
from coordinator.placement.matching import offered, schedule
from events.coordinator import ANY, ClaimFilter
from events.queue import DEFAULT, FairShare, Policy, QueueDefined, QueuePolicySet, QueueRouted, Route
from events.task import TaskStatus
from events.task_pause import TaskPaused, TaskResumed
from events.version import VersionReinstated, VersionRetired
from events.worker import WorkerDraining, WorkerLeft, WorkerLost
from projections.version import begins_on
from projections.waits import waited
from projections.world import World
from tests.specification import Said, fold, said, write
from tests.unit.deciders.facts import attempt_failed, completed, started, submitted, worker
from tests.unit.placement.test_blockages import Looked
from tests.unit.placement.test_explain import HEARD, codes, signs_of, told
from tests.unit.placement.test_matching import dealt, waiting

if TYPE_CHECKING:
    from events.base import Event

V, W, X = (waiting(one, one, 99) for one in "vwx")
THREE = (worker("v", build_id="b1"), worker("w", build_id="b2"), worker("x"))


def routed(current: str = "b1", queue_id: str = DEFAULT, **others: Any) -> QueueRouted:
    return QueueRouted(queue_id=queue_id, route=Route(current=current, **others))


def begun(task_id: str = "t", build_id: str = "b1", **others: Any) -> tuple[Event, ...]:
    """Return a task whose first attempt failed at a worker of this build."""
    return submitted(task_id, **others), started(task_id, build_id=build_id), attempt_failed(task_id)


def ready(*facts: Event | Said) -> World:
    world = fold(*facts)
    world.indexes.advance(world.time + 100.0)
    return world


# --- which worker -----------------------------------------------------------------------------------------------------


def test_a_start_says_the_build_of_the_worker() -> None:
    """Nothing, if that has none."""
    (event,) = schedule(fold(*THREE, submitted()), [W], {}, most=1)
    assert event == started(worker_id="w", claim_id="w", lease="w.1.1", build_id="b2")
    (event,) = schedule(fold(*THREE, submitted()), [X], {}, most=1)
    assert event == started(worker_id="x", claim_id="x", lease="x.1.1")


@pytest.mark.parametrize("back", [
    (attempt_failed(),),
    (attempt_failed(reason="lease_expired", worker_ended=True),),
    (attempt_failed(reason="released"),),
    (
        TaskPaused(task_id="t", reason="retries_exhausted", lease="c.1.1", cause="failed", attempt=1),
        TaskResumed(task_id="t", more_retries=1),
    ),
])  # fmt: skip
def test_a_task_goes_on_at_the_build_that_it_began_on(back: tuple[Event, ...]) -> None:
    """After a retry, the death of its worker, a release and a resume: whoever claims."""
    world = ready(*THREE, submitted(), started(build_id="b1"), *back)
    assert dealt(world, X, W) == []
    assert dealt(world, X, W, V) == [("t", "v")]


def test_one_that_is_not_pinned_goes_on_anywhere() -> None:
    """Because it said so, or because it began at a worker without a build id."""
    assert dealt(ready(*THREE, *begun(pin_version=False)), W) == [("t", "w")]
    assert dealt(ready(*THREE, *begun(build_id="")), W) == [("t", "w")]


def test_tasks_begin_where_the_route_says() -> None:
    """Those that waited before it, too; with each change of the share, and in its queue alone."""
    names = [f"t{number}" for number in range(40)]
    facts = [*THREE, QueueDefined(queue_id="q"), submitted("other", queue="q"), *map(submitted, names)]

    def share(world: World) -> set[str]:
        assert {task for task, _ in dealt(world, V)} | {task for task, _ in dealt(world, W)} == {*names, "other"}
        return {task for task, _ in dealt(world, W)} - {"other"}

    assert share(fold(*facts)) == {*names}
    wanted: set[str] = set()
    for percent in (0.0, 10.0, 50.0, 100.0):
        route = Route(current="b1", ramping="b2", percent=percent)
        facts.append(QueueRouted(queue_id=DEFAULT, route=route))
        wanted = {name for name in names if begins_on(route, name) == "b2"}
        assert share(fold(*facts)) == wanted
        assert dealt(fold(*facts), X) == [("other", "x")]
    assert 0 < len(wanted) == len(names)
    assert share(fold(*facts, routed("b1"))) == set()
    assert len(dealt(fold(*facts, QueueRouted(queue_id=DEFAULT)), X)) == len(names) + 1
    back = fold(*facts, routed(""))
    assert len(dealt(back, X)) == len(names) + 1
    assert dealt(back, V) == [("other", "v")]


def test_a_retired_version_gets_nothing_and_its_tasks_go_on_elsewhere() -> None:
    """Until it is reinstated."""
    facts = (*THREE, *begun(), submitted("new"))
    moved = (*facts, VersionRetired(build_id="b1", move_to="b2"))
    assert dealt(ready(*moved), V) == []
    assert dealt(ready(*moved), X) == [("new", "x")]
    assert sorted(dealt(ready(*moved), W)) == [("new", "w"), ("t", "w")]
    assert sorted(dealt(ready(*facts, VersionRetired(build_id="b1")), X)) == [("new", "x"), ("t", "x")]
    again = ready(*moved, VersionReinstated(build_id="b1"))
    assert sorted(dealt(again, V)) == [("new", "v"), ("t", "v")]
    assert dealt(again, W) == [("new", "w")]


def test_claims_of_all_kinds_keep_to_it() -> None:
    """Those that name tasks or programs, those that only look, those of a fair queue, and a custom policy."""
    facts = (*THREE, *begun("a", program="p"), submitted("b", program="p"))
    world = ready(*facts)
    assert dealt(world, W, filters={"w": ClaimFilter(task_ids=("a", "b"))}) == [("b", "w")]
    assert dealt(world, W, filters={"w": ClaimFilter(programs=("p",))}) == [("b", "w")]
    assert dealt(world, V, filters={"v": ClaimFilter(programs=("p",))}) == [("a", "v"), ("b", "v")]
    for worker_id, wanted in (("w", ["b"]), ("v", ["a", "b"]), ("new", ["b"])):
        found = offered(world, worker_id, ANY, "", most=9, containers={})
        assert [task.task_id for task in found] == wanted
    fair = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="fair", fair=FairShare()))
    assert dealt(ready(*facts, fair), waiting("w", "w", 9, "")) == [("b", "w")]
    chosen = schedule(world, [waiting("w", "w", 9, "")], {}, most=9, chosen={"w": ("a", "b")})
    assert [event.task_id for event in chosen] == ["b"]
    gone = ready(*facts, VersionRetired(build_id="b2"))
    assert list(offered(gone, "w", ANY, "", most=9, containers={})) == []


# --- why not ----------------------------------------------------------------------------------------------------------


def test_a_version_without_workers_is_told() -> None:
    """Which one, how many tasks wait for it, and how to get them away; also if its workers are only not heard."""
    gone = (*THREE, *begun(), *begun("u"), WorkerLeft(worker_id="v"))
    found = told(ready(*gone))
    assert codes(found) == [("version_without_workers", Tier.OPERATOR)]
    (reason,) = found.reasons
    assert reason.text == (
        "it goes on at workers with the build id b1, where it began; none that handles 'work' is heard, and "
        "2 ready tasks wait for one"
    )
    assert reason.blockers == [Blocker(kind="version", id="b1")]
    assert reason.change == "start a worker with the build id b1, or coordinator version retire b1 --move-to BUILD"
    assert {one.worker_id: one.against for one in found.workers} == {
        "w": {"other_version": "has the build id b2; the task goes to the build id b1"},
        "x": {"other_version": "has no build id; the task goes to the build id b1"},
    }
    silent = told(ready(*THREE, *begun()), silent={"v": 60.0})
    assert codes(silent) == [("version_without_workers", Tier.OPERATOR)]
    named = told(ready(worker("v", build_id="b1", handles=("x",)), worker("w"), *begun()))
    assert codes(named) == [("version_without_workers", Tier.OPERATOR)]
    assert codes(told(ready(*begun()))) == [("version_without_workers", Tier.OPERATOR)]


def test_a_route_or_a_move_without_workers_is_told() -> None:
    """With the command that changes it."""
    found = told(fold(worker(), QueueDefined(queue_id="q"), routed("b9", "q"), submitted(queue="q"))).reasons[0]
    assert found.text.startswith("queue q begins it on workers with the build id b9; none that handles 'work' is heard")
    assert found.change == "start a worker with the build id b9, or coordinator version route q --current BUILD"
    none = told(fold(worker(build_id="b1"), routed(""), submitted())).reasons[0]
    assert none.change == "start a worker with no build id, or coordinator version route default --current BUILD"
    moved = told(ready(*THREE, *begun(), VersionRetired(build_id="b1", move_to="b9"))).reasons[0]
    assert moved.text.startswith("it goes on at workers with the build id b9, where tasks of version b1 were moved")
    assert moved.change == "start a worker with the build id b9, or coordinator version retire b1 --move-to BUILD"
    unpinned = told(ready(*THREE, *begun(), VersionRetired(build_id="b1"), routed("b9"))).reasons[0]
    assert unpinned.text.startswith("queue default begins it on workers with the build id b9")


def test_other_reasons_are_those_of_the_workers_of_the_version() -> None:
    """What others have says nothing: they may not run it."""
    busy = (
        *(worker("v", build_id="b1", slots=1), worker("w")),
        *(submitted("a"), started("a", worker_id="v", lease="d.1.1"), *begun()),
    )
    assert codes(told(ready(*busy))) == [("workers_busy", Tier.ITSELF)]
    misfit = told(
        ready(worker("v", build_id="b1"), worker("w", labels={"a": 1}), *begun(worker_filter="labels.a == 1"))
    )
    assert codes(misfit) == [("no_match", Tier.NEVER)]
    assert misfit.summary == "none of 1 workers that handle 'work' meets its filter labels.a == 1"


def test_workers_of_a_retired_version_are_stopping() -> None:
    """As those that drain: others are needed."""
    found = told(fold(worker(build_id="b1"), VersionRetired(build_id="b1"), submitted()))
    assert codes(found) == [("workers_stopping", Tier.OPERATOR)]
    assert found.workers[0].against == {"retired": "its version b1 is retired"}


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_versions_are_listed_with_their_workers_and_tasks() -> None:
    """Those that a worker has, that tasks began on, that are routed to, and that are retired."""
    world = ready(
        *THREE,
        worker("v2", build_id="b1"),
        *(worker("gone", build_id="b0"), WorkerLost(worker_id="gone", silent_for_s=61.0, limit_s=60.0)),
        *begun(),
        *begun("u", build_id="b5"),
        *(submitted("r"), started("r", worker_id="v", lease="d.1.1", build_id="b1")),
        *(routed("b1", ramping="b3", percent=10.0), QueueDefined(queue_id="q"), routed("b1", "q")),
        VersionRetired(build_id="b4", move_to="b1"),
    )

    def found(**page: Any) -> list[VersionView]:
        rules = Rules(lease_s=30.0)
        return list(ask(world, signs_of(world, {"v2": 60.0}), ListVersions(**page), HEARD, rules))

    assert found() == [
        VersionView(build_id="", workers=1, heard=1),
        VersionView(build_id="b1", workers=2, heard=1, running=1, pending=1, current_in=[DEFAULT, "q"]),
        VersionView(build_id="b2", workers=1, heard=1),
        VersionView(build_id="b3", ramping_in={DEFAULT: 10.0}),
        VersionView(build_id="b4", retired=world.versions["b4"]),
        VersionView(build_id="b5", pending=1),
    ]
    assert [one.build_id for one in found(after="b2", limit=2)] == ["b3", "b4"]
    lost = fold(worker(build_id="b1"), submitted(), started(), WorkerDraining(worker_id="w"), WorkerLeft(worker_id="w"))
    assert list(ask(lost, Signs(), ListVersions(), 0.0)) == [VersionView(build_id="b1", running=1)]


# --- properties -------------------------------------------------------------------------------------------------------


@for_all(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_task_starts_where_it_may_not_and_none_waits_without_reason(seed: int) -> None:
    """After any history of ramps, roll backs and retirements: what is left has no worker of its version."""
    random = Random(seed)
    scribe = write(*THREE, QueueDefined(queue_id="q"))
    pins: dict[str, str] = {}
    count = 0
    for turn in range(30):
        step = random.random()
        versions = scribe.world.versions
        if step < 0.25:
            share = random.choice((0.0, 10.0, 50.0, 100.0))
            route = random.choice((None, Route(current="b1", ramping="b2", percent=share), Route(current="")))
            scribe.commit(QueueRouted(queue_id=random.choice((DEFAULT, "q")), route=route))
        elif step < 0.35:
            one, other = random.choice((("b1", "b2"), ("b2", "b1")))
            if one in versions:
                scribe.commit(VersionReinstated(build_id=one))
            elif other not in versions:
                scribe.commit(VersionRetired(build_id=one, move_to=random.choice(("", other))))
        else:
            more = [f"t{count + number}" for number in range(random.randint(1, 4))]
            count += len(more)
            tasks = [submitted(one, queue=random.choice(("", "q")), pin_version=random.random() < 0.8) for one in more]
            scribe.commit_each(map(Said, tasks), at=scribe.world.time + 1.0)
        running = [task for task in scribe.world.tasks.values() if task.status is TaskStatus.RUNNING]
        for task in random.sample(running, min(2, len(running))):
            end: Event = completed(task.task_id, lease=task.lease)
            if random.random() < 0.7:
                end = attempt_failed(task.task_id, lease=task.lease, retry_at=scribe.world.time)
            scribe.commit(said(end, at=scribe.world.time + 1.0))
        world = scribe.world
        claims = [waiting(f"{one}-{turn}", one, random.randint(1, 3)) for one in random.sample("vwx", 2)]
        events = list(schedule(world, claims, {}, most=99))
        for event in events:
            task, build_id = world.tasks[event.task_id], world.workers[event.worker_id].build_id
            assert event.build_id == build_id
            wanted = _wanted(world, pins.get(event.task_id, ""), task.queue, event.task_id)
            assert wanted in (None, build_id), (event, wanted)
            assert build_id not in world.versions
            if event.attempt == 1 and task.pin_version:
                pins[event.task_id] = build_id
        if events:
            scribe.commit_each(map(Said, events), at=scribe.world.time + 1.0)
        left = {claim.worker_id for claim in claims if sum(e.claim_id == claim.claim_id for e in events) < claim.slots}
        for task in scribe.world.tasks.values():
            if task.status is TaskStatus.PENDING and task.retry_at <= scribe.world.indexes.now:
                wanted = _wanted(scribe.world, pins.get(task.task_id, ""), task.queue, task.task_id)
                able = {"v": "b1", "w": "b2", "x": ""}
                idle = [one for one in left if able[one] not in scribe.world.versions and wanted in (None, able[one])]
                assert not idle, (task.task_id, wanted, left)


def _wanted(world: World, pin: str, queue: str, task_id: str) -> str | None:
    """Return the build that a task needs, from what was pinned in this test."""
    while pin in world.versions:
        pin = world.versions[pin].move_to
    if pin:
        return pin
    known = world.queues.get(queue or DEFAULT)
    return None if known is None or known.route is None else begins_on(known.route, task_id)


@pytest.mark.parametrize("route", [
    Route(current="b0", ramping="b1", percent=50.0),
    Route(current="gone", ramping="b1", percent=1.0),
])  # fmt: skip
def test_versions_of_many_shapes_cost_a_claim_little(route: Route) -> None:
    """100,000 pending in 1,000 shapes: a claim takes at most twice that of one, also if hardly one may run here."""

    def cost_s(shapes: int) -> float:
        scribe = write(*(worker(one, build_id=f"b{number}") for number, one in enumerate("vw")))
        scribe.commit(QueueRouted(queue_id=DEFAULT, route=route))
        for start in range(0, 100_000, 10_000):
            some = (submitted(f"t{n}", task_type=f"x{n % shapes}") for n in range(start, start + 10_000))
            scribe.commit_each(map(Said, some), at=scribe.world.time + 1.0)
        claims = [waiting("v", "v", 1, "fifo"), waiting("w", "w", 1, "fifo")]
        assert {event.worker_id for event in schedule(scribe.world, claims, {}, most=2)} >= {"w"}
        best = float("inf")
        for _ in range(20):
            began = time.perf_counter()
            list(schedule(scribe.world, claims, {}, most=2))
            best = min(best, time.perf_counter() - began)
        return best

    one, many = cost_s(1), cost_s(1000)
    assert many < 2 * one + 100e-6, f"{many * 1e6:.0f} us against {one * 1e6:.0f} us"


# --- what was waited for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("facts", "cause"), [
    ((worker("w", build_id="b2"), *begun()), "version_without_workers"),
    ((*begun(),), "version_without_workers"),
    ((worker("v", build_id="b1"), WorkerLeft(worker_id="v"), worker("w"), *begun()), "version_without_workers"),
    ((worker("w"), routed("b9"), submitted()), "version_without_workers"),
    ((worker("v", build_id="b1"), *begun()), "not_claimed"),
    ((worker("v", build_id="b1"), worker("w", labels={"a": 1}), *begun(worker_filter="labels.a == 1")), "no_match"),
    ((worker("w", build_id="b1"), VersionRetired(build_id="b1"), submitted()), "workers_stopping"),
    ((worker("w"), submitted(rule="r", rule_filter='node_id in ["n"]')), "not_permitted"),
    ((worker("w"), submitted(rule="r", rule_filter='node_id in ["n"]', worker_filter="labels.a == 1")), "no_match"),
    ((worker("w"), submitted(rule="r", rule_filter='node_id == ""')), "not_claimed"),
])  # fmt: skip
def test_what_waits_is_told_by_the_same_code(facts: tuple[Any, ...], cause: str) -> None:
    """As the explanation of the task says."""
    looked = Looked(*facts)
    assert (looked.cause(), looked.told()) == (cause, cause)


def test_versions_that_are_not_heard_are_told_as_those_without_workers() -> None:
    """As the explanation does."""
    looked = Looked(worker("v", build_id="b1"), *begun(), silent_s=60.0)
    assert (looked.cause(), looked.told()) == ("version_without_workers",) * 2


def test_tasks_of_one_name_wait_for_their_own_versions() -> None:
    """What waits for one without workers says nothing of the others of its name."""
    looked = Looked(worker("w", slots=9), *begun("t"), submitted("u"))
    (found,) = looked.again()
    assert (found.cause, found.waiting) == ("version_without_workers", {"default": 1})
    assert waited(looked.scribe.world, looked.scribe.world.tasks["u"]).keys() == {"not_claimed"}
    assert waited(looked.scribe.world, looked.scribe.world.tasks["t"]).keys() == {
        "not_claimed",
        "version_without_workers",
    }


def test_what_was_waited_for_before_the_first_attempt_is_of_no_version() -> None:
    """The task was pinned afterwards: its first wait was for any worker, its second one for that version."""
    looked = Looked(worker("w", slots=1), submitted("x"), started("x", lease="d.1.1"), submitted())
    looked.again(after_s=2.0)
    looked.again(completed("x", lease="d.1.1"), worker("v", build_id="b1"), started(worker_id="v", build_id="b1"))
    looked.scribe.commit(attempt_failed(retry_at=looked.scribe.world.time))
    looked.again(WorkerLeft(worker_id="v"), after_s=2.0)
    found = waited(looked.scribe.world, looked.scribe.world.tasks["t"])
    assert {"workers_busy", "version_without_workers"} <= found.keys()
