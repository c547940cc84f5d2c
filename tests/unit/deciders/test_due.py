"""What is due for tasks, workers, services, nodes and containers."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.service import ReportCheck, ServiceLoad
from coordinator.deciders import placement
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.base import Event
from events.container import ContainerDestroyed, ContainerFailed, ContainerPausing, ContainerStarting
from events.coordinator import CoordinatorPlacementRefused
from events.idempotency import IdempotencyForgotten
from events.node import NodeCordoned, NodeLost, NodeRemoved, NodeReturned
from events.resources import Resources
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceStatus
from events.session import SessionBound, SessionClosed
from events.task import TaskAttemptFailed, TaskTimedOut
from events.worker import WorkerDraining, WorkerLeft, WorkerLost
from projections.container import Desired
from projections.node import Node
from projections.world import World
from tests.specification import Said, fold, said, write
from tests.unit.deciders.facts import (
    BEGIN,
    URL,
    a_container,
    at,
    attempt_failed,
    completed,
    crashed,
    created,
    failed,
    health,
    lived,
    lost,
    no_room,
    node,
    resources,
    running,
    service,
    started,
    starting,
    stopping,
    submitted,
    worker,
)

FULL = resources(cpu=4000, memory=4096)
RETRY = attempt_failed(
    error="worker w did not renew its lease", reason="lease_expired", silent_for_s=30.5, limit_s=30.0, worker_ended=True
)


def owed(
    *facts: Event | Said,
    now: float = 100.0,
    silent_s: float = 0.0,
    rules: Rules | None = None,
    signs: Signs | None = None,
) -> list[Event]:
    """
    Say what is due *now* seconds after the beginning, when nothing was heard for *silent_s*.

    Each event is folded before the next is asked for, as the writer does.
    """
    scribe = write(*facts)
    context = DecisionContext(BEGIN + now, rules if rules is not None else Rules())
    if signs is None:
        signs = Signs()
        signs.begin(0.0)
    given = []
    for event in due(scribe.world, signs, context, silent_s):
        scribe.commit(event)
        given.append(event)
    return given


def test_nothing_is_due_in_an_empty_world() -> None:
    """No silence is long enough."""
    assert owed(silent_s=1e9) == []


# --- attempts ---------------------------------------------------------------------------------------------------------

TIMED = submitted(timeout_s=10.0)


def test_an_attempt_that_runs_too_long_ends_its_task() -> None:
    """Measured by commit time from its start, with the evidence."""
    facts = (TIMED, at(1.0, started()))
    assert owed(*facts, now=10.9) == []
    assert owed(*facts, now=11.0) == [TaskTimedOut(task_id="t", lease="c.1.1", ran_for_s=10.0, limit_s=10.0, attempt=1)]


def test_an_attempt_is_given_its_whole_time() -> None:
    """The limit itself decides where the sum of start and limit is rounded down."""
    facts = (submitted(timeout_s=0.3), at(1.0, started()))
    assert owed(*facts, now=1.3) == []
    assert len(owed(*facts, now=1.301)) == 1


def test_time_in_the_queue_does_not_count() -> None:
    """The limit applies to one attempt; the next attempt has the full limit again."""
    assert owed(TIMED, now=1e6) == []
    facts = (TIMED, at(1.0, started()), at(8.0, attempt_failed()), at(20.0, started(lease="c.1.2")))
    assert owed(*facts, now=29.0) == []
    assert len(owed(*facts, now=30.0)) == 1


def test_a_task_without_a_time_limit_runs_for_ever() -> None:
    """An attempt runs on while its lease is renewed."""
    assert owed(submitted(), started(), now=1e7) == []


def test_a_task_that_ended_a_moment_ago_does_not_time_out() -> None:
    """Each event is folded before the next one is taken, so an entity that an earlier event ended is seen as ended."""
    scribe = write(TIMED, submitted("u", timeout_s=10.0), at(2.0, started()), at(2.0, started("u", "c.2.1")))
    coming = due(scribe.world, Signs(), DecisionContext(BEGIN + 50.0, Rules()), 0.0)
    assert next(coming).subject == "t"
    scribe.commit(at(50.0, TaskTimedOut(task_id="t", lease="c.1.1", ran_for_s=48.0, limit_s=10.0)))
    scribe.commit(at(50.0, completed("u", "c.2.1")))
    assert list(coming) == []


def test_a_lease_that_is_not_renewed_lapses() -> None:
    """The attempt counts, and the task goes back to the queue with the evidence of the silence."""
    facts = (submitted(), worker(), started())
    assert owed(*facts, silent_s=30.0) == []
    (event,) = owed(*facts, silent_s=30.5)
    assert event == attempt_failed(
        error=RETRY.error,
        reason="lease_expired",
        retry_at=getattr(event, "retry_at", None),
        silent_for_s=30.5,
        limit_s=30.0,
        worker_ended=True,
    )


def test_a_lease_that_lapses_too_often_fails_its_task() -> None:
    """A task that kills its workers does not kill them for ever."""
    (event,) = owed(submitted(max_retries=0), worker(), started(), silent_s=31.0)
    assert event == failed(error=RETRY.error, reason="lease_expired", silent_for_s=31.0, limit_s=30.0)


def test_a_task_that_ends_worker_after_worker_is_poison() -> None:
    """It fails whatever retries are left; attempts that failed or were released in between do not count."""
    facts = [submitted(max_retries=100), worker()]
    for attempt, reason in enumerate(("lease_expired", "failed", "released", "lease_expired"), start=1):
        lapsed = reason == "lease_expired"
        facts.append(started(lease=f"c.1.{attempt}"))
        facts.append(attempt_failed(lease=f"c.1.{attempt}", reason=reason, worker_ended=lapsed))
    facts.append(started(lease="c.1.5"))
    (retried,) = owed(*facts, silent_s=31.0, rules=Rules(poison_after=4))
    assert isinstance(retried, TaskAttemptFailed)
    (event,) = owed(*facts, silent_s=31.0)
    error = "3 workers ended while they ran it; the last: worker w did not renew its lease"
    assert event == failed(lease="c.1.5", error=error, reason="poison", silent_for_s=31.0, limit_s=30.0)
    assert fold(*facts, event).tasks["t"].lapses == 3


def test_each_lease_is_renewed_by_itself() -> None:
    """A heartbeat renews exactly the leases it names: the lease of another task of the worker expires."""
    signs = Signs()
    signs.begin(0.0)
    signs.leases = {"c.1.1": 0.0, "c.2.1": 0.0}
    signs.hear_worker("w", 40.0, ("c.1.1", "nonsense"), 0.5)
    facts = (submitted("a"), submitted("b"), worker(), started("a", "c.1.1"), started("b", "c.2.1"))
    assert [event.subject for event in owed(*facts, silent_s=41.0, signs=signs)] == ["b"]
    assert "nonsense" not in signs.leases


def test_what_timed_out_does_not_lapse_as_well() -> None:
    """A task has one end."""
    events = owed(submitted(timeout_s=10.0, max_retries=0), worker(), started(), now=50.0, silent_s=50.0)
    assert [type(event) for event in events] == [TaskTimedOut]


def test_after_a_takeover_everything_gets_a_grace_period() -> None:
    """For a new writer, silence counts from the time it began to listen."""
    signs = Signs()
    signs.begin(1000.0)
    facts = (submitted(), worker(), started(), worker("idle"), service(), node(), created(), starting(), running())
    assert owed(*facts, silent_s=1000.0, signs=signs) == []
    assert owed(*facts, silent_s=1022.0, signs=signs) == []
    signs.leases["c.1.1"] = signs.nodes["n"] = signs.workers["w"] = 3.0
    assert owed(*facts, silent_s=1022.0, signs=signs) == [], "older signs do not shorten the grace"
    late = owed(*facts, silent_s=1091.0, signs=signs)
    assert [type(event).__name__ for event in late] == [
        "TaskAttemptFailed",
        "WorkerLost",
        "WorkerLost",
        "ServiceHealthChanged",
        "NodeLost",
        "ContainerFailed",
        "CoordinatorPlacementRefused",  # its restart is due at once, and no node is left
    ]


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [(worker(),), (worker(), WorkerDraining(worker_id="w"))])
def test_a_silent_worker_is_lost(facts: tuple[Event, ...]) -> None:
    """A worker is lost after its limit, not at it, draining or not."""
    assert owed(*facts, silent_s=60.0) == []
    assert owed(*facts, silent_s=60.5) == [WorkerLost(worker_id="w", silent_for_s=60.5, limit_s=60.0)]


def test_a_worker_is_not_lost_while_it_holds_a_task() -> None:
    """Its leases expire first: a long lease outlasts the limit of the worker."""
    rules = Rules(lease_s=300.0)
    assert owed(submitted(), worker(), started(), silent_s=100.0, rules=rules) == []


@pytest.mark.parametrize("end", [WorkerLeft(worker_id="w"), WorkerLost(worker_id="w", silent_for_s=61.0, limit_s=60.0)])
def test_a_worker_is_lost_once(end: Event) -> None:
    """A worker that left is not lost."""
    assert owed(worker(), end, silent_s=1e6) == []


# --- services ---------------------------------------------------------------------------------------------------------

SILENT = ServiceHealthChanged(
    service_id="s",
    status=ServiceStatus.OFFLINE,
    previous=ServiceStatus.HEALTHY,
    rule="heartbeat_timeout",
    silent_for_s=91.0,
    limit_s=90.0,
)


def test_a_silent_service_goes_offline_once() -> None:
    """The event carries the evidence; the service stays registered."""
    assert owed(service(), silent_s=90.0) == []
    assert owed(service(), silent_s=91.0) == [SILENT]
    assert owed(service(), SILENT, silent_s=1e6) == []


def test_the_checks_of_a_service_speak_for_it() -> None:
    """Silence does not matter for a service with a health URL."""
    assert owed(service(status=ServiceStatus.UNKNOWN, health_check_url=URL), silent_s=1e6) == []


def test_a_service_that_stays_offline_is_taken_off() -> None:
    """One hour of commit time after it went offline; for a deregistered service nothing is due."""
    gone = at(10.0, health(ServiceStatus.OFFLINE, ServiceStatus.HEALTHY))
    assert owed(service(), gone, now=3610.0) == []
    end = ServiceDeregistered(service_id="s", reason="offline for too long")
    assert owed(service(), gone, now=3611.0) == [end]
    assert owed(service(), gone, end, now=1e6) == []


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_a_silent_node_is_lost_after_its_lease_and_a_half() -> None:
    """After 1.5 leases its agent has stopped what it must stop, cordoned or not."""
    wanted = [NodeLost(node_id="n", silent_for_s=23.0, limit_s=22.5)]
    assert owed(node(), silent_s=22.5) == []
    assert owed(node(), silent_s=23.0) == wanted
    assert owed(node(), NodeCordoned(node_id="n"), silent_s=23.0) == wanted


@pytest.mark.parametrize("end", [lost(), NodeRemoved(node_id="n")])
def test_a_node_is_lost_once(end: Event) -> None:
    """A removed node is not lost."""
    assert owed(node(), end, silent_s=1e6) == []


@pytest.mark.parametrize(("status", "pause_s"), [("starting", 1.0), ("running", 0.0), ("paused", 0.0)])
def test_the_containers_of_a_lost_node_start_elsewhere(status: str, pause_s: float) -> None:
    """They were cut off, which is no failure of theirs: the restart of what ran is due at once."""
    events = owed(*a_container(status), now=20.0, silent_s=23.0)
    assert events[:2] == [
        NodeLost(node_id="n", silent_for_s=23.0, limit_s=22.5),
        crashed(reason="node n is lost", restart_at=BEGIN + 20.0 + pause_s, cause="cut_off"),
    ]
    assert [type(event) for event in events[2:]] == ([] if pause_s else [CoordinatorPlacementRefused])


@pytest.mark.parametrize("status", ["created", "stopped", "error"])
def test_what_does_not_run_is_not_touched_by_the_loss_of_its_node(status: str) -> None:
    """A stopped container can be started on another node."""
    rules = Rules(restart_backoff_s=0.0)
    events = owed(*a_container(status), silent_s=23.0, rules=rules)
    waits = [CoordinatorPlacementRefused] if status == "error" else []  # its restart is due, and finds no node
    assert [type(event) for event in events] == [NodeLost, *waits]


def test_the_stop_of_what_was_on_a_lost_node_comes_to_its_end() -> None:
    """No node is left to report its end, and it must not hold its resources for ever."""
    world = fold(*a_container("stopping"))
    assert world.containers["k"].holds
    events = owed(*a_container("stopping"), silent_s=23.0)
    assert [type(event).__name__ for event in events] == ["NodeLost", "ContainerStopped"]
    bound = SessionBound(session_id="z", container_id="k")
    events = owed(*a_container("destroying"), bound, silent_s=23.0)
    assert events[1:] == [
        ContainerDestroyed(container_id="k"),
        SessionClosed(session_id="z", reason="its container was destroyed"),
    ]


def test_a_loss_that_was_cut_short_is_finished_later() -> None:
    """A commit is limited in size, and a writer may die between two of them."""
    events = owed(*a_container("running"), lost(), now=20.0)
    assert events[:1] == [crashed(reason="node n is lost", restart_at=BEGIN + 20.0, cause="cut_off")]
    assert [type(event) for event in events[1:]] == [CoordinatorPlacementRefused]


def test_a_node_that_came_back_keeps_its_containers() -> None:
    """Containers that have not failed by then run on."""
    assert owed(*a_container("running"), lost(), NodeReturned(node_id="n")) == []


def test_a_node_lost_for_too_long_is_removed() -> None:
    """A lost node is removed when it holds no containers any more."""
    assert owed(node(), lost(), now=3600.0) == []
    assert owed(node(), lost(), now=3700.0) == [NodeRemoved(node_id="n", reason="lost for too long")]


# --- containers -------------------------------------------------------------------------------------------------------


def test_a_container_that_does_not_start_has_failed() -> None:
    """After its limit by commit time, if the node has had as long to report to this writer that it runs."""
    facts = lived(at(10.0, starting()))
    signs = Signs()
    signs.begin(0.0)
    signs.nodes["n"] = 31.0
    assert owed(*facts, now=40.0, silent_s=31.0, signs=signs) == []
    assert owed(*facts, now=41.0, silent_s=29.0, signs=signs) == []
    failure = crashed(reason="did not start within 30 s", restart_at=BEGIN + 42.0)
    assert owed(*facts, now=41.0, silent_s=31.0, signs=signs) == [failure]


def test_a_failed_container_starts_again_after_its_pause() -> None:
    """It restarts on its node if that has room; restarts are counted."""
    facts = (*lived(starting(), running()), at(10.0, crashed(restart_at=BEGIN + 11.0)))
    assert owed(*facts, now=10.9) == []
    assert owed(*facts, now=11.0) == [starting(reason="restart", restarts=1)]


def test_a_container_of_a_lost_node_starts_elsewhere() -> None:
    """It restarts on a node with room."""
    facts = (*lived(starting(), running()), node("other"), lost(), crashed(restart_at=BEGIN + 11.0))
    assert owed(*facts, now=20.0) == [starting(node_id="other", reason="restart", restarts=1)]


def test_a_container_with_no_room_anywhere_waits() -> None:
    """The restart stays due until a node has room; why not is said each time."""
    facts = (node(), created(resources=FULL), starting(), running(), crashed(restart_at=BEGIN), created("big"))
    full = (*facts[:-1], created("big", resources=FULL))
    lacks = "has too few free resources (cpu: asked 4000m, free 0m; memory: asked 4096 bytes, free 0 bytes)"
    assert owed(*full, now=50.0) == list(no_room("k", FULL, n=lacks))
    assert owed(*facts, now=50.0) == [starting(reason="restart", restarts=1)]


@pytest.mark.parametrize("seconds", [0.0, 599.0])
def test_a_long_wait_for_room_does_not_start_the_pauses_over(seconds: float) -> None:
    """Only a long run resets the pause: the time between a failure and the restart is not a run."""
    facts = (*lived(starting(restarts=6)), at(10.0, running()), at(10.0 + seconds, crashed(restart_at=BEGIN)))
    assert owed(*facts, now=5000.0) == [starting(reason="restart", restarts=7)]


def test_a_long_run_starts_the_count_of_restarts_over() -> None:
    """After ten minutes."""
    facts = (*lived(starting(restarts=6)), at(10.0, running()), at(610.0, crashed(restart_at=BEGIN + 611.0)))
    assert owed(*facts, now=611.0) == [starting(reason="restart", restarts=1)]


@pytest.mark.parametrize(
    "facts",
    [
        a_container("stopped"),
        lived(starting(), running(), crashed(restart_at=None)),
    ],
)
def test_only_what_should_run_starts_again(facts: tuple[Any, ...]) -> None:
    """A stopped container, or one without a restart time, is not restarted."""
    assert owed(*facts, now=1e6) == []


@pytest.mark.parametrize("cause", ["requested", "cut_off", "superseded"])
def test_a_restart_without_fault_is_not_counted(cause: str) -> None:
    """The next pause is as long as if it had not happened; but one that never ran must wait longer each time."""
    end = at(10.0, crashed(restart_at=BEGIN + 10.0, cause=cause))
    assert owed(*lived(starting(restarts=3), running()), end, now=10.0) == [starting(reason="restart", restarts=3)]
    assert owed(*lived(starting(restarts=3)), end, now=10.0) == [starting(reason="restart", restarts=4)]


def test_what_was_paused_comes_back_paused() -> None:
    """It restarts and is paused again: its desired state is unchanged."""
    facts = lived(starting(), running(), ContainerPausing(container_id="k"), crashed(restart_at=BEGIN))
    (event,) = owed(*facts, now=1e6)
    assert event == starting(reason="restart", restarts=1)
    assert fold(*facts, event).containers["k"].desired is Desired.PAUSED


def waiting_for_room(container_id: str) -> tuple[Event, ...]:
    return (
        created(container_id, node_id="other", resources=FULL),
        starting(container_id, "other"),
        crashed(container_id, generation="", restart_at=BEGIN),
    )


def test_room_that_comes_back_is_used_at_once() -> None:
    """A container found none; another one gives its own back; the next that needs as much gets it."""
    signs = Signs()
    signs.nodes |= {"n": 100.0, "other": 100.0}
    small = node(capacity=resources(cpu=1000, memory=4096))
    other = node("other", capacity=resources(cpu=1))
    facts = (small, other, *waiting_for_room("a"), *waiting_for_room("c"), created("b", resources=FULL), starting("b"))
    assert [type(event) for event in owed(*facts, now=1e6, silent_s=100.0, signs=signs)] == [
        CoordinatorPlacementRefused,
        CoordinatorPlacementRefused,
        ContainerFailed,
    ]
    facts = (small, other, *waiting_for_room("a"), created("b", resources=FULL), starting("b"), *waiting_for_room("c"))
    assert [type(event) for event in owed(*facts, now=1e6, silent_s=100.0, signs=signs)] == [
        CoordinatorPlacementRefused,
        ContainerFailed,
        ContainerStarting,
    ]


def test_many_that_wait_for_room_look_at_the_nodes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says why there is none, as for one alone."""
    looked: list[str] = []
    free_on = placement.free_on

    def counted(world: World, one: Node, rules: Rules) -> Resources:
        looked.append(one.node_id)
        return free_on(world, one, rules)

    monkeypatch.setattr(placement, "free_on", counted)
    ids = [f"k{number}" for number in range(20)]
    facts = [event for one in ids for event in waiting_for_room(one)]
    events = owed(*(node(f"n{number}", capacity=resources(cpu=1)) for number in range(10)), *facts, now=1e6)
    assert [event.container_id for event in events if isinstance(event, CoordinatorPlacementRefused)] == ids
    why = [(event.nodes, event.others) for event in events if isinstance(event, CoordinatorPlacementRefused)]
    assert why == [why[0]] * len(ids)
    assert len(looked) <= 10 + 2 * len(ids)


