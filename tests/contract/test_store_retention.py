"""A bounded read model in its file: what leaves it, and that nobody waits for that."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from events.base import START, Position
from events.codec import rfc3339
from events.container import ContainerStatus
from events.task import TaskStatus
from projections.container import Container
from projections.store.port import Batch, EventRow, Mark, place_of
from projections.store.retention import Retention
from projections.store.sqlite import SqliteStore
from projections.task import Task

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0
BEGAN = 1_790_000_000.0
WAITS_MOST_S = 0.25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def day(store: SqliteStore, number: int, tasks: int = 4) -> Batch:
    """Return the batch of one day: of these tasks the first is pending for ever, the others ended on that day."""
    at = BEGAN + number * DAY_S
    places = [Position(number, index) for index in range(tasks)]
    made = {
        f"t{number}.{index}": Task(
            task_id=f"t{number}.{index}",
            task_name="n",
            status=TaskStatus.COMPLETED if index else TaskStatus.PENDING,
            submitted=place,
            submitted_at=at,
            ended_at=at + 60.0 if index else None,
        )
        for index, place in enumerate(places)
    }
    rows = [
        EventRow(place_of(one), "task.submitted", "task", f"t{number}.{one.index}", rfc3339(at), "", "", "", b"x" * 300)
        for one in places
    ]
    after = Mark(position=Position(number, tasks), time=at)
    return Batch(before=store.position().position, after=after, events=rows, states={"task": made})


async def filled(store: SqliteStore, days: int, tasks: int = 4) -> None:
    for number in range(1, days + 1):
        await store.write(day(store, number, tasks))


async def days_of(store: SqliteStore) -> tuple[list[int], list[int]]:
    """Return the days of which events, and of which ended tasks, are there."""
    events = (await store.events(limit=10_000)).items
    tasks = (await store.list("task", status="completed", limit=10_000)).items
    return sorted({one.position.sequence for one in events}), sorted({one.cursor.sequence for one in tasks})


async def test_without_a_bound_nothing_is_removed(path: Path) -> None:
    """The default: the file is what it would be without sweeps, and releases that know none can use it."""
    async with SqliteStore.open(path) as store:
        await filled(store, 5)
        assert await store.sweep(Retention()) == 0
        assert (await days_of(store), store.begins()) == (([1, 2, 3, 4, 5],) * 2, START)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'removed'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Retention(keep_s=3 * DAY_S), [7, 8, 9, 10]),
        (Retention(events=8), [9, 10]),
        (Retention(keep_s=3 * DAY_S, events=8), [9, 10]),
        (Retention(keep_s=2 * DAY_S, events=1000), [8, 9, 10]),
        (Retention(keep_s=1.0), [10]),
        (Retention(keep_s=30 * DAY_S, events=40), list(range(1, 11))),
    ],
)
async def test_events_and_what_ended_before_them_go_and_what_lives_stays(
    path: Path, keep: Retention, left: list[int]
) -> None:
    """By age, counted back from the last commit, and by number; over restarts; and again as it grows."""
    async with SqliteStore.open(path) as store:
        await filled(store, 10)
        removed = await store.sweep(keep)
        assert await days_of(store) == (left, left)
        assert removed == (10 - len(left)) * (4 + 3)
        assert await store.sweep(keep) == 0
        pending = await store.list("task", status="pending")
        assert [one.cursor.sequence for one in pending.items] == list(range(10, 0, -1))
    async with SqliteStore.open(path) as store:
        assert store.begins() == (Position(left[0] - 1, 4) if len(left) < 10 else START)
        assert await store.check() == ()
        await store.write(day(store, 11))
        await store.sweep(keep)
        expected = [*left, 11][-len(left) :] if len(left) < 10 else (list(range(2, 12)) if keep.events == 40 else left)
        assert await days_of(store) == (expected, expected)


async def test_what_is_counted_for_ever_keeps_its_rows(path: Path) -> None:
    """Starts and failures of containers are promised to be those since the cluster was created."""
    async with SqliteStore.open(path) as store:
        box = Container(
            container_id="c",
            agent_id="a",
            agent_type="t",
            node_id="n",
            status=ContainerStatus.DESTROYED,
            created=Position(1, 0),
            created_at=BEGAN,
            ended_at=BEGAN,
            starts=7,
        )
        await store.write(
            Batch(
                before=START,
                after=Mark(position=Position(1, 0), time=BEGAN),
                events=[],
                states={"container": {"c": box}},
            )
        )
        await filled_from(store, 2, 6)
        await store.sweep(Retention(events=1))
        assert (await store.count("container")).sums["starts"] == 7


async def filled_from(store: SqliteStore, first: int, last: int) -> None:
    for number in range(first, last + 1):
        await store.write(day(store, number))


@pytest.mark.alone
async def test_neither_questions_nor_the_projector_wait_for_a_sweep(path: Path) -> None:
    """While 40,000 rows go, each question and each batch takes as long as ever."""
    async with SqliteStore.open(path) as store:
        await filled(store, 40, tasks=500)
        longest = 0.0
        sweeping = asyncio.create_task(store.sweep(Retention(events=500)))
        number = 41
        while not sweeping.done():
            began = time.monotonic()
            await store.get("task", "t40.1")
            await store.write(day(store, number))
            longest = max(longest, time.monotonic() - began)
            number += 1
            await asyncio.sleep(0)
        assert await sweeping > 35_000
        assert number > 60
        assert longest < WAITS_MOST_S
        assert await store.check() == ()
