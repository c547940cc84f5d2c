"""The journal on a real server, through crashes, lost acknowledgements, silent connections and tampering."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.jetstream import ApiError
from coordinator.bus.pull_consumer import Interrupted, PullLimits, open_consumer
from coordinator.errors import Corrupt, Refused, Unavailable
from coordinator.journal.slots import Deposed
from coordinator.journal.stream import NatsJournal, stream_config
from events.subjects import Subjects
from projections.source import GENESIS, Bounds, Record, chain_after
from tests.journal_worlds import LIMITS, Writer, follow, read
from tests.real_server import RealServer
from tests.tcp_proxy import Proxy, proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
STREAM = SUBJECTS.stream_journal


@asynccontextmanager
async def journal_at(url: str, limits: PullLimits = LIMITS, **options: Any) -> AsyncIterator[NatsJournal]:
    async with Bus.open(url, name="test", buffered=False) as bus:
        journal = NatsJournal(bus, SUBJECTS, read_limits=limits, answer_timeout_s=0.5, **options)
        await journal.prepare()
        yield journal


@pytest.fixture
async def journal(server: RealServer) -> AsyncIterator[NatsJournal]:
    async with journal_at(server.url) as opened:
        yield opened


@pytest.fixture
async def writer(journal: NatsJournal) -> Writer:
    writer = Writer(journal)
    await writer.claim()
    return writer


@pytest.fixture
async def api(server: RealServer) -> AsyncIterator[Bus]:
    """The administrator's connection."""
    async with Bus.open(server.url, name="admin") as bus:
        yield bus


async def _commit_numbers(writer: Writer, count: int) -> None:
    for number in range(count):
        await writer.commit(b"%d" % number)