def test_a_cluster_heals_by_itself() -> None:
    """When a node dies, its containers run on other nodes at once, and nothing is left over."""
    scribe = write(*lived(starting(), running()), node("other"))
    signs = Signs()
    seen = []
    for second in range(20, 60):
        signs.nodes["other"] = float(second)
        for event in due(scribe.world, signs, DecisionContext(BEGIN + second, Rules()), float(second)):
            scribe.commit(at(float(second), event))
            seen.append(type(event))
        if seen[-1:] == [ContainerStarting]:
            break
    assert seen == [NodeLost, ContainerFailed, ContainerStarting]
    assert isinstance(scribe.world, World)
    assert scribe.world.containers["k"].node_id == "other"


def test_a_stop_under_way_is_not_hurried() -> None:
    """The node of the container still answers."""
    assert owed(*lived(starting(), running(), stopping()), now=1e6) == []


# --- what very much of something leaves behind ------------------------------------------------------------------------


def test_what_a_worker_that_left_still_holds_goes_back() -> None:
    """The commit in which it left is limited in size; no released attempt counts as a failure."""
    facts = (worker(), submitted(), started(), WorkerLeft(worker_id="w"))
    (event,) = owed(*facts)
    assert (event.reason, event.lease) == ("released", "c.1.1")  # type: ignore[attr-defined]  # an attempt that ended


