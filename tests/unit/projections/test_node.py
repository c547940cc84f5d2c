"""Nodes: the state after each event, field by field; a cordon outlasts the loss of the node."""

from __future__ import annotations

import msgspec
import pytest

from events.base import Position
from events.errors import Corrupt
from events.node import (
    NodeCordoned,
    NodeHeartbeat,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeReturned,
    NodeUncordoned,
)
from events.resources import Resources
from projections.node import Node, NodeStatus, evolve
from projections.stamp import Stamp
from tests.specification import BEGIN, fold, said

REGISTERED = NodeRegistered(node_id="n", capacity=Resources(cpu_millis=5), runtime="process", labels={"zone": "a"})
CORDONED, UNCORDONED = NodeCordoned(node_id="n", reason="disk"), NodeUncordoned(node_id="n")
LOST, RETURNED = NodeLost(node_id="n", silent_for_s=23.0, limit_s=22.5), NodeReturned(node_id="n")
REMOVED = NodeRemoved(node_id="n", reason="retired")


def test_a_registered_node_is_all_that_was_registered() -> None:
    """Every field of the event, and where and when; a node belongs to no tenant."""
    assert fold(said(REGISTERED, tenant="acme")).nodes["n"] == Node(
        node_id="n",
        status=NodeStatus.READY,
        registered=Position(1, 0),
        registered_at=BEGIN,
        capacity=Resources(cpu_millis=5),
        runtime="process",
        labels={"zone": "a"},
    )


def test_a_node_is_cordoned_and_uncordoned() -> None:
    """The reason is kept while the node is cordoned."""
    ready = fold(REGISTERED).nodes["n"]
    cordoned = fold(REGISTERED, CORDONED).nodes["n"]
    assert cordoned == msgspec.structs.replace(ready, status=NodeStatus.CORDONED, cordoned=True, reason="disk")
    assert fold(REGISTERED, CORDONED, UNCORDONED).nodes["n"] == ready


@pytest.mark.parametrize(
    ("path", "cordoned"),
    [
        ((LOST,), False),
        ((CORDONED, LOST), True),
        ((LOST, CORDONED), True),
        ((CORDONED, LOST, UNCORDONED), False),
        ((LOST, CORDONED, UNCORDONED), False),
    ],
)
def test_a_lost_node_stays_lost_until_it_is_heard(path: tuple[NodeLost, ...], cordoned: bool) -> None:
    """A cordon or uncordon of a lost node shows when it returns: CORDONED or READY."""
    lost = fold(REGISTERED, *path).nodes["n"]
    assert (lost.status, lost.cordoned, lost.ended_at) == (NodeStatus.LOST, cordoned, None)
    assert lost.reason == "silent for 23.0 s, limit 22.5 s"
    back = fold(REGISTERED, *path, RETURNED).nodes["n"]
    assert back.status is (NodeStatus.CORDONED if cordoned else NodeStatus.READY)
    assert (back.cordoned, back.reason) == (cordoned, "")


@pytest.mark.parametrize(
    ("path", "cordoned"),
    [((), False), ((CORDONED,), True), ((CORDONED, LOST), True), ((LOST,), False), ((CORDONED, REMOVED), False)],
)
def test_registering_again_replaces_what_is_offered(path: tuple[NodeLost, ...], cordoned: bool) -> None:
    """A cordoned node stays cordoned unless it was removed; capacity and labels are the new ones."""
    again = fold(REGISTERED, *path, NodeRegistered(node_id="n", runtime="fake")).nodes["n"]
    assert again == Node(
        node_id="n",
        status=NodeStatus.CORDONED if cordoned else NodeStatus.READY,
        registered=Position(len(path) + 2, 0),
        registered_at=BEGIN + len(path) + 1,
        runtime="fake",
        cordoned=cordoned,
    )


def test_a_removed_node_is_over() -> None:
    """The state keeps why, when and where it ended, and it is no longer cordoned."""
    gone = fold(REGISTERED, CORDONED, REMOVED).nodes["n"]
    assert gone == msgspec.structs.replace(
        fold(REGISTERED).nodes["n"],
        status=NodeStatus.REMOVED,
        reason="retired",
        ended_at=BEGIN + 2,
        ended=Position(3, 0),
    )
    assert gone.is_ended


def test_a_heartbeat_is_never_folded() -> None:
    """The time of the last heartbeat is a sign of life; folding a heartbeat raises `Corrupt`."""
    for before in (fold(REGISTERED).nodes["n"], None):
        with pytest.raises(Corrupt):
            evolve(before, NodeHeartbeat(node_id="n"), Stamp(Position(2, 0), 5.0))
