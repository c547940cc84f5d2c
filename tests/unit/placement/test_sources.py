"""Which of the ready tasks a claim takes: by queue, by policy, and by who has used least."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.placement.matching import schedule
from coordinator.placement.sources import ready_for_custom
from events.coordinator import ClaimFilter
from events.queue import DEFAULT, FairShare, Policy, QueueDefined, QueuePaused, QueuePolicySet, QueueResumed
from events.task import TaskStatus, TaskUsage
from projections.world import World
from tests.specification import BEGIN, Said, Scribe, fold, write
from tests.unit.deciders.facts import attempt_failed, completed, resources, started, submitted, worker
from tests.unit.placement.test_matching import deal, dealt, waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events.base import Event

LIVE = ""
"""A claim that names no strategy."""


def policy(strategy: str = "fifo", queue_id: str = DEFAULT, **others: Any) -> QueuePolicySet:
    return QueuePolicySet(queue_id=queue_id, policy=Policy(strategy=strategy, **others))


def fair(queue_id: str = DEFAULT, **others: Any) -> QueuePolicySet:
    return policy("fair", queue_id, fair=FairShare(**others))


def of(tenant: str, event: Event, at: float | None = None) -> Said:
    return Said(event, at, tenant, "", "")


def order(world: World, *, slots: int = 99, strategy: str = LIVE, **wanted: Any) -> list[str]:
    """Return the tasks in the order in which one claim of worker `w` gets them."""
    claim = waiting(slots=slots, strategy=strategy)
    return [event.task_id for event in schedule(world, [claim], {}, {"c": ClaimFilter(**wanted)}, most=slots)]


# --- the policy that is in force --------------------------------------------------------------------------------------


def test_a_claim_without_a_strategy_follows_the_policy_and_one_with_it_does_not() -> None:
    """Per scheduler and per call."""
    facts = (worker(), submitted("old"), submitted("urgent", priority=9))
    assert order(fold(*facts)) == ["old", "urgent"]
    by_priority = fold(*facts, policy("priority"))
    assert order(by_priority) == ["urgent", "old"]
    assert order(by_priority, strategy="fifo") == ["old", "urgent"]
    assert order(fold(*facts, policy("priority"), policy("fifo"))) == ["old", "urgent"]
    assert order(fold(*facts, policy("priority"), QueuePolicySet(queue_id=DEFAULT))) == ["old", "urgent"]


@pytest.mark.parametrize("strategy", ["least_loaded", "round_robin", "weighted_round_robin"])
def test_the_policy_says_which_worker_is_served(strategy: str) -> None:
    """As if each claim had named it."""
    facts = (worker("v", slots=4), worker("w", slots=2), *(submitted(f"t{number}") for number in range(4)))
    named = dealt(fold(*facts), waiting("c", "v", 9, strategy), waiting("d", "w", 9, strategy), loads={"v": 0.9})
    live = dealt(
        fold(*facts, policy(strategy)), waiting("c", "v", 9, LIVE), waiting("d", "w", 9, LIVE), loads={"v": 0.9}
    )
    assert named == live
    assert len(live) == 4


def test_by_priority_age_counts_as_the_policy_says() -> None:
    """60 s of age make up for one priority, not 59; equal ones go by age; and the order does not change with time."""
    scribe = write(worker(), policy("priority", ageing_s=60.0))
    scribe.commit_each([Said(submitted("old"), None, "", "", "")], at=BEGIN + 1000.0)
    scribe.commit_each([Said(submitted("near", priority=1), None, "", "", "")], at=BEGIN + 1059.0)
    scribe.commit_each([Said(submitted("late", priority=1), None, "", "", "")], at=BEGIN + 1061.0)
    assert order(scribe.world) == ["near", "old", "late"]
    scribe.commit_each([Said(submitted("high", priority=30), None, "", "", "")], at=BEGIN + 5000.0)
    assert order(scribe.world) == ["near", "old", "late", "high"]
    assert order(scribe.world, strategy="priority") == ["near", "old", "late", "high"]
    scribe.commit(policy("priority"))
    assert order(scribe.world) == ["high", "near", "late", "old"]
    scribe.commit(policy("priority", ageing_s=0.001))
    assert order(scribe.world) == ["old", "near", "late", "high"]


@for_all(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_with_ageing_nothing_starves(seed: int) -> None:
    """However many tasks of a higher priority come, an old one is taken before those that come late enough."""
    random = Random(seed)
    ageing_s = random.choice((1.0, 60.0))
    scribe = write(worker(), policy("priority", ageing_s=ageing_s), submitted("old", priority=-3))
    began = scribe.world.time
    for number in range(30):
        at = began + (number + 1) * ageing_s / 2
        scribe.commit_each([Said(submitted(f"t{number}", priority=random.randint(-3, 5)), None, "", "", "")], at=at)
    later = {task.task_id for task in scribe.world.tasks.values() if task.submitted_at > began + 8 * ageing_s}
    taken = order(scribe.world)
    assert len(taken) == 31
    assert later
    assert all(taken.index("old") < taken.index(one) for one in later)


# --- queues -----------------------------------------------------------------------------------------------------------

QUEUES = (QueueDefined(queue_id="a"), QueueDefined(queue_id="b", weight=3.0))


def many(queue: str, number: int = 8, **others: Any) -> list[Event]:
    return [submitted(f"{queue or 'd'}{index}", queue=queue, **others) for index in range(number)]


def test_queues_share_the_fleet_by_their_weights() -> None:
    """With the default one, whose weight is 1; what runs counts."""
    world = fold(worker(), *QUEUES, *many("a", 20), *many("b", 20), *many("", 20))
    taken = order(world, slots=20)
    assert Counter(one[0] for one in taken) == {"a": 4, "b": 12, "d": 4}
    assert [one for one in taken if one[0] == "b"] == [f"b{index}" for index in range(12)]
    running = [started(f"b{index}", lease=f"c{index}.1.1") for index in range(12)]
    world = fold(worker(), *QUEUES, *many("a", 20), *many("b", 20), *many("", 20), *running)
    assert Counter(one[0] for one in order(world, slots=8)) == {"a": 4, "d": 4}


def test_a_queue_with_nothing_to_do_leaves_its_part_to_others() -> None:
    """Work-conserving: no slot stays free while a task waits that may take it."""
    world = fold(worker(), *QUEUES, *many("a", 5))
    assert order(world) == [f"a{index}" for index in range(5)]


def test_a_paused_queue_gives_nothing_until_it_is_resumed() -> None:
    """Neither to claims of all queues nor to those of this one, or of a program."""
    facts = (worker(), *QUEUES, *many("a", 2, program="p"), *many("b", 2), *many("", 2, program="p"))
    paused = (*facts, QueuePaused(queue_id="a", reason="r"), QueuePaused(queue_id=DEFAULT, reason="r"))
    assert order(fold(*paused)) == ["b0", "b1"]
    assert order(fold(*paused), queues=("a",)) == []
    assert order(fold(*paused), programs=("p",)) == []
    assert order(fold(*paused), task_names=("work",)) == ["b0", "b1"]
    resumed = fold(*paused, QueueResumed(queue_id="a"), QueueResumed(queue_id=DEFAULT))
    assert len(order(resumed)) == 6
    assert order(resumed, programs=("p",)) == ["d0", "a0", "d1", "a1"]


def test_a_claim_takes_of_the_queues_it_names() -> None:
    """The default one has its name, too."""
    world = fold(worker(), *QUEUES, *many("a", 2), *many("b", 2), *many("", 2))
    assert order(world, queues=("a",)) == ["a0", "a1"]
    assert order(world, queues=(DEFAULT,)) == ["d0", "d1"]
    assert sorted(order(world, queues=("a", DEFAULT))) == ["a0", "a1", "d0", "d1"]
    assert order(world, queues=("nothing",)) == []


def test_each_queue_has_its_own_policy_or_that_of_the_default_one() -> None:
    """And the strategy of a call goes before both."""
    facts = (*many("a", 1), submitted("a9", queue="a", priority=1), *many("b", 1))
    own = (*QUEUES, policy("priority"), policy("fifo", "b"))
    world = fold(worker(), *own, *facts, submitted("b9", queue="b", priority=1))
    assert order(world, queues=("a",)) == ["a9", "a0"]
    assert order(world, queues=("b",)) == ["b0", "b9"]
    assert order(world, queues=("b",), strategy="priority") == ["b9", "b0"]


# --- a custom policy --------------------------------------------------------------------------------------------------

CUSTOM = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="custom", custom="policies:Mine"))


def test_what_a_custom_policy_chose_is_given() -> None:
    """In its order; claims that follow it get nothing else, those with a strategy of their own do."""
    facts = (CUSTOM, worker("v"), worker("w", slots=2), *(submitted(f"t{number}") for number in range(5)))
    claims = (waiting("c", "w", 9, LIVE), waiting("d", "v", 1, "fifo"))
    chosen = {"c": ("t3", "t1", "nothing", "t4"), "d": ("t2",)}
    assert dealt(fold(*facts), *claims, chosen=chosen) == [("t3", "w"), ("t1", "w"), ("t0", "v")]
    assert dealt(fold(*facts), *claims, chosen=chosen, most=1) == [("t3", "w")]
    assert dealt(fold(*facts), *claims, chosen={}) == [("t0", "v")]


def test_what_it_chose_for_a_worker_that_is_gone_or_cannot_have_it_is_not_given() -> None:
    """The task stays for others."""
    facts = (CUSTOM, worker(resources=resources(cpu=1)), submitted("t0", resources=resources(cpu=2)), submitted("t1"))
    claims = (waiting("c", "w", 9, LIVE), waiting("d", "nobody", 9, LIVE))
    assert dealt(fold(*facts), *claims, chosen={"c": ("t0", "t1"), "d": ("t1",)}) == [("t1", "w")]
    with_queues = (*facts, QueueDefined(queue_id="a"))
    assert dealt(fold(*with_queues), *claims, chosen={"c": ("t1",)}) == [("t1", "w")]


def test_a_queue_with_a_policy_of_its_own_is_not_its_business() -> None:
    """Claims get those tasks while it chooses, or says nothing, about the others."""
    own = (*QUEUES, policy("fifo", "b"), submitted("b0", queue="b"), submitted("a0", queue="a"), submitted("d0"))
    world = fold(CUSTOM, worker(), *own)
    assert dealt(world, waiting("c", "w", 9, LIVE), chosen={}) == [("b0", "w")]
    assert sorted(dealt(world, waiting("c", "w", 9, LIVE), chosen={"c": ("d0",)})) == [("b0", "w"), ("d0", "w")]
    named = {"c": ClaimFilter(task_ids=("a0",))}
    assert dealt(world, waiting("c", "w", 9, LIVE), chosen={}, filters=named) == [("a0", "w")]


def test_if_it_fails_tasks_are_taken_by_priority() -> None:
    """In that turn."""
    facts = (CUSTOM, worker(), submitted("old"), submitted("urgent", priority=1))
    assert order(fold(*facts)) == ["urgent", "old"]


def test_it_is_offered_what_follows_it() -> None:
    """The first ones by priority, of the default queue and of those without a policy of their own."""
    own = (*QUEUES, policy("fifo", "b"), submitted("b0", queue="b"), submitted("a0", queue="a"), submitted("d0"))
    world = fold(CUSTOM, worker(), *own, submitted("d9", priority=9))
    assert [task.task_id for task in ready_for_custom(world, 1)] == ["d9"]
    assert {task.task_id for task in ready_for_custom(world, 9)} == {"d9", "d0", "a0"}


# --- fair shares ------------------------------------------------------------------------------------------------------


def test_tenants_take_turns_whoever_came_first() -> None:
    """A tenant with a hundred tasks does not stand before one with two."""
    crowd = [of("big", submitted(f"big{index}")) for index in range(9)]
    world = fold(worker(), fair(), *crowd, of("small", submitted("small0")), of("small", submitted("small1")))
    assert order(world, slots=5) == ["big0", "small0", "big1", "small1", "big2"]
    assert order(world, slots=3, strategy="fifo") == ["big0", "big1", "big2"]


def test_keys_share_a_queue_by_their_weights() -> None:
    """Tasks that name no key are one key, too; others' weights are 1."""
    keyed = [submitted(f"{key}{index}", fairness_key=key) for key in ("x", "y", "") for index in range(20)]
    world = fold(worker(), fair(by="key", weights={"x": 3.0}), *keyed)
    assert Counter(one[0] if one[0].isalpha() else "-" for one in order(world, slots=20)) == {"x": 12, "y": 4, "-": 4}