CHECKED = service(health_check_url=URL, status=ServiceStatus.UNKNOWN)
ILL = (CHECKED, health(ServiceStatus.UNHEALTHY, previous=ServiceStatus.UNKNOWN))


def checked(*outcomes: bool, at: float = 0.0, every_s: float | None = None) -> Signs:
    """Return the signs of a writer that heard these checks of service `s`, the last of them *at* this time."""
    signs = Signs()
    signs.begin(0.0)
    for ok in outcomes:
        report = ReportCheck(service_id="s", ok=ok, check="http", every_s=every_s)
        signs.accepted(report, at, BEGIN, fold(*ILL))
    return signs


def test_a_healthy_service_that_nobody_checks_is_unknown() -> None:
    """A health status that was checked long ago is not reliable; heartbeats do not replace the checks."""
    facts = (CHECKED, health(ServiceStatus.HEALTHY, previous=ServiceStatus.UNKNOWN))
    assert owed(*facts, silent_s=89.0) == []
    (event,) = owed(*facts, silent_s=91.0)
    assert isinstance(event, ServiceHealthChanged)
    assert (event.status, event.rule, event.limit_s) == (ServiceStatus.UNKNOWN, "not_checked", 90.0)
    signs = checked()
    signs.hear_service("s", 90.0, ServiceLoad(heard_s_ago=0.0))
    assert len(owed(*facts, silent_s=91.0, signs=signs)) == 1
    assert owed(*facts, silent_s=151.0, signs=checked(False, at=61.0)) == [], "a failed check is a check"


