"""A candidate policy beside the live one, against a real coordinator, follower and nats-server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.bus.connection import Bus
from coordinator.cli import EXIT_REFUSED
from coordinator.commands.queue import GetQueue
from coordinator.commands.task import ClaimTasks, CompleteTask, SubmitTask
from coordinator.follower.follower import Follower
from coordinator.follower.shadows import run_shadow_reports
from coordinator.journal.stream import NatsJournal
from coordinator.task_groups import task_group
from events import codec
from events.subjects import Subjects
from tests.commands import call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.commands.queue import QueueView
    from events.base import Envelope
    from tests.commands import Said
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e
PATIENCE_S = 50.0
TURNS, STEP = 12, 8


async def decided(cluster: Cluster, count: int, first: int) -> None:
    """Let a usual task wait before an urgent one, each time, and one worker take both."""
    for number in range(first, first + count):
        for name, priority in (("usual", 0), ("urgent", 4)):
            task = SubmitTask(task_id=f"{name}{number}", task_name=name, priority=priority)
            await cluster.client.execute(task)
        for turn in (1, 2):
            claim = ClaimTasks(claim_id=f"c{number}-{turn}", worker_id="w")
            (got,) = await cluster.client.execute(claim)
            await cluster.client.execute(CompleteTask(task_id=got.task_id, lease=got.lease))


async def compared(cluster: Cluster, decisions: int, first: int) -> QueueView:
    """Let tasks be decided until so many decisions were compared and reported: followers compare a part of them."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await decided(cluster, STEP, first)
            first += STEP
            view = await cluster.client.execute(GetQueue())
            if view.queue.shadow is not None and view.queue.shadow.compared.decisions >= decisions:
                return view


async def test_a_candidate_is_compared_refused_promoted_and_rolled_back(cluster: Cluster, tmp_path: Path) -> None:
    """By what a follower reports of the real stream; the figures and the bound are named."""

    async def line(*arguments: str) -> Said:
        return await asyncio.to_thread(call, "queue", *arguments, "--url", cluster.url)

    async with (
        Follower.open(cluster.url, tmp_path / "state.db") as follower,
        task_group() as tasks,
    ):
        reporting = tasks.create_task(run_shadow_reports(cluster.client, follower.compared, every_s=0.2))
        assert (await line("shadow")).code == EXIT_REFUSED
        wanted = ("priority", "--regret-max", "-1000", "--min-decisions", str(TURNS))
        assert (await line("shadow", *wanted, "--reason", "urgent ones wait")).code == 0
        refused = await line("promote")
        assert refused.code == EXIT_REFUSED
        assert f"wait for {TURNS} decisions" in refused.err
        view = await compared(cluster, TURNS, 0)
        shadow = view.queue.shadow
        assert shadow is not None
        assert view.shadow is not None
        assert (view.shadow.refusal, view.policy.strategy) == ("shadow_regret", "fifo")
        assert view.shadow.divergence > 0.0
        assert view.shadow.regret_s < 0.0
        assert {one.other_task_id[:6] for one in shadow.examples} == {"urgent"}
        told = await line("shadow")
        assert "urgent ones wait" in told.out
        assert "shadow_regret" in told.out
        refused = await line("promote")
        assert refused.code == EXIT_REFUSED
        assert "its bound is -1000" in refused.err
        assert (await line("shadow", "priority", "--regret-max", "0.5", "--min-decisions", str(TURNS))).code == 0
        await compared(cluster, TURNS, 10_000)
        assert (await line("promote", "--reason", "they begin sooner")).code == 0
        view = await cluster.client.execute(GetQueue())
        assert (view.policy.strategy, view.queue.shadow) == ("priority", None)
        assert (await line("rollback")).code == 0
        assert (await cluster.client.execute(GetQueue())).policy.strategy == "fifo"
        assert (await line("rollback")).code == EXIT_REFUSED
        reporting.cancel()
    types = [event.type async for event in events_of(cluster)]
    changes = [one for one in types if one in {"queue.promoted", "queue.rolled_back"}]
    assert changes == ["queue.promoted", "queue.rolled_back"]
    assert types.count("queue.shadow_reported") >= 2


async def events_of(cluster: Cluster) -> AsyncIterator[Envelope]:
    """Yield every event of the journal."""
    async with Bus.open(cluster.url, name="reader") as bus:
        journal = NatsJournal(bus, Subjects())
        _, last = await journal.bounds()
        async for batch in journal.read(0, last):
            for record in batch:
                if record.kind == "commit":
                    for one in codec.decode(record.body):
                        yield one
