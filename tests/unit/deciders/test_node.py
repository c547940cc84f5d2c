"""Deciders of the node commands, and the orders of a node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.node import CordonNode, ObservedContainer, SyncNode, UncordonNode
from coordinator.deciders.dispatch import decide
from coordinator.deciders.node import orders
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.supervision import failed
from events.base import Event
from events.container import (
    ContainerDestroyed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStatus,
)
from events.node import NodeCordoned, NodeRemoved, NodeReturned, NodeUncordoned
from events.session import SessionBound, SessionClosed
from projections.container import Desired
from projections.node import NodeStatus
from projections.world import World
from tests.specification import Given, Scribe, fold, given
from tests.unit.deciders.facts import (
    ABSURD,
    BEGIN,
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    a_container,
    at,
    crashed,
    created,
    lived,
    lost,
    node,
    register_node,
    resources,
    running,
    starting,
    stopped,
    stopping,
)

CORDONED, UNCORDONED, RETURNED = NodeCordoned(node_id="n"), NodeUncordoned(node_id="n"), NodeReturned(node_id="n")
REMOVED = NodeRemoved(node_id="n")
GONE = ContainerDestroyed(container_id="k")


def saw(state: str, generation: str = "3.0", **others: Any) -> ObservedContainer:
    return ObservedContainer(container_id="k", generation=generation, state=state, **others)


def sync(*observed: ObservedContainer, node_id: str = "n") -> SyncNode:
    return SyncNode(node_id=node_id, observed=observed, orders_id="the last")


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_a_node_offers_what_it_has() -> None:
    """The event records every field."""
    given().when(register_node(labels={"zone": "a"})).then(node(labels={"zone": "a"})).then_answers(None)


def test_the_same_offer_again_only_wakes_a_lost_node() -> None:
    """A cordoned node stays cordoned."""
    given(node()).when(register_node()).then_nothing()
    given(node(), lost()).when(register_node()).then(RETURNED)
    world = given(node(), CORDONED, lost()).when(register_node()).then(RETURNED).world
    assert world.nodes["n"].status is NodeStatus.CORDONED


def test_another_offer_replaces_what_there_was() -> None:
    """The event is recorded for another capacity, runtime or label, or when a removed node returns."""
    more = resources(cpu=9000)
    given(node()).when(register_node(capacity=more)).then(node(capacity=more))
    given(node()).when(register_node(runtime="docker")).then(node(runtime="docker"))
    given(node()).when(register_node(labels={"a": "b"})).then(node(labels={"a": "b"}))
    given(node(), REMOVED).when(register_node()).then(node())


@pytest.mark.parametrize(
    ("difference", "reason", "named"),
    [
        ({"node_id": "a.b"}, "bad_id", "node_id"),
        ({"runtime": ""}, "bad_text", "runtime"),
        ({"runtime": "x" * 65}, "bad_text", "65 characters"),
        ({"labels": {"": "a"}}, "bad_text", "label name"),
        ({"labels": {"a": "\n"}}, "bad_text", "label 'a'"),
        ({"labels": {f"l{n}": "" for n in range(257)}}, "too_many", "257 entries"),
    ],
)
def test_an_offer_that_makes_no_sense_is_refused(difference: dict[str, Any], reason: str, named: str) -> None:
    """The refusal names the wrong field."""
    given().when(register_node(**difference)).then_refused(reason, named)


@pytest.mark.parametrize("capacity", ABSURD)
def test_a_node_cannot_have_less_than_nothing(capacity: object) -> None:
    """A capacity larger than sums can hold is refused, too."""
    given().when(register_node(capacity=capacity)).then_refused("bad_number", "capacity.")


def test_a_node_is_cordoned_and_uncordoned_once() -> None:
    """A repeat changes nothing; a lost node can be cordoned for its return."""
    cordon, uncordon = CordonNode(node_id="n", reason="upgrade"), UncordonNode(node_id="n")
    told = NodeCordoned(node_id="n", reason="upgrade")
    given(node()).when(cordon).then(told)
    given(node(), told).when(cordon).then_nothing()
    given(node(), told).when(uncordon).then(UNCORDONED)
    given(node()).when(uncordon).then_nothing()


@pytest.mark.parametrize("order", [CordonNode(node_id="n"), UncordonNode(node_id="n"), sync()])
@pytest.mark.parametrize("facts", [(), (node(), REMOVED)])
def test_a_node_must_be_registered(order: SyncNode, facts: tuple[Event, ...]) -> None:
    """An unknown or removed node is not found; the error says what to do."""
    given(*facts).when(order).then_refused("not_found", "'n'", "register it first", code="not_found")


@pytest.mark.parametrize("bad", HOSTILE_IDS)
def test_nodes_need_ids(bad: str) -> None:
    """Every command checks its ids."""
    for order in (CordonNode(node_id=bad), UncordonNode(node_id=bad), sync(node_id=bad)):
        given().when(order).then_refused("bad_id", "node_id")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_reasons_are_printable(text: str) -> None:
    """Texts enter the journal, so they are checked."""
    given(node()).when(CordonNode(node_id="n", reason=text)).then_refused("bad_text", "reason")


# --- what a node saw --------------------------------------------------------------------------------------------------

RAN = running()
PAUSED, RESUMED = ContainerPaused(container_id="k"), ContainerResumed(container_id="k")
PAUSE_ASKED = (*a_container("running"), ContainerPausing(container_id="k"))
RESUME_ASKED = (*a_container("paused"), ContainerResuming(container_id="k"))
NOTHING: tuple[Event, ...] = ()
WAYS: dict[str, tuple[Any, ...]] = {
    **{
        status: a_container(status)
        for status in ("created", "starting", "running", "paused", "stopping", "destroying", "stopped", "error")
    },
    "to pause": PAUSE_ASKED,
    "to resume": RESUME_ASKED,
    "destroyed": (*a_container("stopped"), GONE),
}
RUNNING = ["running", "paused", "to pause", "to resume"]
SIGHTS = ["running", "paused", "exited", "failed", "absent"]
FAILURES = {("exited", 3): "exited", ("failed", None): "no such image", ("failed", 127): "no such image"}

MATRIX: list[tuple[str, str, int | None, tuple[Event, ...]]] = [
    # what it is    what was seen    exit code    what follows
    ("starting", "running", None, (ContainerStarted(container_id="k", generation="3.0", pid=5),)),
    ("starting", "paused", None, (ContainerStarted(container_id="k", generation="3.0", pid=5), PAUSED)),
    ("starting", "exited", 0, (stopped(exit_code=0),)),
    ("starting", "absent", None, NOTHING),
    ("running", "running", None, NOTHING),
    ("running", "paused", None, NOTHING),
    ("running", "exited", 0, (stopped(exit_code=0),)),
    ("to pause", "running", None, NOTHING),
    ("to pause", "paused", None, (PAUSED,)),
    ("to pause", "exited", 0, (stopped(exit_code=0),)),
    ("paused", "running", None, NOTHING),
    ("paused", "paused", None, NOTHING),
    ("paused", "exited", 0, (stopped(exit_code=0),)),
    ("to resume", "running", None, (RESUMED,)),
    ("to resume", "paused", None, NOTHING),
    ("stopping", "running", None, NOTHING),
    ("stopping", "paused", None, NOTHING),
    ("stopping", "exited", 0, (stopped(exit_code=0),)),
    ("stopping", "exited", 137, (stopped(exit_code=137),)),
    ("stopping", "failed", None, (stopped(),)),
    ("stopping", "absent", None, (stopped(),)),
    ("destroying", "running", None, NOTHING),
    ("destroying", "paused", None, NOTHING),
    ("destroying", "exited", 0, NOTHING),
    ("destroying", "failed", None, (GONE,)),
    ("destroying", "absent", None, (GONE,)),
    *[
        (status, state, code, NOTHING)
        for status in ("created", "stopped", "error", "destroyed")
        for state, code in (("running", None), ("paused", None), ("exited", 1), ("failed", None), ("absent", None))
    ],
]


@pytest.mark.parametrize(("status", "state", "exit_code", "follows"), MATRIX)
def test_what_was_seen_is_folded_into_what_is_known(
    status: str, state: str, exit_code: int | None, follows: tuple[Event, ...]
) -> None:
    """Every status of a container is combined with every report of a node."""
    observed = () if state == "absent" else (saw(state, exit_code=exit_code, pid=5),)
    decided = given(*WAYS[status]).when(sync(*observed))
    assert decided.events == follows
    if follows:
        decided.fold()


@pytest.mark.parametrize("status", ["starting", *RUNNING])
@pytest.mark.parametrize(("state", "exit_code"), FAILURES)
def test_what_ended_although_it_should_run_has_failed(status: str, state: str, exit_code: int | None) -> None:
    """The restart is due after the pause; the reason is that of the node, or `exited`."""
    reason = "" if state == "exited" else "no such image"
    decided = given(*WAYS[status]).when(sync(saw(state, exit_code=exit_code, reason=reason)), at=BEGIN + 60.0)
    wanted = crashed(reason=FAILURES[state, exit_code], exit_code=exit_code, restart_at=BEGIN + 61.0)
    assert decided.then(wanted).world.containers["k"].status is ContainerStatus.ERROR


@pytest.mark.parametrize("status", RUNNING)
def test_what_its_node_no_longer_has_has_failed(status: str) -> None:
    """The container must run, whatever removed it."""
    decided = given(*WAYS[status]).when(sync(), at=BEGIN + 60.0)
    decided.then(crashed(reason="its node no longer has it", restart_at=BEGIN + 61.0, cause="unknown"))


@pytest.mark.parametrize("status", RUNNING)
@pytest.mark.parametrize("exit_code", [0, 1, 137, 143, None])
@pytest.mark.parametrize("cause", ["requested", "cut_off", "superseded"])
def test_what_its_node_has_ended_runs_again(status: str, exit_code: int | None, cause: str) -> None:
    """Nobody asked the coordinator to stop it, so it is still desired, whatever it exits with; there is no pause."""
    report = saw("exited", exit_code=exit_code, reason="exited", cause=cause)
    decided = given(*WAYS[status]).when(sync(report), at=BEGIN + 60.0)
    wanted = crashed(reason="exited", exit_code=exit_code, restart_at=BEGIN + 60.0, cause=cause)
    container = decided.then(wanted).world.containers["k"]
    assert (container.desired is not Desired.STOPPED, container.failures, container.cause) == (True, 0, cause)


@pytest.mark.parametrize("cause", ["requested", "cut_off", "superseded"])
def test_what_never_ran_starts_again_after_a_pause(cause: str) -> None:
    """It is not counted as a failure, but nothing may be started again and again without a pause."""
    decided = given(*WAYS["starting"]).when(sync(saw("exited", exit_code=0, cause=cause)), at=BEGIN + 60.0)
    decided.then(crashed(reason="exited", exit_code=0, restart_at=BEGIN + 61.0, cause=cause))
    assert decided.world.containers["k"].failures == 0


@pytest.mark.parametrize("status", ["starting", *RUNNING])
@pytest.mark.parametrize(
    ("exit_code", "cause"),
    [(0, "probe"), (0, "crashed"), (137, "oom"), (1, "exited"), (139, "crashed"), (None, "unknown"), (0, "of_later")],
)
def test_any_other_end_is_a_failure(status: str, exit_code: int | None, cause: str) -> None:
    """Only a container that exits by itself, with 0, has stopped; a cause of a later release is kept."""
    decided = given(*WAYS[status]).when(sync(saw("exited", exit_code=exit_code, cause=cause)), at=BEGIN + 60.0)
    wanted = crashed(reason="exited", exit_code=exit_code, restart_at=BEGIN + 61.0, cause=cause)
    assert decided.then(wanted).world.containers["k"].failures == 1


@pytest.mark.parametrize("status", ["starting", *RUNNING])
@pytest.mark.parametrize("cause", ["", "exited"])
def test_what_exits_by_itself_with_zero_has_stopped(status: str, cause: str) -> None:
    """So it was before nodes reported causes, too."""
    decided = given(*WAYS[status]).when(sync(saw("exited", exit_code=0, cause=cause)))
    assert decided.then(stopped(exit_code=0)).world.containers["k"].desired is Desired.STOPPED


@pytest.mark.parametrize("cause", ["requested", "cut_off", "exited", "crashed", ""])
def test_what_was_to_stop_has_stopped_whatever_the_cause(cause: str) -> None:
    """It may have been cut off while it stopped."""
    decided = given(*WAYS["stopping"]).when(sync(saw("exited", exit_code=137, cause=cause)))
    decided.then(stopped(exit_code=137))


def test_no_cause_is_longer_than_the_journal_takes() -> None:
    """The report of a node must not be refused because of it; the reason says that it was cut."""
    decided = given(*a_container("running")).when(sync(saw("exited", exit_code=1, cause="c" * 500)))
    decided.then(crashed(reason="exited", exit_code=1, restart_at=BEGIN + 5.0, cause="c" * 32))


def test_every_status_meets_every_sight() -> None:
    """The tables above cover every case."""
    told = {(status, state) for status, state, _, _ in MATRIX}
    told |= {(status, state) for status in ("starting", *RUNNING) for state, _ in FAILURES}
    told |= {(status, "absent") for status in RUNNING}
    assert told == {(status, state) for status in WAYS for state in SIGHTS}


@pytest.mark.parametrize("state", ["running", "exited", "failed"])
def test_a_report_about_another_generation_is_about_the_past(state: str) -> None:
    """A report about an older generation changes nothing."""
    given(*lived(starting())).when(sync(saw(state, "1.0", exit_code=1))).then_nothing()


def test_an_older_generation_does_not_stand_in_for_a_running_one() -> None:
    """The current generation is gone, whatever else the node has."""
    given(*a_container("running")).when(sync(saw("running", "1.0"))).then(
        crashed(reason="its node no longer has it", restart_at=BEGIN + 5.0, cause="unknown")
    )


def test_a_node_reports_its_own_containers_only() -> None:
    """A report about a container of another node changes nothing."""
    facts = (*lived(starting()), node("other"))
    given(*facts).when(sync(saw("running"), node_id="other")).then_nothing()


@pytest.mark.parametrize("status", [*RUNNING, "stopping", "destroying"])
def test_an_old_report_does_not_say_what_is_gone(status: str) -> None:
    """It may have been started after the node looked; a container that such a report names still counts."""
    given(*WAYS[status]).when(SyncNode(node_id="n")).then_nothing()
    given(*lived(starting())).when(SyncNode(node_id="n", observed=(saw("running", pid=7),))).then(running())


@pytest.mark.parametrize("status", ["starting", *RUNNING, "stopping", "destroying"])
def test_what_a_node_is_about_to_change_is_left_as_it_is(status: str) -> None:
    """A container that is starting may be absent without having failed."""
    given(*WAYS[status]).when(sync(saw("busy"))).then_nothing()


def test_each_container_is_folded_once() -> None:
    """A report may name a container twice; the last entry counts."""
    decided = given(*lived(starting())).when(sync(saw("exited", exit_code=1), saw("running", pid=5)))
    decided.then(ContainerStarted(container_id="k", generation="3.0", pid=5))


def test_a_lost_node_that_syncs_is_back() -> None:
    """The return of the node is recorded before its observations."""
    world = given(*lived(starting(), lost())).when(sync(saw("running", pid=7)))
    world.then(RETURNED, running())
    given(node(), NodeCordoned(node_id="n"), lost()).when(sync()).then(RETURNED)


def test_a_destroyed_containers_sessions_end_when_its_node_has_removed_it() -> None:
    """Not before."""
    facts = (*a_container("destroying"), SessionBound(session_id="z", container_id="k"))
    end = SessionClosed(session_id="z", reason="its container was destroyed")
    given(*facts).when(sync()).then(GONE, end)


@pytest.mark.parametrize(
    ("report", "named"), [({"pid": -1}, "pid"), ({"pid": 2**70}, "pid"), ({"exit_code": 2**70}, "exit_code")]
)
def test_numbers_of_a_report_are_those_of_a_system(report: dict[str, Any], named: str) -> None:
    """An integer of any size would enter the journal and break every later snapshot."""
    given(*lived(starting())).when(sync(saw("running", **report))).then_refused("bad_number", named, "use ")


def test_a_signal_is_an_exit_code() -> None:
    """Such exit codes are negative."""
    world = given(*a_container("running")).when(sync(saw("exited", exit_code=-9)))
    assert [event.exit_code for event in world.events if hasattr(event, "exit_code")] == [-9]


def test_a_long_reason_is_cut_to_what_the_journal_takes() -> None:
    """The report of a node must not be refused because of it; the reason says that it was cut."""
    decided = given(*a_container("running")).when(sync(saw("failed", reason="x" * 5000)))
    decided.then(crashed(reason=f"{'x' * 1005}… (5000 characters)", restart_at=BEGIN + 5.0))


# --- pauses -----------------------------------------------------------------------------------------------------------


def crash_loop(rules: Rules, *, times: int, start_fails: bool = False) -> list[float]:
    """Let container `k` fail *times* times, each time right after its restart; return the pauses."""
    scribe = Scribe()
    for fact in lived(starting()):
        scribe.commit(fact)
    pauses = []
    for restart in range(times):
        generation = scribe.world.containers["k"].generation
        if not start_fails:
            scribe.commit(running(generation=generation))
        event = failed(scribe.world.containers["k"], "crashed", DecisionContext(scribe.world.time, rules))
        assert event.restart_at is not None
        pauses.append(event.restart_at - scribe.world.time)
        scribe.commit(event)
        scribe.commit(at(event.restart_at - BEGIN, starting(reason="restart", restarts=restart + 1)))
    return pauses


@pytest.mark.parametrize("start_fails", [False, True])
def test_pauses_double_up_to_a_limit(start_fails: bool) -> None:
    """The pauses are 1, 2, 4 … seconds, whether the container crashes or fails to start."""
    rules = Rules(restart_backoff_max_s=20.0)
    assert crash_loop(rules, times=7, start_fails=start_fails) == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


@for_all(st.integers(0, 100_000))
def test_no_count_of_restarts_overflows(restarts: int) -> None:
    """A container that crashes for years must not crash the writer."""
    container = fold(*lived(starting(restarts=restarts))).containers["k"]
    event = failed(container, "crashed", DecisionContext(BEGIN, Rules()))
    assert event.restart_at == BEGIN + min(2.0 ** min(restarts, 20), 300.0)


def test_a_long_run_starts_the_pauses_over() -> None:
    """The run counts from the first report that it runs, and only for that generation."""
    rules = Rules(restart_reset_s=600.0)
    long_ago = (*lived(starting(restarts=9)), at(10.0, running()))
    ran_long = fold(*long_ago).containers["k"]
    assert failed(ran_long, "", DecisionContext(BEGIN + 610.0, rules)).restart_at == BEGIN + 611.0
    assert failed(ran_long, "", DecisionContext(BEGIN + 609.0, rules)).restart_at == BEGIN + 609.0 + 300.0
    again = fold(*long_ago, at(20.0, crashed()), at(700.0, starting(restarts=9))).containers["k"]
    assert failed(again, "", DecisionContext(BEGIN + 701.0, rules)).restart_at == BEGIN + 701.0 + 300.0


# --- what a node is to do ---------------------------------------------------------------------------------------------


def wanted_of(world: World) -> dict[str, tuple[str, bool]]:
    return {one.container_id: (one.desired, one.force) for one in orders(world, "n", Rules()).containers}


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("created", {}),
        ("starting", {"k": ("running", False)}),
        ("running", {"k": ("running", False)}),
        ("to pause", {"k": ("paused", False)}),
        ("paused", {"k": ("paused", False)}),
        ("to resume", {"k": ("running", False)}),
        ("stopping", {"k": ("stopped", False)}),
        ("destroying", {"k": ("destroyed", False)}),
        ("stopped", {"k": ("stopped", False)}),
        ("error", {"k": ("stopped", False)}),
        ("destroyed", {}),
    ],
)
def test_a_node_is_told_what_each_of_its_containers_is_to_be(status: str, wanted: dict[str, object]) -> None:
    """The node removes containers that are not named; a failed container rests until its restart."""
    assert wanted_of(fold(*WAYS[status])) == wanted


def test_a_node_is_told_to_make_haste() -> None:
    """The orders mark a forced stop."""
    assert wanted_of(fold(*a_container("running"), stopping(force=True))) == {"k": ("stopped", True)}


def test_a_sync_is_answered_with_all_that_is_to_be() -> None:
    """The orders carry the node lease and the epoch."""
    scribe = Scribe()
    scribe.claim(generation=2)
    for fact in (node(), created(image="agent:1", environment={"A": "b"}, stop_grace_s=3.0, when_cut_off="keep")):
        scribe.commit(fact)
    scribe.commit(starting())
    answered = orders(scribe.world, "n", Rules(node_lease_s=15.0))
    assert (answered.node_lease_s, answered.epoch) == (15.0, (2, 1))
    (one,) = answered.containers
    assert (one.generation, one.image, one.environment) == ("4.0", "agent:1", {"A": "b"})
    assert (one.stop_grace_s, one.when_cut_off) == (3.0, "keep")
    assert orders(scribe.world, "other", Rules()).containers == ()
    given(*a_container("running")).when(sync(saw("running"))).then_answers(
        orders(fold(*a_container("running")), "n", Rules())
    )


def test_a_container_that_moved_is_no_longer_its_old_nodes() -> None:
    """The old node removes the container, the new one runs it."""
    world = fold(*lived(starting(), lost()), node("other"), crashed(), starting(node_id="other"))
    assert wanted_of(world) == {}
    assert [one.container_id for one in orders(world, "other", Rules()).containers] == ["k"]


# --- more than a message ----------------------------------------------------------------------------------------------

LARGE = {"V": "x" * 5000}
MOST = 12_000
"""Two launches with a large environment fit into so many bytes."""
IDS = [f"k{number:02}" for number in range(6)]


def a_node_with(count: int, *, starts: bool = True, **values: Any) -> World:
    """Return a world with so many containers on node `n`, all of which start, or run."""
    facts: list[Event] = [node(capacity=resources(cpu=1_000_000))]
    for number in range(count):
        one = f"k{number:02}"
        facts += [created(one, **values), starting(one)]
        if not starts:
            facts.append(running(one, generation=f"{len(facts) + 1}.0"))
    return fold(*facts)


def part(world: World, *, most: int = MOST, **about: Any) -> tuple[dict[str, bool], str]:
    """Return the containers that a part of the orders names, each with whether it has its launch, and where it ends."""
    found = orders(world, "n", Rules(), SyncNode(node_id="n", in_parts=True, **about), most)
    return {one.container_id: bool(one.command) for one in found.containers}, found.until


def test_launches_are_named_only_as_long_as_they_fit() -> None:
    """An agent of an earlier release takes what is not named for gone: all are, and the others start later."""
    found = orders(a_node_with(6, environment=LARGE), "n", Rules(), SyncNode(node_id="n"), MOST)
    assert [(one.container_id, one.desired) for one in found.containers] == [
        *((one, "running") for one in IDS[:2]),
        *((one, "later") for one in IDS[2:]),
    ]
    assert [bool(one.environment) for one in found.containers] == [True] * 2 + [False] * 4
    assert found.until == ""


def test_a_small_launch_is_named_beside_one_that_does_not_fit() -> None:
    """No order depends on the size of another container's environment."""
    world = a_node_with(6, environment=LARGE)
    scribe = Scribe(world)
    for fact in (created("small"), starting("small")):
        scribe.commit(fact)
    found = {one.container_id: one for one in orders(scribe.world, "n", Rules(), None, MOST).containers}
    assert [name for name, one in found.items() if one.command] == ["k00", "k01", "small"]