def test_the_limit_follows_the_interval_of_the_checks() -> None:
    """Checks that are further apart than the limit must not change the health between two of them."""
    facts = (CHECKED, health(ServiceStatus.HEALTHY, previous=ServiceStatus.UNKNOWN))
    signs = checked(True, every_s=300.0)
    assert owed(*facts, silent_s=600.0, signs=signs) == []
    (event,) = owed(*facts, silent_s=601.0, signs=signs)
    assert (event.rule, event.limit_s) == ("not_checked", 600.0)  # type: ignore[attr-defined]  # a change of health
    assert owed(service(), silent_s=600.0, signs=signs) == [], "passed checks replace heartbeats"
    assert len(owed(service(), silent_s=601.0, signs=signs)) == 1
    assert len(owed(service(), silent_s=91.0, signs=checked(True, False, every_s=300.0))) == 1


@pytest.mark.parametrize("signs", [checked(), checked(False), checked(True, False)])
def test_an_unhealthy_service_stays_so_until_a_check_passes(signs: Signs) -> None:
    """Whether it is checked or not: discovery must not get it back because its checks fail."""
    assert owed(*ILL, now=3000.0, silent_s=3000.0, signs=signs) == []


def test_a_service_that_fails_its_checks_for_too_long_is_taken_off() -> None:
    """One hour after it became unhealthy, if its last check failed and is not long ago."""
    end = ServiceDeregistered(service_id="s", reason="unhealthy for too long")
    assert owed(*ILL, now=3600.0, silent_s=3600.0, signs=checked(False, at=3600.0)) == []
    failing = checked(False, at=3690.0)
    assert owed(*ILL, now=3700.0, silent_s=3700.0, signs=failing) == [end]
    by_custom_check = (service(), health(ServiceStatus.UNHEALTHY, ServiceStatus.HEALTHY))
    failing.hear_service("s", 3690.0, ServiceLoad(heard_s_ago=0.0))
    assert owed(*by_custom_check, now=3700.0, silent_s=3700.0, signs=failing) == [end]


