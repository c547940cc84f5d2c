"""Where a task runs that a rule of the settings bound to agents and nodes, and what is said where it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.explain import Blocker, Tier
from coordinator.deciders.rules import Rules, TaskRule
from coordinator.placement.matching import offered, schedule
from events.coordinator import ANY, ClaimFilter
from events.errors import Forbidden
from tests.specification import fold
from tests.unit.deciders.facts import created, node, resources, starting, submit, submitted, worker
from tests.unit.placement.test_explain import codes, planned, told
from tests.unit.placement.test_matching import dealt, waiting

AGENT, NODE = 'agent_type in ["task_agent"]', 'node_id in ["n"]'
V, W = waiting("v", "v", 99), waiting("w", "w", 99)
INSIDE = (node(), created(), starting(), worker("v", container_id="k", labels={"a": 1}))
TWO = (*INSIDE, worker("w", labels={"a": 1}))


def bound(task_id: str = "t", rule_filter: str = AGENT, **others: Any) -> Any:
    return submitted(task_id, rule="pay", rule_filter=rule_filter, **others)


@pytest.mark.parametrize("rule_filter", [AGENT, NODE, f"{AGENT} && {NODE}"])
def test_a_bound_task_runs_only_there(rule_filter: str) -> None:
    """In an agent of this type, on this node; a worker outside of all containers is in none."""
    world = fold(*TWO, bound(rule_filter=rule_filter))
    assert dealt(world, W) == []
    assert dealt(world, W, V) == [("t", "v")]
    assert dealt(fold(*TWO, bound(rule_filter='node_id in ["m"]')), W, V) == []


def test_both_filters_count() -> None:
    """That of the rule, and that of who submitted it; tasks of both are counted once for each."""
    world = fold(*TWO, bound("a", worker_filter="labels.a == 1"), bound("b", worker_filter="labels.a == 2"), bound("c"))
    assert dealt(world, V, W) == [("a", "v"), ("c", "v")]
    assert world.indexes.worker_filters == {AGENT: 3, "labels.a == 1": 1, "labels.a == 2": 1}
    assert dealt(fold(*TWO, submitted(worker_filter=AGENT), bound("u")), W, V) == [("t", "v"), ("u", "v")]


def test_claims_of_all_kinds_keep_to_it() -> None:
    """Those that name tasks, those that only look, and those for which a custom policy chose."""
    world = fold(*TWO, bound("a"), submitted("b"))
    assert dealt(world, W, filters={"w": ClaimFilter(task_ids=("a", "b"))}) == [("b", "w")]
    assert [task.task_id for task in offered(world, "w", ANY, "", most=9, containers={})] == ["b"]
    found = offered(world, "v", ANY, "", most=9, containers={"k": "running"})
    assert [task.task_id for task in found] == ["a", "b"]
    chosen = schedule(world, [waiting("w", "w", 9, "")], {}, most=9, chosen={"w": ("a", "b")})
    assert [event.task_id for event in chosen] == ["b"]


def test_a_rule_that_no_worker_meets_is_told() -> None:
    """By its name, with what it asks for, apart from the filter of who submitted the task."""
    found = told(worker("w"), bound())
    assert codes(found) == [("not_permitted", Tier.NEVER)]
    (reason,) = found.reasons
    assert (
        reason.text == f"security rule pay lets it run only where {AGENT}, and no worker that may run 'work' is there"
    )
    assert reason.blockers == [Blocker(kind="rule", id="pay")]
    assert found.workers[0].against == {"rule": f'has agent_type = ""; security rule pay asks for {AGENT}'}
    assert codes(told(worker("w"), bound(worker_filter="labels.a"))) == [("no_match", Tier.NEVER)]
    large = told(*INSIDE, worker("w"), bound(rule_filter='node_id in ["m"]', resources=resources(cpu=1000)))
    assert codes(large) == [("not_permitted", Tier.NEVER)]


def test_a_plan_is_made_under_the_rights_of_who_asks() -> None:
    """It says where the task would run, or that it would be refused."""
    mine = Rules(task_rules=(TaskRule(name="mine", users=("ann",), nodes=("n",)),))
    world = fold(worker("w"))
    assert codes(planned(world, submit(), mine)) == [("not_permitted", Tier.NEVER)]
    with pytest.raises(Forbidden, match="'mallory' may not submit task 'work'"):
        planned(world, submit(), mine, actor="mallory")