async def test_a_server_killed_in_the_middle_of_commits_loses_and_repeats_nothing(
    server: RealServer, writer: Writer
) -> None:
    """After five kills every commit is there once, in its slot; a follower sees each once, and the chain is intact."""
    seen: list[Record] = []
    count = 600
    async with (
        journal_at(server.url) as readers,
        asyncio.timeout(90),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(follow(readers, 0, 1 + count, seen))
        committing = tasks.create_task(_commit_numbers(writer, count))
        for kill in range(5):
            while writer.sequence < (kill + 1) * count // 6:  # noqa: ASYNC110 - watches from outside
                await asyncio.sleep(0.001)
            await server.kill()
            await asyncio.sleep(0.05 * kill)
            await server.start()
        await committing
    assert [record.sequence for record in seen] == list(range(1, count + 2))
    assert [record.body for record in seen[1:]] == [b"%d" % number for number in range(count)]
    chain = GENESIS
    for record in seen:
        assert record.chain == (chain.hex() if record.kind == "commit" else None)
        chain = chain_after(chain, record.sequence, record.body)
    assert await read(writer.journal, 0, count + 1) == seen


async def test_the_writer_that_was_deposed_is_told_though_it_slept(server: RealServer, writer: Writer) -> None:
    """A writer whose connection broke learns from its first commit that another writer has claimed."""
    await writer.commit(b"mine")
    async with journal_at(server.url) as other:
        successor = Writer(other)
        await successor.claim()
        await server.kill()
        await server.start()
        await successor.commit(b"theirs")
        with pytest.raises(Deposed):
            await writer.commit(b"late")
    assert [record.body for record in await read(writer.journal, 3, 4)] == [b"theirs"]


async def test_a_lost_acknowledgement_is_resolved_by_the_slot(server: RealServer, writer: Writer, api: Bus) -> None:
    """The commit is stored, its acknowledgement lost, the connection cut: the writer finds the commit stored once."""
    async with proxy(server.port) as between, journal_at(_through(between, server)) as journal:
        mine = Writer(journal)
        await mine.claim()
        await mine.commit(b"one")
        between.mute()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            committing = tasks.create_task(mine.commit(b"two"))
            await _until_stored(api, 4)
            assert not committing.done()
            between.cut()
            assert await committing == 4
        assert await mine.commit(b"three") == 5
    assert [record.body for record in await read(writer.journal, 2, 5)] == [b"one", b"two", b"three"]


async def test_a_connection_that_turns_silent_is_replaced(server: RealServer, writer: Writer, api: Bus) -> None:
    """Nothing comes back and nothing breaks: the writer drops the connection by itself and finds its commit."""
    async with proxy(server.port) as between, journal_at(_through(between, server)) as journal:
        mine = Writer(journal)
        await mine.claim()
        between.mute()
        async with asyncio.timeout(20):
            assert await mine.commit(b"x") == 3
        assert await api.js_request(f"STREAM.MSG.GET.{STREAM}", {"seq": 3}, timeout_s=2)


async def test_a_claim_whose_acknowledgement_was_lost_is_made_once(server: RealServer, api: Bus) -> None:
    """A claim with an unknown outcome is found by its own id."""
    async with proxy(server.port) as between, journal_at(_through(between, server)) as journal:
        between.mute()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            claiming = tasks.create_task(journal.claim(b"{}"))
            await asyncio.sleep(0.2)
            between.cut()
            claimed = await claiming
        assert await journal.bounds() == Bounds(1, claimed)
        assert claimed == 1


async def test_a_follower_survives_a_connection_that_turns_silent(server: RealServer, writer: Writer) -> None:
    """After no heartbeat of the server for several periods, the follower starts again after its last record."""
    seen: list[Record] = []
    async with (
        proxy(server.port) as between,
        journal_at(_through(between, server)) as journal,
        asyncio.timeout(30),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(follow(journal, 0, 101, seen))
        await _commit_numbers(writer, 50)
        between.mute()
        await _commit_numbers(writer, 50)
    assert [record.sequence for record in seen] == list(range(1, 102))


async def test_a_follower_resumes_as_soon_as_the_server_is_back(server: RealServer, writer: Writer) -> None:
    """After a restart the follower does not wait for the watchdog, however long its limit is."""
    seen: list[Record] = []
    patient = PullLimits(heartbeat_s=15, look_s=60)
    async with journal_at(server.url, patient) as journal, asyncio.timeout(8), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(journal, 0, 11, seen))
        await _commit_numbers(writer, 5)
        await server.kill()
        await server.start()
        await _commit_numbers(writer, 5)
    assert [record.sequence for record in seen] == list(range(1, 12))


async def test_a_follower_survives_the_loss_of_its_consumer(writer: Writer, api: Bus) -> None:
    """After a consumer was deleted a new one takes over, with nothing missing and nothing twice."""
    seen: list[Record] = []
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(writer.journal, 0, 61, seen))
        for _ in range(3):
            await _commit_numbers(writer, 20)
            listed = await api.js_request(f"CONSUMER.NAMES.{STREAM}", timeout_s=2)
            for name in listed["consumers"]:
                with suppress(ApiError):  # the follower removes the consumers it has replaced
                    await api.js_request(f"CONSUMER.DELETE.{STREAM}.{name}", timeout_s=2)
    assert [record.sequence for record in seen] == list(range(1, 62))


async def test_a_slow_reader_is_not_run_over(server: RealServer, writer: Writer) -> None:
    """A slow follower gets everything; the pulls bound how much waits for it."""
    await _commit_numbers(writer, 1500)
    sizes: list[int] = []
    last = 0
    async for batch in writer.journal.read(0, 1501):
        assert batch[0].sequence == last + 1
        last = batch[-1].sequence
        sizes.append(len(batch))
        await asyncio.sleep(0.01)
    assert last == 1501
    assert max(sizes) <= 2 * LIMITS.pull_messages


