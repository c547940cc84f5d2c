"""Waiting claims, and the placement of tasks with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.task import WithdrawClaim
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker
from coordinator.deciders.rules import Limits, Rules
from coordinator.errors import Refused, Unavailable
from coordinator.placement.matching import SCHEDULE_VERSION
from events.coordinator import CoordinatorTurn
from events.pool import TASKS
from events.task import TaskStatus
from tests.unit.deciders.facts import claim, complete, payload, resources, submit
from tests.unit.engine.engine_rig import TICK_S, Rig, Told, explained, leading

WAIT_S = 30.0


def given_to(tasks: list[Any]) -> list[str]:
    return [task.task_id for task in tasks]


async def waiting(rig: Rig, *claims: Any) -> list[Told]:
    """Let claims wait."""
    told = [rig.ask(one) for one in claims]
    await rig.settle()
    assert not any(one.yet for one in told)
    return told


async def test_a_task_that_is_there_is_given_at_once() -> None:
    """The answer is the current task, with its lease."""
    async with leading() as rig:
        await rig.order(submit())
        (task,) = await rig.order(claim())
        assert (task.task_id, task.status, task.worker_id, task.attempt) == ("t", TaskStatus.RUNNING, "w", 1)
        await rig.order(complete(task.lease))
        assert rig.world.tasks["t"].status is TaskStatus.COMPLETED


async def test_a_submit_and_the_claim_that_waits_for_it_end_in_the_same_commit() -> None:
    """The commit also records the inputs of the placement; both callers are answered after it."""
    async with leading() as rig:
        (told,) = await waiting(rig, claim(wait_s=WAIT_S))
        assert await rig.order(submit()) == "t"
        assert given_to(await told.outcome()) == ["t"]
        assert rig.types()[-1] == ["task.submitted", "task.started", "coordinator.turn"]
        _, started, turn = rig.commits()[-1]
        assert (started.actor, turn.actor) == ("coordinator", "coordinator")
        assert isinstance(turn.data, CoordinatorTurn)
        assert (turn.data.placed, turn.data.policy_version, len(turn.data.claims)) == (1, SCHEDULE_VERSION, 1)


async def test_a_worker_is_told_at_once_that_a_share_was_taken() -> None:
    """Who took it begins now; what ended with an owner is free in the same commit, with who gets it."""
    small = resources(cpu=1000)
    async with leading() as rig:
        await rig.order(DefinePool(pool_id=TASKS, capacity=small))
        await rig.order(AllocatePool(pool_id=TASKS, request_id="low", resources=small))
        await rig.order(submit(request="low"))
        (task,) = await rig.order(claim())
        urgent = AllocatePool(pool_id=TASKS, request_id="urgent", resources=small, priority=1, preempts=True)
        assert await rig.order(urgent) is True
        assert ("worker", "w", {"lost": [task.lease]}) in rig.notices
        await rig.order(ReleasePool(pool_id=TASKS, request_id="urgent"))
        (task,) = await rig.order(claim("c2"))
        await rig.order(AllocatePool(pool_id=TASKS, request_id="next", resources=small, wait_s=60.0))
        await rig.order(complete(task.lease))
        assert rig.types()[-1] == ["task.completed", "pool.released", "pool.allocated"]


async def test_a_claim_is_not_answered_before_its_commit() -> None:
    """A task placed by a deposed writer was never placed."""
    async with leading() as rig:
        (told,) = await waiting(rig, claim(wait_s=WAIT_S))
        rig.network.gate.clear()
        rig.ask(submit())
        await asyncio.sleep(4 * TICK_S)
        assert rig.world.tasks["t"].status is TaskStatus.RUNNING
        assert not told.yet
        rig.let_go()
        assert given_to(await told.outcome()) == ["t"]


async def test_a_claim_that_does_not_wait_gets_what_there_is() -> None:
    """Or nothing."""
    async with leading() as rig:
        assert await rig.order(claim()) == []
        await rig.order(submit())
        assert given_to(await rig.order(claim(slots=9))) == ["t"]
        assert await rig.order(claim("d")) == []


async def test_a_claim_that_waits_in_vain_gets_nothing() -> None:
    """When its time is over."""
    async with leading() as rig:
        assert await rig.order(claim(wait_s=2 * TICK_S)) == []
        assert given_to([]) == []
        await rig.order(submit())
        assert rig.world.tasks["t"].status is TaskStatus.PENDING


async def test_a_repeated_claim_gets_the_same_tasks() -> None:
    """Under the same leases, and no others although there are more."""
    async with leading() as rig:
        for name in ("a", "b", "c"):
            await rig.order(submit(name))
        first = await rig.order(claim(slots=2))
        again = await rig.order(claim(slots=2))
        assert again == first
        assert given_to(first) == ["a", "b"]


async def test_a_claim_asked_again_while_it_waits_takes_the_place_of_the_first() -> None:
    """The first claim gets an error; only the repeat gets the task."""
    async with leading() as rig:
        (first,) = await waiting(rig, claim(wait_s=WAIT_S))
        (second,) = await waiting(rig, claim(wait_s=WAIT_S))
        assert isinstance(await first.error(), Unavailable)
        await rig.order(submit())
        assert given_to(await second.outcome()) == ["t"]


async def test_a_claim_that_did_not_wait_waits_when_its_repeat_does() -> None:
    """Both came in the same turn, and the repeat counts."""
    async with leading() as rig:
        await rig.hold()
        first, second = rig.ask(claim()), rig.ask(claim(wait_s=WAIT_S))
        rig.let_go()
        assert isinstance(await first.error(), Unavailable)
        await rig.settle()
        assert not second.yet
        await rig.order(submit())
        assert given_to(await second.outcome()) == ["t"]


async def test_a_claim_is_its_workers_alone() -> None:
    """Another worker under the same id is refused, whether the claim waits or has its tasks."""
    async with leading() as rig:
        (told,) = await waiting(rig, claim(wait_s=WAIT_S))
        error = await rig.ask(claim(worker_id="thief", wait_s=WAIT_S)).error()
        assert isinstance(error, Refused)
        assert error.reason == "id_taken"
        await rig.order(submit())
        assert given_to(await told.outcome()) == ["t"]
        assert (await rig.ask(claim(worker_id="thief")).error()).reason == "id_taken"


async def test_claims_are_served_in_the_order_they_came() -> None:
    """One task each."""
    async with leading() as rig:
        first, second = await waiting(rig, claim("c1", "v", wait_s=WAIT_S), claim("c2", "w", wait_s=WAIT_S))
        await rig.order(submit("a"))
        assert given_to(await first.outcome()) == ["a"]
        assert not second.yet
        await rig.order(submit("b"))
        assert given_to(await second.outcome()) == ["b"]


async def test_the_default_strategy_is_that_of_the_rules() -> None:
    """A claim may ask for another."""
    async with leading(rules=Rules(default_strategy="priority")) as rig:
        for rank, name in enumerate(("low", "middle", "high")):
            await rig.order(submit(name, priority=rank))
        assert given_to(await rig.order(claim("c1", "w"))) == ["high"]
        assert given_to(await rig.order(claim("c2", "w", strategy="fifo"))) == ["low"]


async def test_a_claim_counts_only_while_its_worker_was_heard_lately() -> None:
    """A worker without heartbeats gets no tasks; a heartbeat makes its claim count again."""
    async with leading(rules=Rules(lease_s=30.0)) as rig:
        (told,) = await waiting(rig, claim(wait_s=WAIT_S))
        rig.hands.turn(20.0)
        await rig.order(submit())
        await rig.settle()
        assert not told.yet
        rig.engine.listening.hear_worker("w", (), 0.0)
        assert given_to(await told.outcome()) == ["t"]


async def test_a_draining_worker_gets_nothing_more() -> None:
    """Its waiting claim gets no tasks; a new one is refused."""
    async with leading() as rig:
        (told,) = await waiting(rig, claim(wait_s=0.1))
        await rig.order(DrainWorker(worker_id="w"))
        await rig.order(submit())
        assert (await rig.ask(claim("d")).error()).reason == "worker_draining"
        assert await told.outcome() == []
        await rig.order(RegisterWorker(worker_id="w"))
        assert given_to(await rig.order(claim("e"))) == ["t"]


async def test_a_worker_that_replaces_another_takes_the_place_of_its_claims() -> None:
    """The claims of the first end; those that name no registration are of facades, which share the worker."""
    async with leading(rules=Rules(lease_s=30.0)) as rig:
        await rig.order(RegisterWorker(worker_id="w", registration="first"))
        first, other = await waiting(rig, claim("a", wait_s=WAIT_S, registration="first"), claim("b", wait_s=WAIT_S))
        newcomer = RegisterWorker(worker_id="w", registration="second")
        assert (await rig.ask(newcomer).error()).reason == "id_in_use"
        assert not first.yet
        rig.hands.turn(20.0)
        await rig.order(newcomer)
        assert await first.outcome() == []
        assert (await rig.ask(claim("c", registration="first")).error()).reason == "replaced"
        await rig.order(submit())
        assert given_to(await other.outcome()) == ["t"]


async def test_what_a_leaving_worker_gives_back_is_given_to_who_waits() -> None:
    """In the same commit, under another lease."""
    async with leading() as rig:
        await rig.order(submit())
        await rig.order(claim())
        (told,) = await waiting(rig, claim("d", "v", wait_s=WAIT_S))
        await rig.order(LeaveWorker(worker_id="w"))
        (task,) = await told.outcome()
        assert (task.worker_id, task.lease, task.failures) == ("v", "d.1.2", 0)
        assert rig.types()[-1] == ["task.attempt_failed", "worker.left", "task.started", "coordinator.turn"]
        assert (await rig.ask(complete("c.1.1")).error()).reason == "stale_lease"


async def test_only_so_many_tasks_run_at_once() -> None:
    """When one ends, the next is placed."""
    async with leading(rules=Rules(max_concurrent_tasks=2)) as rig:
        for name in ("a", "b", "c"):
            await rig.order(submit(name))
        first = await rig.order(claim(slots=9))
        assert given_to(first) == ["a", "b"]
        (told,) = await waiting(rig, claim("d", slots=9, wait_s=WAIT_S))
        await rig.order(complete(first[0].lease, "a"))
        assert given_to(await told.outcome()) == ["c"]


# --- room -------------------------------------------------------------------------------------------------------------


async def test_placements_that_do_not_fit_into_a_commit_go_into_the_next() -> None:
    """Every task is placed, and no commit is too large."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=6000)) as rig:
        for number in range(12):
            await rig.order(submit(f"t{number}"))
        told = [rig.ask(claim(f"c{number}", f"w{number}", wait_s=WAIT_S)) for number in range(12)]
        got = [task_id for one in told for task_id in given_to(await one.outcome())]
        assert sorted(got) == sorted(f"t{number}" for number in range(12))
        assert max(len(record.body) for record in rig.records()) <= 6000
        assert sum("coordinator.turn" in types for types in rig.types()) > 1


