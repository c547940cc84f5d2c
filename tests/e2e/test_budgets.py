"""Budgets against a real coordinator and nats-server: what begins, what is charged, and what is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.commands.budget import BudgetKey, DefineBudget, GetBudget
from coordinator.commands.explain import ExplainTask
from coordinator.commands.prices import SetPrices
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.deciders.rules import Rules
from coordinator.guard import spawn
from coordinator.journal.stream import NatsJournal
from coordinator.scheduler import Price, Spend, Stop, TaskBudgets, TaskScheduler, TaskStatus, TaskUsage, Unit
from events import codec
from events.budget import BudgetTerms
from events.errors import NotFound, Refused
from events.spend import Spent
from events.subjects import Subjects
from events.task import TaskAttemptFailed, TaskCancelled
from projections.world import World
from tests.facades import logs_as_before
from tests.simulation.kept_budgets import KeptBudgets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.app.app import App
    from coordinator.guard import Child
    from events.base import Envelope
    from projections.source import Record
    from projections.task import Task
    from tests.e2e.conftest import Cluster

__all__ = ["logs_as_before"]

pytestmark = pytest.mark.e2e


@pytest.fixture
async def budgets(app: App) -> AsyncIterator[TaskBudgets]:
    async with TaskBudgets(app) as budgets:
        yield budgets


async def key(budgets: TaskBudgets, value: str) -> BudgetKey:
    return next(one for one in (await budgets.get_budget("team")).keys if one.value == value)


async def test_a_budget_is_reserved_charged_and_given_back(
    app: App, scheduler: TaskScheduler, budgets: TaskBudgets
) -> None:
    """What an attempt did not use is there for the next one; the wait is explained, and what was spent is told."""
    await budgets.define_budget("team", 100, by="attributes.team", window="none", reason="trial")
    spend = Spend(model="m", input_tokens=50, output_tokens=10)
    first = await scheduler.submit_task("a", attributes={"team": "acme"}, spend=spend)
    second = await scheduler.submit_task("a", attributes={"team": "acme"}, spend=spend)
    other = await scheduler.submit_task("a", attributes={"team": "umbrella"}, spend=spend)
    got = [await scheduler.get_next_task("w") for _ in range(3)]
    assert [task and task.task_id for task in got] == [first, other, None]
    why = (await app.execute(ExplainTask(task_id=second))).reasons[0]
    assert (why.code, [one.id for one in why.blockers]) == ("budget", [first])
    assert why.change == "coordinator budget define team, with --cap 120"
    waiting = asyncio.create_task(scheduler.get_next_task("w", wait_s=10.0))
    await asyncio.sleep(0.1)
    await scheduler.report_progress(first, 0.5, usage=TaskUsage(input_tokens=20))
    await scheduler.complete_task(first, usage=TaskUsage(input_tokens=30, cached_tokens=5, output_tokens=4))
    task = await waiting
    assert task is not None
    assert task.task_id == second
    assert (await scheduler.get_task(first)).spent == Spent(tokens=39)
    acme = await key(budgets, "acme")
    assert (acme.value, acme.spent, acme.reserved, acme.left) == ("acme", 39, 60, 1)
    assert await scheduler.fail_task(second, "boom", usage=TaskUsage(input_tokens=11)) is TaskStatus.PENDING
    await budgets.correct_budget("team", 7, "acme", reason="late bill")
    acme = await key(budgets, "acme")
    assert (acme.spent, acme.reserved, acme.corrected) == (57, 0, 7)
    assert [one.budget.budget_id for one in await budgets.list_budgets()] == ["team"]
    await budgets.remove_budget("team")
    with pytest.raises(NotFound):
        await budgets.get_budget("team")


async def test_money_follows_the_price_table(scheduler: TaskScheduler, budgets: TaskBudgets) -> None:
    """An attempt is settled at the prices at which it began; a task that nothing could pay is refused."""
    await budgets.define_budget("money", 1_000_000, unit=Unit.MONEY, by="all")
    spend = Spend(model="m", input_tokens=1000, output_tokens=500)
    with pytest.raises(Refused, match="no prices are set") as unknown:
        await scheduler.submit_task("a", spend=spend)
    assert unknown.value.reason == "no_price"
    price = Price(input_micros=100_000_000, output_micros=400_000_000, cached_micros=10_000_000)
    await budgets.set_prices("v1", {"m": price})
    assert (await budgets.get_prices()).models == {"m": price}
    task_id = await scheduler.submit_task("a", spend=spend)
    assert (task := await scheduler.get_next_task("w")) is not None
    assert task.task_id == task_id
    assert (await budgets.get_budget("money")).reserved == 300_000
    await budgets.set_prices("v2", {"m": Price(input_micros=1, output_micros=1)})
    await scheduler.complete_task(task_id, usage=TaskUsage(input_tokens=200, cached_tokens=800, output_tokens=100))
    view = await budgets.get_budget("money")
    assert (view.spent, view.reserved) == (20_000 + 8_000 + 40_000, 0)
    await budgets.set_prices("v3", {"m": Price(input_micros=10**9, output_micros=10**9)})
    with pytest.raises(Refused, match="may spend only 1000000") as dear:
        await scheduler.submit_task("a", spend=spend)
    assert dear.value.reason == "over_budget"


HANDLERS = """
import asyncio
import random