async def test_a_pull_that_comes_twice_reads_no_further(writer: Writer, api: Bus) -> None:
    """Whoever reads up to its claim must not fold a later one: it would take that for its own."""
    await _commit_numbers(writer, 2)
    read: list[int] = []
    async with open_consumer(api, STREAM, LIMITS, lambda _, sequence: sequence, 0, 1) as consumer:
        (name,) = (await api.js_request(f"CONSUMER.NAMES.{STREAM}", timeout_s=2))["consumers"]
        again = {"batch": 3, "expires": 2_000_000_000}
        await api.js_send(f"CONSUMER.MSG.NEXT.{STREAM}.{name}", again, f"{consumer.inbox}.9")
        async with asyncio.timeout(5):
            while not read:
                read += await consumer.take()
        await asyncio.sleep(0.3)  # the server has sent the others, too
        with suppress(Interrupted):
            read += await consumer.take()
    assert read == [1]


async def test_no_consumer_outlives_its_reader(writer: Writer, api: Bus) -> None:
    """Readers delete their consumers."""
    await _commit_numbers(writer, 10)
    await read(writer.journal, 0, 11)
    await follow(writer.journal, 0, 11, [])
    async with asyncio.timeout(5):
        while (await api.js_request(f"CONSUMER.NAMES.{STREAM}", timeout_s=2))["consumers"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_stream_recreated_under_a_follower_is_corruption(writer: Writer, api: Bus) -> None:
    """The follower reports that the stream is a different one, even when it has reached the old message count."""
    await _commit_numbers(writer, 5)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(_outcome(writer.journal, 0))
        await asyncio.sleep(0.3)
        await api.js_request(f"STREAM.DELETE.{STREAM}", timeout_s=5)
        await api.js_request(f"STREAM.CREATE.{STREAM}", stream_config(SUBJECTS), timeout_s=5)
        for _ in range(20):
            await api.js_publish(SUBJECTS.journal, b"forged", timeout_s=2)
        error = await following
    assert isinstance(error, Corrupt)
    assert "created again" in error.message


async def test_a_stream_deleted_under_a_writer_and_a_follower_is_corruption(writer: Writer, api: Bus) -> None:
    """Both stop and report it; neither hangs."""
    await _commit_numbers(writer, 5)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(_outcome(writer.journal, 0))
        await asyncio.sleep(0.3)
        await api.js_request(f"STREAM.DELETE.{STREAM}", timeout_s=5)
        with pytest.raises(Corrupt, match="does not exist any more"):
            await writer.commit(b"x")
        error = await following
    assert isinstance(error, Corrupt)
    assert "does not exist any more" in error.message


async def test_records_purged_under_a_follower_that_lags_are_corruption(writer: Writer, api: Bus) -> None:
    """A follower that has not read what was purged stops; it does not skip."""
    await _commit_numbers(writer, 1000)
    batches = writer.journal.follow(0)
    await anext(batches)
    await api.js_request(f"STREAM.PURGE.{STREAM}", {"seq": 900}, timeout_s=5)
    with pytest.raises(Corrupt, match="899 were archived or are missing"):
        await asyncio.wait_for(_drain(batches), 20)


async def test_a_record_cut_out_of_the_middle_is_corruption(server: RealServer, api: Bus) -> None:
    """A gap in the stream is reported with its sequence, by a follower and by a reader."""
    open_to_deletion = stream_config(SUBJECTS) | {"deny_delete": False}
    await api.js_request(f"STREAM.CREATE.{STREAM}", open_to_deletion, timeout_s=5)
    for number in range(10):
        await api.js_publish(SUBJECTS.journal, b"%d" % number, timeout_s=2)
    await api.js_request(f"STREAM.MSG.DELETE.{STREAM}", {"seq": 6, "no_erase": True}, timeout_s=5)
    journal = NatsJournal(api, SUBJECTS, read_limits=LIMITS)
    with pytest.raises(Corrupt, match="record 6 is missing"):
        await read(journal, 0, 10)
    with pytest.raises(Corrupt, match="record 6 is missing"):
        await follow(journal, 0, 10, [])


async def test_a_follower_waits_for_a_journal_that_does_not_exist_yet(server: RealServer) -> None:
    """A follower started before any coordinator waits; the first commit reaches it."""
    seen: list[Record] = []
    async with Bus.open(server.url, name="early") as bus, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        early = NatsJournal(bus, SUBJECTS, read_limits=LIMITS)
        with pytest.raises(Unavailable, match="no stream"):
            await early.bounds()
        tasks.create_task(follow(early, 0, 1, seen))
        await asyncio.sleep(0.2)
        async with journal_at(server.url) as journal:
            await journal.claim(b"{}")
            while not seen:  # noqa: ASYNC110 - watches from outside
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("discard", "old", "discard is 'old' and should be 'new'"),
        ("deny_delete", False, "deny_delete is False and should be True"),
        ("allow_rollup_hdrs", True, "allow_rollup_hdrs is True and should be False"),
        ("allow_msg_ttl", True, "allow_msg_ttl is True and should be False"),
        ("max_age", 3_600_000_000_000, "max_age is 3600 s and should be 0 s"),
        ("max_msgs", 10, "max_msgs is 10 and should be -1"),
        ("duplicate_window", 10_000_000_000, "duplicate_window is 10 s and should be at least 120 s"),
        ("storage", "memory", "storage is 'memory' and should be 'file'"),
        ("subjects", ["coordination.journal", "coordination.>"], "subjects is"),
        ("allow_atomic", True, "allow_atomic is True and should be False"),
    ],
)
async def test_a_stream_configured_otherwise_is_refused_and_left_alone(
    server: RealServer, api: Bus, field: str, value: object, said: str
) -> None:
    """Each drifted field is named with its value and the expected one; nothing is changed."""
    config = stream_config(SUBJECTS) | {field: value}
    if field == "subjects":
        config["subjects"] = ["coordination.*"]
    made = await api.js_request(f"STREAM.CREATE.{STREAM}", config, timeout_s=5)
    with pytest.raises(Refused) as caught:
        async with journal_at(server.url):
            pass
    assert said in caught.value.message
    found = await api.js_request(f"STREAM.INFO.{STREAM}", timeout_s=5)
    assert found["config"] == made["config"]


