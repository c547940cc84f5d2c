"""`subscribe` over a real nats-server: each event once and in order, from any position, across every interruption."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import coordinator
from coordinator import EventStream, subscribe
from coordinator.bus.connection import Bus
from coordinator.errors import Corrupt, Refused, Unavailable
from coordinator.journal.stream import NatsJournal
from coordinator.scheduler import TaskScheduler
from events import codec
from events.base import START, Position
from tests.feeds import PATIENCE_S, SUBJECTS, append, event
from tests.journals import a_bit_of_everything, some_tasks
from tests.real_server import RealServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.engine.engine import Engine
    from events.base import Envelope

pytestmark = pytest.mark.e2e


@pytest.fixture
async def journal(server: RealServer) -> AsyncIterator[NatsJournal]:
    """An existing journal."""
    async with Bus.open(server.url, name="writer", buffered=False) as unbuffered:
        made = NatsJournal(unbuffered, SUBJECTS)
        await made.prepare()
        yield made


async def written(journal: NatsJournal) -> list[Envelope]:
    """Read all events of the journal directly, once its connection is back."""
    found: list[Envelope] = []
    async for records in journal.read(0, await end_of(journal)):
        for record in records:
            if record.kind == "commit":
                found += codec.decode(record.body)
    return found


async def end_of(journal: NatsJournal) -> int:
    """Return where the journal ends, retrying until there is an answer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return (await journal.bounds()).last
            except Unavailable:
                await asyncio.sleep(0.05)


