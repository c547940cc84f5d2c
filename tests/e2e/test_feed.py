"""The feed over a real nats-server: its content equals the journal, whatever crashes in between."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.jetstream import ApiError
from coordinator.errors import Unavailable
from coordinator.follower.follower import Follower
from coordinator.guard import Child, spawn
from coordinator.journal.stream import NatsJournal
from events import codec
from tests.feeder import SMALL
from tests.feeds import PATIENCE_S, SUBJECTS, append, due, event, expect_fed, fed, feeding
from tests.journals import a_bit_of_everything, some_tasks
from tests.real_server import RealServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from coordinator.engine.engine import Engine
    from coordinator.follower.feed import Feed

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

STREAM = SUBJECTS.stream_events


@pytest.fixture
async def bus(server: RealServer) -> AsyncIterator[Bus]:
    async with Bus.open(server.url, name="test") as opened:
        yield opened


@pytest.fixture
async def journal(server: RealServer) -> AsyncIterator[NatsJournal]:
    """An existing journal."""
    async with Bus.open(server.url, name="writer", buffered=False) as unbuffered:
        made = NatsJournal(unbuffered, SUBJECTS)
        await made.prepare()
        yield made


@asynccontextmanager
async def feeder(server: RealServer) -> AsyncIterator[Child]:
    """Run the feed in a process of its own, with small windows."""
    async with await spawn([sys.executable, "-m", "tests.feeder", server.url]) as child:
        yield child


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something *is_so*."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await is_so():
                return
            await asyncio.sleep(0.005)


async def until_fed(bus: Bus, messages: int) -> None:
    """Wait until the feed has that many messages."""

    async def is_so() -> bool:
        return await count(bus) >= messages

    await until(is_so)


async def count(bus: Bus) -> int:
    """Count the messages of the feed; 0 while there is no stream."""
    try:
        info = await bus.js_request(f"STREAM.INFO.{STREAM}", timeout_s=5)
    except (ApiError, Unavailable):
        return 0
    return int(info["state"]["messages"])


async def until_state(feed: Feed, state: str) -> None:
    """Wait until *feed* reports the state *state*."""

    async def is_so() -> bool:
        return str(feed.state) == state

    await until(is_so)


async def test_a_stranger_sees_every_event_on_the_subject_of_its_type(
    server: RealServer, engine: Engine, journal: NatsJournal
) -> None:
    """The feed holds the journal's events, byte for byte and in order; a filter selects one kind or one type."""
    await a_bit_of_everything(engine)
    async with feeding(server):
        await expect_fed(server.url, journal)
        await some_tasks(engine, "later", 8)
        await expect_fed(server.url, journal)
    everything = await due(journal)
    tasks = await fed(server.url, "coordination.events.task.>")
    assert tasks == [one for one in everything if one.subject.startswith("coordination.events.task.")]
    submitted = await fed(server.url, "coordination.events.task.submitted")
    assert len(submitted) == 20
    assert submitted == [one for one in everything if one.subject == "coordination.events.task.submitted"]


async def test_events_of_another_release_are_fed_as_they_came(server: RealServer, journal: NatsJournal) -> None:
    """An unknown type is fed like any other; a type that makes no valid subject goes to the subject for such types."""
    strange = event("moon.landed", "2.0", where="sea")
    stranger = event("no subject at.all", "2.1")
    spaced = strange.replace(b"{", b"{ ", 1)
    await append(journal, 1, codec.join([strange, stranger, spaced, strange]))
    async with feeding(server), Bus.open(server.url, name="look") as bus:
        await until_fed(bus, 4)
    assert [one[:] for one in await fed(server.url)] == [
        ("1.2.0", "coordination.events.moon.landed", strange),
        ("1.2.1", "coordination.events.unknown.unnamed", stranger),
        ("1.2.2", "coordination.events.moon.landed", spaced),
        ("1.2.3", "coordination.events.moon.landed", strange),
    ]


async def test_a_feeder_may_be_killed_anywhere(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal
) -> None:
    """Killed repeatedly while events arrive, in the middle of windows, the feed has no gap and no repeat."""
    done = asyncio.Event()

    async def work() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await some_tasks(engine, f"load-{number}", 40)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work())
        for _ in range(6):
            before = await count(bus)
            async with feeder(server) as child:
                await until_fed(bus, before + 70)
                child.kill()
        done.set()
    async with feeder(server):
        await expect_fed(server.url, journal)


async def test_two_feeders_do_not_get_in_each_others_way(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal
) -> None:
    """The slower of two feed processes is on standby; when the other is killed it continues."""
    await some_tasks(engine, "first", 400)
    async with feeder(server) as one, feeder(server), feeding(server) as third:
        for number in range(30):
            await some_tasks(engine, f"load-{number}", 20)
        await expect_fed(server.url, journal)
        one.kill()
        for number in range(30):
            await some_tasks(engine, f"more-{number}", 20)
        await expect_fed(server.url, journal)
        assert third.state in ("feeding", "standing_by")
    async with feeding(server) as last:
        await some_tasks(engine, "last", 40)
        await expect_fed(server.url, journal)
        assert last.state == "feeding"