async def test_a_longer_duplicate_window_and_a_second_coordinator_are_fine(server: RealServer) -> None:
    """A correct stream is accepted unchanged, also by several callers at once."""
    async with journal_at(server.url, duplicate_window_s=600), AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(journal_at(server.url))


async def test_reading_gives_up_when_the_server_stays_away(server: RealServer, writer: Writer) -> None:
    """`read` raises Unavailable after its patience; only `follow` waits for ever."""
    await _commit_numbers(writer, 3)
    impatient = PullLimits(heartbeat_s=0.2, look_s=0.4, patience_s=1.0, answer_timeout_s=0.3)
    async with journal_at(server.url, impatient) as journal:
        await server.kill()
        with pytest.raises(Unavailable, match="could not be read"):
            async with asyncio.timeout(20):
                await read(journal, 0, 4)
        await server.start()


def _through(between: Proxy, server: RealServer) -> str:
    return server.url.replace(f":{server.port}", f":{between.port}")


async def _until_stored(api: Bus, sequence: int) -> None:
    async with asyncio.timeout(10):
        while True:
            info = await api.js_request(f"STREAM.INFO.{STREAM}", timeout_s=2)
            if info["state"]["last_seq"] >= sequence:
                return
            await asyncio.sleep(0.005)


async def _drain(batches: AsyncIterator[list[Record]]) -> None:
    async for _ in batches:
        pass


async def _outcome(journal: Any, after: int) -> BaseException | None:
    try:
        await follow(journal, after, 1_000_000, [])
    except Corrupt as error:
        return error
    return None
