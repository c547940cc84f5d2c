"""Every placement follows from the journal: what its policy saw is recorded, and each waiting claim only once."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from coordinator.commands.container import PauseContainer, ResumeContainer, StartContainer
from coordinator.commands.node import ObservedContainer, SyncNode
from coordinator.commands.task import CancelTask, WithdrawClaim
from coordinator.commands.worker import DrainWorker, RegisterWorker
from coordinator.deciders.rules import Limits
from coordinator.diagnostics.derivation import Derivation
from coordinator.placement.matching import schedule
from events.coordinator import CoordinatorTurn
from events.errors import Corrupt
from projections.world import World
from tests.unit.deciders.facts import claim, complete, create, register_node, submit
from tests.unit.engine.engine_rig import TICK_S, Rig, Told, explained, leading
from tests.unit.engine.test_engine_claims import WAIT_S, given_to, waiting


def turns_of(rig: Rig) -> list[CoordinatorTurn]:
    return [one for one in rig.events() if isinstance(one, CoordinatorTurn)]


async def test_filters_are_recorded_and_leave_room_for_tasks() -> None:
    """Claims whose filters do not fit into the commit take their turn in the next one."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=6000)) as rig:
        claims = [claim(f"c{number}", f"w{number}", wait_s=WAIT_S, programs=(f"p{number}",)) for number in range(20)]
        told = await waiting(rig, *claims)
        for number in reversed(range(20)):
            await rig.order(submit(f"t{number}", program=f"p{number}"))
        for number, one in enumerate(told):
            assert given_to(await one.outcome()) == [f"t{number}"]
        filters = [event.filters for event in rig.events() if isinstance(event, CoordinatorTurn)]
        assert all(len(one) <= 3000 // 400 for one in filters)
        assert explained(rig) == 20


async def test_a_worker_gets_tasks_only_while_its_container_runs() -> None:
    """The scheduler asks for the container before it places, and what it was told is in the journal."""
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        await rig.order(StartContainer(container_id="k"))
        await rig.order(RegisterWorker(worker_id="w", container_id="k"))
        await rig.order(RegisterWorker(worker_id="v", container_id="elsewhere"))
        told = await waiting(rig, claim(wait_s=WAIT_S, slots=9))
        await rig.order(submit("a"))
        await rig.settle()
        assert not told[0].yet, "the container is starting"
        await report(rig, "running")
        assert given_to(await told[0].outcome()) == ["a"]
        told = await waiting(rig, claim("d", wait_s=WAIT_S, slots=9))
        await rig.order(PauseContainer(container_id="k"))
        await rig.order(submit("b"))
        await rig.settle()
        assert not told[0].yet, "it is to be paused"
        await report(rig, "paused")
        assert given_to(await rig.order(claim("e", "v"))) == ["b"]
        await rig.order(submit("c"))
        await rig.order(ResumeContainer(container_id="k"))
        await report(rig, "running")
        assert given_to(await told[0].outcome()) == ["c"]
        turns = [one for one in rig.events() if isinstance(one, CoordinatorTurn)]
        assert [one.containers for one in turns] == [
            {"k": "running"},
            {"k": "paused", "elsewhere": "unknown"},
            {"k": "running"},
        ]
        assert explained(rig)


async def report(rig: Rig, state: str) -> None:
    """Let node `n` report container `k`."""
    generation = rig.world.containers["k"].generation
    one = ObservedContainer(container_id="k", generation=generation, state=state)
    await rig.order(SyncNode(node_id="n", observed=(one,)))


async def test_a_turn_of_release_1_can_still_be_explained() -> None:
    """It asked for no container, so a worker in one that did not run got its tasks."""
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        await rig.order(RegisterWorker(worker_id="w", container_id="k"))
        await rig.order(submit())
        old = {"instance": "one", "now": 1.0, "claims": [["c", "w", 1, "fifo"]], "policy": "schedule", "placed": 1}
        turn = msgspec.convert({**old, "policy_version": 1}, CoordinatorTurn)
        again = list(schedule(rig.world, turn.claims, turn.loads, most=1, containers=turn.containers))
        assert [event.task_id for event in again] == ["t"]


async def test_every_placement_can_be_explained_from_the_journal() -> None:
    """Running the policy again on the state before and the recorded claims and loads gives the same placements."""
    strategies = ["fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin"]
    async with leading() as rig:
        for number, strategy in enumerate(strategies):
            name = f"w{number}"
            await rig.order(RegisterWorker(worker_id=name, slots=number + 1))
            rig.engine.listening.hear_worker(name, (), number / 7)
            rig.ask(claim(f"c{number}", name, slots=3, wait_s=WAIT_S, strategy=strategy))
        await rig.hold()
        for number in range(20):
            rig.ask(submit(f"t{number}", priority=number % 3))
        rig.ask(CancelTask(task_id="t3"))
        rig.let_go()
        await rig.settle()
        for number in range(5):
            rig.ask(claim(f"d{number}", f"w{number}", slots=2, strategy=strategies[number]))
        await rig.settle()
        assert explained(rig) == 15


@pytest.mark.parametrize(("strategy", "expected"), [("weighted_round_robin", "abaa" * 3), ("round_robin", "ab" * 6)])
async def test_the_rotation_continues_over_turns_and_can_be_explained(strategy: str, expected: str) -> None:
    """Tasks that come singly go to workers in proportion; each placement follows from the journal before it."""
    async with leading() as rig:
        for name, slots in (("a", 3), ("b", 1)):
            await rig.order(RegisterWorker(worker_id=name, slots=slots))
        got = ""
        waits: dict[str, Told] = {}
        for number in range(12):
            for name in set("ab") - set(waits):
                told = await waiting(rig, claim(f"c{number}-{name}", name, wait_s=WAIT_S, strategy=strategy))
                waits[name] = told[0]
            await rig.order(submit(f"t{number}"))
            name = rig.world.tasks[f"t{number}"].worker_id
            (task,) = await waits.pop(name).outcome()
            await rig.order(complete(task.lease, task_id=task.task_id))
            got += name
        assert got == expected
        assert explained(rig) == 12


async def test_idle_workers_do_not_make_tasks_larger_in_the_journal() -> None:
    """Each waiting claim is written once; a placed task costs the same beside 300 idle workers as beside one."""

    async def bytes_a_task(idle: int) -> float:
        async with leading(limits=Limits(tick_s=TICK_S)) as rig:
            await waiting(rig, *(claim(f"idle-{number}", f"idle-{number}", wait_s=WAIT_S) for number in range(idle)))
            await rig.order(submit("first"))
            before = len(rig.records())
            for number in range(40):
                rig.ask(claim(f"c{number}", f"w{number % 3}", wait_s=WAIT_S))
                await rig.order(submit(f"t{number}"))
            assert sum(turn.placed for turn in turns_of(rig)) == 41
            written = [one.claim_id for turn in turns_of(rig) for one in turn.claims]
            assert len(written) == len(set(written))
            assert explained(rig)
            return sum(len(record.body) for record in rig.records()[before:]) / 40

    assert await bytes_a_task(300) < 1.1 * await bytes_a_task(1)


async def test_many_waiting_claims_leave_room_in_the_smallest_turn() -> None:
    """With the least `engine.turn_bytes`: what is not written in this turn is written in the next ones."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=64 * 1024)) as rig:
        names = [f"{number}-{'x' * 58}" for number in range(300)]
        told = await waiting(rig, *(claim(name, name, wait_s=WAIT_S) for name in names))
        for number in range(300):
            rig.ask(submit(f"t{number}"))
        for one in told:
            assert len(await one.outcome()) == 1
        assert max(len(record.body) for record in rig.records()) <= 64 * 1024
        assert explained(rig)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_changes_between_turns_the_next_one_can_be_explained(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims that come, end, move back, are sent again or withdrawn, new loads, silent workers, a new beginning."""
    monkeypatch.setattr("coordinator.engine.waiting_claims.CLAIMS_A_TURN", 6)
    monkeypatch.setattr("coordinator.engine.waiting_claims.FRESH_EVERY", 20)
    random = Random(seed)
    strategies = ["fifo", "priority", "round_robin", "least_loaded", "weighted_round_robin"]
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=random.choice([4000, 8000, 400_000]))) as rig:
        for number in range(5):
            handles = random.choice([(), (), ("a",), ("a", "b")])
            await rig.order(RegisterWorker(worker_id=f"w{number}", handles=handles, slots=random.choice([None, 2])))
        claims = []
        for number in range(150):
            worker_id = f"w{random.randrange(5)}"
            match random.randrange(8):
                case 0 | 1 | 2:
                    names = random.choice([(), (), ("b",)])
                    strategy = random.choice(strategies)
                    claims.append(claim(f"c{number}", worker_id, wait_s=WAIT_S, strategy=strategy, task_names=names))
                    rig.ask(claims[-1])
                case 3 | 4:
                    rig.ask(submit(f"t{number}", task_name=random.choice("abc"), priority=number % 3))
                case 5 if claims:
                    rig.ask(msgspec.structs.replace(random.choice(claims), slots=2))
                case 6 if claims:
                    gone = random.choice(claims)
                    rig.ask(WithdrawClaim(claim_id=gone.claim_id, worker_id=gone.worker_id))
                case _:
                    rig.engine.listening.hear_worker(worker_id, (), random.random())
            if random.random() < 0.6:
                await rig.settle()
            for task in tuple(rig.world.tasks.values()):
                if task.worker_id and not task.is_ended and random.random() < 0.5:
                    rig.ask(complete(task.lease, task_id=task.task_id))
        await rig.settle()
        assert explained(rig) > 10
        for number in range(5):
            rig.ask(DrainWorker(worker_id=f"w{number}"))
        await rig.settle()


