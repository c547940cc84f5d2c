"""When a task may start: its queue is run forward from what is now, with the run times of what has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.deciders.rules import Rules
from coordinator.deciders.signs import Signs
from coordinator.placement import estimates as module
from coordinator.placement import explain as explaining
from coordinator.placement.calibration import Expected
from coordinator.placement.estimates import Estimates
from coordinator.placement.explain import SAMPLED_EVERY_S, explain, sample
from coordinator.placement.run_times import LOOKED_AT, LOOKED_AT_FIRST, NAMES_KEPT, RUNS_KEPT, RunTimes
from events.after import After
from events.limit import LimitDefined, Terms
from events.queue import DEFAULT, FairShare, Policy, QueueDefined, QueuePaused, QueuePolicySet
from events.resources import Resources
from events.task import Prefer, TaskCancelled, TaskStatus, TaskTimedOut
from events.task_pause import TaskPaused
from events.time_limits import START_WITHIN
from projections.world import World
from tests.specification import BEGIN, Said, fold, said
from tests.unit.deciders.facts import completed, failed, resources, started, submitted, worker
from tests.unit.placement.test_explain import HEARD, RULES, signs_of, told

if TYPE_CHECKING:
    from coordinator.commands.explain import Explanation

NOW = BEGIN + 10_000.0


def ran(name: str, *times: float, until: float = NOW - 1.0) -> list[Any]:
    """Return tasks of a name that ran for so long, the last one until then."""
    found: list[Any] = []
    at = until - sum(times)
    for number, ran_s in enumerate(times):
        one = f"{name}-{number}"
        found += [said(submitted(one, task_name=name), at=at), said(started(one, f"{one}.1.1", worker_id="old"), at=at)]
        at += ran_s
        found.append(said(completed(one, f"{one}.1.1"), at=at))
    return found


def runs(task_id: str, since_s: float = 0.0, **others: Any) -> list[Any]:
    """Return a task that has run for so long at `NOW`."""
    lease = f"{task_id}.1.1"
    name = others.pop("task_name", "work")
    content = {key: others.pop(key) for key in ("resources", "attributes") if key in others}
    began = NOW - since_s
    return [
        said(submitted(task_id, task_name=name, **content), at=began),
        said(started(task_id, lease, **others), at=began),
    ]


def waits(task_id: str = "t", **others: Any) -> Any:
    return said(submitted(task_id, **others), at=NOW)


def expected(*facts: Any, task_id: str = "t", rules: Rules = RULES) -> Explanation:
    """Explain a task after *facts*, in the order of their times."""
    return told(fold(*in_order(*facts)), task_id=task_id, rules=rules)


def in_order(*facts: Any) -> list[Said]:
    """Return facts in the order of their times; what has none was at the beginning."""
    placed = [fact if isinstance(fact, Said) else said(fact, at=BEGIN) for fact in facts]
    return sorted(placed, key=lambda one: one.at or 0.0)


OLD = worker("old", handles=("nothing",))


@given(
    st.lists(st.sampled_from("abc"), min_size=0, max_size=8),
    st.lists(st.sampled_from("abc"), max_size=60),
    st.tuples(*[st.integers(1, 30)] * 3),
    st.integers(0, 3),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_queue_with_fixed_run_times_is_estimated_exactly(
    running: list[str], before: list[str], times: tuple[int, int, int], free: int, data: st.DataObject
) -> None:
    """The first slot that is free takes the next task, whatever runs and waits."""
    of = {name: float(run_s) for name, run_s in zip("abc", times, strict=True)}
    since = [data.draw(st.integers(0, int(of[name]))) for name in running]
    facts = [OLD, *(fact for name in "abc" for fact in ran(name, of[name], of[name]))]
    for number, (name, since_s) in enumerate(zip(running, since, strict=True)):
        facts += runs(f"r{number}", float(since_s), task_name=name)
    facts += (waits(f"b{number}", task_name=name) for number, name in enumerate(before))
    slots = len(running) + free
    if not slots:
        return
    found = expected(*facts, worker(slots=slots), waits())
    left = [0.0] * free + [of[name] - since_s for name, since_s in zip(running, since, strict=True)]
    for name in before:
        first = min(left)
        left.remove(first)
        left.append(first + of[name])
    assert found.starts_in_s == pytest.approx(min(left), abs=1e-3)
    assert found.starts_in_s is not None
    assert found.starts_from_s is not None
    assert found.starts_until_s is not None
    assert 0.0 <= found.starts_from_s <= found.starts_in_s <= found.starts_until_s


def test_of_very_many_slots_and_tasks_some_are_run_forward() -> None:
    """With fixed run times it makes no difference."""
    facts = [OLD, *ran("work", 10.0, 10.0)]
    for number in range(300):
        facts += runs(f"r{number}", number % 10 / 1.0, worker_id=f"w{number % 3}")
    facts += (waits(f"b{number}") for number in range(3000))
    found = expected(*facts, *(worker(f"w{number}", slots=100) for number in range(3)), waits())
    assert found.starts_in_s == pytest.approx(100.0, abs=2.0)


def test_run_times_that_differ_make_an_interval() -> None:
    """Half of all tasks run for 10 s, the others for 30 s: 20 before it, on two slots."""
    facts = [OLD, *ran("work", *([10.0, 30.0] * 20)), *runs("r0"), *runs("r1"), worker(slots=2)]
    found = expected(*facts, *(waits(f"b{number}") for number in range(20)), waits())
    assert found.starts_from_s is not None
    assert found.starts_until_s is not None
    assert 140.0 < found.starts_from_s < 210.0 < found.starts_until_s < 280.0
    assert found.estimated_from == 40


def test_tasks_that_its_workers_do_not_run_do_not_delay_it() -> None:
    """Nor more than the part of theirs that they run, if others run them too."""
    facts = [OLD, *ran("work", 10.0), *ran("else", 10.0), *runs("r"), worker(slots=1, handles=("work",))]
    before = [waits(f"b{number}", task_name="else") for number in range(10)]
    assert expected(*facts, *before, waits()).starts_in_s == pytest.approx(10.0)
    both = (worker(slots=1, handles=("work", "else")), worker("w2", slots=4, handles=("else",)))
    found = expected(*facts[:-1], *both, *before, waits())
    assert found.starts_in_s == pytest.approx(30.0)  # two of the ten
    found = expected(*facts, *(waits(f"c{number}", task_name="nobody's") for number in range(9)), waits())
    assert found.starts_in_s == pytest.approx(10.0)


def test_of_more_names_than_are_told_apart_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if its workers ran all of them; those with most tasks are drawn from."""
    monkeypatch.setattr(module, "NAMES_PARTED", 1)
    monkeypatch.setattr(module, "SHAPES_IN_ORDER", 1)
    facts = [OLD, *ran("work", 10.0), *runs("r"), worker(slots=1, handles=("work", "a"))]
    names = ("a", "a", "b", "c")
    found = expected(*facts, *(waits(f"b{number}", task_name=name) for number, name in enumerate(names)), waits())
    assert found.starts_in_s == pytest.approx(50.0)


