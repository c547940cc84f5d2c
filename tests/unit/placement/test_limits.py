"""Which of the ready tasks a claim takes under limits: never more than a key may have, and never less."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.placement.matching import offered, schedule
from coordinator.placement.sources import ready_for_custom
from events.coordinator import ANY, ClaimFilter
from events.limit import LimitDefined, LimitDeleted, Terms
from events.queue import FairShare, Policy, QueueDefined, QueuePolicySet
from events.task import TaskCancelled, TaskStatus
from projections.keyed import FEW_SHAPES
from projections.limit import keys_of
from tests.specification import BEGIN, Said, Scribe, fold, said, write
from tests.unit.deciders.facts import attempt_failed, completed, started, submitted, worker
from tests.unit.placement.test_matching import waiting

if TYPE_CHECKING:
    from events.base import Event
    from projections.world import World


def limit(limit_id: str = "l", by: str = "attributes.a", **others: Any) -> LimitDefined:
    return LimitDefined(limit_id=limit_id, terms=Terms(by=by, **others))


def keyed(task_id: str, value: str, **others: Any) -> Event:
    return submitted(task_id, attributes={"a": value}, **others)


def taken(world: World, *, slots: int = 99, strategy: str = "", **wanted: Any) -> list[str]:
    """Return the tasks that one claim of worker `w` gets, in their order."""
    claim = waiting(slots=slots, strategy=strategy)
    return [event.task_id for event in schedule(world, [claim], {}, {"c": ClaimFilter(**wanted)}, most=slots)]


TASKS: list[Event] = [keyed("x1", "x"), keyed("x2", "x"), keyed("x3", "x"), keyed("y1", "y"), submitted("z")]


@pytest.mark.parametrize("handles", [(), ("work",)])
def test_a_key_gets_as_many_as_may_run(handles: tuple[str, ...]) -> None:
    """Those behind it are not held up; and what runs counts, until it has ended."""
    world = fold(limit(running=2), worker(handles=handles), *TASKS)
    assert taken(world) == ["x1", "x2", "y1", "z"]
    assert taken(world, slots=2) == ["x1", "x2"]
    ran = (limit(running=2), worker(handles=handles), *TASKS, started("x1"), started("x2", lease="d.1.1"))
    assert taken(fold(*ran)) == ["y1", "z"]
    assert taken(fold(*ran, completed("x1"))) == ["x3", "y1", "z"]
    assert taken(fold(*ran, said(attempt_failed("x1", retry_at=BEGIN), at=2000.0))) == ["x1", "y1", "z"]


def test_it_follows_the_terms_of_now() -> None:
    """A limit that is lowered ends nothing; one that is deleted limits nothing."""
    facts = (worker(), *TASKS, started("x1"))
    assert taken(fold(*facts)) == ["x2", "x3", "y1", "z"]
    assert taken(fold(*facts, limit(running=1))) == ["y1", "z"]
    assert taken(fold(*facts, limit(running=1), limit(running=2))) == ["x2", "y1", "z"]
    assert taken(fold(*facts, limit(running=1), LimitDeleted(limit_id="l"))) == ["x2", "x3", "y1", "z"]


def test_a_retry_budget_limits_only_attempts_after_a_failed_one() -> None:
    """The first attempts go on; one that was released was no failure."""
    budget = LimitDefined(limit_id="l", terms=Terms(running=1, retries_only=True))
    facts: list[Event | Said] = [budget, worker(), *(submitted(one) for one in "abcd")]
    facts += [started(one, lease=f"{one}.1.1") for one in "abc"]
    facts += [attempt_failed(one, lease=f"{one}.1.1", reason=why) for one, why in (("a", "failed"), ("b", "failed"))]
    facts.append(attempt_failed("c", lease="c.1.1", reason="released"))
    world = fold(*facts)
    world.indexes.advance(5000.0)
    assert taken(world) == ["a", "c", "d"]
    ran = fold(*facts, started("a", lease="x.1.2"))
    assert taken(ran) == ["c", "d"]
    assert taken(type(ran).restore(ran.snapshot())) == ["c", "d"]
    assert taken(fold(*facts, started("a", lease="x.1.2"), completed("a", lease="x.1.2"))) == ["b", "c", "d"]


def test_several_limits_are_all_kept() -> None:
    """The narrowest decides."""
    world = fold(limit(running=2), limit("all", "all", running=3), worker(), *TASKS)
    assert taken(world) == ["x1", "x2", "y1"]


def test_a_rate_allows_so_many_starts_in_any_period() -> None:
    """Not one more in any of them; time opens it again."""
    scribe = write(limit(starts=2, per_s=10.0), worker(), *TASKS)
    assert taken(scribe.world) == ["x1", "x2", "y1", "z"]
    scribe.commit(said(started("x1"), at=2000.0))
    scribe.commit(said(started("x2", lease="d.1.1"), at=2004.0))
    assert taken(scribe.world) == ["y1", "z"]
    scribe.world.indexes.advance(2009.9)
    assert taken(scribe.world) == ["y1", "z"]
    scribe.world.indexes.advance(2010.0)
    assert taken(scribe.world) == ["x3", "y1", "z"]


def test_a_key_cools_down_after_the_end_of_a_task() -> None:
    """As well in a world that was restored meanwhile."""
    facts: list[Event | Said] = [limit(cooldown_s=10.0), worker(), *TASKS, started("x1")]
    facts.append(said(completed("x1"), at=2000.0))
    world = fold(*facts)
    again = type(world).restore(world.snapshot())
    for one in (world, again):
        assert taken(one) == ["y1", "z"]
        one.indexes.advance(2010.0)
        assert taken(one) == ["x2", "x3", "y1", "z"]


def test_claims_of_all_kinds_keep_to_them() -> None:
    """Those that name tasks or programs, those that only look, those of a fair queue, and a custom policy."""
    facts = [limit(running=1), worker(), *(keyed(f"x{number}", "x", program="p") for number in range(3))]
    world = fold(*facts)
    assert taken(world, task_ids=("x2", "x1")) == ["x2"]
    assert taken(world, programs=("p",)) == ["x0"]
    assert [task.task_id for task in offered(world, "w", ANY, "", most=9, containers={})] == ["x0"]
    fair = QueuePolicySet(queue_id="default", policy=Policy(strategy="fair", fair=FairShare()))
    assert taken(fold(*facts, fair)) == ["x0"]
    assert taken(fold(*facts, QueueDefined(queue_id="q"), keyed("q1", "x", queue="q"))) == ["x0"]
    custom = fold(*facts, QueuePolicySet(queue_id="default", policy=Policy(strategy="custom", custom="m:C")))
    assert [task.task_id for task in ready_for_custom(custom, 9)] == ["x0", "x1", "x2"]
    chosen = schedule(custom, [waiting(slots=9, strategy="")], {}, most=9, chosen={"c": ("x1", "x0")})
    assert [event.task_id for event in chosen] == ["x1"]


def test_ten_thousand_that_may_not_start_cost_a_claim_nothing() -> None:
    """Their shapes are not looked at: of ten thousand keys that are full, none is opened."""
    world = fold(limit(running=1), worker(handles=("work",)))
    scribe = Scribe(world)
    scribe.commit_each([Said(keyed(f"r{number}", str(number))) for number in range(3000)], at=2000.0)
    scribe.commit_each([Said(started(f"r{number}", lease=f"{number}.1.1")) for number in range(3000)], at=2001.0)
    scribe.commit_each([Said(keyed(f"t{number}", str(number))) for number in range(3000)], at=2002.0)
    scribe.commit(submitted("free"))
    assert taken(world) == ["free"]
    assert not [shape for shape in world.indexes.lanes.usual.of_name("work") if shape.key.keys]


@for_all(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_limit_is_exceeded_and_nothing_waits_without_reason(seed: int) -> None:
    """After any history, in each turn: no key above its limits; and no ready task left whose keys all have room."""
    random = Random(seed)
    scribe = write(worker())
    tasks = 0
    for _ in range(40):
        step = random.random()
        if step < 0.15:
            by = random.choice(("all", "tenant", "attributes.a"))
            rate: dict[str, Any] = random.choice(({}, {"starts": 2, "per_s": 5.0}, {"cooldown_s": 3.0}))
            scribe.commit(limit(random.choice("lm"), by, running=random.choice((1, 2, 5)), **rate))
        elif step < 0.6:
            events = []
            for _ in range(random.randint(1, 5)):
                tasks += 1
                value = {"a": random.choice("xy")} if random.random() < 0.7 else {}
                events.append(
                    Said(
                        submitted(f"t{tasks}", attributes=value, priority=random.randint(0, 2)),
                        None,
                        random.choice("AB"),
                        "",
                    )
                )
            scribe.commit_each(events, at=scribe.world.time + 1.0)
        running = [task for task in scribe.world.tasks.values() if task.status is TaskStatus.RUNNING]
        if running and step > 0.4:
            scribe.commit(completed(random.choice(running).task_id))
        _turn(scribe, random)


def _turn(scribe: Scribe, random: Random) -> None:
    world, now = scribe.world, scribe.world.time + random.choice((0.1, 1.0, 6.0))
    world.indexes.advance(now)
    keyed_, strategy = world.indexes.keyed, random.choice(("", "fifo", "priority"))
    before = {key: keyed_.room(key) for task in world.tasks.values() for key in keys_of(task, world.limits)}
    given_ = list(schedule(world, [waiting(slots=99, strategy=strategy)], {}, most=99))
    counts = Counter(key for event in given_ for key in keys_of(world.tasks[event.task_id], world.limits))
    assert all(count <= before[key] for key, count in counts.items())
    got = {event.task_id for event in given_}
    for task in world.indexes.lanes.tasks():
        if task.task_id not in got:
            assert any(before[key] - counts[key] <= 0 for key in keys_of(task, world.limits)), task.task_id
    if given_:
        scribe.commit_each([Said(event) for event in given_], at=now)


def test_a_limit_of_all_tasks_costs_the_same_however_many_shapes_wait() -> None:
    """With each end and start it has room and is full again; its shapes are not all looked at."""
    scribe = write(limit(by="all", running=2), limit("m", running=1), worker())
    names = [f"n{number}" for number in range(FEW_SHAPES + 50)]
    scribe.commit_each([Said(submitted(one, task_name=one)) for one in names], at=2000.0)
    assert taken(scribe.world) == names[:2]
    scribe.commit_each([Said(started(one, lease=f"{one}.1.1")) for one in names[:2]], at=2001.0)
    assert taken(scribe.world) == []
    assert not any(shape.is_shut for shape in scribe.world.indexes.lanes.usual.shapes.values())
    scribe.commit(completed(names[0], lease=f"{names[0]}.1.1"))
    assert taken(scribe.world) == [names[2]]
    for one in names[3:]:
        scribe.commit(TaskCancelled(task_id=one))
    scribe.commit(started(names[2], lease="z.1.1"))
    scribe.commit_each([Said(submitted(f"x{number}", task_name=f"x{number}")) for number in range(3)], at=9000.0)
    assert taken(scribe.world) == []
    scribe.commit(completed(names[2], lease="z.1.1"))
    assert taken(scribe.world) == ["x0"]