def test_within_a_share_priority_decides() -> None:
    """Tenants take turns; each one's tasks go by its priorities."""
    world = fold(
        worker(),
        fair(),
        of("a", submitted("a0")),
        of("a", submitted("a9", priority=9)),
        of("b", submitted("b0", priority=-1)),
    )
    assert order(world) == ["a9", "b0", "a0"]


def test_a_task_that_does_not_fit_leaves_the_slot_to_the_next_share() -> None:
    """And stays for a worker that it fits."""
    facts = (fair(), of("a", submitted("large", resources=resources(gpus=1))), of("b", submitted("small")))
    world = fold(worker(resources=resources(cpu=1000)), worker("g", resources=resources(gpus=1)), *facts)
    assert dealt(world, waiting("c", "w", 9, LIVE), waiting("d", "g", 9, LIVE)) == [("small", "w"), ("large", "g")]


def run(tenant: str, name: str, *, ran_s: float, usage: TaskUsage | None = None, ends: str = "completed") -> list[Said]:
    """Return the facts of a task of a tenant that began now and ends after *ran_s* seconds, which is when they end."""
    lease = f"{name}.1.1"
    end = completed(name, lease, usage=usage) if ends == "completed" else attempt_failed(name, lease, usage=usage)
    begin = [of(tenant, submitted(name)), of(tenant, started(name, lease=lease))]
    return [*begin, Said(end, ran_s, tenant, "", "")]


