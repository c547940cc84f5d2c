"""Nodes that drain or are removed: which containers move when, and that none of them runs twice or is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.container import (
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.node import DrainNode, ObservedContainer, RemoveNode, SyncNode, UncordonNode
from coordinator.deciders.drain import staying
from coordinator.deciders.housing import SERVING, said_of
from coordinator.deciders.node import orders
from coordinator.deciders.rules import Rules
from coordinator.deciders.signs import Signs
from events.base import Event
from events.cancel_ladder import Escalation, TaskCancelAsked, TaskCancelForced
from events.container import ContainerResuming
from events.coordinator import CoordinatorPlacementRefused
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.resources import NONE
from events.worker import WorkerDraining
from projections.node import NodeStatus
from tests.specification import fold, given
from tests.unit.deciders.facts import (
    BEGIN,
    a_container,
    at,
    completed,
    crashed,
    created,
    lived,
    lost,
    node,
    register_node,
    resources,
    running,
    started,
    starting,
    stopped,
    stopping,
    submitted,
    worker,
)
from tests.unit.deciders.test_due import owed

UNTIL = BEGIN + 600.0
DRAINING = NodeDraining(node_id="n", until=UNTIL, reason="new kernel")
DRAINED, REMOVING = NodeDrained(node_id="n"), NodeRemoving(node_id="n")
WHY = "node n is draining"
MOVES = stopping(move=True, reason=WHY)
DRAIN = DrainNode(node_id="n", reason="new kernel", deadline_s=600.0)
OTHER = node("other")
RUNS = a_container("running")
AWAY = (*RUNS, OTHER, DRAINING, MOVES)
"""The container is told to stop, for its move to the other node."""
WAITS = (*RUNS, DRAINING, MOVES, stopped())
"""The container has stopped, and no node has room for it."""


def saw(state: str, **others: Any) -> SyncNode:
    one = ObservedContainer(container_id="k", generation="3.0", state=state, **others)
    return SyncNode(node_id="n", observed=(one,), orders_id="the last")


def desired(*facts: Any) -> str:
    """Return what the node is told of container `k`."""
    (one,) = orders(fold(*facts), "n", Rules()).containers
    return one.desired


# --- the commands -----------------------------------------------------------------------------------------------------


def test_a_drain_cordons_a_node_until_its_deadline() -> None:
    """The deadline is a time; a repeat moves it."""
    asked = given(node()).when(DRAIN)
    until = asked.events[0].until  # type: ignore[attr-defined]  # it is one
    world = asked.then(NodeDraining(node_id="n", until=until, reason="new kernel")).world
    now = world.nodes["n"]
    assert (now.status, now.draining_until, now.is_leaving, now.reason) == (
        NodeStatus.CORDONED, until, True, "new kernel",
    )  # fmt: skip
    later = NodeDraining(node_id="n", until=BEGIN + 1200.0, reason="slow")
    assert fold(node(), DRAINING, DRAINED, later).nodes["n"] == fold(node(), later).nodes["n"]


@pytest.mark.parametrize(
    ("wrong", "reason", "named"),
    [
        ({"node_id": "else"}, "not_found", "'else'"),
        ({"reason": "\0"}, "bad_text", "reason"),
        ({"deadline_s": -1.0}, "bad_number", "deadline_s"),
        ({"deadline_s": float("nan")}, "bad_number", "deadline_s"),
        ({"deadline_s": 1e9}, "bad_number", "use 0 to 2.592e+06"),
    ],
)
def test_a_drain_that_makes_no_sense_is_refused(wrong: dict[str, Any], reason: str, named: str) -> None:
    """The refusal names the value."""
    given(node()).when(DrainNode(**{"node_id": "n", **wrong})).then_refused(reason, named)


def test_an_uncordon_ends_a_drain_and_a_removal() -> None:
    """The node is what it was."""
    for facts in ((DRAINING,), (DRAINING, DRAINED), (REMOVING,), (DRAINING, REMOVING)):
        asked = given(node(), *facts).when(UncordonNode(node_id="n"))
        assert asked.then(NodeUncordoned(node_id="n")).world.nodes["n"] == fold(node()).nodes["n"]


def test_a_node_drains_on_when_it_is_lost_or_registered_again() -> None:
    """Only uncordoning it, or its removal, ends the drain."""
    for facts in ((lost(), DRAINING, NodeReturned(node_id="n")), (DRAINING, lost(), NodeReturned(node_id="n"))):
        back = fold(node(), *facts).nodes["n"]
        assert (back.status, back.draining_until) == (NodeStatus.CORDONED, UNTIL)
    again = fold(node(), DRAINING, DRAINED, node(labels={"a": "b"})).nodes["n"]
    assert (again.status, again.draining_until, again.drained) == (NodeStatus.CORDONED, UNTIL, True)
    gone = fold(node(), DRAINING, DRAINED, REMOVING, NodeRemoved(node_id="n"), node()).nodes["n"]
    assert not gone.is_leaving
    assert (gone.status, gone.drained) == (NodeStatus.READY, False)


# --- a drain ----------------------------------------------------------------------------------------------------------


def test_a_node_without_containers_is_drained_at_once() -> None:
    """This is said once; containers that do not run there keep it from nothing."""
    assert owed(node(), DRAINING) == [DRAINED]
    assert owed(node(), DRAINING, DRAINED) == []
    for status in ("created", "stopped"):
        assert owed(*a_container(status), DRAINING) == [DRAINED]


@pytest.mark.parametrize("status", ["starting", "running", "paused"])
def test_a_container_without_tasks_moves_as_soon_as_another_node_has_room(status: str) -> None:
    """It is stopped with its grace and remains desired."""
    facts = (*a_container(status), DRAINING)
    assert owed(*facts) == []
    assert owed(*facts, OTHER) == [MOVES]
    assert owed(*facts, OTHER, MOVES) == []
    moving = fold(*facts, OTHER, MOVES).containers["k"]
    assert moving.is_moving
    assert moving.desired.value == ("paused" if status == "paused" else "running")
    assert desired(*facts, OTHER, MOVES) == "stopped"


def test_it_starts_on_the_other_node_when_it_has_stopped() -> None:
    """Never before: it would run twice. The node is drained then."""
    given(*AWAY).when(saw("running")).then_nothing()
    given(*AWAY).when(saw("exited", exit_code=143)).then(stopped(exit_code=143))
    given(*AWAY).when(SyncNode(node_id="n", orders_id="the last")).then(stopped())
    there = starting(node_id="other", reason="moved")
    assert owed(*AWAY, stopped()) == [DRAINED, there]
    world = fold(*AWAY, stopped(), there)
    container = world.containers["k"]
    assert (container.node_id, container.desired.value, container.restarts) == ("other", "running", 0)
    assert container.generation != "3.0"
    assert list(world.indexes.containers_on["other"]) == ["k"]


def test_the_containers_that_were_paused_or_restarted_are_so_after_the_move() -> None:
    """A move is no restart."""
    facts = (*a_container("paused"), OTHER, DRAINING, MOVES, stopped())
    assert owed(*facts) == [DRAINED, starting(node_id="other", reason="moved")]
    assert fold(*facts, starting(node_id="other", reason="moved")).containers["k"].desired.value == "paused"
    facts = (*lived(starting(restarts=3), running()), OTHER, DRAINING, MOVES, stopped())
    assert owed(*facts) == [DRAINED, starting(node_id="other", reason="moved", restarts=3)]
    failed = (*lived(starting(), crashed(failures=2, counted_from=BEGIN), starting(reason="restart"), running()), OTHER)
    moved = fold(*failed, DRAINING, MOVES, stopped(), starting(node_id="other", reason="moved")).containers["k"]
    assert (moved.recent_failures, moved.counted_from) == (2, BEGIN)


BUSY = (*RUNS, OTHER, worker(container_id="k"), submitted(), started(), DRAINING)


def test_tasks_end_before_their_container_moves() -> None:
    """It gets no new ones meanwhile; at the deadline it is stopped with its grace, in which they may still end."""
    assert said_of(fold(*BUSY), "k") == "draining"
    assert "draining" not in SERVING
    assert owed(*BUSY) == []
    told = WorkerDraining(worker_id="w", reason="container_stopping")
    assert owed(*BUSY, completed()) == [MOVES, told]
    assert owed(*BUSY, now=599.0) == []
    assert owed(*BUSY, now=600.0) == [MOVES, told]
    assert said_of(fold(*BUSY, NodeUncordoned(node_id="n")), "k") == "running"


def test_a_cancel_that_escalates_does_not_end_a_move() -> None:
    """The container is killed, and starts on the other node; the order to stop it ends the move, still by force."""
    asked = TaskCancelAsked(task_id="t", grace_s=5.0, escalate=Escalation.CONTAINER)
    moving = (*BUSY, MOVES, at(100.0, asked))
    forced = stopping(force=True, move=True, reason="cancel_escalated")
    assert owed(*moving, now=105.0)[:2] == [TaskCancelForced(task_id="t", lease="c.1.1", how="container"), forced]
    killed = (*AWAY, forced)
    assert owed(*killed, stopped(exit_code=137)) == [DRAINED, starting(node_id="other", reason="moved")]
    given(*killed).when(StopContainer(container_id="k")).then(stopping(force=True))


def test_without_room_a_container_stays_until_the_deadline() -> None:
    """Then it is stopped, and why it does not start is said as long as it waits; it starts when there is room."""
    assert owed(*RUNS, DRAINING, now=599.0) == []
    assert owed(*RUNS, DRAINING, now=600.0) == [MOVES]
    why = CoordinatorPlacementRefused(container_id="k", resources=NONE, reason="no_room", nodes={"n": "is draining"})
    assert owed(*WAITS) == [DRAINED, why]
    assert owed(*WAITS, DRAINED, OTHER) == [starting(node_id="other", reason="moved")]
    assert owed(*WAITS, DRAINED, NodeUncordoned(node_id="n")) == [starting(node_id="n", reason="moved")]
    assert desired(*WAITS) == "stopped"


def test_no_more_containers_are_stopped_than_have_room() -> None:
    """Those that are on their way count, also those from other nodes that drain."""
    half = resources(cpu=2000)
    facts: tuple[Any, ...] = (node(), OTHER, node("last", capacity=resources(cpu=1)), DRAINING)
    for one in ("a", "b", "c"):
        facts += (created(one, resources=half), starting(one), running(one, "9.0"))
    first, second = (stopping(one, move=True, reason=WHY) for one in ("a", "b"))
    assert owed(*facts) == [first, second]
    assert owed(*facts, first) == [second]
    assert owed(*facts, first, second) == []
    elsewhere = (created("x", node_id="m", resources=half), starting("x", node_id="m"), running("x", "9.0"))
    coming = (node("m"), *elsewhere, NodeDraining(node_id="m", until=UNTIL), stopping("x", move=True))
    assert owed(*facts, *coming) == [first]


def test_why_containers_stay_is_said() -> None:
    """Of those that have not begun to move; of a node that does not drain nothing is."""
    for facts, said in (
        ((*RUNS, DRAINING), {"k": "finds no room on another node"}),
        ((*RUNS, OTHER), {}),
        ((*RUNS, OTHER, DRAINING), {}),
        (BUSY, {"k": "runs tasks"}),
        (AWAY, {}),
    ):
        world = fold(*facts)
        assert staying(world, world.nodes["n"], Rules()) == said


def test_what_does_not_move_stays_until_the_deadline() -> None:
    """Though another node has room; then it is stopped, and waits for its node."""
    runs = (node(), created(moves=False), starting(), running(), OTHER, DRAINING)
    assert owed(*runs, now=599.0) == []
    assert owed(*runs, now=600.0) == [MOVES]
    world = fold(*runs)
    assert staying(world, world.nodes["n"], Rules()) == {"k": "does not move, as its agent type says"}
    waits = (*runs, MOVES, stopped())
    (drained, why) = owed(*waits)
    assert (drained, getattr(why, "nodes", None)) == (
        DRAINED, {"n": "is draining, and agent type 'task_agent' does not move"}
    )  # fmt: skip
    assert owed(*waits, DRAINED, NodeUncordoned(node_id="n")) == [starting(reason="moved")]


def test_two_nodes_that_drain_do_not_exchange_containers() -> None:
    """Neither gets any; nor does a node that cannot run them."""
    both = (*RUNS, OTHER, DRAINING, NodeDraining(node_id="other", until=UNTIL))
    assert owed(*both) == [NodeDrained(node_id="other")]
    assert owed(*RUNS, node("docker", runtime="docker"), DRAINING) == []


def test_what_fails_on_a_node_that_drains_starts_elsewhere() -> None:
    """On a node that is only cordoned it starts again."""
    failed = (*lived(starting(), running()), OTHER, crashed(restart_at=BEGIN + 10.0))
    assert owed(*failed, NodeCordoned(node_id="n")) == [starting(reason="restart", restarts=1)]
    assert owed(*failed, DRAINING) == [DRAINED, starting(node_id="other", reason="restart", restarts=1)]


def test_a_node_that_is_lost_while_it_drains() -> None:
    """What was on its way starts at once, the rest as after any loss."""
    assert owed(*AWAY, lost()) == [stopped(), starting(node_id="other", reason="moved")]
    failed = crashed(reason="node n is lost", restart_at=BEGIN + 100.0, cause="cut_off")
    assert owed(*RUNS, OTHER, DRAINING, lost()) == [failed, starting(node_id="other", reason="restart")]


# --- orders about a container that moves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "on_its_way", "waiting"),
    [
        (StartContainer(container_id="k"), [], [starting(node_id="other")]),
        (StopContainer(container_id="k"), [stopping()], [stopped()]),
        (StopContainer(container_id="k", force=True), [stopping(force=True)], [stopped()]),
        (DestroyContainer(container_id="k"), [stopping(destroy=True, reason="destroy")], None),
        (ResumeContainer(container_id="k"), [], []),
    ],
)
def test_an_order_to_what_moves_is_followed(order: Any, on_its_way: list[Event], waiting: list[Event] | None) -> None:
    """What is to be stopped or destroyed does not start on the other node."""
    given(*AWAY).when(order).then(*on_its_way) if on_its_way else given(*AWAY).when(order).then_nothing()
    asked = given(*AWAY, stopped(exit_code=None)).when(order)
    if waiting is None:
        assert asked.events
    elif waiting:
        asked.then(*waiting)
    else:
        asked.then_nothing()


def test_what_was_stopped_during_its_move_stays_stopped() -> None:
    """In both halves of the move."""
    for facts in ((*AWAY, stopping(), stopped()), (*AWAY, stopped(), stopped())):
        assert owed(*facts) == [DRAINED]
        container = fold(*facts).containers["k"]
        assert (container.is_moving, container.desired.value) == (False, "stopped")
        given(*facts).when(StopContainer(container_id="k")).then_nothing()


def test_a_pause_during_a_move_is_refused_and_a_resume_counts() -> None:
    """What was paused runs after its move when it was resumed meanwhile."""
    given(*AWAY).when(PauseContainer(container_id="k")).then_refused("not_running")
    paused = (*a_container("paused"), OTHER, DRAINING, MOVES)
    for facts in (paused, (*paused, stopped())):
        given(*facts).when(PauseContainer(container_id="k")).then_nothing()
        world = given(*facts).when(ResumeContainer(container_id="k")).then(ContainerResuming(container_id="k")).world
        assert world.containers["k"].desired.value == "running"


# --- removal ----------------------------------------------------------------------------------------------------------

REMOVE, FORCE = RemoveNode(node_id="n"), RemoveNode(node_id="n", force=True)
REMOVED = NodeRemoved(node_id="n", reason="removed_by_command")


def test_a_node_without_containers_is_removed() -> None:
    """Ready, cordoned, drained or lost; its agent may register it again."""
    for facts in ((), (NodeCordoned(node_id="n"),), (DRAINING, DRAINED), (lost(),)):
        for order in (REMOVE, FORCE):
            given(node(), *facts).when(order).then(REMOVED)
    given(node(), REMOVED).when(REMOVE).then_refused("not_found", "'n'", code="not_found")
    given(node(), REMOVED).when(register_node()).then(node())


@pytest.mark.parametrize("status", ["created", "stopped", "error"])
def test_what_does_not_run_does_not_keep_a_node(status: str) -> None:
    """It starts on another node."""
    given(*a_container(status)).when(REMOVE).then(REMOVED)
    given(*a_container(status), REMOVED, OTHER).when(StartContainer(container_id="k")).then(starting(node_id="other"))


@pytest.mark.parametrize("status", ["starting", "running", "paused", "stopping", "destroying"])
def test_a_node_with_containers_is_removed_only_by_force(status: str) -> None:
    """The refusal says how many there are, and what to do."""
    facts = a_container(status)
    given(*facts).when(REMOVE).then_refused("node_in_use", "node 'n' has 1 container: drain it first")
    more = (created("b"), starting("b"))
    given(*facts, *more).when(REMOVE).then_refused("node_in_use", "has 2 containers: drain it first")
    given(*facts).when(FORCE).then(REMOVING)
    given(*facts, REMOVING).when(FORCE).then_nothing()


def test_a_node_that_is_removed_by_force_gets_no_answer() -> None:
    """So its containers end by its own clock, and it cannot come back before they have."""
    facts = (*RUNS, REMOVING)
    given(*facts).when(saw("running")).then_refused("node_removing", "'n'")
    given(*facts).when(register_node()).then_refused("node_removing", "'n'")
    given(*facts).when(register_node(runtime="docker")).then_refused("node_removing", "'n'")
    assert said_of(fold(*facts), "k") == "draining"


def test_a_node_that_is_removed_by_force_goes_when_it_is_lost() -> None:
    """Its containers fail then like those of a lost node, and start elsewhere; before, none of them does."""
    facts = (*RUNS, OTHER, REMOVING)
    assert owed(*facts) == []
    signs = Signs()
    signs.begin(0.0)
    signs.nodes["other"] = 23.0
    failed = crashed(reason="node n is lost", restart_at=BEGIN + 100.0, cause="cut_off")
    gone = NodeRemoved(node_id="n", reason="removed_by_force")
    restarted = starting(node_id="other", reason="restart")
    is_lost = NodeLost(node_id="n", silent_for_s=23.0, limit_s=22.5)
    assert owed(*facts, silent_s=23.0, signs=signs) == [is_lost, failed, gone, restarted]
    assert owed(*facts, lost()) == [failed, gone, restarted]
    assert owed(*AWAY, REMOVING, lost()) == [stopped(), gone, starting(node_id="other", reason="moved")]


def test_a_drain_is_over_while_its_node_is_removed() -> None:
    """Nobody would carry out a move; what is created for it meanwhile goes elsewhere."""
    assert owed(*RUNS, OTHER, DRAINING, REMOVING) == []
    given(node(), REMOVING, created("k")).when(StartContainer(container_id="k")).then_refused(
        "no_room",
        "node n is being removed",
        facts=(
            CoordinatorPlacementRefused(
                container_id="k", resources=NONE, reason="no_room", nodes={"n": "is being removed"}
            ),
        ),
    )
