"""The built-in scheduling policies, and subclasses by users."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.scheduler.scheduling_policy import PolicyType, SchedulingPolicy
from events.errors import Refused
from events.queue import FairShare, Policy
from tests.unit.deciders.facts import INFINITY, NAN


@dataclass
class Job:
    """A task as a user's program may represent it."""

    name: str
    priority: Any = 0


@dataclass
class Machine:
    """A worker as a user's program may represent it."""

    worker_id: str
    load: float = 0.0
    weight: float = 1.0


WORKERS = ["w1", "w2"]


def test_a_policy_is_first_come_first_served_unless_told() -> None:
    """The first task of the list, the oldest, is chosen."""
    policy = SchedulingPolicy()
    assert policy.policy_type is PolicyType.FIFO
    assert policy.select_task([Job("old"), Job("urgent", 9)], WORKERS) == Job("old")


@pytest.mark.parametrize("policy_type", list(PolicyType))
def test_without_tasks_or_workers_nothing_is_chosen(policy_type: PolicyType) -> None:
    """Without tasks or workers the result is None, not an error."""
    policy = SchedulingPolicy(policy_type)
    assert policy.select_task([], WORKERS) is None
    assert policy.select_task([Job("t")], []) is None
    assert policy.select_worker(Job("t"), []) is None


def test_a_higher_priority_goes_first_and_ties_go_by_age() -> None:
    """Tasks may be objects or mappings; one without a priority has 0."""
    policy = SchedulingPolicy(PolicyType.PRIORITY)
    assert policy.select_task([Job("low", 1), Job("old", 5), Job("new", 5)], WORKERS) == Job("old", 5)
    assert policy.select_task([{"priority": -1}, {}], WORKERS) == {}


def test_labels_of_priority_rank_as_configured() -> None:
    """Priority labels rank by their weights, as the requirements show; an unknown label ranks last."""
    policy = SchedulingPolicy(PolicyType.PRIORITY)
    policy.configure({"priority_weights": {"high": 3, "medium": 2, "low": 1}})
    jobs = [Job("a", "unheard"), Job("b", "low"), Job("c", "high"), Job("d", "medium")]
    assert policy.select_task(jobs, WORKERS) == Job("c", "high")
    policy.configure({"priority_weights": {"low": 9}})
    assert policy.select_task(jobs, WORKERS) == Job("b", "low")


def test_what_is_not_configured_stays() -> None:
    """Configuring one option does not change the other."""
    policy = SchedulingPolicy(PolicyType.PRIORITY)
    policy.configure({"worker_weights": {"w1": 2}})
    assert policy.select_task([Job("a", "low"), Job("b", "high")], WORKERS) == Job("b", "high")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"wieghts": {}}, "'wieghts' is unknown"),
        ({"by": "team"}, "fair.by 'team'"),
        ({"half_life_s": "long"}, "half_life_s 'long' is not a number"),
        ({"priority_ageing_s": -1}, "ageing_s -1"),
        ({"weights": {"acme": 0}}, "weights['acme']"),
        ({"priority_weights": 3}, "priority_weights is 3"),
        ({"priority_weights": {"high": "3"}}, "['high'] is '3'"),
        *[({"worker_weights": {"w": weight}}, f"['w'] is {weight!r}") for weight in (0, -1, NAN, INFINITY, None)],
    ],
)
def test_an_option_that_makes_no_sense_is_refused_and_changes_nothing(options: Any, named: str) -> None:
    """The error names the value and what is allowed; the other options of the call are not applied either."""
    policy = SchedulingPolicy(PolicyType.PRIORITY)
    with pytest.raises(Refused) as refused:
        policy.configure({"priority_weights": {"low": 99}, **options})
    assert named in refused.value.message
    assert refused.value.reason in ("bad_policy", "bad_type", "bad_number")
    assert policy.select_task([Job("a", "low"), Job("b", "high")], WORKERS) == Job("b", "high")