async def test_a_placement_is_told_with_what_it_was_chosen_among() -> None:
    """Of one task, each attempt; and whether it follows again, from the start of the journal or from a later world."""
    async with leading() as rig:
        await rig.order(RegisterWorker(worker_id="w", slots=1))
        for name in "abc":
            await rig.order(submit(name))
        assert given_to(await rig.order(claim())) == ["a"]
        before = World.restore(rig.replayed().snapshot())
        await rig.order(complete("c.1.1", task_id="a"))
        assert given_to(await rig.order(claim("d"))) == ["b"]
        records = rig.records()
        derivation = Derivation(task_id="b")
        for record in records:
            derivation.apply_record(record)
        (told,) = derivation.decisions
        assert (told.worker_id, told.claim_id, told.attempt, told.queue, told.policy) == (
            "w",
            "d",
            1,
            "default",
            "fifo",
        )
        assert (told.ahead, told.ready, told.claims, told.workers, told.derived) == (0, 2, 1, 1, "yes")
        assert (derivation.derived, derivation.skipped, derivation.differences) == (2, 0, [])
        later = Derivation(before, task_id="b")  # the turns before, which this one adds to, are not known
        for record in records[before.position.sequence :]:
            later.apply_record(record)
        assert [one.derived for one in later.decisions] == ["unknown"]
        assert (later.derived, later.skipped, later.differences) == (0, 1, [])
        assert later.world.digest() == derivation.world.digest()


