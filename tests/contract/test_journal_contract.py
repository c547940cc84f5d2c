"""What every journal does, both in memory and on a real server."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Corrupt, Refused
from coordinator.journal.slots import Deposed, Epoch
from projections.source import GENESIS, Bounds, Record, chain_after
from tests.journal_worlds import World, Writer, follow, in_memory, on_server, read
from tests.real_server import real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.journal.slots import Journal


@pytest.fixture(params=["memory", "memory-replicated", "nats"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "nats":
        async with real_server(tmp_path) as server, on_server(server.url) as made:
            yield made
    else:
        async with in_memory(replicated=request.param == "memory-replicated") as made:
            yield made


@pytest.fixture
async def journal(world: World) -> Journal:
    return await world.connect()


@pytest.fixture
async def writer(journal: Journal) -> Writer:
    writer = Writer(journal)
    await writer.claim()
    return writer


async def test_an_empty_journal_begins_at_one(journal: Journal) -> None:
    """An empty journal has no records, and the first slot will be 1."""
    assert await journal.bounds() == Bounds(1, 0)
    assert await read(journal, 0, 0) == []


async def test_what_was_committed_is_read_as_it_was_written(writer: Writer) -> None:
    """Claim and commits come back in order: kind, body, the chain before each commit, and the message id."""
    for number in range(3):
        await writer.commit(b"body %d" % number)
    first, *commits = await read(writer.journal, 0, 4)
    assert (first.sequence, first.kind, first.body, first.chain) == (1, "claim", b'{"holder":"test"}', None)
    chain = chain_after(GENESIS, 1, first.body)
    for sequence, record in enumerate(commits, 2):
        assert record == Record(
            sequence=sequence,
            kind="commit",
            body=b"body %d" % (sequence - 2),
            chain=chain.hex(),
            message_id=f"1.1.{sequence}",
        )
        chain = chain_after(chain, sequence, record.body)
    assert await writer.journal.bounds() == Bounds(1, 4)


async def test_reading_gives_exactly_the_part_asked_for(writer: Writer) -> None:
    """`read` excludes the lower bound and includes the upper one, whatever its batch size."""
    for number in range(1200):
        await writer.commit(b"%d" % number)
    for after, until in ((0, 1201), (0, 1), (1200, 1201), (500, 900), (1201, 1201)):
        found = await read(writer.journal, after, until)
        assert [record.sequence for record in found] == list(range(after + 1, until + 1))


async def test_a_second_claim_deposes_the_first_writer(world: World, writer: Writer) -> None:
    """After another's claim the old writer's commit is refused, in the slot of the claim and after it."""
    await writer.commit(b"ours")
    successor = Writer(await world.connect())
    claimed = await successor.claim()
    with pytest.raises(Deposed):
        await writer.commit(b"late")
    with pytest.raises(Deposed):
        await writer.journal.commit(claimed + 1, writer.epoch, successor.chain, b"late, in the right slot")
    await successor.commit(b"theirs")
    with pytest.raises(Deposed):
        await writer.journal.commit(claimed + 1, writer.epoch, successor.chain, b"late, in a slot that is taken")
    assert [record.body for record in await read(writer.journal, 1, 4)] == [b"ours", b'{"holder":"test"}', b"theirs"]


async def test_claims_made_at_once_all_come_about_one_after_the_other(world: World) -> None:
    """Claimants with equal bodies each get a sequence of their own, and only the last may write."""
    writers = [Writer(await world.connect()) for _ in range(6)]
    claims = await asyncio.gather(*(writer.journal.claim(b"same") for writer in writers))
    assert sorted(claims) == [1, 2, 3, 4, 5, 6]
    for writer, claim in zip(writers, claims, strict=True):
        attempt = writer.journal.commit(7, Epoch(1, claim), GENESIS, b"x")
        if claim == 6:
            await attempt
        else:
            with pytest.raises(Deposed):
                await attempt


async def test_the_same_commit_again_is_already_there(writer: Writer) -> None:
    """A writer that repeats a commit with an unknown outcome finds it done; it is stored once."""
    before = writer.chain
    await writer.commit(b"once")
    await writer.journal.commit(2, writer.epoch, before, b"once")
    assert await writer.journal.bounds() == Bounds(1, 2)


async def test_another_commit_in_a_taken_slot_is_refused(world: World, writer: Writer) -> None:
    """A slot never changes, not even for its own epoch."""
    before = writer.chain
    await writer.commit(b"first")
    await writer.commit(b"second")
    rival = await world.connect()
    with pytest.raises(Deposed):
        await rival.commit(2, Epoch(1, writer.epoch.sequence + 100), before, b"other")
    assert [record.body for record in await read(rival, 1, 3)] == [b"first", b"second"]


async def test_a_commit_beyond_the_end_is_corruption(writer: Writer) -> None:
    """Where slot n-1 is missing the journal went backwards: nothing may be appended."""
    with pytest.raises(Corrupt, match="ends at 1, but slot 8 was there"):
        await writer.journal.commit(9, writer.epoch, GENESIS, b"x")
    assert await writer.journal.bounds() == Bounds(1, 1)


async def test_two_commits_in_flight_are_a_defect(writer: Writer) -> None:
    """The port refuses a second commit while one is in flight: a predicted slot may come true by accident."""
    results = await asyncio.gather(
        writer.journal.commit(2, writer.epoch, writer.chain, b"one"),
        writer.journal.commit(3, writer.epoch, writer.chain, b"two"),
        return_exceptions=True,
    )
    assert results[0] is None
    assert isinstance(results[1], RuntimeError)


async def test_a_follower_gets_what_is_there_and_what_comes(world: World, writer: Writer) -> None:
    """Following yields every record once, in order, and new ones as they are committed."""
    for number in range(700):
        await writer.commit(b"%d" % number)
    seen: list[Record] = []
    later: list[Record] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(await world.connect(), 0, 1001, seen))
        tasks.create_task(follow(await world.connect(), 650, 1001, later))
        for number in range(700, 1000):
            await writer.commit(b"%d" % number)
    assert [record.sequence for record in seen] == list(range(1, 1002))
    assert [record.body for record in seen[1:]] == [b"%d" % number for number in range(1000)]
    assert later == seen[650:]


async def test_an_idle_follower_stays(world: World, writer: Writer) -> None:
    """A quiet period is not an error: what is committed after it arrives."""
    seen: list[Record] = []
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(await world.connect(), 1, 2, seen))
        await asyncio.sleep(1.3)
        await writer.commit(b"at last")
    assert [record.body for record in seen] == [b"at last"]


async def test_reading_beyond_the_end_is_corruption(writer: Writer) -> None:
    """Records that were seen and are gone are reported, by `read` and `follow` alike, with what was seen."""
    with pytest.raises(Corrupt, match="ends at 1, but record 5"):
        await read(writer.journal, 0, 5)
    with pytest.raises(Corrupt, match="ends at 1, but record 5"):
        await follow(writer.journal, 5, 9, [])


async def test_reading_what_the_archive_has_taken_is_corruption(world: World, writer: Writer) -> None:
    """Records below the first one cannot be skipped; reading from the first one on works."""
    for number in range(9):
        await writer.commit(b"%d" % number)
    await world.purge(6)
    assert await writer.journal.bounds() == Bounds(6, 10)
    with pytest.raises(Corrupt, match="begins at 6"):
        await read(writer.journal, 4, 10)
    with pytest.raises(Corrupt, match="begins at 6"):
        await follow(writer.journal, 0, 10, [])
    assert [record.sequence for record in await read(writer.journal, 5, 10)] == [6, 7, 8, 9, 10]


async def test_a_journal_that_was_emptied_keeps_its_count(world: World, writer: Writer) -> None:
    """A purge of everything leaves no record and the next slot unchanged."""
    await writer.commit(b"x")
    await world.purge(3)
    assert await writer.journal.bounds() == Bounds(3, 2)
    assert await read(writer.journal, 2, 2) == []


async def test_a_writer_whose_claim_was_purged_is_deposed_and_may_claim_again(world: World, writer: Writer) -> None:
    """The fence is the claim itself: without it nobody may write until the next claim."""
    await writer.commit(b"x")
    await world.purge(2)
    with pytest.raises(Deposed, match="slot 1"):
        await writer.commit(b"y")
    claimed = await writer.journal.claim(b"again")
    assert claimed == 3
    await writer.journal.commit(4, Epoch(1, claimed), GENESIS, b"y")


async def test_large_bodies_pass(world: World, writer: Writer) -> None:
    """Bodies of the size of a full turn are read back complete, also more of them than are read ahead at once."""
    bodies = [bytes([number]) * 700_000 for number in range(30)]
    for body in bodies:
        await writer.commit(body)
    seen: list[Record] = []
    async with asyncio.timeout(30):
        await follow(await world.connect(), 1, 31, seen)
    assert [record.body for record in seen] == bodies


async def test_a_commit_that_was_given_up_leaves_the_journal_usable(writer: Writer) -> None:
    """Cancelling a commit leaves its outcome open; the same commit again settles it."""
    task = asyncio.create_task(writer.journal.commit(2, writer.epoch, writer.chain, b"x"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer.commit(b"x")
    assert [record.body for record in await read(writer.journal, 1, 2)] == [b"x"]


async def test_a_body_above_the_limit_is_refused(tmp_path: Path) -> None:
    """What the server will never accept is refused with the limit, not retried for ever."""
    async with real_server(tmp_path) as server, on_server(server.url) as world:
        writer = Writer(await world.connect())
        await writer.claim()
        with pytest.raises(Refused, match="1048576"):
            await writer.commit(bytes(2_000_000))
        await writer.commit(b"x")


async def test_memory_and_server_decide_alike(tmp_path: Path) -> None:
    """Random claims and commits, valid and invalid, of three writers have the same outcome in both journals."""
    async with real_server(tmp_path) as server:
        for seed in range(12):
            transcripts = []
            async with in_memory() as one, on_server(server.url, f"run-{seed}") as other:
                transcripts = [await _random_run(seed, one), await _random_run(seed, other)]
            assert transcripts[0] == transcripts[1], f"seed {seed}"


async def _random_run(seed: int, world: World) -> list[object]:
    chance = random.Random(seed)
    journals = [await world.connect() for _ in range(3)]
    epochs = [Epoch(1, 0)] * 3
    said: list[object] = []
    for step in range(50):
        who = chance.randrange(3)
        last = (await journals[who].bounds()).last
        if chance.random() < 0.25:
            epochs[who] = Epoch(1, await journals[who].claim(b"claim of %d" % who))
            said.append(("claim", epochs[who]))
            continue
        sequence = max(1, last + chance.choice([-1, 0, 1, 1, 1, 1, 2]))
        body = b"%d" % chance.choice([step, step - 1])
        try:
            await journals[who].commit(sequence, epochs[who], GENESIS, body)
            said.append(("commit", sequence, body))
        except (Deposed, Corrupt) as error:
            said.append((type(error).__name__, sequence))
    bounds = await journals[0].bounds()
    records = await read(journals[0], 0, bounds.last)
    said.append([(record.sequence, record.kind, record.body, record.chain) for record in records])
    return said
