"""The fault run, small: every process killed once while tasks run, and every promise kept."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.faults import kills

pytestmark = pytest.mark.e2e

TASKS = 150


def test_nothing_acknowledged_is_lost_whatever_is_killed() -> None:
    """
    `kill -9` of a worker, the coordinator, the follower, nats-server and the node agent, once each, during 150 tasks.

    Every task is recorded once, ends once, with the right result; the read model is where the journal is; and all of it
    soon after the last fault.
    """
    result = asyncio.run(kills.run(TASKS))
    print(result)
    assert kills.is_kept(result), result
    assert result["killed"] == list(kills.VICTIMS)
    assert result["restarts"] == {"coordinator": 1, "follower": 1, "node": 1}
    assert result["ended_after_last_fault_s"] < 15, result


@pytest.mark.parametrize(
    "broken",
    [
        {"acknowledged": TASKS - 1},
        {"lost": 1},
        {"submitted_twice": 1},
        {"with_two_ends": 1},
        {"wrong_results": 1},
        {"not_ended": 1},
        {"read_model_at": "9.0"},
        {"restarts": Counter(coordinator=1, follower=0, node=1)},
    ],
)
def test_a_promise_that_is_broken_is_noticed(broken: dict[str, object]) -> None:
    """The judge of the fault run can say no."""
    kept: dict[str, object] = {
        "tasks": TASKS,
        "acknowledged": TASKS,
        **dict.fromkeys(("lost", "submitted_twice", "with_two_ends", "wrong_results", "not_ended"), 0),
        "chain_verified_to": "10.0",
        "read_model_at": "10.0",
        "restarts": {"coordinator": 1, "follower": 1, "node": 1},
    }
    assert kills.is_kept(kept)
    assert not kills.is_kept(kept | broken)