def test_what_waits_for_its_start_needs_no_launch() -> None:
    """Only the first sixteen start at a time, whether it is asked in parts or not."""
    world = a_node_with(20)
    whole = orders(world, "n", Rules())
    assert [bool(one.command) for one in whole.containers] == [True] * 16 + [False] * 4
    assert part(world, most=10**6)[0] == {f"k{number:02}": number < 16 for number in range(20)}
    assert part(world, most=10**6, after="k14") == ({"k15": True} | {f"k{n}": False for n in range(16, 20)}, "")


def test_orders_come_in_as_many_parts_as_they_need() -> None:
    """Each part ends where a message is full, and the next one begins there."""
    world = a_node_with(6, environment=LARGE)
    assert part(world) == (dict.fromkeys(IDS[:2], True), "k01")
    assert part(world, after="k01") == (dict.fromkeys(IDS[2:4], True), "k03")
    assert part(world, after="k03") == (dict.fromkeys(IDS[4:], True), "")
    assert part(world, after="k03", until="k04") == ({"k04": True}, "")
    assert part(world, after="k05") == ({}, "")


def test_a_launch_that_no_message_has_room_for_fails_by_name() -> None:
    """The container alone: its node gets the other orders, and reports that this one could not be started."""
    world = a_node_with(2, environment={"V": "x" * 20_000})
    found = orders(world, "n", Rules(), SyncNode(node_id="n", in_parts=True), MOST)
    (first,) = found.containers
    assert (first.container_id, first.desired, first.command, found.until) == ("k00", "running", (), "k00")
    assert "environment take 20" in first.refused
    assert "room for 10976" in first.refused