def ran(scribe: Scribe, *told: list[Said]) -> None:
    """Commit what runs side by side: all begin, then each ends at its time."""
    began = scribe.world.time + 1.0
    scribe.commit_each([one for facts in told for one in facts[:2]], at=began)
    for end in sorted((facts[2] for facts in told), key=lambda one: one.at or 0.0):
        scribe.commit_each([end._replace(at=None)], at=began + (end.at or 0.0))


@pytest.mark.parametrize(
    ("cost", "a", "b", "is_next"),
    [
        ("seconds", None, None, "b"),
        ("tokens", TaskUsage(input_tokens=5, reasoning_tokens=5), TaskUsage(output_tokens=9, cached_tokens=2), "a"),
        ("money", TaskUsage(money_micros=10), TaskUsage(money_micros=11, input_tokens=1), "a"),
        ("money", TaskUsage(money_micros=10), None, "b"),
    ],
)
@pytest.mark.parametrize("ends", ["completed", "failed"])
def test_what_was_used_is_counted_as_the_policy_says(
    cost: str, a: TaskUsage | None, b: TaskUsage | None, is_next: str, ends: str
) -> None:
    """`a` ran for longer; tokens and money are what the attempts report; a failed attempt has used them as well."""
    scribe = write(worker(), fair(cost=cost))
    ran(scribe, run("a", "ta", ran_s=20.0, usage=a, ends=ends), run("b", "tb", ran_s=10.0, usage=b, ends=ends))
    scribe.commit(of("a", submitted("next-a")), of("b", submitted("next-b")))
    taken = [one for one in order(scribe.world) if one.startswith("next")]
    assert taken[0] == f"next-{is_next}"


