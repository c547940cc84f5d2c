"""What a worker could get now, and claims that name their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.placement.matching import offered
from coordinator.placement.sources import Sources
from events.coordinator import ANY, ClaimFilter
from events.worker import WorkerDraining
from tests.specification import fold, given
from tests.unit.deciders.facts import claim, created, node, resources, started, submitted, worker
from tests.unit.placement.test_explain import told
from tests.unit.placement.test_matching import dealt, waiting

if TYPE_CHECKING:
    from projections.world import World


def names(world: World, worker_id: str, *, most: int = 9) -> list[str]:
    found = offered(world, worker_id, ANY, "", most=most, containers={})
    return [task.task_id for task in found]


def test_a_worker_is_offered_what_fits_it_one_by_one() -> None:
    """An unknown one has no limits; one that drains gets nothing."""
    facts = (worker(resources=resources(cpu=1)), submitted("a", resources=resources(cpu=1)), submitted("b"))
    world = fold(*facts, submitted("c", resources=resources(cpu=1)), submitted("d", resources=resources(cpu=2)))
    assert names(world, "w") == ["a", "b", "c"]
    assert names(world, "new") == ["a", "b", "c", "d"]
    assert names(world, "new", most=2) == ["a", "b"]
    assert names(fold(*facts, WorkerDraining(worker_id="w")), "w") == []


def test_a_claim_may_name_its_tasks() -> None:
    """In its order, as far as they are ready."""
    world = fold(worker(), submitted("a"), submitted("b"), submitted("c"), started("c"))
    named = {"c": ClaimFilter(task_ids=("b", "c", "a"))}
    assert dealt(world, waiting(slots=9), filters=named) == [("b", "w"), ("a", "w")]
    assert not Sources(world).of("", None, named["c"]).is_empty
    given(worker()).when(claim(task_ids=("a",))).then_nothing()


def test_a_worker_whose_container_does_not_run_gets_nothing() -> None:
    """It is told of its container."""
    found = told(node(), created(), worker(container_id="k"), submitted())
    assert found.workers[0].against == {"container": "its container k is created"}
    assert [reason.code for reason in found.reasons] == ["workers_stopping"]
