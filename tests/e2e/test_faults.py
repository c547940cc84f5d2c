"""The fault runs, small: whatever is killed, stopped or asked to end while clients call, every promise holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.faults import handover, kills, outage, steady, stopped_writer, takeover, twins
from tests.faults.instances import lease_of
from tests.faults.outcome import MUST_BE_NONE
from tests.faults.strangers import scenario as strangers
from tests.faults.strangers.hostile import KINDS

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

TASKS = 150
LEASE_S = 4


def test_nothing_acknowledged_is_lost_whatever_is_killed() -> None:
    """
    `kill -9` of workers, the coordinator, the follower, nats-server and the node agent, in any order, during 150 tasks.

    Every task is recorded once and ends once, with the right result; the read model reaches the end of the journal; all
    soon after the last fault.
    """
    count = {"coordinators": 2, "workers": 2, "servers": 1, "followers": 1, "nodes": 1}
    result = asyncio.run(kills.run(TASKS, seconds=10, lease_s=3, **count))
    print(result)
    assert kills.is_kept(result), result
    assert result["killed"] == {"coordinator": 2, "worker": 2, "nats-server": 1, "follower": 1, "node": 1}


def test_a_standby_takes_over_from_a_writer_that_was_killed() -> None:
    """`kill -9` of the writer: clients continue by themselves, every request has one answer, which the journal has."""
    result = asyncio.run(takeover.run(2, at_once=1, environment=lease_of(LEASE_S)))
    print(result)
    assert takeover.is_kept(result), result
    assert result["takeovers"] == 2


def test_a_writer_that_was_stopped_wakes_and_changes_nothing() -> None:
    """SIGSTOP of the writer until long after the standby leads: it writes nothing behind the standby's claim."""
    result = asyncio.run(stopped_writer.run(2, at_once=2, stopped_s=10, lease_s=LEASE_S))
    print(result)
    assert stopped_writer.is_kept(result), result
    assert result["stopped"] == 2


def test_a_writer_that_wakes_at_the_moment_of_the_takeover_changes_nothing_either() -> None:
    """SIGSTOP for about as long as the lease: whichever of the two leads then, there was one writer at a time."""
    result = asyncio.run(stopped_writer.run(6, at_once=3, stopped_s=0, lease_s=LEASE_S))
    print(result)
    assert stopped_writer.is_kept(result), result
    assert result["stopped"] == 6


def test_three_coordinators_are_renewed_in_turn_and_nobody_gets_an_error() -> None:
    """A rolling upgrade: each leader is asked to end, hands over, and is on standby when it is back."""
    result = asyncio.run(handover.run(3))
    print(result)
    assert kept_but_for_time(handover.is_kept, result, "gap_s"), result
    assert result["handovers"] == 3


def test_steady_calls_are_answered_whatever_is_killed() -> None:
    """A process is killed every few seconds with a coordinator on standby: all calls are answered, none wrongly."""
    result = asyncio.run(steady.run(minutes=0.3, every_s=5))
    print(result)
    assert steady.is_kept({**result, "answered_within": 1.0}), result
    assert sum(result["killed"].values()) == 3


def test_no_container_runs_twice_whatever_happens_to_node_agents() -> None:
    """Four nodes are cut off, killed and stopped: what is moved is dead before, whatever it does with SIGTERM."""
    result = asyncio.run(twins.run(12, nodes=4, containers=9))
    print(result)
    assert twins.is_kept(result), result
    assert sum(result["faults"].values()) == 12


def test_all_runs_again_after_an_outage() -> None:
    """The coordinator, then the node agent, stopped and killed for longer than the lease: nothing has failed."""
    result = asyncio.run(outage.run(2, seconds=6, lease_s=4))
    print(result)
    assert outage.is_kept(result), result