from coordinator.worker import Context, TaskUsage, task


@task("think")
async def think(context: Context, payload: None) -> None:
    for _ in range(3):
        await asyncio.sleep(random.uniform(0.2, 0.8))
        if random.random() < 0.4:
            await context.report_usage(input_tokens=random.randint(0, 3), output_tokens=random.randint(0, 2))
    if random.random() < 0.1:
        raise RuntimeError("drawn")


@task("slow")
async def slow(context: Context, payload: None) -> None:
    context.add_usage(TaskUsage(input_tokens=40))
    await asyncio.sleep(0.5)


@task("runaway")
async def runaway(context: Context, payload: None) -> None:
    while True:
        await context.report_usage(input_tokens=10)
        await asyncio.sleep(0.05)
"""


async def worker(folder: Path, url: str, worker_id: str, slots: int) -> Child:
    """Start a worker process with the handlers above."""
    (folder / "thinking.py").write_text(HANDLERS)
    argv = [sys.executable, "-m", "coordinator.cli", "worker", "run", str(folder / "thinking.py")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / f"{worker_id}.log").open("ab") as log:
        arguments = ["--nats", url, "--id", worker_id, "--slots", str(slots)]
        return await spawn([*argv, *arguments], env=env, stdout=log, stderr=log)


async def records_of(cluster: Cluster) -> list[Record]:
    async with Bus.open(cluster.url, name="judge") as bus:
        journal = NatsJournal(bus, Subjects())
        return [one async for some in journal.read(0, (await journal.bounds()).last) for one in some]


def judged(records: list[Record], *, every: int) -> tuple[KeptBudgets, list[Envelope]]:
    """Check each event with a ledger of its own, and the sums of a world with it after *every* so many commits."""
    world, ledger, found = World(), KeptBudgets(), list[Any]()
    for number, record in enumerate(records):
        for envelope in world.apply_record(record):
            wrong = ledger.take(envelope.data, codec.seconds_of(envelope.time), envelope.tenant, envelope.actor)
            assert not wrong, wrong
            found.append(envelope)
        if number % every == 0 or number == len(records) - 1:
            different = ledger.differences(world)
            assert not different, different
    return ledger, found


@pytest.mark.parametrize(("stop", "forced"), [(Stop.NO_FURTHER, False), (Stop.KILL, True)])
@pytest.mark.parametrize("cluster", [Rules(cancel_grace_s=5.0)], indirect=True)
async def test_a_handler_that_uses_more_than_it_said_is_stopped(
    cluster: Cluster, tmp_path: Path, stop: Stop, forced: bool
) -> None:
    """It is told soon after; what it has used until then is charged, and the next attempts have the rest."""
    terms = BudgetTerms(cap=1000, stop=stop, window="none")
    await cluster.client.execute(DefineBudget(budget_id="b", terms=terms))
    async with await worker(tmp_path, cluster.url, "w", 2):
        spend = Spend(model="m", input_tokens=100)
        await cluster.client.execute(SubmitTask(task_id="t", task_name="runaway", spend=spend))
        began = time.monotonic()
        task: Task = await cluster.client.execute(GetTask(task_id="t", wait_s=20.0))
        took_s = time.monotonic() - began
    assert task.status is TaskStatus.CANCELLED, (tmp_path / "w.log").read_text()
    assert "100 were reserved for it by budget b" in task.error
    assert took_s < 10.0
    view = await cluster.client.execute(GetBudget(budget_id="b"))
    assert task.total_spent is not None
    assert 110 <= task.total_spent.tokens == view.spent < 200
    assert view.keys[0].overrun == view.spent - 100
    ledger, events = judged(await records_of(cluster), every=1)
    assert ledger.overruns == 1
    asked = [one.data for one in events if one.type == "task.cancel_asked"]
    assert [one.grace_s for one in asked] == [0.0 if forced else 5.0]  # type: ignore[attr-defined]
    assert isinstance(events[-1].data, TaskCancelled) or any(isinstance(one.data, TaskCancelled) for one in events)


@pytest.mark.parametrize("cluster", [Rules(lease_s=1.0, retry_backoff_s=0.1)], indirect=True)
async def test_what_a_worker_used_that_was_taken_for_lost_is_charged_late(cluster: Cluster, tmp_path: Path) -> None:
    """It stood still for longer than its lease; what it reports then is refused, and charged all the same."""
    await cluster.client.execute(DefineBudget(budget_id="b", terms=BudgetTerms(cap=1000, window="none")))
    async with await worker(tmp_path, cluster.url, "w", 1) as child:
        spend = Spend(model="m", input_tokens=100)
        await cluster.client.execute(SubmitTask(task_id="t", task_name="slow", spend=spend))
        async with asyncio.timeout(30.0):
            while (await cluster.client.execute(GetTask(task_id="t"))).status is not TaskStatus.RUNNING:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.02)
            os.kill(child.pid, signal.SIGSTOP)
            try:
                while not (await cluster.client.execute(GetTask(task_id="t"))).failures:  # noqa: ASYNC110  # polled
                    await asyncio.sleep(0.1)
                assert (await cluster.client.execute(GetBudget(budget_id="b"))).spent == 0
            finally:
                os.kill(child.pid, signal.SIGCONT)
            task: Task = await cluster.client.execute(GetTask(task_id="t", wait_s=20.0))
            while (view := await cluster.client.execute(GetBudget(budget_id="b"))).spent < 80:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.1)
    assert task.status is TaskStatus.COMPLETED, (tmp_path / "w.log").read_text()
    assert (view.spent, view.keys[0].corrected) == (80, 40)
    judged(await records_of(cluster), every=1)


TASKS, WORKERS, KILLS_EVERY_S, PATIENCE_S = 1000, 4, 1.5, 60.0
CRASHING = Rules(lease_s=1.5, max_retries=100, poison_after=100, retry_backoff_s=0.1, retry_backoff_max_s=0.2)


@pytest.mark.alone
@pytest.mark.timeout(100)
@pytest.mark.parametrize("cluster", [CRASHING], indirect=True)
async def test_a_thousand_tasks_under_kills_exceed_no_budget(cluster: Cluster, tmp_path: Path) -> None:
    """Worker processes are killed all the time: nothing begins above a cap, and every sum is exact at each commit."""
    price = Price(input_micros=1_500_000, output_micros=7_000_000, cached_micros=100_000)
    await cluster.client.execute(SetPrices(version="v1", models={"m": price}))
    for budget_id, terms in (
        ("team", BudgetTerms(cap=1400, by="attributes.team", window="5s")),
        ("money", BudgetTerms(cap=70_000, unit=Unit.MONEY, window="5s", floor=15_000, floor_for="priority >= 5")),
        ("all", BudgetTerms(cap=10**9, by="tenant", window="month")),
    ):
        await cluster.client.execute(DefineBudget(budget_id=budget_id, terms=terms))
    spend = Spend(model="m", input_tokens=10, output_tokens=10)
    submits = [
        SubmitTask(
            task_id=f"t{number}", task_name="think", attributes={"team": number % 10}, priority=number % 6, spend=spend
        )
        for number in range(TASKS)
    ]
    await asyncio.gather(*map(cluster.client.execute, submits))
    random, until = Random(5), time.monotonic() + PATIENCE_S  # a test
    children = {number: await worker(tmp_path, cluster.url, f"w{number}", 250) for number in range(WORKERS)}
    kills = most_running = 0
    world = cluster.coordinator.engine.world if cluster.coordinator.engine is not None else World()
    try:
        while time.monotonic() < until and len(world.indexes.tasks[TaskStatus.COMPLETED]) < TASKS:
            for _ in range(10):
                await asyncio.sleep(KILLS_EVERY_S / 10)
                most_running = max(most_running, len(world.indexes.tasks[TaskStatus.RUNNING]))
            number = random.randrange(WORKERS)
            os.kill(children[number].pid, signal.SIGKILL)
            await children[number].wait()
            children[number] = await worker(tmp_path, cluster.url, f"w{number}", 250)
            kills += 1
    finally:
        await asyncio.gather(*(child.terminate() for child in children.values()))
    ledger, events = judged(await records_of(cluster), every=20)
    lost = [one for one in events if isinstance(one.data, TaskAttemptFailed) and one.data.worker_ended]
    completed = len(world.indexes.tasks[TaskStatus.COMPLETED])
    print(f"{completed} completed, {ledger.starts} starts, {most_running} at once, {kills} kills, {len(lost)} lost")
    assert not ledger.differences(world)
    assert completed == TASKS
    assert (kills > 3, len(lost) > 100, most_running > 400, ledger.full > 100) == (True, True, True, True)
    assert ledger.overruns == 0