def test_other_queues_and_shares_get_their_parts_meanwhile() -> None:
    """By their weights; a queue that is paused gets nothing."""
    facts = [OLD, *ran("work", 10.0), *runs("r"), worker(slots=1), QueueDefined(queue_id="q", weight=3.0)]
    facts += (waits(f"b{number}") for number in range(4))
    others = [waits(f"q{number}", queue="q") for number in range(40)]
    alone = expected(*facts, waits())
    assert alone.starts_in_s == pytest.approx(50.0)
    assert expected(*facts, *others, waits()).starts_in_s == pytest.approx(190.0)  # 13.5 of the others
    assert expected(*facts, *others[:2], waits()).starts_in_s == pytest.approx(70.0)
    paused = QueuePaused(queue_id="q")
    assert expected(*facts, paused, *others, waits()).starts_in_s == alone.starts_in_s
    fair = Policy(strategy="fair", fair=FairShare(by="key", weights={"a": 2.0}))
    facts.append(QueuePolicySet(queue_id=DEFAULT, policy=fair))
    shares = [waits(f"a{number}", fairness_key="a") for number in range(40)]
    assert expected(*facts, *shares, waits()).starts_in_s == pytest.approx(140.0)  # nine of a
    nobody = [waits(f"n{number}", queue="q", task_name="x") for number in range(9)]
    facts[facts.index(worker(slots=1))] = worker(slots=1, handles=("work",))
    assert expected(*facts, *nobody, waits()).starts_in_s == pytest.approx(50.0)