@pytest.mark.parametrize("names", [(), ("n", "x" * 128), ("n", *("\U0001f600" * 120 + str(n) for n in range(31)))])
async def test_the_smallest_turn_places_with_as_many_claims_as_wait(names: tuple[str, ...]) -> None:
    """What is kept for claims and filters never takes the room of what is placed, whatever they name."""
    smallest = 64 * 1024
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=smallest)) as rig:
        told = [rig.ask(claim(f"c{one}", f"w{one}", wait_s=WAIT_S, task_names=names)) for one in range(600)]
        await rig.settle()
        flood = [rig.ask(submit(f"t{one}", task_name="n", payload=payload("x" * 2000))) for one in range(600)]
        for one in flood:
            await one.outcome()
        got = [task_id for one in told for task_id in given_to(await one.outcome())]
        assert sorted(got) == sorted(f"t{one}" for one in range(600))
        assert max(len(record.body) for record in rig.records()) <= smallest


async def test_a_flood_of_orders_does_not_stop_placing() -> None:
    """Part of every turn is reserved for placements and due events."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=6000)) as rig:
        (told,) = await waiting(rig, claim(wait_s=WAIT_S))
        await rig.hold()
        flood = [rig.ask(submit(f"t{number}")) for number in range(200)]
        rig.let_go()
        await told.outcome()
        for one in flood:
            await one.outcome()
        placed = [index for index, types in enumerate(rig.types()) if "task.started" in types]
        assert len(rig.types()) > 10
        assert placed == [3], "the claim waited for the flood to end"


async def test_a_claim_that_cannot_wait_is_not_turned_away_by_a_full_turn() -> None:
    """There is a task for it, but no room for the events; the next turn places it."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=3000)) as rig:
        await rig.order(submit("t"))
        await rig.hold()
        told = rig.ask(claim(wait_s=0.0))
        big = rig.ask(submit("big", payload=payload("x" * 1800)))
        rig.let_go()
        assert await big.outcome() == "big"
        assert given_to(await told.outcome()) == ["t"]
        assert rig.types()[-2:] == [["worker.registered", "task.submitted"], ["task.started", "coordinator.turn"]]