@pytest.mark.parametrize("policy_type", ["fifo", None, 3])
def test_a_policy_type_is_one_of_the_enumeration(policy_type: Any) -> None:
    """The error lists the policy types."""
    with pytest.raises(Refused, match=r"PolicyType\.FIFO, PolicyType\.PRIORITY"):
        SchedulingPolicy(policy_type)


def test_round_robin_deals_in_turn() -> None:
    """Over many choices each worker is chosen equally often."""
    policy = SchedulingPolicy(PolicyType.ROUND_ROBIN)
    chosen = [policy.select_worker(Job("t"), ["w1", "w2", "w3"]) for _ in range(6)]
    assert chosen == ["w1", "w2", "w3", "w1", "w2", "w3"]


def test_weighted_round_robin_deals_in_proportion() -> None:
    """Workers are chosen by the configured weights, or by their own if none are configured."""
    policy = SchedulingPolicy(PolicyType.WEIGHTED_ROUND_ROBIN)
    policy.configure({"worker_weights": {"w1": 3}})
    assert Counter(policy.select_worker(Job("t"), WORKERS) for _ in range(12)) == {"w1": 9, "w2": 3}
    own = SchedulingPolicy(PolicyType.WEIGHTED_ROUND_ROBIN)
    machines = [Machine("a", weight=1), Machine("b", weight=2)]
    assert Counter(own.select_worker(Job("t"), machines).worker_id for _ in range(9)) == {"a": 3, "b": 6}