def test_limits_delay_it() -> None:
    """As many of its key as may run, or start in a time; what was ahead of it in the past counts."""
    key: dict[str, Any] = {"attributes": {"a": "x"}}
    facts = [OLD, *ran("work", 10.0), worker()]
    full = [*facts, LimitDefined(limit_id="l", terms=Terms(by="attributes.a", running=2))]
    full += [*runs("r0", 4.0, **key), *runs("r1", **key)]
    assert expected(*full, waits(**key)).starts_in_s == pytest.approx(6.0)
    before = [waits(f"b{number}", **key) for number in range(3)]
    assert expected(*full, *before, waits(**key)).starts_in_s == pytest.approx(20.0)
    rate = [*facts, LimitDefined(limit_id="l", terms=Terms(by="attributes.a", starts=2, per_s=60.0))]
    assert expected(*rate, *runs("r0", 20.0, **key), worker("w2"), waits(**key)).starts_in_s == 0.0
    rate += [*runs("r0", 20.0, **key), *runs("r1", 5.0, **key), worker("w2", slots=9)]
    assert expected(*rate, waits(**key)).starts_in_s == pytest.approx(40.0)
    assert expected(*rate, before[0], waits(**key)).starts_in_s == pytest.approx(55.0)
    assert expected(*rate, *before, waits(**key)).starts_in_s == pytest.approx(115.0)
    cools = [*facts[:-1], LimitDefined(limit_id="l", terms=Terms(cooldown_s=60.0)), worker(slots=9)]
    assert expected(*cools, *ran("z", 1.0, until=NOW - 20.0), waits()).starts_in_s == pytest.approx(59.0)


def test_a_fleet_that_is_full_delays_it() -> None:
    """Until one of all has ended."""
    facts = [OLD, *ran("work", 10.0), worker(slots=9), *runs("r0", 4.0), *runs("r1")]
    found = expected(*facts, waits(), rules=Rules(max_concurrent_tasks=2))
    assert found.starts_in_s == pytest.approx(6.0)


def test_room_is_counted_in_what_the_task_needs() -> None:
    """Slots, or resources; a worker without either takes one at a time."""
    two: dict[str, Any] = {"resources": resources(cpu=2)}
    facts = [OLD, *ran("work", 10.0)]
    large = [*facts, worker(resources=resources(cpu=5)), *runs("r0", 4.0, **two), *runs("r1", **two)]
    assert expected(*large, waits(**two)).starts_in_s == pytest.approx(6.0)
    assert expected(*large[:-2], waits(**two)).starts_in_s == 0.0
    slots = [*facts, worker(slots=2, resources=resources(cpu=5)), *runs("r0", 4.0, **two)]
    assert expected(*slots, waits(**two)).starts_in_s == 0.0
    named: dict[str, Any] = {"resources": Resources(named={"seats": 1})}
    seats = [*facts, worker(resources=Resources(named={"seats": 1})), *runs("r0", 3.0, **named)]
    assert expected(*seats, waits(**named)).starts_in_s == pytest.approx(7.0)
    plain = [*facts, worker(), *runs("r0", 4.0)]
    assert expected(*plain, waits()).starts_in_s == pytest.approx(6.0)