async def test_a_placement_that_is_larger_than_was_thought_is_placed_in_the_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The estimated size may be wrong; nothing is lost."""
    monkeypatch.setattr("coordinator.engine.waiting_claims.PLACEMENT_BYTES", 1)
    monkeypatch.setattr("coordinator.engine.waiting_claims._CLAIM_BYTES", 1)
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=1200)) as rig:
        await rig.order(submit("t"))
        await rig.hold()
        fillers = [rig.ask(RegisterWorker(worker_id=f"filler-{number}")) for number in range(2)]
        told = rig.ask(claim(wait_s=WAIT_S))
        rig.let_go()
        for one in fillers:
            await one.outcome()
        assert given_to(await told.outcome()) == ["t"]
        assert max(len(record.body) for record in rig.records()) <= 1200


async def test_claims_that_can_never_be_served_do_not_block_those_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A turn considers a limited number of claims; those that got nothing move back."""
    monkeypatch.setattr("coordinator.engine.waiting_claims.CLAIMS_A_TURN", 2)
    async with leading() as rig:
        for name in ("v1", "v2", "v3"):
            await rig.order(RegisterWorker(worker_id=name, handles=("something else",)))
        blocked = await waiting(rig, *(claim(f"c-{name}", name, wait_s=WAIT_S) for name in ("v1", "v2", "v3")))
        (told,) = await waiting(rig, claim(wait_s=WAIT_S))
        await rig.order(submit())
        assert given_to(await told.outcome()) == ["t"]
        assert not any(one.yet for one in blocked)