@settings(deadline=None)
@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    count=st.integers(0, 120),
    policy_type=st.sampled_from([PolicyType.ROUND_ROBIN, PolicyType.WEIGHTED_ROUND_ROBIN]),
)
def test_each_worker_has_its_share_after_any_number_of_choices(
    weights: list[int], count: int, policy_type: PolicyType
) -> None:
    """Its part of them by weight, rounded up or down; as the coordinator deals tasks."""
    policy = SchedulingPolicy(policy_type)
    machines = [Machine(f"m{at}", weight=weight) for at, weight in enumerate(weights)]
    if policy_type is PolicyType.ROUND_ROBIN:
        weights = [1] * len(weights)
    had, total = [0] * len(weights), sum(weights)
    for number in range(1, count + 1):
        had[machines.index(policy.select_worker(Job("t"), machines))] += 1
        assert all(number * w // total <= one <= -(-number * w // total) for one, w in zip(had, weights, strict=True))


def test_weights_below_one_are_shares_too() -> None:
    """Only their proportion counts."""
    policy = SchedulingPolicy(PolicyType.WEIGHTED_ROUND_ROBIN)
    policy.configure({"worker_weights": {"w1": 0.25, "w2": 0.5}})
    assert Counter(policy.select_worker(Job("t"), WORKERS) for _ in range(30)) == {"w1": 10, "w2": 20}


def test_a_worker_that_comes_later_does_not_catch_up() -> None:
    """It begins where the others are."""
    policy = SchedulingPolicy(PolicyType.ROUND_ROBIN)
    assert [policy.select_worker(Job("t"), ["a", "b"]) for _ in range(6)] == list("ababab")
    assert [policy.select_worker(Job("t"), ["a", "b", "c"]) for _ in range(6)] == list("cabcab")


@pytest.mark.parametrize(
    "policy_type", [PolicyType.LEAST_LOADED, PolicyType.PRIORITY, PolicyType.FIFO, PolicyType.CUSTOM]
)
def test_other_policies_choose_the_least_loaded(policy_type: PolicyType) -> None:
    """The worker with the lowest load is chosen: the load set last, or the worker's own; ties go to the first."""
    policy = SchedulingPolicy(policy_type)
    assert policy.select_worker(Job("t"), WORKERS) == "w1"
    policy.update_worker_load("w1", 0.75)
    assert policy.select_worker(Job("t"), WORKERS) == "w2"
    busy, idle = Machine("w3", load=0.5), {"worker_id": "w4", "load": 0.1}
    assert policy.select_worker(Job("t"), [busy, idle]) == idle
    policy.update_worker_load("w4", 0.9)
    assert policy.select_worker(Job("t"), [busy, idle]) == busy


@pytest.mark.parametrize("load", [-0.01, 1.01, NAN, INFINITY, -INFINITY])
def test_a_load_is_a_share(load: float) -> None:
    """The error names the load and what is allowed."""
    policy = SchedulingPolicy(PolicyType.LEAST_LOADED)
    with pytest.raises(Refused, match=r"^load .* is (out of range: use 0 to 1|not a finite number)"):
        policy.update_worker_load("w1", load)


def test_a_users_own_policy_chooses_as_it_likes() -> None:
    """A subclass may use its own algorithm and its own keyword arguments, as the requirements show."""

    class CustomSchedulingPolicy(SchedulingPolicy):
        def __init__(self) -> None:
            super().__init__(PolicyType.CUSTOM)

        def select_task(self, available_tasks: Any, available_workers: Any, **kwargs: Any) -> Any:
            return self._custom_select(available_tasks, **kwargs) if available_workers else None

        def _custom_select(self, tasks: Any, *, last: bool = False) -> Any:
            return tasks[-1] if last else tasks[0]

    policy = CustomSchedulingPolicy()
    jobs = [Job("first"), Job("last")]
    assert policy.select_task(jobs, WORKERS) == Job("first")
    assert policy.select_task(jobs, WORKERS, last=True) == Job("last")
    assert policy.select_worker(Job("t"), WORKERS) == "w1"


def test_a_custom_policy_that_overrides_nothing_is_first_come_first_served() -> None:
    """A CUSTOM policy without overrides chooses the oldest task."""
    assert SchedulingPolicy(PolicyType.CUSTOM).select_task([Job("a", 1), Job("b", 9)], WORKERS) == Job("a", 1)


# --- what the coordinator runs ----------------------------------------------------------------------------------------


def test_a_policy_becomes_what_the_coordinator_runs() -> None:
    """With its options; those that are as usual are not said."""
    assert SchedulingPolicy(PolicyType.LEAST_LOADED).live() == Policy(strategy="least_loaded", ageing_s=60.0)
    policy = SchedulingPolicy(PolicyType.FAIR)
    policy.configure({"priority_weights": {"urgent": 9}, "priority_ageing_s": 0, "by": "key", "cost": "tokens"})
    policy.configure({"half_life_s": 60, "weights": {"acme": 3}})
    fair = FairShare(by="key", cost="tokens", half_life_s=60.0, weights={"acme": 3.0})
    assert policy.live() == Policy(strategy="fair", priority_weights={"urgent": 9}, fair=fair)


@pytest.mark.parametrize(
    ("policy_type", "options", "said"),
    [
        (PolicyType.CUSTOM, {}, "runs in the program that has it"),
        (PolicyType.PRIORITY, {"priority_weights": {"medium": 2.5}}, "whole numbers"),
        (PolicyType.WEIGHTED_ROUND_ROBIN, {"worker_weights": {"w1": 2}}, "as much weight as slots"),
    ],
)
def test_what_only_programs_can_follow_does_not_become_live(policy_type: PolicyType, options: Any, said: str) -> None:
    """It is told why."""
    policy = SchedulingPolicy(policy_type)
    policy.configure(options)
    with pytest.raises(Refused, match=said):
        policy.live()


def test_a_fair_policy_gives_each_its_part() -> None:
    """Of any list; within a part by priority."""
    policy = SchedulingPolicy(PolicyType.FAIR)
    policy.configure({"weights": {"acme": 3}})
    tasks = [
        {"tenant": "blue", "priority": 0},
        {"tenant": "acme", "priority": 1},
        {"tenant": "acme", "priority": 5},
    ]
    chosen = [policy.select_task(tasks, WORKERS) for _ in range(8)]
    assert sum(one["tenant"] == "acme" for one in chosen) == 6
    assert {one["priority"] for one in chosen if one["tenant"] == "acme"} == {5}