async def take(events: EventStream, count: int) -> list[Envelope]:
    """Take that many events."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(events) for _ in range(count)]


async def nothing_more(events: EventStream, engine: Engine) -> None:
    """Assert that the next event is one that happens from now on."""
    before = engine.committed
    await some_tasks(engine, f"after-{before.sequence}", 1)
    (found,) = await take(events, 1)
    assert Position.parse(found.id) > before


async def test_from_the_beginning_and_then_live(server: RealServer, engine: Engine, journal: NatsJournal) -> None:
    """Replay and later events form one stream without a gap."""
    await a_bit_of_everything(engine)
    async with subscribe(since="0.0", url=server.url) as events:
        past = await written(journal)
        assert await take(events, len(past)) == past
        await some_tasks(engine, "live", 8)
        everything = await written(journal)
        assert past + await take(events, len(everything) - len(past)) == everything
        assert str(events.position) == everything[-1].id


async def test_without_since_it_begins_now(server: RealServer, engine: Engine, journal: NatsJournal) -> None:
    """No past events, but every event from the moment the block is entered; `position` names that moment."""
    await some_tasks(engine, "past", 8)
    before = await written(journal)
    async with subscribe(url=server.url) as events:
        assert str(events.position) == before[-1].id
        await some_tasks(engine, "now", 8)
        after = (await written(journal))[len(before) :]
        assert await take(events, len(after)) == after


async def test_from_behind_any_event(server: RealServer, engine: Engine, journal: NatsJournal) -> None:
    """A position returns what follows it, also inside a commit, as text or as a value."""
    await some_tasks(engine, "some", 8)
    everything = await written(journal)
    for at in range(0, len(everything), 3):
        since: Any = everything[at].id if at % 2 else Position.parse(everything[at].id)
        async with subscribe(since=since, url=server.url) as events:
            assert await take(events, len(everything) - at - 1) == everything[at + 1 :]


async def test_from_a_time_on(server: RealServer, engine: Engine, journal: NatsJournal) -> None:
    """A time returns what was committed then or later; a time in the future waits."""
    for number in range(6):
        await some_tasks(engine, f"load-{number}", 4)
    everything = await written(journal)
    for at in range(0, len(everything), 7):
        since = datetime.fromisoformat(everything[at].time)
        due = [one for one in everything if one.time >= everything[at].time]
        async with subscribe(since=since, url=server.url) as events:
            assert await take(events, len(due)) == due
    async with subscribe(since=datetime.now(UTC) + timedelta(seconds=1), url=server.url) as events:
        await some_tasks(engine, "too-early", 1)
        await asyncio.sleep(1.2)
        await nothing_more(events, engine)
    async with subscribe(since=datetime(1999, 1, 1, tzinfo=UTC), url=server.url) as events:
        assert (await take(events, 1))[0] == everything[0]


async def test_only_what_is_wanted(server: RealServer, engine: Engine, journal: NatsJournal) -> None:
    """Patterns filter events; the rest keep their order and position."""
    await a_bit_of_everything(engine)
    kinds = ["container.*", "task.completed"]
    due = [one for one in await written(journal) if one.type.startswith("container.") or one.type == "task.completed"]
    async with subscribe(kinds, START, url=server.url) as events:
        assert await take(events, len(due)) == due
        assert {one.type.partition(".")[0] for one in due} == {"container", "task"}


@pytest.mark.parametrize("how", ["kill", "stop", "pause"])
async def test_over_restarts_nothing_is_lost_or_repeated(
    server: RealServer, engine: Engine, journal: NatsJournal, how: str
) -> None:
    """The server stops and comes back several times during the subscription; what arrives equals the journal."""
    async with subscribe("task.*", START, url=server.url) as events:
        found: list[Envelope] = []
        for number in range(3):
            await some_tasks(engine, f"load-{number}", 100)
            found += await take(events, 57)
            if how == "pause":
                server.pause()
                await asyncio.sleep(0.3)
                server.resume()
            else:
                await getattr(server, how)()
                await server.start()
        due = [one for one in await written(journal) if one.type.startswith("task.")]
        assert found + await take(events, len(due) - len(found)) == due


async def test_a_subscriber_that_was_killed_goes_on_behind_its_last_event(
    server: RealServer, engine: Engine, journal: NatsJournal
) -> None:
    """Restarted repeatedly with the saved position, the pieces add up to the whole."""
    found: list[Envelope] = []
    position = START
    for number in range(5):
        await some_tasks(engine, f"load-{number}", 20)
        async with subscribe(since=position, url=server.url) as events:
            found += await take(events, 11)
            position = events.position
    everything = await written(journal)
    async with subscribe(since=position, url=server.url) as events:
        assert found + await take(events, len(everything) - len(found)) == everything


async def test_a_journal_that_was_made_anew_ends_the_subscription(server: RealServer, journal: NatsJournal) -> None:
    """Positions of another journal are invalid here, so a subscriber that continues from one gets an error."""
    await append(journal, 1, codec.join([event("task.a", "2.0")]))
    async with subscribe(since=START, url=server.url) as events, Bus.open(server.url, name="vandal") as bus:
        await take(events, 1)
        await bus.js_request(f"STREAM.DELETE.{SUBJECTS.stream_journal}", timeout_s=5)
        with pytest.raises(Corrupt):
            await take(events, 1)


@pytest.mark.parametrize(
    ("since", "says"),
    [
        ("99.0", "position 99.0 is not in the journal, which ends at"),
        ("x", "position 'x' is not of the form '<sequence>.<index>', such as '1042.0'"),
        (datetime(2026, 1, 1), "time 2026-01-01T00:00:00 has no zone: use one such as datetime.now(UTC)"),  # noqa: DTZ001
        (7, "since 7 is invalid: use a position such as '1042.0', a datetime with a zone, or None"),
    ],
)
async def test_a_place_that_is_none_is_refused(server: RealServer, engine: Engine, since: Any, says: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(Refused) as refused:
        async with subscribe(since=since, url=server.url):
            pass
    assert says in refused.value.message


async def test_what_was_archived_is_not_passed_over_in_silence(server: RealServer, journal: NatsJournal) -> None:
    """A subscriber that wants more than the journal still holds is told where it can start."""
    await append(journal, 1, *(codec.join([event("task.a", f"{number}.0")]) for number in range(2, 7)))
    async with Bus.open(server.url, name="archive") as bus:
        await bus.js_request(f"STREAM.PURGE.{SUBJECTS.stream_journal}", {"seq": 4}, timeout_s=5)
    for since in ("1.0", datetime(1999, 1, 1, tzinfo=UTC)):
        with pytest.raises(Refused, match=r"the journal begins at 4, after .* use '3\.0'"):
            async with subscribe(since=since, url=server.url):
                pass
    async with subscribe(since="3.0", url=server.url) as events:
        assert (await take(events, 1))[0].id == "4.0"


async def test_without_a_journal_it_is_unavailable(server: RealServer) -> None:
    """There is nothing to follow before a coordinator has run for the first time."""
    with pytest.raises(Unavailable, match="a coordinator creates it"):
        async with subscribe(url=server.url):
            pass


@asynccontextmanager
async def embedded(monkeypatch: pytest.MonkeyPatch, home: Path) -> AsyncIterator[TaskScheduler]:
    """Yield a facade over a coordinator of this process."""
    monkeypatch.setenv("COORDINATOR_HOME", str(home))
    monkeypatch.setenv("COORDINATOR_NODE__RUNTIME", "fake")
    monkeypatch.delenv("COORDINATOR_URL", raising=False)
    async with TaskScheduler() as scheduler:
        yield scheduler


async def test_without_a_url_it_is_the_cluster_of_the_facades(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program with an embedded coordinator subscribes to it."""
    async with embedded(monkeypatch, tmp_path) as scheduler, subscribe("task.submitted") as events:
        task_id = await scheduler.submit_task(task_name="seen")
        (found,) = await take(events, 1)
        assert found.subject == task_id


def test_it_is_exported_by_the_package() -> None:
    """`subscribe` can be imported from the package; nobody needs to know the module."""
    assert coordinator.subscribe is subscribe
    assert set(coordinator.__all__) == {"EventStream", "acting", "subscribe"}