def test_a_task_that_may_not_begin_yet_waits_for_its_time() -> None:
    """Or longer; one that prefers a worker may wait for it."""
    facts = [OLD, *ran("work", 10.0), worker(slots=1), *runs("r")]
    assert expected(*facts, waits(not_before=NOW + 60.0)).starts_in_s == pytest.approx(60.0, abs=0.1)
    assert expected(*facts, waits(not_before=NOW + 2.0)).starts_in_s == pytest.approx(10.0)
    prefers = waits(prefer=Prefer(filter='labels.a == "x"', for_s=30.0))
    best = worker("w2", slots=1, labels={"a": "x"})
    found = expected(*facts, best, *runs("r2", worker_id="w2"), prefers)
    assert found.starts_in_s == pytest.approx(10.0)
    assert (found.starts_until_s or 0.0) > 40.0


@pytest.mark.parametrize(
    "others",
    [
        [TaskPaused(task_id="t", reason="r")],
        [QueuePaused(queue_id=DEFAULT)],
    ],
)
def test_what_somebody_has_to_act_for_is_not_estimated(others: list[Any]) -> None:
    """Nor what waits for something of which nobody knows when it ends."""
    facts = [OLD, *ran("work", 10.0), worker(slots=1), *runs("r"), waits()]
    assert expected(*facts).starts_in_s == pytest.approx(10.0)
    found = expected(*facts, *(said(one, at=NOW) for one in others))
    assert (found.starts_in_s, found.starts_until_s, found.estimates_scored) == (None, None, 0)
    after = waits("after", after=After(tasks=("t",)), waits_for=("t",))
    assert expected(*facts, after, task_id="after").starts_in_s is None
    assert told(fold(OLD, *ran("work", 1.0), worker(), waits()), silent={"w": 60.0}).starts_in_s is None


def test_without_any_run_only_a_free_slot_is_known() -> None:
    """Also of a limit."""
    assert expected(worker(slots=3), waits("a"), waits("b"), waits()).starts_in_s == 0.0
    assert expected(worker(slots=2), waits("a"), waits("b"), waits()).starts_in_s is None
    limit = LimitDefined(limit_id="l", terms=Terms(running=1))
    assert expected(limit, worker(slots=9), waits("a"), waits()).starts_in_s is None


# --- run times --------------------------------------------------------------------------------------------------------


def test_run_times_are_read_once_each() -> None:
    """Of tasks that completed, failed or ran out of time; one that never began has none."""
    times = RunTimes()
    assert not times
    facts = [OLD, *ran("work", 1.0, 3.0, 2.0)]
    world = fold(*facts)
    for _ in range(3):
        times.look(world)
    assert times.of("work") == (1.0, 2.0, 3.0)
    more = [*runs("f", 5.0), *runs("o", 7.0), waits("never"), waits("c")]
    more += [
        said(failed("f", "f.1.1"), at=NOW),
        said(TaskTimedOut(task_id="o", lease="o.1.1", ran_for_s=7.0, limit_s=7.0, attempt=1), at=NOW),
    ]
    more += [
        said(TaskCancelled(task_id="c"), at=NOW),
        said(TaskTimedOut(task_id="never", lease="", ran_for_s=0.0, limit_s=1.0, exceeded=START_WITHIN), at=NOW),
    ]
    times.look(fold(*in_order(*facts, worker(), *more)))
    assert times.of("work") == (1.0, 2.0, 3.0, 5.0, 7.0)
    assert times.of("other") == (1.0, 2.0, 3.0, 5.0, 7.0)


def test_the_newest_run_times_of_so_many_names_are_kept() -> None:
    """A name of which a task ended last goes last."""
    times = RunTimes()
    facts = [OLD, *ran("first", *map(float, range(1, RUNS_KEPT + 9)), until=NOW - 5000.0)]
    times.look(fold(*facts))
    assert times.of("first") == tuple(map(float, range(9, RUNS_KEPT + 9)))
    for number in range(NAMES_KEPT):
        facts += ran(f"n{number}", 1.0, until=NOW - 5000.0 + 2.0 * number + 2.0)
        if number % LOOKED_AT == 0 or number == NAMES_KEPT - 1:
            times.look(fold(*facts))
    assert times.of("first") == (1.0,) * RUNS_KEPT  # those of any name
    assert times.of(f"n{NAMES_KEPT - 1}") == (1.0,)