async def test_a_placement_that_does_not_follow_is_found() -> None:
    """Whoever gave a task to another one than the rules do, or hid a claim, is told apart."""
    async with leading() as rig:
        await rig.order(submit("a", priority=1))
        await rig.order(submit("b", priority=2))
        assert given_to(await rig.order(claim())) == ["a"]
        turn = next(at for at, record in enumerate(rig.records()) if b'"coordinator.turn"' in record.body)
        records = rig.records()[: turn + 1]
    for old, new in ((b'"task_id":"a"', b'"task_id":"b"'), (b'"subject":"a"', b'"subject":"b"')):
        records[-1] = msgspec.structs.replace(records[-1], body=records[-1].body.replace(old, new))
    derivation = Derivation(task_id="b")
    for record in records:
        derivation.apply_record(record)
    assert len(derivation.differences) == 1
    assert [one.derived for one in derivation.decisions] == ["no"]


async def test_a_record_that_does_not_belong_there_is_refused_as_by_the_world() -> None:
    """Before anything is derived from it."""
    async with leading() as rig:
        await rig.order(submit("a"))
        assert given_to(await rig.order(claim())) == ["a"]
        turn = next(record for record in rig.records() if b'"coordinator.turn"' in record.body)
        derivation = Derivation()
        with pytest.raises(Corrupt, match="missing or repeated"):
            derivation.apply_record(turn)
        for record in rig.records()[: turn.sequence - 1]:
            derivation.apply_record(record)
        with pytest.raises(Corrupt, match="the journal was changed"):
            derivation.apply_record(msgspec.structs.replace(turn, chain="00" * 32))
