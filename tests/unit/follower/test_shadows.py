"""Candidate policies are compared while a follower folds the journal, and what is found is reported once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.queue import DefineQueue, GetQueue
from coordinator.commands.shadow import ReportShadow, SetShadow
from coordinator.commands.task import CompleteTask
from coordinator.follower import shadows as shadows_module
from coordinator.follower.shadows import PAUSE_S, Shadows, run_shadow_reports
from events.coordinator import CoordinatorTurn
from events.errors import Unavailable
from events.queue import DEFAULT, Comparison, Policy
from projections.world import World
from tests.unit.deciders.facts import claim, submit
from tests.unit.engine.engine_rig import Rig, leading

if TYPE_CHECKING:
    from coordinator.commands.command import Command

PRIORITY = Policy(strategy="priority")


class Reader:
    """A follower: what it folds, and its clock, which goes on by *step_s* with each record."""

    def __init__(self, world: World | None = None, step_s: float = 1.0) -> None:
        self.now = 100.0
        self.step_s = step_s
        self.shadows = Shadows(lambda: self.now)
        self.world = World() if world is None else world

    def follow(self, rig: Rig) -> None:
        """Fold what is new in the journal."""
        for record in rig.records():
            if record.sequence > self.world.position.sequence:
                self.shadows.apply_record(self.world, record)
                self.now += self.step_s
        assert self.world.digest() == rig.world.digest()

    def reports(self, every_s: float = 0.0) -> list[ReportShadow]:
        return list(self.shadows.reports(self.world, every_s))


async def placed(rig: Rig, count: int, first: int = 0) -> None:
    """Let tasks of which the second is more urgent wait, and one worker take them one by one."""
    for number in range(first, first + count):
        for name, priority in (("usual", 0), ("urgent", 3)):
            await rig.order(submit(f"{name}{number}", priority=priority))
        for turn in (1, 2):
            told = await rig.order(claim(f"c{number}-{turn}", "w"))
            await rig.order(CompleteTask(task_id=told[0].task_id, lease=told[0].lease))


async def test_a_candidate_is_compared_reported_and_counted_once() -> None:
    """Each report goes on where the one before ended; a second follower has nothing else to say."""
    async with leading() as rig:
        await placed(rig, 2)
        await rig.order(SetShadow(policy=PRIORITY))
        await placed(rig, 10, 2)
        one, two = Reader(), Reader()
        for reader in (one, two):
            reader.follow(rig)
        assert one.reports(1e9) == []
        (report,) = one.reports()
        assert two.reports() == [report]
        found = report.compared
        # Of two that wait the other one goes first; then one is left, and the other of its pair is not there any more.
        assert (found.turns, found.decisions, found.differing, found.skipped) == (20, 20, 10, 0)
        assert {(one.task_id[:5], one.other_task_id[:6]) for one in report.examples} == {("usual", "urgent")}
        await rig.order(report)
        await rig.order(report)
        for reader in (one, two):
            reader.follow(rig)
            assert reader.reports() == []
        await placed(rig, 1, 12)
        two.follow(rig)
        (more,) = two.reports()
        assert (more.after, more.compared.turns) == (report.upto, 2)
        view = await rig.order(GetQueue())
        assert (view.queue.shadow.compared, view.queue.shadow.upto) == (found, report.upto)
        assert str(rig.types()).count("queue.shadow_reported") == 1


async def test_a_small_part_of_the_time_is_spent() -> None:
    """Other turns are counted as skipped; the waiting claims are followed through them."""
    async with leading() as rig:
        await rig.order(SetShadow(policy=PRIORITY))
        await placed(rig, 8)
        reader = Reader(step_s=PAUSE_S / 40)
        reader.follow(rig)
        (report,) = reader.reports()
        assert 1 < report.compared.turns < 5
        assert 10 < report.compared.turns + report.compared.skipped <= 16


async def test_another_candidate_begins_with_nothing_and_none_is_compared_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was compared of one before is not reported any more; the oldest of too much is skipped."""
    monkeypatch.setattr(shadows_module, "SAMPLES_KEPT", 3)
    async with leading() as rig:
        reader = Reader()
        await rig.order(SetShadow(policy=PRIORITY))
        await placed(rig, 2)
        reader.follow(rig)
        (report,) = reader.reports()
        assert (report.compared.turns, report.compared.skipped) == (3, 1)
        await rig.order(SetShadow(policy=Policy(strategy="fifo")))
        await placed(rig, 1, 2)
        reader.follow(rig)
        (report,) = reader.reports()
        assert (report.compared.turns, report.compared.differing, report.compared.regret_s) == (2, 0, 0.0)
        await rig.order(DefineQueue(queue_id="other"))
        await rig.order(SetShadow(queue_id="other", policy=PRIORITY))
        await rig.order(SetShadow())
        reader.follow(rig)
        assert reader.reports() == []
        await placed(rig, 1, 3)
        reader.follow(rig)
        await rig.order(SetShadow(queue_id="other"))
        await placed(rig, 1, 4)
        reader.follow(rig)
        assert reader.reports() == []


async def test_turns_are_skipped_until_all_claims_are_named() -> None:
    """A follower that began with a snapshot does not know which claims wait."""
    async with leading() as rig:
        await rig.order(SetShadow(policy=PRIORITY))
        await placed(rig, 1)
        early = Reader()
        early.follow(rig)
        late = Reader(early.world)
        await placed(rig, 60, 1)
        late.follow(rig)
        turns = [one for one in rig.events() if isinstance(one, CoordinatorTurn)]
        assert [number for number, one in enumerate(turns) if one.fresh] == [0, 100]
        (report,) = late.reports()
        assert (report.compared.turns, report.compared.skipped) == (len(turns) - 100, 98)


async def test_reports_are_sent_again_until_one_is_taken() -> None:
    """While nobody leads."""
    sent: list[Command[Any]] = []
    done = asyncio.Event()

    class Door:
        async def execute(self, command: Command[Any], *, timeout_s: float | None = None) -> Any:
            assert timeout_s is not None
            sent.append(command)
            if len(sent) < 2:
                raise Unavailable("nobody leads")
            done.set()

    compared = Comparison(turns=1, decisions=1, decision_squares=1)
    report = ReportShadow(queue_id=DEFAULT, after=1, upto=2, compared=compared)
    running = asyncio.create_task(run_shadow_reports(Door(), lambda _: [report], every_s=0.001))
    async with asyncio.timeout(10):
        await done.wait()
    running.cancel()
    await asyncio.wait([running])
    assert sent == [report, report]