def test_what_was_used_counts_half_after_the_half_life() -> None:
    """Long ago much is as little as what was little just now."""
    scribe = write(worker(), fair(half_life_s=10.0))
    ran(scribe, run("a", "ta", ran_s=80.0))
    scribe.commit_each([of("", QueueDefined(queue_id="other"))], at=scribe.world.time + 60.0)
    ran(scribe, run("b", "tb", ran_s=4.0))
    scribe.commit(of("a", submitted("next-a")), of("b", submitted("next-b")))
    assert order(scribe.world, slots=1) == ["next-a"]


def test_shares_are_kept_from_the_accounts_of_a_restored_world() -> None:
    """A takeover forgets nothing of what was used."""
    scribe = write(worker(), fair())
    ran(scribe, run("a", "ta", ran_s=20.0), run("b", "tb", ran_s=10.0))
    scribe.commit(*(of(one, submitted(f"{one}{index}")) for one in "ab" for index in range(9)))
    assert order(World.restore(scribe.world.snapshot())) == order(scribe.world)


TENANTS = {f"t{number}": float(1 + number % 4) for number in range(10)}
SLOTS = 24


class _Fleet:
    """Ten tenants with endless work on 24 slots, in virtual time; each task takes as long as its tenant's tasks do."""

    def __init__(self, seed: int, *, length: float = 1.0) -> None:
        self.random = Random(seed)
        self.length = length
        self.scribe = write(worker(), fair(weights=TENANTS))
        self.ids = count()
        self.used: dict[str, list[tuple[float, float]]] = {tenant: [] for tenant in TENANTS}
        self._running: list[tuple[float, str, str, str]] = []
        self.began = self.scribe.world.time

    def go_on(self, until_s: float) -> None:
        self._submit(TENANTS)
        self._fill(self.began)
        while self._running and self._running[0][0] < self.began + until_s:
            at, task_id, lease, tenant = heapq.heappop(self._running)
            self.scribe.commit_each([of(tenant, completed(task_id, lease))], at=at)
            self._submit([tenant])
            self._fill(at)

    def _submit(self, tenants: Iterable[str]) -> None:
        new = [of(tenant, submitted(f"{tenant}-{next(self.ids)}")) for tenant in tenants for _ in range(2)]
        self.scribe.commit_each(new, at=self.scribe.world.time + 1e-6)

    def _fill(self, at: float) -> None:
        world = self.scribe.world
        free = SLOTS - len(world.indexes.tasks[TaskStatus.RUNNING])
        placed = deal(world, waiting(f"c{next(self.ids)}", slots=free, strategy=LIVE), most=free)
        self.scribe.commit_each([of("", one) for one in placed], at=world.time + 1e-6)
        for one in placed:
            tenant = world.tasks[one.task_id].tenant
            usual = self.length * (0.5 + 0.25 * (int(tenant[1:]) % 5))
            ends = max(at, world.time) + usual * self.random.uniform(0.5, 1.5)
            self.used[tenant].append((max(at, world.time), ends))
            heapq.heappush(self._running, (ends, one.task_id, one.lease, tenant))

    def shares(self, until_s: float) -> dict[str, float]:
        """Return what each tenant used up to a time, relative to its share."""
        end = self.began + until_s
        used = {
            tenant: sum(min(to, end) - begin for begin, to in spans if begin < end)
            for tenant, spans in self.used.items()
        }
        total, weights = sum(used.values()), sum(TENANTS.values())
        return {tenant: used[tenant] / total / (TENANTS[tenant] / weights) for tenant in TENANTS}


