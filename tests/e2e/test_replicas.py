"""Three nats-servers, small runs: a power cut, a server lost for good, and a killed coordinator."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import powercut, replicas, replicas_takeover
from tests.nats_cluster import LoopDisk

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the disk whose power is cut")
LEASE_S = 6


@needs_root
async def test_a_power_cut_takes_nothing_that_was_acknowledged() -> None:
    """
    All three servers lose power while 64 clients submit: each server has everything, and the clients continue.

    The control: the same cut loses data when servers sync at their default interval. So this test can fail.
    """
    kept, control = await asyncio.gather(
        powercut.run(cuts=1, acknowledged=500, control=0),
        powercut.run(cuts=0, acknowledged=500, control=1, goes_on=False),
    )
    print(kept, control)
    assert powercut.is_kept(kept), kept
    assert kept["acknowledged"] >= 500
    assert powercut.is_kept(control), control
    assert control["control"][0]["lost"] > 0


def test_a_power_cut_without_root_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback about mount: the message says that root is needed."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="needs root"):
        LoopDisk(tmp_path).make()


def test_a_server_may_be_gone_for_good() -> None:
    """
    The server that leads the journal is killed and its store destroyed while tasks run.

    Nothing is lost and no coordinator ends; an empty server in its place catches up and has the whole journal.
    """
    result = asyncio.run(replicas.run(kills=0, freezes=0, losses=1))
    print(result)
    assert replicas.is_kept(result), result


def test_another_coordinator_takes_over() -> None:
    """`kill -9` of the leader: the other leads when the lease has expired, and no client gets two different answers."""
    result = asyncio.run(replicas_takeover.run(takeovers=1, lease_s=LEASE_S))
    print(result)
    assert replicas_takeover.is_kept(result), result


@pytest.mark.parametrize(
    "broken",
    [
        {"lost": 1},
        {"submitted_twice": 1},
        {"with_two_ends": 1},
        {"wrong_results": 1},
        {"acknowledged": 0},
        {"not_acknowledged": 1},
        {"not_ended": 1},
        {"restarts": {"serve": 1}},
        {"same_on_each_node": False},
        {"read_model_at": "9.0"},
    ],
)
def test_a_promise_that_is_broken_is_noticed(broken: dict[str, Any]) -> None:
    """The judges of these runs can find a failure."""
    counted = ("lost", "submitted_twice", "with_two_ends", "wrong_results", "not_acknowledged", "not_ended")
    kept = {
        **dict.fromkeys(counted, 0),
        "acknowledged": 10,
        "restarts": {"serve": 0},
        "same_on_each_node": True,
        "read_model_at": "10.0",
        "chain_verified_to": "10.0",
    }
    assert replicas.is_kept(kept)
    assert not replicas.is_kept(kept | broken)


@pytest.mark.parametrize(
    "broken",
    [{"lost": 1}, {"same_on_each_node": False}, {"control": [{"lost": 0, "refused": True}]}],
)
def test_a_power_cut_that_lost_is_noticed(broken: dict[str, Any]) -> None:
    """A control that lost nothing counts as a failure too: such a run proves nothing."""
    kept = {
        **dict.fromkeys(("lost", "submitted_twice", "with_two_ends", "wrong_results"), 0),
        "cuts": 1,
        "same_on_each_node": True,
        "control": [{"lost": 7, "refused": True}],
    }
    assert powercut.is_kept(kept)
    assert not powercut.is_kept(kept | broken)
    assert not powercut.is_kept(kept | {"control": [{"lost": 7, "refused": False}]})
