"""
Measure the time to rebuild the world in memory and the read model from the journal.

The journal is on a real server with fsync; it is written once and read for each repeat.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from contextlib import aclosing
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from coordinator.bench.bare import bare_figures
from coordinator.bench.histories import write_journal
from coordinator.bench.measure import machine, temporary_home
from coordinator.bus.connection import Bus
from coordinator.guard import spawn
from coordinator.journal.stream import NatsJournal
from coordinator.nats_server.server import EmbeddedServer
from coordinator.settings.load import load
from coordinator.task_groups import task_group
from events.base import Position
from events.subjects import Subjects
from projections.projector import Projector
from projections.store.sqlite import SqliteStore
from projections.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.home import Home

STORE_TIMEOUT_S = 1800.0


async def run(*, events: int, repeats: int, tasks: int) -> dict[str, Any]:
    """
    Write a journal of *events* events, and build world and store from zero, *repeats* times each.

    Returns medians in seconds: `world_s` and `store_s`, and the CPU time of each, which a busy machine affects less;
    and `bytes_per_pending_task`, the growth of a process.
    """
    with temporary_home() as home:
        async with EmbeddedServer(home.nats_store) as server:
            async with Bus.open(server.url, name="bench", buffered=False) as bus:
                journal = NatsJournal(bus, Subjects(load().namespace))
                await journal.prepare()
                began = time.perf_counter()
                written = await write_journal(journal, events)
                wrote_s = time.perf_counter() - began
                worlds = [await _world(journal) for _ in range(repeats)]
                stores = [await _store(journal, home.path / f"state_{number}.db") for number in range(repeats)]
            alone = await bare_figures(server.url)
        grown = await _bytes_a_task(home, tasks)
    return {
        **written._asdict(),
        "written_s": round(wrote_s, 2),
        **_medians("world", worlds, events),
        **_medians("store", stores, events),
        "bytes_per_pending_task": grown,
        "pending_tasks": tasks,
        **alone,
        "machine": await machine(),
    }


class _Took(NamedTuple):
    """Elapsed time and CPU time of this process."""

    seconds: float
    cpu_s: float


class _Watch:
    """A stopwatch, started when it is created."""

    def __init__(self) -> None:
        gc.collect()
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def took(self) -> _Took:
        """Return the times since the start."""
        return _Took(time.perf_counter() - self._began, time.process_time() - self._cpu)


def _medians(name: str, all_took: list[_Took], events: int) -> dict[str, Any]:
    seconds, cpu_s, n = median(one.seconds for one in all_took), median(one.cpu_s for one in all_took), len(all_took)
    return {
        f"{name}_s": {"p50": round(seconds, 2), "n": n},
        f"{name}_cpu_s": {"p50": round(cpu_s, 2), "n": n},
        f"{name}_events_per_s": round(events / seconds),
    }


async def _world(journal: NatsJournal) -> _Took:
    """Fold the journal, as an instance does before it leads."""
    world, watch = World(), _Watch()
    until = (await journal.bounds()).last
    async with aclosing(journal.read(0, until)) as batches:  # type: ignore[type-var]  # it is a generator
        async for records in batches:
            for record in records:
                world.apply_record(record)
            await asyncio.sleep(0)
    return watch.took()


async def _store(journal: NatsJournal, path: Path) -> _Took:
    """Project the journal into a new store, as a follower does."""
    last = (await journal.bounds()).last
    watch = _Watch()
    async with SqliteStore.open(path) as store, task_group() as tasks:
        running = tasks.create_task(Projector(journal, store).run())
        await store.wait_for(Position(last, 0), STORE_TIMEOUT_S)
        took = watch.took()
        running.cancel()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return took


async def _bytes_a_task(home: Home, tasks: int) -> int:
    """Fold pending tasks in a separate process; return its growth in bytes per task."""
    output = home.path / "pending"
    with output.open("wb") as sink:
        argv = [sys.executable, "-P", "-m", "coordinator.bench.pending", str(tasks)]
        async with await spawn(argv, stdout=sink) as child:
            code = await child.wait()
    assert code == 0, f"{argv} ended with {code}"
    return int(output.read_text())
