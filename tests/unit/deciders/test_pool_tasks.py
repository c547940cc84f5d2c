"""A task that names a request of the pool `tasks`: it waits for the share, uses it, and frees it when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.pool import AllocatePool, ReleasePool
from coordinator.deciders.deadlines import Deadlines
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.placement.explain import explain, plan
from events.after import After
from events.cancel_ladder import TaskCancelAsked
from events.hold import HoldLifted, HoldPlaced
from events.pool import PoolAllocated, PoolBound, PoolDefined, PoolPreempted, PoolReleased, PoolRequested, PoolWithdrawn
from events.task import TaskAttemptFailed, TaskCancelled
from events.task_pause import TaskPaused, TaskResumed
from projections.world import World
from tests.specification import BEGIN, Given, fold, given, write
from tests.unit.deciders.facts import complete, completed, resources, started, submit, submitted, worker
from tests.unit.deciders.test_pool_queue import passed
from tests.unit.placement.test_sources import order
from tests.unit.projections.index_content import content_from, content_of

POOL = PoolDefined(pool_id="tasks", capacity=resources(cpu=4000), owned=True)
BOUND = PoolBound(pool_id="tasks", request_id="r", owner="task:t")


def holds(request_id: str = "r", cpu: int = 4000, **others: Any) -> PoolAllocated:
    said = {"pool_id": "tasks", "request_id": request_id, "resources": resources(cpu=cpu), **others}
    return PoolAllocated(**said)


def waits(request_id: str = "r", cpu: int = 4000, **others: Any) -> PoolRequested:
    said = {"pool_id": "tasks", "request_id": request_id, "resources": resources(cpu=cpu), **others}
    return PoolRequested(**said)


def release(request_id: str = "r") -> ReleasePool:
    return ReleasePool(pool_id="tasks", request_id=request_id)


def checked(world: World) -> World:
    """Return a world whose indexes, and those after a restore, are as its tables say."""
    for one in (world, World.restore(world.snapshot())):
        assert content_of(one.indexes) == content_from(one)
    return world


def test_a_task_names_its_request_and_ends_with_it() -> None:
    """The share is its own from the submit on; nobody else releases it or names it again."""
    given_share = given(worker(), POOL, holds())
    given_share.when(submit(request="r")).then(BOUND, submitted(request="r")).then_answers("t")
    world = checked(given_share.world)
    assert world.pools["tasks"].allocations["r"].owner == "task:t"
    assert order(world) == ["t"]
    given_share.when(submit(request="r")).then_nothing()
    given_share.when(submit()).then_refused("id_taken", "request")
    given_share.when(submit("u", request="r")).then_refused("request_bound", "'r'", "task:t")
    given_share.when(release()).then_refused("request_bound", "task t", "cancel the task")


def test_the_share_is_free_when_its_task_has_ended() -> None:
    """In whatever way; after that, the request may be released, too."""
    for end in ([started(), completed()], [TaskCancelled(task_id="t", reason="r")]):
        scribe = write(worker(), POOL, holds(), waits("next", 3000))
        scribe.commit(BOUND, submitted(request="r"))
        deadlines = Deadlines(scribe.world)
        assert passed(scribe, BEGIN + 20, deadlines.owners) == []
        for event in end:
            scribe.commit(event)
            deadlines.note([event])
        Given(scribe).when(release()).then_answers(True)
        assert passed(scribe, BEGIN + 21, deadlines.owners) == [
            PoolReleased(pool_id="tasks", request_id="r", reason="owner_ended"),
            holds("next", 3000),
        ]
        checked(scribe.world)


def test_a_task_whose_request_waits_is_kept_from_the_workers() -> None:
    """It is ready when the request has its share, and no other task is held up by it."""
    waiting = given(worker(), POOL, holds("other"), waits())
    waiting.when(submit(request="r")).then(BOUND, submitted(request="r"))
    waiting.scribe.commit(submitted("u"))
    assert order(checked(waiting.world)) == ["u"]
    assert waiting.world.indexes.ready == 1
    waiting.when(release("other")).fold()
    assert order(checked(waiting.world)) == ["t", "u"]
    assert not waiting.world.indexes.on_hold.tests


def test_a_task_that_waits_for_more_than_its_share() -> None:
    """A hold, a pause, and the end of another task keep it as well, in whatever order they end."""
    hold, lift = HoldPlaced(hold_id="h", where="true"), HoldLifted(hold_id="h")
    facts = (worker(), POOL, holds("other"), waits(), BOUND)
    task = submitted(request="r")
    gone = PoolReleased(pool_id="tasks", request_id="other")
    for between in (
        (hold, task, gone, holds(), lift),
        (task, hold, gone, holds(), lift),
        (task, hold, lift, gone, holds()),
        (hold, task, lift, gone, holds()),
        (task, TaskPaused(task_id="t", reason="r"), gone, holds(), TaskResumed(task_id="t")),
        (task, TaskPaused(task_id="t", reason="r"), TaskResumed(task_id="t"), gone, holds()),
    ):
        scribe = write(*facts)
        for event in between[:-1]:
            scribe.commit(event)
            assert order(checked(scribe.world)) == []
        scribe.commit(between[-1])
        assert order(checked(scribe.world)) == ["t"]


def test_a_task_that_could_never_begin_frees_the_share_at_once() -> None:
    """Its request is bound, and its end follows in the same commit."""
    scribe = write(worker(), POOL, holds(), submitted("before"), TaskCancelled(task_id="before", reason="r"))
    decided = Given(scribe).when(submit(request="r", after=After(tasks=("before",))))
    assert isinstance(decided.events[0], PoolBound)
    assert isinstance(decided.events[-1], TaskCancelled)
    deadlines = Deadlines(scribe.world)
    decided.fold()
    deadlines.note(decided.events)
    freed = PoolReleased(pool_id="tasks", request_id="r", reason="owner_ended")
    assert passed(scribe, BEGIN + 9, deadlines.owners) == [freed]


def test_a_request_that_times_out_takes_its_task_along() -> None:
    """It would wait for ever; one that already runs goes on."""
    scribe = write(worker(), POOL, holds("other"), waits(until=BEGIN + 30), BOUND, submitted(request="r"))
    assert passed(scribe, BEGIN + 30) == [
        PoolWithdrawn(pool_id="tasks", request_id="r", reason="timed_out"),
        TaskCancelled(task_id="t", reason="its request r for a share of pool tasks timed out"),
    ]
    checked(scribe.world)


def test_only_a_request_that_there_is_can_be_named() -> None:
    """And none that has another owner."""
    given(POOL).when(submit(request="r")).then_refused("unknown_request", "'r'", "request it first", code="not_found")
    given().when(submit(request="r")).then_refused("unknown_request", "'r'")
    given(POOL).when(submit(request="a b")).then_refused("bad_id", "request")
    given(worker(), POOL, holds(owner="worker:w")).when(submit(request="r")).then_refused("request_bound", "worker:w")
    world = fold(POOL, holds(owner="worker:w"))
    refused = given(POOL, holds(owner="worker:w")).when(submit(request="r")).error
    assert refused is not None
    with pytest.raises(type(refused)):
        plan(world, Signs(), submit(request="r"), DecisionContext(world.indexes.now, Rules()), 0.0)


# --- preemption -------------------------------------------------------------------------------------------------------

TAKE = AllocatePool(pool_id="tasks", request_id="s", resources=resources(cpu=4000), priority=5, preempts=True)
TAKEN = holds("s", priority=5, owned=True)


def test_a_task_whose_share_is_taken_waits_for_it_again() -> None:
    """One that has not begun is kept from the workers until then."""
    world = given(worker(), POOL, holds(), BOUND, submitted(request="r"))
    lost = PoolPreempted(pool_id="tasks", request_id="r", by="s", waits=True)
    world.when(TAKE).then(lost, TAKEN)
    assert order(checked(world.world)) == []
    back = holds(owner="task:t")
    world.when(release("s")).then(PoolReleased(pool_id="tasks", request_id="s"), back)
    assert order(checked(world.world)) == ["t"]


def test_a_running_task_whose_share_is_taken_returns_to_the_queue() -> None:
    """Its attempt does not count, and its worker is named, to be told."""
    world = given(worker(), POOL, holds(), BOUND, submitted(request="r"), started())
    lost = PoolPreempted(pool_id="tasks", request_id="r", by="s", waits=True, worker_id="w", lease="c.1.1")
    why = "request s took the share of its request r"
    back = TaskAttemptFailed(task_id="t", lease="c.1.1", error=why, reason="released", retry_at=world.world.time + 1)
    world.when(TAKE).then(lost, back, TAKEN)
    assert order(checked(world.world)) == []
    late = world.when(complete()).error
    assert late is not None
    assert late.code == "stale_lease"
    world.when(release("s")).fold()
    assert order(checked(world.world)) == ["t"]


def test_a_task_that_is_to_end_loses_its_share_for_good() -> None:
    """It ends instead of returning to the queue."""
    asked = TaskCancelAsked(task_id="t", reason="r", grace_s=9.0)
    world = given(worker(), POOL, holds(), BOUND, submitted(request="r"), started(), asked)
    decided = world.when(TAKE)
    assert decided.events[0] == PoolPreempted(pool_id="tasks", request_id="r", by="s", worker_id="w", lease="c.1.1")
    assert isinstance(decided.events[1], TaskCancelled)
    decided.fold()
    assert not checked(world.world).pools["tasks"].waiting


def test_a_task_that_a_hold_keeps_loses_its_share_too() -> None:
    """It waits for both then, beside another one that waits for its share."""
    mine = (holds(), BOUND, submitted(request="r"), HoldPlaced(hold_id="h", where="true"))
    other = (waits("o"), PoolBound(pool_id="tasks", request_id="o", owner="task:u"), submitted("u", request="o"))
    for facts in ((*mine, *other), (*other, *mine)):
        scribe = write(worker(), POOL, *facts)
        Given(scribe).when(TAKE).fold()
        assert set(checked(scribe.world).pools["tasks"].waiting) == {"r", "o"}
        scribe.commit(HoldLifted(hold_id="h"))
        assert order(checked(scribe.world)) == []
        scribe.commit(PoolReleased(pool_id="tasks", request_id="s"), holds(owner="task:t"))
        assert order(checked(scribe.world)) == ["t"]


# --- explained --------------------------------------------------------------------------------------------------------


def reasons(world: World) -> Any:
    return explain(world, Signs(), world.tasks["t"], Rules(), 0.0).reasons


def test_why_it_waits_is_explained() -> None:
    """For what, who holds it, its place, when it times out, and the smallest change."""
    scribe = write(worker(), POOL, holds("other", 3000), waits(until=BEGIN + 40), BOUND, submitted(request="r"))
    (reason,) = [one for one in reasons(scribe.world) if one.code == "request_waits"]
    assert reason.text == (
        "its request r is number 1 for a share of pool tasks: "
        "the pool has too little: cpu: asked 4000m, free 1000m; it times out in 35.0 s"
    )
    assert [(one.kind, one.id, one.for_s) for one in reason.blockers] == [("request", "other", 3.0)]
    assert reason.change == "coordinator pool release tasks other"
    scribe.commit(PoolReleased(pool_id="tasks", request_id="other"), holds())
    assert "request_waits" not in {one.code for one in reasons(scribe.world)}


def test_who_is_before_it_is_explained() -> None:
    """Without an end it does not time out; a task that holds what it needs can be cancelled."""
    ahead = (worker(), POOL, holds("other", 3000), waits("first", 2000), waits(cpu=1000), BOUND)
    world = fold(*ahead, submitted(request="r"))
    (reason,) = [one for one in reasons(world) if one.code == "request_waits"]
    assert reason.text.endswith("number 2 for a share of pool tasks: what is free is set aside for first")
    assert [one.id for one in reason.blockers] == ["first"]
    assert reason.change == "coordinator pool define tasks, with more"
    owned = fold(worker(), POOL, holds("other", owner="task:u"), waits(), BOUND, submitted("u"), submitted(request="r"))
    (reason,) = [one for one in reasons(owned) if one.code == "request_waits"]
    assert reason.change == "coordinator task cancel u"


def test_a_plan_says_that_it_would_wait() -> None:
    """As its submit would be explained."""
    world = fold(worker(), POOL, holds("other"), waits())
    planned = plan(world, Signs(), submit(request="r"), DecisionContext(world.indexes.now, Rules()), 0.0)
    assert "request_waits" in {one.code for one in planned.reasons}