async def test_one_that_is_overtaken_stands_by_and_comes_back(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal
) -> None:
    """The standby takes over when the feed stops moving; after a foreign message in between, nothing is lost."""
    async with feeding(server) as feed:
        await some_tasks(engine, "first", 40)
        await expect_fed(server.url, journal)
        before = await due(journal)
        await bus.js_publish("coordination.events.task.forged", b"{}", timeout_s=5)
        await some_tasks(engine, "more", 4)
        await until_state(feed, "standing_by")
        await until_state(feed, "feeding")
        everything = await due(journal)
        await until_fed(bus, len(everything) + 1)
    found = await fed(server.url)
    assert found[: len(before)] + found[len(before) + 1 :] == everything
    assert found[len(before)].body == b"{}"


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_the_server_may_go_and_come_back(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, how: str
) -> None:
    """After crashes and restarts of nats-server, with windows in flight, the feed ends where the journal does."""
    async with feeding(server) as feed:
        for number in range(3):
            before = await count(bus)
            await some_tasks(engine, f"load-{number}", 300)
            await until_fed(bus, before + 50)
            await getattr(server, how)()
            await asyncio.sleep(0.05)
            await server.start()
            async with asyncio.timeout(PATIENCE_S):
                await bus.until_connected(PATIENCE_S)
        await expect_fed(server.url, journal)
        await until_state(feed, "feeding")


async def test_a_server_that_freezes_holds_up_nothing_for_ever(
    server: RealServer, bus: Bus, journal: NatsJournal
) -> None:
    """When no acknowledgement for a window arrives in time, the feed checks its position and continues."""
    await append(
        journal, 1, *(codec.join([event("task.a", f"{at}.{one}") for one in range(200)]) for at in range(2, 302))
    )
    slow = msgspec.structs.replace(SMALL.chain, ack_timeout_s=0.5)
    async with feeding(server, msgspec.structs.replace(SMALL, chain=slow)) as feed:
        for number in range(3):
            await until_fed(bus, 300 + 10_000 * number)
            server.pause()
            await until_state(feed, "waiting")
            server.resume()
        await expect_fed(server.url, journal)
        assert feed.through == (await journal.bounds()).last


async def test_a_stream_that_was_deleted_is_made_anew(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal
) -> None:
    """With the next event, the feed holds again all events that are within its limits."""
    async with feeding(server):
        await some_tasks(engine, "before", 40)
        await expect_fed(server.url, journal)
        await bus.js_request(f"STREAM.DELETE.{STREAM}", timeout_s=5)
        await some_tasks(engine, "after", 40)
        await until_fed(bus, len(await due(journal)))
        await expect_fed(server.url, journal)


async def test_a_feed_that_begins_late_begins_with_what_it_would_hold(server: RealServer, journal: NatsJournal) -> None:
    """Events older than the feed's limit are not fed again; of the younger ones, none is missing."""
    old = [codec.join([event("task.old", f"{at}.0", seconds=1e9)]) for at in range(2, 42)]
    young = [codec.join([event("task.young", f"{at}.{one}") for one in range(3)]) for at in range(42, 82)]
    await append(journal, 1, *old, *young)
    async with feeding(server, msgspec.structs.replace(SMALL, max_age_s=3600.0)) as feed:
        await expect_fed(server.url, journal, 41)
        assert feed.through == (await journal.bounds()).last
    assert [one.subject for one in await fed(server.url)] == ["coordination.events.task.young"] * 120


async def test_after_a_restore_the_feed_goes_on_where_the_journal_branched(
    server: RealServer, bus: Bus, journal: NatsJournal
) -> None:
    """Events of the lost branch stay in the feed; every event of the new generation follows."""
    await append(journal, 1, codec.join([event("task.a", "2.0")]), codec.join([event("task.b", "3.0")]))
    async with feeding(server):
        await expect_fed(server.url, journal)
    lost = {"Nats-Msg-Id": "1.4.0", "Content-Type": "application/cloudevents+json"}
    await bus.js_publish("coordination.events.task.lost", event("task.lost", "4.0"), lost, timeout_s=5)
    await append(journal, 2, codec.join([event("task.c", "5.0")]), codec.join([event("task.d", "6.0")]))
    async with feeding(server):
        await until_fed(bus, 5)
    assert [one.message_id for one in await fed(server.url)] == ["1.2.0", "1.3.0", "1.4.0", "2.5.0", "2.6.0"]


