"""The contract of every store, the one in a file and its double in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from coordinator.errors import Refused, Unavailable
from events.base import START, Position
from events.container import ContainerStatus
from events.resources import Resources
from events.task import TaskStatus
from projections.container import Container
from projections.node import Node, NodeStatus
from projections.pool import Pool
from projections.session import Session
from projections.store.memory import MemoryStore
from projections.store.port import ANOTHER_WRITER, KINDS, Batch, Counts, EventRow, Mark, Store, place_of, position_of
from projections.store.sqlite import SqliteStore
from projections.task import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOSTILE = ["'; DROP TABLE tasks; --", '" OR 1=1 --', "%", "_", "?", ":name", "\x00", "naïve – ü", "x" * 5000, ""]


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A store of each implementation."""
    async with _opened(request.param, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def _opened(which: str, folder: Path) -> AsyncIterator[Store]:
    if which == "memory":
        yield MemoryStore()
    else:
        async with SqliteStore.open(folder / "state.db") as opened:
            yield opened


def task(number: int, sequence: int, *, status: str = "pending", tenant: str = "default", name: str = "work") -> Task:
    return Task(
        task_id=f"task-{number}",
        task_name=name,
        status=TaskStatus(status),
        submitted=Position(sequence, number),
        submitted_at=1.5,
        tenant=tenant,
    )


def event(
    sequence: int, index: int, event_type: str = "task.submitted", subject: str = "task-0", body: bytes = b"{}"
) -> EventRow:
    return EventRow(
        place=place_of(Position(sequence, index)),
        type=event_type,
        kind=event_type.partition(".")[0],
        subject=subject,
        time="2026-11-23T17:15:00.123456Z",
        tenant="default",
        actor="tester",
        commandid="",
        body=body,
    )


def batch(store: Store, sequence: int, *states: Any, events: list[EventRow] | None = None) -> Batch:
    """Make the batch that brings the store to *sequence*."""
    by_kind: dict[str, dict[str, Any]] = {}
    for state in states:
        kind = type(state).__name__.lower()
        by_kind.setdefault(kind, {})[getattr(state, KINDS[kind].id)] = state
    made = events if events is not None else [event(sequence, 0)]
    after = Mark(position=Position(sequence, 3), chain="ab" * 32, generation=2, time=17.25, unfoldable="x.y at 1.0")
    return Batch(before=store.position().position, after=after, events=made, states=by_kind)


def ids(things: Any) -> list[str]:
    return [thing.id for thing in things.items]


def places(events: Any) -> list[str]:
    return [str(one.position) for one in events.items]


async def test_a_new_store_is_at_the_start_and_empty(store: Store) -> None:
    """An empty store returns nothing, and no error."""
    assert store.position() == Mark()
    assert store.position().position == START
    assert await store.get("task", "task-0") is None
    assert await store.events() == ([], False)
    for kind in KINDS:
        assert await store.list(kind) == ([], False)
    assert await store.check() == ()


async def test_a_batch_brings_rows_events_and_position(store: Store) -> None:
    """After a batch everything is there: the state as JSON, the event's own bytes, the progress mark field by field."""
    one = task(0, 1)
    made = batch(store, 1, one, events=[event(1, 0, body=b'{"a": 1}'), event(1, 1, body=b"\xff\x00 as it came")])
    await store.write(made)
    found = await store.get("task", "task-0")
    assert found is not None
    assert (found.cursor, found.id) == (Position(1, 0), "task-0")
    assert msgspec.json.decode(found.state, type=Task) == one
    assert (await store.events()).items == [
        (Position(1, 0), b'{"a": 1}'),
        (Position(1, 1), b"\xff\x00 as it came"),
    ]
    assert store.position() == made.after


async def test_the_last_state_replaces_the_one_before(store: Store) -> None:
    """There is one row for each thing; one created again under an old id is a new thing at a new place."""
    await store.write(batch(store, 1, task(0, 1)))
    await store.write(batch(store, 2, task(0, 1, status="completed")))
    assert ids(await store.list("task")) == ["task-0"]
    assert ids(await store.list("task", status="completed")) == ["task-0"]
    assert ids(await store.list("task", status="pending")) == []
    await store.write(batch(store, 3, task(0, 3)))
    assert [one.cursor for one in (await store.list("task")).items] == [Position(3, 0)]


async def test_every_kind_has_its_rows(store: Store) -> None:
    """Kinds without status, name or tenant are listed too, and found by the fields they have."""
    pool = Pool(pool_id="pool-1", capacity=Resources(cpu_millis=5), defined=Position(1, 0), allocations={})
    node = Node(node_id="node-1", status=NodeStatus.READY, registered=Position(1, 1), registered_at=1.0)
    bound = Session(session_id="s-1", container_id="c-1", bound=Position(1, 2), bound_at=1.0)
    closed = Session(session_id="s-2", container_id="c-1", bound=Position(1, 3), bound_at=1.0, ended_at=2.0)
    await store.write(batch(store, 1, pool, node, bound, closed))
    assert ids(await store.list("pool")) == ["pool-1"]
    assert ids(await store.list("node", status="ready")) == ["node-1"]
    assert ids(await store.list("session", status="bound")) == ["s-1"]
    assert ids(await store.list("session", status="closed")) == ["s-2"]


async def test_lists_are_newest_first_and_filtered(store: Store) -> None:
    """Filters combine; the order is that in which things were created."""
    states = [
        task(n, 1, status="failed" if n % 2 else "pending", tenant=f"t{n % 3}", name=f"n{n % 4}") for n in range(12)
    ]
    await store.write(batch(store, 1, *states))
    assert ids(await store.list("task")) == [f"task-{n}" for n in reversed(range(12))]
    assert ids(await store.list("task", status="failed", tenant="t1")) == ["task-7", "task-1"]
    assert ids(await store.list("task", name="n3")) == ["task-11", "task-7", "task-3"]
    assert ids(await store.list("task", status="pending", name="n3")) == []


async def test_counts_are_of_all_that_ever_existed(store: Store) -> None:
    """By the last status, with the sums of fields that were left out as 0; of nothing, nothing."""
    assert await store.count("container") == Counts({}, {"starts": 0, "failures": 0})
    given = [(1, 3, 1, "destroyed"), (2, 0, 0, "created"), (3, 2, 0, "destroyed")]
    states = {
        f"c{number}": Container(
            container_id=f"c{number}",
            agent_id="a",
            agent_type="t",
            node_id="n",
            status=ContainerStatus(status),
            created=Position(1, number),
            created_at=1.0,
            starts=starts,
            failures=failures,
        )
        for number, starts, failures, status in given
    }
    batch = Batch(before=START, after=Mark(position=Position(1, 3)), events=[], states={"container": states})
    await store.write(batch)
    counts = await store.count("container")
    assert counts == Counts({"destroyed": 2, "created": 1}, {"starts": 5, "failures": 1})
    assert await store.count("task") == Counts({}, {})
    with pytest.raises(Refused, match="is not known"):
        await store.count("nothing")


async def test_pages_of_a_list_hold_everything_once(store: Store) -> None:
    """The cursor of the last thing continues the list, also while new things are added."""
    await store.write(batch(store, 1, *(task(n, 1) for n in range(10))))
    first = await store.list("task", limit=4)
    await store.write(batch(store, 2, task(10, 2)))
    second = await store.list("task", limit=4, before=first.items[-1].cursor)
    third = await store.list("task", limit=4, before=second.items[-1].cursor)
    assert ids(first) + ids(second) + ids(third) == [f"task-{n}" for n in reversed(range(10))]
    assert (first.more, second.more, third.more) == (True, True, False)


async def test_bytes_cut_lists_and_pages_off(store: Store) -> None:
    """Large results come in smaller pages, at least one thing at a time, and say that there is more."""
    large = [event(1, index, body=b"x" * 1000) for index in range(10)]
    await store.write(batch(store, 1, *(task(n, 1, name="y" * 1000) for n in range(10)), events=large))
    assert len((await store.events(limit_bytes=1)).items) == 1
    page = await store.events(limit_bytes=2500)
    assert (len(page.items), page.more) == (3, True)
    listed = await store.list("task", limit_bytes=2500)
    assert (len(listed.items), listed.more) == (3, True)


async def test_events_are_found_by_subject_and_type(store: Store) -> None:
    """Filter by kind, beginning of a type, subject and starting place, in any combination."""
    rows = [
        event(1, 0, "task.submitted", "x"),
        event(1, 1, "task.started", "x"),
        event(1, 2, "service.registered", "x"),
        event(1, 3, "task.started", "y"),
        event(2, 0, "task.attempt_failed", "x"),
        event(2, 1, "taskforce.met", "x"),
    ]
    await store.write(batch(store, 2, events=rows))
    assert places(await store.events()) == ["1.0", "1.1", "1.2", "1.3", "2.0", "2.1"]
    assert places(await store.events(subject="x")) == ["1.0", "1.1", "1.2", "2.0", "2.1"]
    assert places(await store.events(type_prefix="task")) == ["1.0", "1.1", "1.3", "2.0"]
    assert places(await store.events(type_prefix="task.")) == ["1.0", "1.1", "1.3", "2.0"]
    assert places(await store.events(type_prefix="task.started")) == ["1.1", "1.3"]
    assert places(await store.events(type_prefix="task.st", subject="y")) == ["1.3"]
    assert places(await store.events(after=Position(1, 2))) == ["1.3", "2.0", "2.1"]
    assert places(await store.events(after=Position(1, 0), subject="x", type_prefix="task", limit=1)) == ["1.1"]
    assert places(await store.events(after=Position(2, 1))) == []
    assert places(await store.events(subject="x", type_prefix="task", newest_first=True)) == ["2.0", "1.1", "1.0"]
    assert places(await store.events(after=Position(1, 0), newest_first=True, limit=2)) == ["2.1", "2.0"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
async def test_whatever_is_asked_for_is_a_value(store: Store, text: str) -> None:
    """No character in a text is special: each matches itself and nothing else."""
    one = event(1, 0, subject=text)
    await store.write(batch(store, 1, task(0, 1, name=text), task(1, 1), events=[one, event(1, 1, subject="other")]))
    assert ids(await store.list("task", name=text)) == ["task-0"]
    assert ids(await store.list("task", status=text)) == []
    assert ids(await store.list("task", tenant=text)) == []
    assert places(await store.events(subject=text)) == ["1.0"]
    if text:
        assert places(await store.events(type_prefix=text)) == []
        assert places(await store.events(type_prefix=f"task.{text}")) == []
    assert await store.get("task", text) is None
    assert len((await store.list("task")).items) == 2


@pytest.mark.parametrize("kind", ["tasks", "", "position", "task; DROP TABLE tasks", "events"])
async def test_a_kind_that_is_none_is_refused(store: Store, kind: str) -> None:
    """Kinds become names of tables, and only known kinds are accepted."""
    with pytest.raises(Refused, match="use one of task"):
        await store.get(kind, "x")
    with pytest.raises(Refused, match="use one of task"):
        await store.list(kind)


async def test_limits_and_positions_out_of_range_are_refused(store: Store) -> None:
    """Numbers too large for a database integer never reach the database."""
    for limit in (0, -1, 10_001, 10**30):
        with pytest.raises(Refused, match="use 1 to 10000"):
            await store.list("task", limit=limit)
        with pytest.raises(Refused, match="use 1 to 10000"):
            await store.events(limit=limit)
    for position in (Position(10**30, 0), Position(1, 2**20), Position(-1, 0), Position(0, -1), Position(2**43, 0)):
        with pytest.raises(Refused, match="out of range"):
            await store.events(after=position)
        with pytest.raises(Refused, match="out of range"):
            await store.list("task", before=position)


@pytest.mark.parametrize("position", [START, Position(1, 0), Position(7, 2**20 - 1), Position(2**43 - 1, 0)])
def test_places_are_read_as_they_were_written(position: Position) -> None:
    """A place converts back to its position, and places sort like positions."""
    assert position_of(place_of(position)) == position
    assert place_of(Position(7, 2**20 - 1)) < place_of(Position(8, 0))


async def test_a_batch_that_does_not_come_next_is_not_taken(store: Store) -> None:
    """A batch for another position changes nothing, not even partly."""
    await store.write(batch(store, 1, task(0, 1)))
    late = Batch(before=START, after=Mark(position=Position(9, 0)), events=[event(9, 0)], states={"task": {}})
    with pytest.raises(Unavailable) as caught:
        await store.write(late)
    assert caught.value.reason == ANOTHER_WRITER
    assert "1.3" in caught.value.message
    assert store.position().position == Position(1, 3)
    assert places(await store.events()) == ["1.0"]


async def test_a_batch_that_is_repeated_is_kept_once(store: Store) -> None:
    """An attempt with an unknown outcome may be repeated."""
    made = batch(store, 1, task(0, 1))
    await store.write(made)
    await store.write(made)
    assert places(await store.events()) == ["1.0"]
    assert store.position() == made.after


async def test_a_batch_that_fails_leaves_nothing(store: Store) -> None:
    """A write error in the middle of a batch rolls back the whole batch."""
    bad = task(0, 1)
    made = batch(store, 1, task(1, 1), msgspec.structs.replace(bad, submitted=Position(2**60, 0)))
    with pytest.raises(Refused):
        await store.write(made)
    assert store.position() == Mark()
    assert await store.events() == ([], False)
    assert await store.list("task") == ([], False)
    await store.write(batch(store, 1, task(0, 1)))
    assert ids(await store.list("task")) == ["task-0"]


async def test_waiting_ends_when_the_position_is_there(store: Store) -> None:
    """A caller that waits for a position is woken by the batch that reaches it, and reads what it waited for."""
    await store.wait_for(START, 0)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(store.wait_for(Position(2, index), 5)) for index in range(4)]
        await asyncio.sleep(0.01)
        await store.write(batch(store, 1, task(0, 1)))
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in waiting)
        await store.write(batch(store, 2, task(1, 2)))
    assert len((await store.list("task")).items) == 2