# --- many claims of one -----------------------------------------------------------------------------------------------


async def test_a_greedy_worker_leaves_room_and_tasks_to_others() -> None:
    """It is told which limit it has reached; of the tasks that come, another one gets its part."""
    async with leading() as rig:
        greedy = [rig.ask(claim(f"g{number}", "greedy", wait_s=WAIT_S)) for number in range(1100)]
        await rig.settle()
        refused = [one for one in greedy if one.yet]
        assert len(refused) == 100
        error = await refused[0].error()
        assert (error.code, error.reason) == ("unavailable", "overloaded")
        assert "1000 claims of worker greedy are waiting, the most of one worker" in error.message
        honest = await waiting(rig, *(claim(f"h{number}", "honest", wait_s=WAIT_S) for number in range(20)))
        for number in range(60):
            await rig.order(submit(f"t{number}"))
        assert all(one.yet for one in honest)
        assert explained(rig) == 60


async def test_one_source_gets_half_of_the_places_that_others_leave() -> None:
    """Under however many names its workers claim; what it claims again keeps its place."""
    async with leading(limits=Limits(tick_s=TICK_S, waiting_max=100)) as rig:
        told = [rig.ask(claim(f"c{number}", f"w{number}", wait_s=WAIT_S), actor="much") for number in range(60)]
        await rig.settle()
        assert [one.yet for one in told] == [False] * 50 + [True] * 10
        assert "50 claims of much are waiting, half of what others leave" in (await told[-1].error()).message
        again = rig.ask(claim("c7", "w7", wait_s=WAIT_S), actor="much")
        other = rig.ask(claim("another", wait_s=WAIT_S), actor="another")
        await rig.settle()
        assert (again.yet, other.yet) == (False, False)
        for command in (WithdrawClaim(claim_id="c8", worker_id="w8"), DrainWorker(worker_id="w9")):
            await rig.order(command)
        told = [rig.ask(claim(f"d{number}", f"v{number}", wait_s=WAIT_S), actor="much") for number in range(5)]
        await rig.settle()
        assert [one.yet for one in told] == [False, False, True, True, True]


async def test_more_tasks_than_one_turn_gives_a_worker_are_given_in_the_next_ones() -> None:
    """At once, and to all of its claims."""
    tick_s = 1.0
    async with leading(limits=Limits(tick_s=tick_s)) as rig:
        told = await waiting(rig, *(claim(f"c{number}", wait_s=WAIT_S) for number in range(100)))
        for number in range(100):
            rig.ask(submit(f"t{number}"))
        async with asyncio.timeout(2 * tick_s):
            assert sorted([given_to(await one.outcome()) for one in told]) == sorted([f"t{n}"] for n in range(100))
        assert [turn.placed for turn in rig.events() if isinstance(turn, CoordinatorTurn)] == [32, 32, 32, 4]


async def test_nothing_is_kept_of_claims_that_gave_way_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although no turn is recorded: nobody takes the task that waits."""
    monkeypatch.setattr("coordinator.engine.waiting_claims.CLAIMS_A_TURN", 2)
    async with leading() as rig:
        await rig.order(RegisterWorker(worker_id="w", handles=("something else",)))
        told = await waiting(rig, *(claim(f"c{number}", wait_s=WAIT_S) for number in range(5)))
        await rig.order(submit())
        await rig.settle()
        assert rig.engine._scheduling._passed
        await rig.order(DrainWorker(worker_id="w"))
        assert [await one.outcome() for one in told] == [[]] * 5
        assert not rig.engine._scheduling._passed
