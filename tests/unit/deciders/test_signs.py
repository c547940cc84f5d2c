"""Signs of life: what counts as one, and for how long."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coordinator.commands.command import Command
from coordinator.commands.node import NodeOrders, SyncNode
from coordinator.commands.service import HeartbeatService, ReportCheck, ReportNotChecked, ServiceLoad
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.signs import Signs
from events.errors import Refused
from events.service import ServiceStatus
from projections.world import World
from tests.specification import fold
from tests.unit.deciders.facts import NAN, claim, node, register_node, register_service, service, submit, worker


def beginning(at: float = 100.0) -> Signs:
    signs = Signs()
    signs.begin(at)
    return signs


def test_silence_counts_from_when_the_writer_began_to_listen() -> None:
    """An entity that was never heard, or heard earlier, gets the same grace."""
    signs = beginning(100.0)
    signs.workers["old"] = 3.0
    assert signs.silent_for(signs.workers, "old", 105.0) == 5.0
    assert signs.silent_for(signs.workers, "never", 105.0) == 5.0
    signs.workers["new"] = 104.0
    assert signs.silent_for(signs.workers, "new", 105.0) == 1.0


def test_a_heartbeat_renews_exactly_the_leases_it_names() -> None:
    """A heartbeat does not create a lease that is not held."""
    signs = beginning()
    signs.leases = {"a": 100.0, "b": 100.0}
    signs.hear_worker("w", 110.0, ("a", "x"), 0.5)
    assert signs.leases == {"a": 110.0, "b": 100.0}
    assert (signs.workers, signs.worker_loads) == ({"w": 110.0}, {"w": 0.5})


@pytest.mark.parametrize(("told", "taken"), [(-1.0, 0.0), (7.0, 1.0), (NAN, 1.0), (float("inf"), 1.0), (0.25, 0.25)])
def test_a_workers_load_is_a_share(told: float, taken: float) -> None:
    """The load enters the journal with the placements, so it is limited to 0 to 1; invalid loads count as busy."""
    signs = beginning()
    signs.hear_worker("w", 110.0, (), told)
    assert signs.worker_loads == {"w": taken}


@pytest.mark.parametrize(
    ("order", "heard"),
    [
        (RegisterWorker(worker_id="x"), "workers"),
        (claim(worker_id="x", registration="first"), "workers"),
        (register_node("x"), "nodes"),
        (SyncNode(node_id="x"), "nodes"),
        (register_service("x"), "services"),
        (HeartbeatService(service_id="x"), "services"),
        (ReportCheck(service_id="x", ok=True, check="http"), "services"),
    ],
)
def test_whoever_orders_lives(order: Command, heard: str) -> None:
    """An entity that has just registered is not silent, nor is a service whose checks pass."""
    signs = beginning()
    signs.accepted(order, 150.0, 1000.0, fold(service("x")))
    assert getattr(signs, heard) == {"x": 150.0}


@pytest.mark.parametrize("order", [submit(), ReportCheck(service_id="x", ok=False, check="http")])
def test_other_orders_are_no_sign(order: Command) -> None:
    """A failed check is not a sign of life, only of the check."""
    signs = beginning()
    signs.accepted(order, 150.0, 1000.0, fold(service("x")))
    assert (signs.workers, signs.nodes, signs.services) == ({}, {}, {})


def test_a_service_tells_its_load_with_its_heartbeat() -> None:
    """The last one counts."""
    signs = beginning()
    signs.accepted(
        HeartbeatService(service_id="s", load=0.5, connections=3, response_time_ms=9.5), 150.0, 1000.0, World()
    )
    assert signs.loads["s"] == ServiceLoad(heard_s_ago=0.0, load=0.5, connections=3, response_time_ms=9.5)


# --- checks -----------------------------------------------------------------------------------------------------------


def report(ok: bool, service_id: str = "s", **others: Any) -> ReportCheck:
    return ReportCheck(service_id=service_id, ok=ok, check="http", **others)


def test_checks_with_the_same_outcome_are_counted_in_a_row() -> None:
    """Another outcome starts a new row; to read the count changes nothing."""
    signs = beginning()
    counts = []
    for ok in (True, True, False, False, False, True):
        assert signs.streak(report(ok)) == signs.streak(report(ok))
        counts.append(signs.streak(report(ok)))
        signs.keep_check(report(ok), 1000.0, ServiceStatus.HEALTHY)
    assert counts == [1, 2, 1, 2, 3, 1]


def test_the_last_check_is_kept_with_its_number() -> None:
    """Followers keep those before; a number that they miss tells what was lost."""
    signs = beginning()
    for number in range(1, 4):
        signs.keep_check(report(ok=True, detail=str(number), latency_ms=1.5), float(number), ServiceStatus.HEALTHY)
    last = signs.checks["s"].last
    assert (last.detail, last.at, last.latency_ms, last.status) == ("3", 3.0, 1.5, ServiceStatus.HEALTHY)
    assert (last.number, signs.checks["s"].streak) == (3, 3)


def test_a_check_that_could_not_be_made_is_no_sign_and_interrupts_no_row() -> None:
    """It has a number, as followers keep it too, and is forgotten with the next check that was made."""
    signs, world = beginning(), fold(service())
    assert signs.newest_check("s") is None
    signs.accepted(report(ok=False), 1.0, 1000.0, world)
    signs.accepted(ReportNotChecked(service_id="s", check="http", detail="no route"), 5.0, 1005.0, world)
    newest = signs.newest_check("s")
    assert newest is not None
    assert (newest.could_not, newest.ok, newest.number, newest.detail, newest.at) == (
        True,
        False,
        2,
        "no route",
        1005.0,
    )
    assert (signs.checked["s"], signs.services.get("s")) == (1.0, None)
    assert signs.streak(report(ok=False)) == 2
    signs.accepted(report(ok=False), 9.0, 1009.0, world)
    newest = signs.newest_check("s")
    assert newest is not None
    assert (newest.could_not, newest.number, signs.not_checked) == (False, 3, {})


def test_the_latency_is_that_of_the_last_passed_check() -> None:
    """A check that failed measured how long its failure took."""
    signs = beginning()
    told: list[float | None] = []
    for ok, latency_ms in ((False, 9.0), (True, 1.5), (False, 8.0), (True, None), (True, 2.5)):
        signs.keep_check(report(ok=ok, latency_ms=latency_ms), 1.0, ServiceStatus.HEALTHY)
        told.append(signs.checks["s"].latency_ms)
    assert told == [None, 1.5, 1.5, 1.5, 2.5]


def test_a_failed_check_was_a_check() -> None:
    """Or a service that fails would be called unchecked."""
    signs = beginning()
    assert signs.silent_for(signs.checked, "s", 190.0) == 90.0
    assert signs.is_failing("s") is False
    for ok in (True, False):
        signs.accepted(report(ok), 150.0, 1000.0, fold(service("s")))
        assert signs.checked == {"s": 150.0}
        assert signs.is_failing("s") is not ok


def test_checks_are_expected_as_often_as_they_come() -> None:
    """A single check tells no interval, and changes none."""
    signs = beginning()
    assert signs.check_limit_s("s", 90.0) == 90.0
    for every_s, limit_s in ((None, 90.0), (30.0, 90.0), (60.0, 120.0), (None, 120.0)):
        signs.accepted(report(ok=True, every_s=every_s), 150.0, 1000.0, fold(service("s")))
        assert signs.check_limit_s("s", 90.0) == limit_s


def test_signs_of_what_is_gone_are_forgotten() -> None:
    """Signs cannot outgrow the world, whatever names heartbeats use."""
    signs = beginning()
    for name in ("s", "x", "y"):
        signs.hear_service(name, 100.0, ServiceLoad(heard_s_ago=0.0))
        signs.hear_worker(name, 100.0, (), 0.0)
        signs.accepted(SyncNode(node_id=name), 100.0, 1000.0, World())
        signs.keep_check(report(True, name), 0.0, ServiceStatus.HEALTHY)
        signs.accepted(report(ok=True, service_id=name, every_s=9.0), 100.0, 1000.0, fold(service(name)))
    signs.forget(fold(service("s"), worker("x"), node("y")))
    heard_of = (signs.services, signs.loads, signs.checks, signs.checked, signs.check_every)
    assert [list(heard) for heard in heard_of] == [["s"]] * 5
    assert [list(heard) for heard in (signs.workers, signs.worker_loads, signs.nodes)] == [["x"], ["x"], ["y"]]
    signs.forget(fold(service("s"), worker("x"), node("y")))
    assert list(signs.services) == ["s"]


# --- before and after a command ---------------------------------------------------------------------------------------


def test_a_claim_is_a_sign_of_life_even_when_it_is_refused() -> None:
    """A worker that asks for tasks is alive, whatever it is told."""
    signs = beginning()
    assert signs.before(claim(), 150.0) == claim()
    assert list(signs.workers.values()) == [150.0]


def test_a_claim_that_names_its_registration_is_a_sign_only_if_it_is_accepted() -> None:
    """One that was replaced must not keep its id in use."""
    signs = beginning()
    named = claim(registration="first")
    assert signs.before(named, 150.0) == named
    assert signs.workers == {}


def test_the_silence_of_a_worker_is_told_when_it_registers() -> None:
    """No other command depends on it."""
    signs = beginning()
    signs.hear_worker("w", 150.0, (), 0.0)
    assert signs.silence(RegisterWorker(worker_id="w"), 155.0) == 5.0
    assert signs.silence(claim(), 155.0) == math.inf


def test_a_report_counts_only_with_the_orders_it_was_made_under() -> None:
    """A node that had not seen its last orders when it looked may be missing what these told it to start."""
    signs = beginning()
    first = signs.after(
        SyncNode(node_id="n"), NodeOrders(containers=(), node_lease_s=15.0, epoch=(1, 1)), lambda: "1-1-1"
    )
    assert (first.orders_id, signs.orders) == ("1-1-1", {"n": "1-1-1"})
    current = SyncNode(node_id="n", orders_id="1-1-1")
    assert signs.before(current, 150.0) == current
    signs.after(current, first, lambda: "1-1-2")
    assert signs.before(current, 150.0) == SyncNode(node_id="n")
    with pytest.raises(Refused, match="orders_id"):
        signs.before(SyncNode(node_id="n", orders_id="a.b"), 150.0)


def test_only_a_node_gets_orders() -> None:
    """What other callers are told is left as it is."""
    signs = beginning()
    assert signs.after(claim(), ["told"], lambda: "1-1-1") == ["told"]
    assert signs.orders == {}


def test_what_was_last_said_to_the_writer_before_is_no_sign_of_life() -> None:
    """It fills in loads that this writer has not heard itself, and replaces none."""
    signs = beginning()
    signs.hear_service("a", 110.0, ServiceLoad(heard_s_ago=0.0, load=0.1))
    for name in ("a", "b"):
        signs.recall_service(name, ServiceLoad(heard_s_ago=0.0, load=0.9))
        signs.recall_worker(name, 7.0)
    assert [load.load for load in signs.loads.values()] == [0.1, 0.9]
    assert (signs.services, signs.workers) == ({"a": 110.0}, {})
    assert signs.worker_loads == {"a": 1.0, "b": 1.0}
