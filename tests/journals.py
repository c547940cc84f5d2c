"""Journals with things of every kind, written by a real engine, and the expected result of their fold."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.clock import SystemClock
from coordinator.commands.caller import Caller
from coordinator.commands.container import CreateContainer, DestroyContainer
from coordinator.commands.node import RegisterNode
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.schedule import DefineSchedule, DeleteSchedule
from coordinator.commands.service import DeregisterService, RegisterService
from coordinator.commands.session import BindSession, CloseSession
from coordinator.commands.task import CancelTask, ClaimTasks, CompleteTask, FailTask, SubmitTask
from coordinator.commands.worker import LeaveWorker, RegisterWorker
from coordinator.deciders.rules import Limits, Rules
from coordinator.engine.engine import Engine
from coordinator.journal.replay import fold
from events.coordinator import EpochClaim
from events.resources import Resources
from events.schedule import TaskContent
from projections.store.port import KINDS, state_rows
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.journal.slots import Journal
    from projections.source import CommitSource
    from projections.store.port import Store

CALLER = Caller(actor="tester")
KEEPS_ALL = Limits(retention_s=1e9, ended_kept=1_000_000)
KEEPS_LITTLE = Limits(retention_s=1e9, ended_kept=3)
"""Ended things leave the world at once, and must stay in the store."""


@asynccontextmanager
async def leading(journal: Journal, *, limits: Limits = KEEPS_ALL, generation: int = 1) -> AsyncIterator[Engine]:
    """Run a leading engine on *journal* while the block runs."""
    async with leading_on(journal, generation, World(), limits=limits) as engine:
        yield engine


@asynccontextmanager
async def leading_on(
    journal: Journal, generation: int, world: World, *, limits: Limits = KEEPS_ALL
) -> AsyncIterator[Engine]:
    """Run a leading engine on *journal* that starts with *world*."""
    claim = EpochClaim(generation=generation, holder="tester", time="2026-11-23T17:15:00.000000Z")
    last = await journal.claim(msgspec.json.encode(claim))
    await fold(world, journal, last)
    engine = Engine(
        world=world, journal=journal, rules=Rules(), clock=SystemClock(), instance="tester", version="0", limits=limits
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await asyncio.sleep(0)
        yield engine
        engine.resign("done")


async def folded(source: CommitSource, last: int | None = None) -> World:
    """Fold a journal, record by record."""
    world = World()
    until = (await source.bounds()).last if last is None else last
    async for records in source.read(0, until):
        for record in records:
            world.apply_record(record)
    return world


async def a_bit_of_everything(engine: Engine, name: str = "a", tasks: int = 12) -> None:
    """Create things of every kind, in every status that needs no node agent; ids start with *name*."""

    async def order(command: Any) -> Any:
        return await engine.execute(command, CALLER)

    await order(RegisterNode(node_id=f"{name}-node", capacity=Resources(cpu_millis=8000), runtime="fake"))
    for number in range(3):
        container_id = f"{name}-container-{number}"
        await order(CreateContainer(container_id=container_id, agent_id=f"agent-{number}", agent_type="task_agent"))
        await order(BindSession(session_id=f"{name}-session-{number}", container_id=container_id))
    await order(CloseSession(session_id=f"{name}-session-0"))
    await order(DestroyContainer(container_id=f"{name}-container-0"))
    for number in range(3):
        await order(
            RegisterService(
                service_id=f"{name}-service-{number}", service_name="search", service_type="http", host="::1", port=80
            )
        )
    await order(DeregisterService(service_id=f"{name}-service-0"))
    await order(DefinePool(pool_id=f"{name}-pool", capacity=Resources(cpu_millis=1000)))
    for number in range(3):
        share = Resources(cpu_millis=100)
        await order(AllocatePool(pool_id=f"{name}-pool", request_id=f"request-{number}", resources=share))
    await order(ReleasePool(pool_id=f"{name}-pool", request_id="request-1"))
    for number in range(2):
        content = TaskContent(task_name="work")
        await order(DefineSchedule(schedule_id=f"{name}-schedule-{number}", task=content, cron="0 0 1 1 *"))
    await order(DeleteSchedule(schedule_id=f"{name}-schedule-0"))
    await some_tasks(engine, name, tasks)
    await order(RegisterWorker(worker_id=f"{name}-gone"))
    await order(LeaveWorker(worker_id=f"{name}-gone"))


async def some_tasks(engine: Engine, name: str, count: int) -> None:
    """Submit tasks; of each four, one completes, one fails, one is cancelled, and one stays pending."""
    ids = [f"{name}-task-{number}" for number in range(count)]
    submits = (SubmitTask(task_id=one, task_name=f"work-{at % 2}", max_retries=0) for at, one in enumerate(ids))
    await asyncio.gather(*(engine.execute(submit, CALLER) for submit in submits))
    claim = ClaimTasks(
        claim_id=f"{name}-claim",
        worker_id=f"{name}-worker",
        slots=count - count // 4,
        wait_s=1,
        strategy="round_robin",  # it changes the state of the worker, too
    )
    taken = await engine.execute(claim, CALLER)
    ends: list[Any] = []
    for at, task in enumerate(taken):
        if at % 4 == 0:
            ends.append(CompleteTask(task_id=task.task_id, lease=task.lease))
        elif at % 4 == 1:
            ends.append(FailTask(task_id=task.task_id, lease=task.lease, error="no use", retry=False))
        elif at % 4 == 2:
            ends.append(CancelTask(task_id=task.task_id, reason="not needed"))
    await asyncio.gather(*(engine.execute(end, CALLER) for end in ends))


async def rows_of(store: Store) -> dict[str, dict[str, str]]:
    """Return all things in the store, by kind and id, page by page."""
    found: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        before, more = None, True
        found[kind] = {}
        while more:
            things, more = await store.list(kind, limit=7, before=before)
            found[kind].update((thing.id, thing.state) for thing in things)
            before = things[-1].cursor if things else None
    return found


async def events_of(store: Store) -> list[tuple[str, bytes]]:
    """Return all events in the store, page by page."""
    found, more = (await store.events(limit=50))[:]
    while more:
        page, more = await store.events(limit=50, after=found[-1].position)
        found = found + page
    return [(str(one.position), one.body) for one in found]


def states_of(world: World) -> dict[str, dict[str, str]]:
    """Return all things of the world as a store must have them."""
    return {
        kind: {row.id: row.state for row in state_rows(kind, getattr(world, where.table).values())}
        for kind, where in KINDS.items()
    }