async def test_waiting_in_vain_says_where_the_store_is(store: Store) -> None:
    """After the time-out the answer is `behind`, with the current position."""
    await store.write(batch(store, 1, task(0, 1)))
    with pytest.raises(Unavailable, match=r"the store is at 1\.3") as caught:
        await store.wait_for(Position(1, 4), 0.02)
    assert caught.value.reason == "behind"


async def test_readers_see_whole_batches_and_never_less_than_the_position(store: Store) -> None:
    """While batches of ten things are written, a reader counts multiples of ten, and what the position promised."""
    rounds = 20

    async def write() -> None:
        for sequence in range(1, rounds + 1):
            states = [task(sequence * 10 + n, sequence) for n in range(10)]
            await store.write(batch(store, sequence, *states))

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        while not writing.done():
            promised = store.position().position.sequence
            seen = len((await store.list("task", limit=1000)).items)
            assert seen % 10 == 0
            assert seen >= promised * 10
            await asyncio.sleep(0)
    assert len((await store.list("task", limit=1000)).items) == rounds * 10
    assert await store.check() == ()


async def test_tasks_are_found_by_their_error_and_their_end(store: Store) -> None:
    """By the type of the last error, or its last parts, and by the earliest end; pages go on as without."""
    failed = [
        replace(task(number, 1, status="failed"), error_type=error_type, ended_at=float(number))
        for number, error_type in enumerate(("ValueError", "web.errors.Gone", "other.Gone", "", "web_errors.Gone"))
    ]
    await store.write(batch(store, 1, *failed))

    async def found(**asked: Any) -> list[str]:
        return [one.id.removeprefix("task-") for one in (await store.list("task", **asked)).items]

    assert await found(error_type="ValueError") == ["0"]
    assert await found(error_type="Gone") == ["4", "2", "1"]
    assert await found(error_type="errors.Gone") == ["1"]
    assert await found(error_type="web.errors.Gone") == ["1"]
    assert await found(error_type="one") == []
    assert await found(ended_since=2.0) == ["4", "3", "2"]
    assert await found(ended_since=2.0, error_type="Gone", limit=1) == ["4"]
    assert await found(ended_since=2.0, error_type="Gone", before=Position(1, 4)) == ["2"]
    for hostile in HOSTILE[:-1]:
        assert await found(error_type=hostile) == []