@pytest.mark.parametrize(("minutes", "length"), [(1, 1.0), (10, 1.0), (60, 8.0)])
def test_ten_tenants_keep_their_shares(minutes: int, length: float) -> None:
    """Within 5 % each, over a minute, ten, and an hour of virtual time, with tasks of different lengths."""
    fleet = _Fleet(minutes, length=length)
    fleet.go_on(minutes * 60.0)
    found = fleet.shares(minutes * 60.0)
    assert {tenant: share for tenant, share in found.items() if not 0.95 <= share <= 1.05} == {}


@for_all(seed=st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_nothing_waits_that_could_run(seed: int) -> None:
    """Work-conserving and bounded: with any policies, queues and shares, all that fits is given, and each task once."""
    random = Random(seed)
    facts: list[Any] = [worker("v", handles=("x",)), worker("w"), *QUEUES]
    for queue_id in (DEFAULT, "a", "b"):
        possible = (policy("priority", queue_id, ageing_s=1.0), fair(queue_id), fair(queue_id, by="key"))
        facts += [random.choice(possible)]
    tasks = [
        of(
            random.choice("uv"),
            submitted(
                f"t{number}",
                task_name=random.choice("xy"),
                queue=random.choice(("", "a", "b")),
                fairness_key=random.choice("kl"),
                priority=random.randint(0, 3),
            ),
        )
        for number in range(random.randint(0, 30))
    ]
    world = fold(*facts, *tasks)
    of_v, of_w = random.randint(0, 20), random.randint(1, 20)
    claims = [waiting("c", "v", of_v, LIVE)] * (of_v > 0) + [waiting("d", "w", of_w, LIVE)]
    given = deal(world, *claims)
    assert len({one.task_id for one in given}) == len(given)
    names = Counter(task.task_name for task in world.tasks.values())
    left = len(world.tasks) - len(given)
    got_w = sum(one.worker_id == "w" for one in given)
    assert got_w == of_w or left == 0
    taken = Counter(world.tasks[one.task_id].task_name for one in given)
    assert sum(one.worker_id == "v" for one in given) == of_v or taken["x"] == names["x"]