async def test_a_feed_ahead_of_the_journal_waits_for_it(server: RealServer, bus: Bus, journal: NatsJournal) -> None:
    """A journal that ends before the feed may be read from a stale replica: the feed waits and says why."""
    await append(journal, 1, codec.join([event("task.a", "2.0")]))
    async with feeding(server):
        await until_fed(bus, 1)
    ahead = {"Nats-Msg-Id": "1.9.0", "Content-Type": "application/cloudevents+json"}
    await bus.js_publish("coordination.events.task.ahead", event("task.ahead", "9.0"), ahead, timeout_s=5)
    async with feeding(server) as feed:
        await until_state(feed, "waiting")
        assert "journal ends at 2" in feed.reason
        assert await count(bus) == 2


async def test_a_journal_that_was_made_anew_is_fed_from_its_beginning(
    server: RealServer, bus: Bus, journal: NatsJournal
) -> None:
    """The stream that holds another journal's feed continues with the events of this one."""
    await append(journal, 1, codec.join([event("task.a", "2.0")]))
    async with feeding(server):
        await until_fed(bus, 1)
    other = {"Nats-Msg-Id": "1.2.0", "Content-Type": "application/cloudevents+json"}
    await asyncio.sleep(1.1)  # beyond the duplicate window
    await bus.js_publish("coordination.events.task.other", event("task.other", "2.0"), other, timeout_s=5)
    async with feeding(server):
        await until_fed(bus, 3)
    assert [one.subject.rpartition(".")[2] for one in await fed(server.url)] == ["a", "other", "a"]


async def test_other_bounds_are_taken_over_by_the_stream(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal
) -> None:
    """Changed settings are applied to the existing stream, and nothing in it is lost."""
    await some_tasks(engine, "some", 40)
    async with feeding(server):
        await expect_fed(server.url, journal)
    async with feeding(server, msgspec.structs.replace(SMALL, max_age_s=600.0, max_bytes=10_000_000)):
        await some_tasks(engine, "more", 8)
        await expect_fed(server.url, journal)
    config = (await bus.js_request(f"STREAM.INFO.{STREAM}", timeout_s=5))["config"]
    assert (config["max_age"], config["max_bytes"]) == (600 * 10**9, 10_000_000)


async def test_a_follower_says_how_far_store_and_feed_are_behind(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """The question `lag` returns the journal's end, and how many records and seconds store and feed are behind."""
    await some_tasks(engine, "some", 40)
    async with Follower.open(server.url, tmp_path / "state.db", feed=SMALL) as follower:
        await expect_fed(server.url, journal)
        store = await follower.wait_opened(PATIENCE_S)
        await store.wait_for(engine.committed, PATIENCE_S)
        answer: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE_S):
            while answer.get("ok", {}).get("feed", {}).get("behind") != 0:
                try:
                    answer = msgspec.json.decode(await bus.request("coordination.read.test.lag", b"", timeout_s=5))
                except Unavailable:
                    continue
    last = (await journal.bounds()).last
    assert answer["ok"]["journal"] == last
    assert answer["ok"]["feed"] == {"through": last, "behind": 0, "behind_s": 0.0, "state": "feeding", "reason": ""}
    assert (answer["ok"]["store"]["through"], answer["ok"]["store"]["behind"]) == (last, 0)


async def test_events_that_were_archived_before_they_were_fed_are_told_of(
    server: RealServer, bus: Bus, journal: NatsJournal, capsys: pytest.CaptureFixture[str]
) -> None:
    """The feed reports a gap, and continues with the first event that still exists."""
    await append(journal, 1, *(codec.join([event("task.a", f"{number}.0")]) for number in range(2, 4)))
    async with feeding(server):
        await until_fed(bus, 2)
    await append(journal, 1, *(codec.join([event("task.b", f"{number}.0")]) for number in range(5, 9)))
    await bus.js_request(f"STREAM.PURGE.{SUBJECTS.stream_journal}", {"seq": 7}, timeout_s=5)
    async with feeding(server):
        await until_fed(bus, 4)
    assert [one.message_id for one in await fed(server.url)] == ["1.2.0", "1.3.0", "1.7.0", "1.8.0"]
    assert "feed_gap" in "".join(capsys.readouterr())


async def test_what_was_changed_in_the_journal_is_not_fed(server: RealServer, bus: Bus, journal: NatsJournal) -> None:
    """Where the chain breaks the feed stops and names the commit."""
    await append(journal, 1, codec.join([event("task.a", "2.0")]))
    forged = {"Nats-Msg-Id": "1.1.3", "Chain": "0" * 64}
    await bus.js_publish(SUBJECTS.journal, codec.join([event("task.forged", "3.0")]), forged, timeout_s=5)
    async with feeding(server) as feed:
        await until_state(feed, "waiting")
        assert "commit 3 carries the chain 000" in feed.reason
        assert [one.subject for one in await fed(server.url)] in ([], ["coordination.events.task.a"])