def kept_but_for_time(is_kept: Any, result: dict[str, Any], measured: str) -> bool:
    """Check everything except the speed of this machine."""
    return bool(is_kept({**result, measured: dict.fromkeys(result[measured], 0.0)}))


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
        {"killed": {}},
    ],
)
def test_a_promise_that_is_broken_is_noticed(broken: dict[str, object]) -> None:
    """The judge of the fault run can find a failure."""
    kept: dict[str, object] = {
        "tasks": TASKS,
        "acknowledged": TASKS,
        **dict.fromkeys(("lost", "submitted_twice", "with_two_ends", "wrong_results", "not_ended"), 0),
        "chain_verified_to": "10.0",
        "read_model_at": "10.0",
        "killed": {"coordinator": 1},
    }
    assert kills.is_kept(kept)
    assert not kills.is_kept(kept | broken)


CALLED = {"calls": 10, **dict.fromkeys(MUST_BE_NONE, 0)}
JUDGES: list[tuple[Any, dict[str, Any], list[dict[str, Any]]]] = [
    (takeover, {"takeovers": 1, "takeover_s": {"most": 19.9}}, [{"takeovers": 0}, {"takeover_s": {"most": 20.0}}]),
    (stopped_writer, {"stopped": 1}, [{"stopped": 0}]),
    (
        handover,
        {"handovers": 1, "gap_s": {"median": 0.9}, "ended_with_errors": 0, "feed_lacks": 0},
        [{"handovers": 0}, {"gap_s": {"median": 1.0}}, {"ended_with_errors": 1}, {"feed_lacks": -1}],
    ),
    (steady, {"killed": {"worker": 1}, "answered_within": 0.999}, [{"killed": {}}, {"answered_within": 0.9989}]),
]


AGAIN = {"running": 3, "restarted": 3, "failures": 0}


@pytest.mark.parametrize(
    ("scenario", "kept", "broken"),
    [
        (
            twins,
            {"twins": 0, "moved": 1, "faults": dict.fromkeys(twins.FAULTS, 1), "running": 3, "containers": 3},
            [{"twins": 1}, {"moved": 0}, {"faults": {"cut": 9}}, {"running": 2}],
        ),
        (
            outage,
            {"containers": 3, "after": dict.fromkeys(outage.KINDS, AGAIN)},
            [
                {"after": {}},
                {"after": dict.fromkeys(outage.KINDS, AGAIN | {"running": 2})},
                {"after": dict.fromkeys(outage.KINDS, AGAIN | {"failures": 1})},
                {"after": dict.fromkeys(outage.KINDS, AGAIN | {"restarted": 0})},
            ],
        ),
    ],
    ids=["twins", "outage"],
)
def test_the_judges_of_containers_can_say_no(scenario: Any, kept: dict[str, Any], broken: list[dict[str, Any]]) -> None:
    """A twin, a container that does not run again, and a run in which nothing happened count as broken."""
    assert scenario.is_kept(kept)
    for one in broken:
        assert not scenario.is_kept(kept | one)


@pytest.mark.parametrize(("scenario", "kept", "broken"), JUDGES, ids=lambda one: getattr(one, "__name__", None))
def test_every_judge_can_say_no(scenario: Any, kept: dict[str, Any], broken: list[dict[str, Any]]) -> None:
    """Each violation alone makes a run count as broken, and so does a run without calls."""
    assert scenario.is_kept(CALLED | kept)
    for one in [*broken, {"calls": 0}, *({name: 1} for name in MUST_BE_NONE)]:
        assert not scenario.is_kept(CALLED | kept | one), one


@pytest.mark.timeout(300)
def test_no_hostile_client_makes_a_call_of_an_honest_one_fail() -> None:
    """Beside each for a second: every call is answered, every task starts, its service stays healthy."""
    result = asyncio.run(strangers.run(seconds=1, settle_s=0.5))
    print(result)
    assert result["beside"].keys() == KINDS.keys()
    assert {name: one for name, one in result["beside"].items() if not one["requests"]} == {}
    assert (result["failures"], result["unhealthy"]) == ([], {})
    assert result["memory_mb"]["coordinator"]["grown"] * 1e6 <= strangers.MEMORY_MOST
