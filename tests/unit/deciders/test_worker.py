"""Deciders of the worker and claim commands."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.task import SchedulingStrategy, WithdrawClaim
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker, WorkerTerms
from coordinator.deciders.rules import Rules
from events.resources import Resources
from events.worker import WorkerDraining, WorkerLeft, WorkerLost
from projections.worker import WorkerStatus
from tests.specification import given
from tests.unit.deciders.facts import (
    ABSURD,
    BEGIN,
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    INFINITY,
    NAN,
    a_container,
    attempt_failed,
    claim,
    completed,
    resources,
    started,
    submitted,
    worker,
)

DRAINING = WorkerDraining(worker_id="w")
LEFT = WorkerLeft(worker_id="w")
LOST = WorkerLost(worker_id="w", silent_for_s=61.0, limit_s=60.0)

STRATEGIES = [strategy.value for strategy in SchedulingStrategy]


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_worker_nobody_registered_is_registered_by_its_claim() -> None:
    """It has no limits and takes every task."""
    given().when(claim()).then(worker())


def test_a_claim_of_a_registered_worker_makes_nothing() -> None:
    """The scheduler places the tasks."""
    given(worker(slots=4)).when(claim(slots=10)).then_nothing()


@pytest.mark.parametrize("end", [LEFT, LOST])
def test_a_worker_that_was_gone_comes_back_by_its_claim(end: WorkerLeft | WorkerLost) -> None:
    """It keeps its limits."""
    known = worker(slots=4, resources=resources(cpu=1), handles=("work",), container_id="k")
    given(known, end).when(claim()).then(known)


def test_a_draining_worker_gets_no_claim() -> None:
    """The refusal says how to end the draining."""
    given(worker(), DRAINING).when(claim()).then_refused("worker_draining", "'w'", "register it again")


def test_a_claim_with_tasks_is_already_so() -> None:
    """A draining worker gets the answer too: it must know its tasks."""
    given(worker(), submitted(), started(), DRAINING).when(claim()).then_nothing()


def test_a_claim_is_its_workers_alone() -> None:
    """Another worker with the same claim id would run the same attempts a second time."""
    given(worker(), submitted(), started()).when(claim(worker_id="v")).then_refused("id_taken", "'c'", "another worker")


def test_a_claim_whose_tasks_have_ended_may_be_asked_anew() -> None:
    """It is then a new claim."""
    given(worker(), submitted(), started(), completed()).when(claim()).then_nothing()


@pytest.mark.parametrize("bad", HOSTILE_IDS)
def test_claims_and_workers_need_ids(bad: str) -> None:
    """They become part of leases and of subjects."""
    given().when(claim(bad)).then_refused("bad_id", "claim_id")
    given().when(claim(worker_id=bad)).then_refused("bad_id", "worker_id")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("slots", value) for value in (0, -1, 1001, NAN, INFINITY)],
        *[("wait_s", value) for value in (-0.1, 60.1, NAN, INFINITY)],
    ],
)
def test_a_claim_asks_for_some_tasks_within_some_time(field: str, value: float) -> None:
    """The refusal names the value and the range."""
    wrong: dict[str, Any] = {field: value}
    given().when(claim(**wrong)).then_refused("bad_number", field, repr(value), "use ")


@pytest.mark.parametrize("strategy", ["lifo", "FIFO", "\n", "x" * 100])
def test_a_claim_names_a_known_strategy(strategy: str) -> None:
    """The refusal names the known strategies."""
    given().when(claim(strategy=strategy)).then_refused("bad_strategy", *STRATEGIES)


def test_every_strategy_can_be_claimed_with() -> None:
    """The names on the wire are those of the enumeration."""
    for strategy in STRATEGIES:
        given(worker()).when(claim(strategy=strategy)).then_nothing()


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"programs": ("a b",)}, "bad_id"),
        ({"programs": ("p",) * 33}, "too_many"),
        ({"task_names": ("",)}, "bad_text"),
        ({"task_names": ("x" * 129,)}, "bad_text"),
        ({"task_names": ("x",) * 33}, "too_many"),
    ],
)
def test_a_claim_names_few_programs_and_tasks(others: dict[str, Any], reason: str) -> None:
    """Its filter is recorded with each placement."""
    given(worker()).when(claim(**others)).then_refused(reason)
    given(worker()).when(claim(programs=("p",) * 32, task_names=("x" * 128,) * 32)).then_nothing()


# --- whose registration it is -----------------------------------------------------------------------------------------

FIRST, SECOND = worker(registration="first"), worker(registration="second")
PRESENT_S = 20.0
"""Two heartbeats, of which there are three in a lease of 30 s."""


def newcomer(registration: str = "second", **others: Any) -> RegisterWorker:
    return RegisterWorker(worker_id="w", registration=registration, **others)


def test_a_registration_is_named_by_its_id_or_by_its_position() -> None:
    """A program that gives no id gets the position of the event."""
    given().when(newcomer("first")).then(FIRST).then_answers(WorkerTerms(lease_s=30.0, registration="first"))
    known = given(worker())
    known.when(RegisterWorker(worker_id="w")).then_nothing().then_answers(WorkerTerms(lease_s=30.0, registration="1.0"))
    known.when(DrainWorker(worker_id="w", registration="2.0")).then_refused("replaced")
    known.when(DrainWorker(worker_id="w", registration="1.0")).then(DRAINING)


@pytest.mark.parametrize("state", [(), (DRAINING,)])
def test_a_newcomer_waits_while_the_first_is_present(state: tuple[WorkerDraining, ...]) -> None:
    """It is told who is there and when to ask again, and takes over after two missed heartbeats."""
    here = given(FIRST, *state)
    told = here.when(newcomer(), silent_s=PRESENT_S - 0.5).then_refused("id_in_use", "'w'", "19.5 s ago", "another id")
    assert told.retry_after_s == 0.5
    here.when(newcomer(), silent_s=PRESENT_S).then(SECOND)


@pytest.mark.parametrize("end", [LEFT, LOST])
def test_nobody_waits_for_a_worker_that_has_ended(end: WorkerLeft | WorkerLost) -> None:
    """Its id is free."""
    given(FIRST, end).when(newcomer(), silent_s=0.0).then(SECOND)


def test_who_gives_no_id_shares_the_worker() -> None:
    """Programs of older releases and facades are not the only ones of their worker id."""
    given(worker()).when(newcomer(), silent_s=0.0).then(SECOND)
    given(FIRST).when(RegisterWorker(worker_id="w"), silent_s=0.0).then_nothing()
    shared = worker(registration="first", slots=2)
    given(FIRST).when(RegisterWorker(worker_id="w", slots=2), silent_s=0.0).then(shared)
    given(FIRST, LEFT).when(RegisterWorker(worker_id="w"), silent_s=0.0).then(worker())
    given(FIRST).when(newcomer("first"), silent_s=0.0).then_nothing()
    given(FIRST).when(newcomer("first", slots=2), silent_s=0.0).then(worker(registration="first", slots=2))


def test_the_next_generation_of_a_container_does_not_wait() -> None:
    """The one before has ended, or is about to be stopped; it is not let in again."""
    first = worker(registration="first", container_id="k")
    facts = (*a_container("running"), first)
    generation = given(*facts).world.containers["k"].generation
    given(*facts).when(newcomer(container_id="k", generation=generation), silent_s=0.0).then(
        worker(registration="second", container_id="k")
    )
    given(*facts).when(newcomer(container_id="k", generation="1.7")).then_refused("replaced", "'1.7'", generation)
    given(*facts).when(newcomer(container_id="other", generation=generation), silent_s=0.0).then_refused("id_in_use")
    given(FIRST).when(newcomer(container_id="gone", generation="1.7"), silent_s=0.0).then_refused("id_in_use")


@pytest.mark.parametrize(
    "order",
    [
        DrainWorker(worker_id="w", registration="first"),
        LeaveWorker(worker_id="w", registration="first"),
        claim(registration="first"),
        LeaveWorker(worker_id="w", registration="1.0"),
    ],
)
@pytest.mark.parametrize("state", [(), (DRAINING,), (LEFT,), (LOST,)])
def test_a_registration_that_is_no_more_changes_nothing(order: Any, state: tuple[Any, ...]) -> None:
    """It is told so."""
    given(FIRST, SECOND, *state).when(order).then_refused("replaced", "'w'", "another program")


def test_the_current_registration_orders_as_before() -> None:
    """A claim brings it back under the same name."""
    given(FIRST).when(DrainWorker(worker_id="w", registration="first")).then(DRAINING)
    given(FIRST).when(LeaveWorker(worker_id="w", registration="first")).then(LEFT)
    given(FIRST, LOST).when(claim(registration="first")).then(FIRST)
    given().when(claim(registration="first")).then(FIRST)


def test_a_claim_of_a_registration_that_was_replaced_is_told_its_tasks() -> None:
    """It holds them, so it must know them."""
    given(FIRST, submitted(), started(), SECOND).when(claim(registration="first")).then_nothing()


@pytest.mark.parametrize("bad", HOSTILE_IDS[1:])
def test_registrations_are_ids(bad: str) -> None:
    """No empty one: '' means that there is none."""
    given().when(newcomer(bad)).then_refused("bad_id")
    given().when(claim(registration=bad)).then_refused("bad_id")


# --- registering ------------------------------------------------------------------------------------------------------


def test_a_worker_offers_its_limits() -> None:
    """The event records all of them."""
    order = RegisterWorker(worker_id="w", slots=4, resources=resources(cpu=8), handles=("work",), container_id="k")
    wanted = worker(slots=4, resources=resources(cpu=8), handles=("work",), container_id="k")
    given().when(order).then(wanted).then_answers(WorkerTerms(lease_s=30.0, registration="1.0"))


def test_the_same_offer_again_is_already_so() -> None:
    """New limits replace the old ones."""
    given(worker(slots=4)).when(RegisterWorker(worker_id="w", slots=4)).then_nothing()
    given(worker(slots=4)).when(RegisterWorker(worker_id="w", slots=5)).then(worker(slots=5))


@pytest.mark.parametrize("state", [DRAINING, LEFT, LOST])
def test_registering_again_brings_a_worker_back(state: WorkerDraining | WorkerLeft | WorkerLost) -> None:
    """It is active again although its values are the same."""
    decided = given(worker(), state).when(RegisterWorker(worker_id="w")).then(worker())
    assert decided.world.workers["w"].status is WorkerStatus.ACTIVE


@pytest.mark.parametrize(
    ("order", "reason", "named"),
    [
        (RegisterWorker(worker_id="a.b"), "bad_id", "worker_id"),
        (RegisterWorker(worker_id="w", container_id="a b"), "bad_id", "container_id"),
        (RegisterWorker(worker_id="w", slots=0), "bad_number", "slots 0"),
        (RegisterWorker(worker_id="w", slots=100_001), "bad_number", "1 to 100000"),
        (RegisterWorker(worker_id="w", handles=("",)), "bad_text", "handles"),
        (RegisterWorker(worker_id="w", handles=("a\n",)), "bad_text", "handles"),
        (RegisterWorker(worker_id="w", handles=("a",) * 1001), "too_many", "1001 tasks"),
    ],
)
def test_an_offer_that_makes_no_sense_is_refused(order: RegisterWorker, reason: str, named: str) -> None:
    """The refusal names the wrong field."""
    given().when(order).then_refused(reason, named)


@pytest.mark.parametrize("asked", ABSURD)
def test_a_worker_cannot_offer_less_than_nothing(asked: Resources) -> None:
    """Negative amounts make no sense."""
    order = RegisterWorker(worker_id="w", resources=asked)
    given().when(order).then_refused("bad_number", "resources.")


# --- draining and leaving ---------------------------------------------------------------------------------------------


def test_a_draining_worker_keeps_what_it_has() -> None:
    """It finishes its tasks and gets no new ones."""
    world = given(worker(), submitted(), started()).when(DrainWorker(worker_id="w", reason="upgrade"))
    folded = world.then(WorkerDraining(worker_id="w", reason="upgrade")).world
    assert list(folded.indexes.held["w"]) == ["t"]


@pytest.mark.parametrize("state", [DRAINING, LEFT, LOST])
def test_what_takes_no_tasks_need_not_drain(state: WorkerDraining | WorkerLeft | WorkerLost) -> None:
    """It gets no tasks already, so nothing changes."""
    given(worker(), state).when(DrainWorker(worker_id="w")).then_nothing()


def test_a_worker_that_leaves_gives_back_what_it_holds() -> None:
    """Its attempts do not count as failures, and the tasks are ready at once."""
    facts = (worker(), submitted("a"), submitted("b"), started("a", "c.1.1"), started("b", "c.2.1"))
    decided = given(*facts).when(LeaveWorker(worker_id="w", reason="done"), at=BEGIN + 50.0)
    given_back = {"error": "the worker left", "reason": "released", "retry_at": BEGIN + 50.0}
    world = decided.then(
        attempt_failed("a", "c.1.1", **given_back),
        attempt_failed("b", "c.2.1", **given_back),
        WorkerLeft(worker_id="w", reason="done"),
    ).world
    assert world.indexes.ready == 2
    assert [task.failures for task in world.tasks.values()] == [0, 0]


def test_leaving_again_is_already_so() -> None:
    """A lost worker may still leave."""
    given(worker(), LEFT).when(LeaveWorker(worker_id="w")).then_nothing()
    given(worker(), LOST).when(LeaveWorker(worker_id="w")).then(LEFT)


@pytest.mark.parametrize("order", [DrainWorker(worker_id="w"), LeaveWorker(worker_id="w")])
def test_a_worker_that_never_was_is_not_found(order: DrainWorker | LeaveWorker) -> None:
    """The error names it and says what to do."""
    given().when(order).then_refused("not_found", "'w'", "register it first", code="not_found")


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "x" * 1025])
def test_reasons_are_short_and_printable(text: str) -> None:
    """Texts enter the journal, so they are checked."""
    given(worker()).when(DrainWorker(worker_id="w", reason=text)).then_refused("bad_text", "reason")
    given(worker()).when(LeaveWorker(worker_id="w", reason=text)).then_refused("bad_text", "reason")


def test_limits_of_claims_come_from_the_rules() -> None:
    """The limits are those of the rules."""
    given(worker()).when(claim(slots=5000, wait_s=600.0), rules=Rules(claim_slots_max=5000, claim_wait_max_s=600.0))
    given(worker()).when(claim(slots=3), rules=Rules(claim_slots_max=2)).then_refused("bad_number", "1 to 2")


# --- claims that are taken back ---------------------------------------------------------------------------------------


def test_what_a_withdrawn_claim_was_given_goes_back() -> None:
    """The attempts do not count as failures; a claim of another worker with that id is not touched."""
    facts = (worker(), submitted("a"), submitted("b"), started("a", "c.1.1"), started("b", "c.2.1"))
    back = WithdrawClaim(claim_id="c", worker_id="w")
    decided = given(*facts).when(back, at=BEGIN + 10)
    decided.then(
        attempt_failed("a", "c.1.1", error="the claim was withdrawn", reason="released", retry_at=BEGIN + 10),
        attempt_failed("b", "c.2.1", error="the claim was withdrawn", reason="released", retry_at=BEGIN + 10),
    )
    given(*facts).when(WithdrawClaim(claim_id="c", worker_id="other")).then_nothing()
    given(*facts).when(WithdrawClaim(claim_id="unknown", worker_id="w")).then_nothing()


def test_there_are_not_more_workers_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a registration nor a claim adds one; known workers may come back."""
    monkeypatch.setattr("coordinator.deciders.worker.MOST_WORKERS", 1)
    given(worker()).when(RegisterWorker(worker_id="another")).then_refused("too_many")
    given(worker()).when(claim(worker_id="another")).then_refused("too_many")
    given(worker(), LEFT).when(claim()).then(worker())