def test_a_part_of_a_report_says_what_is_gone_in_that_part() -> None:
    """The rest of the containers is in other parts."""
    world = a_node_with(4, starts=False)
    report = SyncNode(node_id="n", orders_id="x", in_parts=True, after="k00", until="k02")
    decided = Given(Scribe(world)).when(report)
    assert [event.subject for event in decided.events] == ["k01", "k02"]


@pytest.mark.parametrize("bound", ["after", "until"])
def test_the_bounds_of_a_part_are_ids(bound: str) -> None:
    """They are input like any other."""
    bad = msgspec.structs.replace(SyncNode(node_id="n", in_parts=True), **{bound: "k>"})
    given(node()).when(bad).then_refused("bad_id", "container_id")


def test_a_report_with_many_events_is_decided_over_several_syncs() -> None:
    """A commit has a limit, and a report that exceeds it must not be refused: nodes report what is."""
    world = a_node_with(6, starts=False)
    lost_all = SyncNode(node_id="n", orders_id="x")
    context = DecisionContext(BEGIN, Rules(), events_bytes=2_000)
    decided = decide(world, lost_all, context)
    assert 1 <= len(decided) < 6
    assert [event.subject for event in decided] == IDS[: len(decided)]


def test_a_destroyed_container_with_many_sessions_ends_over_several_syncs() -> None:
    """Some of its sessions are closed with each, and the container ends with the last of them."""
    scribe = Scribe()
    for fact in a_container("destroying"):
        scribe.commit(fact)
    for number in range(9):
        scribe.commit(SessionBound(session_id=f"z{number}", container_id="k"))
    kinds: list[list[str]] = []
    while not scribe.world.containers["k"].is_ended:
        decided = decide(scribe.world, sync(), DecisionContext(BEGIN, Rules(), events_bytes=4_000))
        kinds.append([type(event).__name__ for event in decided])
        scribe.commit(*decided)
    assert sorted(kind for each in kinds for kind in each) == ["ContainerDestroyed"] + ["SessionClosed"] * 9
    assert len(kinds) > 2
    assert "ContainerDestroyed" in kinds[-1]
    assert all(one.is_ended for one in scribe.world.sessions.values())