def test_a_look_reads_no_more_than_so_many() -> None:
    """The newest; also if what was read last is evicted."""
    times = RunTimes()
    facts = [OLD, *ran("work", *[1.0] * (LOOKED_AT + 5), until=NOW - 1000.0)]
    world = fold(*facts)
    times.look(world)
    last = next(reversed(world.tasks))
    later = fold(*facts, *ran("new", *[2.0] * (LOOKED_AT + 5), until=NOW - 1.0))
    del later.tasks[last]
    later.indexes.tasks[TaskStatus.COMPLETED].pop(last)
    times.look(later)
    assert times.of("new") == (2.0,) * RUNS_KEPT
    assert LOOKED_AT < LOOKED_AT_FIRST


# --- samples ----------------------------------------------------------------------------------------------------------


def test_the_task_that_came_last_is_estimated_now_and_then_and_scored() -> None:
    """Nothing else is needed for the calibration that explain tells."""
    facts = [OLD, *ran("work", 10.0), worker(slots=1), *runs("r"), waits()]
    placed = in_order(*facts)
    world, estimates = fold(*placed), Estimates()
    signs = signs_of(world, {})
    sample(fold(*placed[:2]), Signs(), RULES, HEARD - SAMPLED_EVERY_S, estimates)
    sample(world, signs, RULES, HEARD, estimates)
    assert estimates.sampled_at == HEARD
    sample(world, signs, RULES, HEARD + 0.1, estimates)
    assert estimates.looked_at == HEARD
    sample(world, signs, RULES, HEARD + 1.0, estimates)
    assert estimates.sampled_at == HEARD
    ended = [said(completed("r", "r.1.1"), at=NOW + 10.0), said(started(), at=NOW + 10.0)]
    after = fold(*placed, *ended, said(submitted("next"), at=NOW + 10.0))
    found = explain(after, signs_of(after, {}), after.tasks["next"], RULES, HEARD, estimates)
    assert (found.estimates_right, found.estimates_scored) == (1, 1)


def test_of_very_many_workers_nothing_is_estimated_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take long, and anybody may register workers."""
    monkeypatch.setattr(explaining, "WORKERS_SAMPLED", 2)
    facts = in_order(OLD, *ran("work", 10.0), worker(slots=1), *runs("r"), waits())
    scored = []
    for others in ([], [said(worker("two", slots=1), at=NOW)]):
        world, estimates = fold(*facts, *others), Estimates()
        sample(world, signs_of(world, {}), RULES, HEARD, estimates)
        later = fold(*facts, *others, said(completed("r", "r.1.1"), at=NOW + 9.0), said(started(), at=NOW + 10.0))
        estimates.look(later)
        scored.append(estimates.calibration.scored)
    assert scored == [1, 0]


@pytest.mark.alone
def test_run_times_of_a_busy_fleet_are_read_in_no_time() -> None:
    """At most two hundred of them in a tick, of which there are two in a second."""
    facts = [OLD, *ran("work", *[0.01] * 3000)]
    world, times = fold(*facts), RunTimes()
    times.look(world)
    last = times._last[TaskStatus.COMPLETED]
    costs = []
    for _ in range(5):
        times._last[TaskStatus.COMPLETED] = world.tasks["work-1000"]
        began = time.process_time()
        times.look(world)
        costs.append(time.process_time() - began)
    assert times._last[TaskStatus.COMPLETED] is last
    assert min(costs) < 0.002


def test_what_is_expected_may_be_off_by_a_part_of_it() -> None:
    """And by a moment."""
    assert Expected(1.0, 2.0, 3.0).scale_s == pytest.approx(2.7)
    assert World().tasks == {}