@pytest.mark.parametrize("signs", [checked(), checked(False, at=3600.0), checked(False, True, at=3690.0)])
def test_a_service_that_is_not_seen_to_fail_is_not_taken_off(signs: Signs) -> None:
    """Nobody checks it, as the follower is away, or it is about to be healthy again."""
    assert owed(*ILL, now=3700.0, silent_s=3700.0, signs=signs) == []


# --- after a restore --------------------------------------------------------------------------------------------------


def test_attempts_from_before_a_restore_go_back_to_the_queue() -> None:
    """Their workers may have ended them in events that the restored journal does not have; later attempts stay."""
    scribe = write(worker(), submitted(), submitted(task_id="u"), started())
    scribe.claim(generation=2)
    scribe.commit(started(task_id="u", lease="c.2.1"))
    signs = Signs()
    signs.begin(0.0)
    [event] = due(scribe.world, signs, DecisionContext(BEGIN + 50.0, Rules()), 0.0)
    assert event == attempt_failed(
        error="the journal was restored from a backup", reason="released", retry_at=BEGIN + 50.0
    )


def test_old_idempotency_keys_make_room() -> None:
    """Those of the tenant with the most go first, and none of the last ten minutes."""
    keyed = [
        said(submitted(f"{tenant}{number}", idempotency_key=f"k{number}"), at=BEGIN + number, tenant=tenant)
        for tenant, most in (("acme", 30), ("blue", 60))
        for number in range(most)
    ]
    scribe = write(*sorted(keyed, key=lambda one: one.at or 0.0), said(worker(), at=BEGIN + 7200.0))
    assert scribe.world.memory.count == 90
    now = BEGIN + 7200.0
    for room, found in ((100, []), (90, ["blue"]), (20, ["acme"])):
        told = []
        for event in due(scribe.world, Signs(), DecisionContext(now, Rules(remembered_max=room)), now):
            if isinstance(event, IdempotencyForgotten):
                told.append(event.tenant)
            scribe.commit(event)
        assert told == found
