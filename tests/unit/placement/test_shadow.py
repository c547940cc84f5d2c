"""What a candidate policy would decide from the same state, and its regret."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.placement import shadow
from coordinator.placement.matching import SCHEDULE_VERSION, schedule
from coordinator.placement.shadow import compare, weight_of, with_policy
from events.coordinator import CoordinatorTurn, WaitingClaim
from events.queue import (
    DEFAULT,
    Comparison,
    FairShare,
    OtherDecision,
    Policy,
    QueueDefined,
    QueuePolicySet,
)
from projections.considered import Considered
from projections.queue import policy_of
from tests.specification import Said, fold, said
from tests.unit.deciders.facts import resources, started, submitted, worker
from tests.unit.placement.test_matching import waiting
from tests.unit.projections.histories import Historian

if TYPE_CHECKING:
    from coordinator.placement.shadow import Compared
    from events.base import Event
    from events.task import TaskStarted
    from projections.world import World

FIFO, PRIORITY = Policy(), Policy(strategy="priority")
STRATEGIES = ("fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin")


def world_of(*facts: Event | Said) -> World:
    """Return a world in which the default queue has a record, at a hundred seconds after the first fact."""
    world = fold(QueueDefined(queue_id=DEFAULT, weight=2.0), *facts)
    world.indexes.advance(1_100.0)
    return world


def turn(world: World, *claims: WaitingClaim, most: int = 1000, **others: Any) -> tuple[CoordinatorTurn, Any, Any]:
    """Return what a turn of the writer records, what it considered, and what it started."""
    chosen = others.get("chosen") if others.get("chosen_by") else None
    given = list(schedule(world, claims, {}, most=most, chosen=chosen))
    seen = Considered()
    made = CoordinatorTurn(
        instance="i",
        now=world.indexes.now,
        claims=claims,
        policy="schedule",
        policy_version=SCHEDULE_VERSION,
        placed=len(given),
        fresh=True,
        **others,
    )
    seen.take(made)
    return made, seen, given


def compared(
    world: World, candidate: Policy, *claims: WaitingClaim, queue_id: str = DEFAULT, **others: Any
) -> Compared | None:
    made, seen, given = turn(world, *claims, **others)
    return compare(world, queue_id, candidate, seen, made, given)


def test_the_regret_is_what_is_left_waiting() -> None:
    """By the seconds since it was ready and the priority; two tasks for two decisions cost nothing."""
    facts = (worker(), said(submitted("old"), at=1_010.0), said(submitted("urgent", priority=4), at=1_070.0))
    found = compared(world_of(*facts), PRIORITY, waiting(strategy=""))
    assert found is not None
    # `old` has waited 90 s with the weight 1, `urgent` 30 s with the weight 5.
    assert found.numbers == Comparison(
        turns=1,
        decisions=1,
        differing=1,
        regret_s=-60.0,
        regret_squares=3600.0,
        regret_by_decisions=-60.0,
        decision_squares=1,
    )
    other = OtherDecision(sequence=5, task_id="old", worker_id="w", other_task_id="urgent", other_worker_id="w")
    assert found.examples == (other,)
    backwards = world_of(*facts, QueuePolicySet(queue_id=DEFAULT, policy=PRIORITY))
    again = compared(backwards, FIFO, waiting(strategy=""))
    assert again is not None
    assert again.numbers.regret_s == 60.0
    both = compared(world_of(*facts), PRIORITY, waiting(strategy="", slots=2))
    assert both is not None
    assert (both.numbers.decisions, both.numbers.differing, both.numbers.regret_s) == (2, 0, 0.0)


def test_weights_grow_with_the_priority_and_stay_above_zero() -> None:
    """Whatever it is."""
    task = fold(submitted()).tasks["t"]
    weights = [weight_of(msgspec.structs.replace(task, priority=one)) for one in (-1_000_000, -1, 0, 1, 3, 1_000_000)]
    assert weights == sorted(weights)
    assert weights[1:5] == [0.5, 1.0, 2.0, 4.0]
    assert weights[0] > 0.0


def test_another_worker_is_another_decision_without_regret() -> None:
    """Nothing is left waiting."""
    facts = (worker("busy", slots=2), worker("idle"), submitted("a"), started("a", worker_id="busy"), submitted("b"))
    claims = (waiting("c1", "busy", strategy=""), waiting("c2", "idle", strategy=""))
    found = compared(world_of(*facts), Policy(strategy="least_loaded"), *claims)
    assert found is not None
    assert (found.numbers.differing, found.numbers.regret_s) == (1, 0.0)
    assert [(one.worker_id, one.other_worker_id) for one in found.examples] == [("busy", "idle")]


def test_a_candidate_that_starts_less_leaves_that_waiting() -> None:
    """As where the first task takes the room of two."""
    big = submitted("big", priority=1, resources=resources(cpu=2))
    small = [said(submitted(one, resources=resources(cpu=1)), at=1_050.0) for one in ("a", "b")]
    facts: list[Event | Said] = [worker(resources=resources(cpu=2)), *small, said(big, at=1_090.0)]
    found = compared(world_of(*facts), PRIORITY, waiting(strategy="", slots=9))
    assert found is not None
    assert (found.numbers.differing, found.numbers.regret_s) == (2, 50.0 + 50.0 - 2 * 10.0)
    assert [(one.task_id, one.other_task_id) for one in found.examples] == [("a", "big"), ("b", "")]


def test_only_what_would_follow_the_candidate_is_a_decision() -> None:
    """Queues with a policy of their own, and claims that name a strategy, do not."""
    queues = (QueueDefined(queue_id="a"), QueueDefined(queue_id="b"), QueuePolicySet(queue_id="b", policy=FIFO))
    facts = (*queues, worker(), submitted("ta", queue="a"), submitted("tb", queue="b"), submitted("t"))
    found = compared(world_of(*facts), PRIORITY, waiting(strategy="", slots=9))
    assert found is not None
    assert found.numbers.decisions == 2
    of_b = compared(world_of(*facts), PRIORITY, waiting(strategy="", slots=9), queue_id="b")
    assert of_b is not None
    assert of_b.numbers.decisions == 1
    assert compared(world_of(*facts), PRIORITY, waiting(strategy="fifo", slots=9)) is None


def test_a_candidate_is_compared_with_a_custom_policy() -> None:
    """What that chose counts only where it would have a say still."""
    custom = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="custom", custom="m:C"))
    facts = (QueueDefined(queue_id="a"), custom, worker(), submitted("ta", queue="a"), submitted("t"))
    told: dict[str, Any] = {"chosen": {"c": ("ta", "t", "gone")}, "chosen_by": "digest"}
    found = compared(world_of(*facts), FIFO, waiting(strategy=""), **told)
    assert found is not None
    assert [(one.task_id, one.other_task_id) for one in found.examples] == [("ta", "t")]
    of_a = compared(world_of(*facts), FIFO, waiting(strategy="", slots=2), queue_id="a", **told)
    assert of_a is not None
    assert (of_a.numbers.decisions, of_a.numbers.differing) == (1, 0)


def test_weights_of_shares_may_be_compared() -> None:
    """The accounts are those of the live policy, which is not changed."""
    share = FairShare(by="key")
    live = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="fair", fair=share))
    heavy = Policy(strategy="fair", fair=FairShare(by="key", weights={"b": 100.0}))
    ran = (submitted("a0", fairness_key="a"), started("a0"), submitted("b0", fairness_key="b"), started("b0", "c.2.1"))
    more = (submitted("b1", fairness_key="b"), started("b1", "c.3.1"))
    facts = (live, worker(), *ran, *more, submitted("a2", fairness_key="a"), submitted("b2", fairness_key="b"))
    world = world_of(*facts)
    before = world.digest()
    found = compared(world, heavy, waiting("d", strategy=""))
    assert found is not None
    assert [(one.task_id, one.other_task_id) for one in found.examples] == [("a2", "b2")]
    assert (world.digest(), world.indexes.shared) == (before, {"": share})
    assert with_policy(world, DEFAULT, live.policy or FIFO).indexes is world.indexes


@for_all(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_candidate_equal_to_the_live_policy_decides_the_same(seed: int) -> None:
    """From the state after any history, whatever claims wait: no divergence and no regret."""
    random = Random(seed)
    historian = Historian(seed)
    historian.write(40)
    scribe, world = historian.scribe, historian.world
    for queue_id in list(world.queues):
        policy = Policy(strategy=random.choice(STRATEGIES), ageing_s=random.choice((0.0, 60.0)))
        scribe.commit(QueuePolicySet(queue_id=queue_id, policy=random.choice((policy, policy, None))))
    for number in range(9):
        queue = random.choice([one for one in world.queues if one != DEFAULT] or [""])
        queued = submitted(f"new{number}", priority=random.randint(-2, 3), queue=random.choice(("", queue)))
        scribe.commit(queued)
    scribe.commit(worker("v", slots=random.choice((None, 3))), worker("w"))
    world.indexes.advance(world.time + 10.0)
    claims = [
        waiting(f"c{number}", random.choice("vw"), random.randint(1, 3), random.choice(("", "", "fifo")))
        for number in range(4)
    ]
    made, seen, given = turn(world, *claims, most=random.choice((2, 99)))
    for queue_id in world.queues:
        live = policy_of(world.queues, "" if queue_id == DEFAULT else queue_id)
        same = compare(world, queue_id, live, seen, made, given)
        if same is not None:
            assert (same.numbers.differing, same.numbers.regret_s, same.examples) == (0, 0.0, ())
        other = compare(world, queue_id, Policy(strategy="priority"), seen, made, given)
        if other is not None:
            _check(other, world, given)


def _check(found: Compared, world: World, given: list[TaskStarted]) -> None:
    numbers = found.numbers
    assert 0 <= numbers.differing <= numbers.decisions <= len(given)
    assert len(found.examples) == min(numbers.differing, 5)
    for one in found.examples:
        assert (one.task_id, one.worker_id) != (one.other_task_id, one.other_worker_id)
        assert one.task_id in world.tasks
    most = sum(shadow._waiting_of(world, event.task_id) for event in given)
    assert numbers.regret_s <= most
