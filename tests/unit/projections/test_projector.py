"""The projector writes the fold, for any batches, after any stop, and for any state of the journal."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.errors import Corrupt, Refused, Unavailable
from coordinator.journal.memory import MemoryJournal, MemoryStream
from events import codec
from events.base import START, Position
from projections import projector as module
from projections.history import replay_digest, world_at
from projections.projector import Projector, ProjectorLimits, Told
from projections.source import GENESIS, Bounds, Record, chain_after
from projections.store.memory import MemoryStore
from projections.store.port import STORE_BUSY, Batch, Store, StoreUnfit
from projections.store.sqlite import SqliteStore
from tests.journals import (
    KEEPS_ALL,
    KEEPS_LITTLE,
    a_bit_of_everything,
    events_of,
    folded,
    leading,
    rows_of,
    some_tasks,
    states_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ONE_BY_ONE = ProjectorLimits(batch_events=1)
AT_ONCE = ProjectorLimits(batch_events=10**6, batch_bytes=10**9, batch_s=60)
WAIT_S = 5.0


class Given:
    """A source of given records, in given batches; it checks nothing, because the projector must."""

    def __init__(self, *batches: list[Record]) -> None:
        self.batches = batches
        self.closed = False

    async def bounds(self) -> Bounds:
        sequences = [record.sequence for batch in self.batches for record in batch]
        return Bounds(1, max(sequences, default=0))

    async def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        yield [record for batch in self.batches for record in batch if after < record.sequence <= until]

    async def follow(self, after: int) -> AsyncIterator[list[Record]]:
        assert after >= 0
        try:
            for batch in self.batches:
                yield batch
            await asyncio.Event().wait()
        finally:
            self.closed = True


class Counting(MemoryStore):
    """A store that records each batch, after failing a given number of times."""

    def __init__(self, *failures: Unavailable) -> None:
        super().__init__()
        self.failures = list(failures)
        self.batches: list[Batch] = []

    async def write(self, batch: Batch) -> None:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(batch)
        await super().write(batch)


async def written(limits: Any = KEEPS_ALL, stream: MemoryStream | None = None) -> MemoryJournal:
    """Make an engine write a journal with events of every kind."""
    journal = MemoryJournal(stream)
    async with leading(journal, limits=limits) as engine:
        await a_bit_of_everything(engine)
    return journal


async def records_of(journal: MemoryJournal) -> list[Record]:
    last = (await journal.bounds()).last
    return [record async for batch in journal.read(0, last) for record in batch]


@asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[None]:
    """Run the projector during the block; it must not fail by itself."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(projector.run())
        yield
        task.cancel()


async def project(source: Any, store: Store, limits: ProjectorLimits | None = None, **options: Any) -> None:
    """Bring the store up to the end of the source."""
    last = (await source.bounds()).last
    async with running(Projector(source, store, limits=limits, **options)):
        await store.wait_for(Position(last, 0), WAIT_S)


async def everything(store: Store) -> tuple[Any, ...]:
    return store.position(), await rows_of(store), await events_of(store)


async def test_rows_are_the_fold_and_events_the_journals_own_bytes() -> None:
    """Every entity of the world is a row, equal in every field; every event is stored byte for byte, in order."""
    journal = await written()
    store = MemoryStore()
    await project(journal, store)
    world = await folded(journal)
    assert await rows_of(store) == states_of(world)
    assert all(len(rows) > 0 for rows in states_of(world).values())
    assert world.workers["a-worker"].rounds > 0.0
    bodies = b",".join(body for _, body in await events_of(store))
    assert bodies == b",".join(record.body[1:-1] for record in await records_of(journal) if record.kind == "commit")
    mark = store.position()
    assert (mark.position, mark.chain, mark.generation) == (world.position, world.chain.hex(), 1)
    assert (mark.time, mark.unfoldable) == (world.time, "")


async def test_what_has_ended_stays_when_it_leaves_the_world() -> None:
    """A world that keeps three ended tasks, and a store that has all of them, in the state in which they ended."""
    everything_kept = await written(KEEPS_LITTLE)
    store = MemoryStore()
    await project(everything_kept, store)
    world = await folded(everything_kept)
    rows = (await rows_of(store))["task"]
    assert len(world.tasks) < len(rows) == 12
    ended = [row for row in rows.values() if msgspec.json.decode(row)["status"] in ("completed", "failed", "cancelled")]
    assert len(ended) == 7
    for kind, states in states_of(world).items():
        assert states, kind
        assert states.items() <= (await rows_of(store))[kind].items()


@pytest.mark.parametrize("limits", [KEEPS_ALL, KEEPS_LITTLE], ids=["keeps_all", "keeps_little"])
async def test_a_rebuild_from_zero_equals_the_live_rows(limits: Any, tmp_path: Path) -> None:
    """Live, one by one or at once, in memory or a file: the same rows, events and position."""
    journal = MemoryJournal()
    live = MemoryStore()
    async with running(Projector(journal, live)), leading(journal, limits=limits) as engine:
        await a_bit_of_everything(engine)
        await some_tasks(engine, "more", 30)
    await project(journal, live)
    for how in (ONE_BY_ONE, AT_ONCE, ProjectorLimits(batch_bytes=3000)):
        rebuilt = MemoryStore()
        await project(journal, rebuilt, how)
        assert await everything(rebuilt) == await everything(live)
    async with SqliteStore.open(tmp_path / "state.db") as file:
        await project(journal, file)
        assert await everything(file) == await everything(live)
        assert await file.check() == ()


async def test_a_stop_after_any_batch_is_resumed_without_gap_or_repeat(tmp_path: Path) -> None:
    """Stopped after every commit and continued by a new projector on the reopened file, it ends with the same store."""
    journal = await written(KEEPS_LITTLE)
    path = tmp_path / "state.db"
    for record in await records_of(journal):
        async with (
            SqliteStore.open(path) as store,
            running(Projector(_until(journal, record.sequence), store, limits=ONE_BY_ONE)),
        ):
            await store.wait_for(Position(record.sequence, 0), WAIT_S)
    straight = MemoryStore()
    await project(journal, straight, AT_ONCE)
    async with SqliteStore.open(path) as store:
        assert await everything(store) == await everything(straight)
        assert await store.check() == ()


def _until(journal: MemoryJournal, last: int) -> MemoryJournal:
    """Return the journal as it was when it ended at *last*."""
    stream = MemoryStream()
    stream._records = journal.stream._records[:last]
    return MemoryJournal(stream)


async def test_limits_cut_batches() -> None:
    """Events, bytes and time each close a batch; a batch has at least one record and only its last states."""
    journal = await written()
    commits = len(await records_of(journal))
    for limits in (ONE_BY_ONE, ProjectorLimits(batch_bytes=1), ProjectorLimits(batch_s=0)):
        store = Counting()
        await project(journal, store, limits)
        # A claim has no events, and alone does not fill a batch of one event.
        assert commits - 1 <= len(store.batches) <= commits
    store = Counting()
    await project(journal, store, AT_ONCE)
    assert len(store.batches) == 1
    assert len(store.batches[0].states["task"]) == 12
    assert sum(row.kind == "task" for row in store.batches[0].events) > 24


async def test_a_record_given_twice_is_taken_once() -> None:
    """Repeats after a reconnect, single or whole batches, change nothing."""
    journal = await written()
    records = await records_of(journal)
    straight, repeated = MemoryStore(), MemoryStore()
    await project(journal, straight)
    await project(Given(records[:9], records[4:9], records[8:15], records[14:]), repeated)
    assert await everything(repeated) == await everything(straight)


async def test_a_gap_stops_it_after_what_stands_before() -> None:
    """A missing record is Corrupt and named; all before it is in the store, and the source is closed."""
    records = await records_of(await written())
    source = Given(records[:10] + records[11:])
    store = MemoryStore()
    with pytest.raises(Corrupt, match="12 came after 10"):
        await Projector(source, store).run()
    assert store.position().position.sequence == 10
    assert source.closed
    assert await rows_of(store) == states_of(await folded(_until(await written_as(records), 10)))


async def written_as(records: list[Record]) -> MemoryJournal:
    """Return a journal of given records."""
    stream = MemoryStream()
    stream._records = list(records)
    return MemoryJournal(stream)


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: msgspec.structs.replace(record, body=b"[]"),
        lambda record: msgspec.structs.replace(record, body=b"no JSON"),
        lambda record: msgspec.structs.replace(record, body=record.body + b" "),
        lambda record: msgspec.structs.replace(record, chain="00" * 32),
        lambda record: msgspec.structs.replace(record, chain=None),
    ],
    ids=["no events", "no JSON", "other bytes", "other chain", "no chain"],
)
async def test_a_damaged_commit_stops_it_after_what_stands_before(damage: Any) -> None:
    """The store has nothing of a damaged commit, nor of a later one."""
    records = await records_of(await written())
    store = MemoryStore()
    source = Given([*records[:12], damage(records[12]), *records[13:]])
    with pytest.raises(Corrupt):
        await Projector(source, store, limits=AT_ONCE).run()
    # Bytes that change nothing but the hash are noticed at the next commit, whose chain names it.
    assert store.position().position.sequence in (12, 13)
    expected = await folded(await written_as(source.batches[0]), store.position().position.sequence)
    assert await rows_of(store) == states_of(expected)


async def test_a_commit_that_fails_halfway_leaves_nothing() -> None:
    """A commit whose second event is not allowed is not in the store with its first."""
    records = await records_of(await written())
    world = await folded(await written_as(records), 12)
    good = codec.decode(records[-2].body)[0]
    task_events = [one for record in records if record.kind == "commit" for one in codec.decode(record.body)]
    submitted = next(one for one in task_events if one.type == "task.submitted")
    fresh = msgspec.structs.replace(submitted, data=msgspec.structs.replace(submitted.data, task_id="fresh"))
    started = next(one for one in task_events if one.type == "task.started")
    orphan = msgspec.structs.replace(started, data=msgspec.structs.replace(started.data, task_id="never-made"))
    body = codec.join(codec.encode(msgspec.structs.replace(one, time=good.time)) for one in (fresh, orphan))
    bad = Record(sequence=13, kind="commit", body=body, chain=world.chain.hex())
    store = MemoryStore()
    with pytest.raises(Corrupt, match="does not exist"):
        await Projector(Given([*records[:12], bad]), store).run()
    assert await store.get("task", "fresh") is None
    assert await rows_of(store) == states_of(world)


async def test_events_of_another_release_are_kept_and_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown type is stored unchanged as an event; a release that knows it rebuilds such a store."""
    journal = await written()
    records = await records_of(journal)
    world = await folded(journal)
    unknown = (
        b'{"specversion":"1.0","id":"x","type":"robot.danced","source":"/x","subject":"robot-1",'
        b'"time":"2030-01-01T00:00:00.000000Z","dataversion":1,"data":{"steps":[1,2,3]}}'
    )
    last = records[-1].sequence + 1
    commit = Record(sequence=last, kind="commit", body=b"[%b]" % unknown, chain=world.chain.hex())
    store = MemoryStore()
    await project(Given([*records, commit]), store)
    found = await store.events(type_prefix="robot", subject="robot-1")
    assert [one.body for one in found.items] == [unknown]
    assert store.position().unfoldable == f"robot.danced at {last}.0"
    assert await rows_of(store) == states_of(world)

    # A release that folds it: its world has nothing unfoldable where the store says there was something.
    plain = module._TrackingWorld.apply_record

    def apply_record(self: Any, record: Record) -> Any:
        envelopes = plain(self, record)
        self.unfoldable = ""
        return envelopes

    monkeypatch.setattr(module._TrackingWorld, "apply_record", apply_record)
    with pytest.raises(StoreUnfit, match="robot"):
        await Projector(Given([*records, commit]), store).run()


async def test_a_journal_that_is_shorter_than_the_store_is_corrupt() -> None:
    """A journal that ends before the store is refused."""
    journal = await written()
    store = MemoryStore()
    await project(journal, store)
    last = store.position().position.sequence
    for left in (0, 1, last - 1):
        with pytest.raises(Corrupt, match=f"ends at {left}, but the store contains record {last}: .*delete the store"):
            await Projector(_until(journal, left), store).run()


async def test_another_journal_is_corrupt() -> None:
    """A journal that differs anywhere before the position of the store is not the one it was written from."""
    store = MemoryStore()
    await project(await written(), store)
    other = MemoryJournal()
    async with leading(other) as engine:
        await a_bit_of_everything(engine, "other", tasks=60)
        await some_tasks(engine, "more", 60)
    before = await everything(store)
    with pytest.raises(Corrupt, match="the store was not written from this journal"):
        await Projector(other, store).run()
    assert await everything(store) == before


@pytest.mark.parametrize("more", [0, 200])
async def test_a_restored_journal_has_the_store_built_anew(more: int) -> None:
    """A restore raises the generation: shorter or longer than the store, the journal is right and the store is not."""
    journal = await written()
    store = MemoryStore()
    await project(journal, store)
    restored = _until(journal, 10)
    async with leading(restored, generation=2) as engine:
        for number in range(0, more, 10):
            await some_tasks(engine, f"after-{number}", 10)
    with pytest.raises(StoreUnfit, match="restored, now generation 2"):
        await Projector(restored, store).run()


async def test_a_full_disk_makes_it_wait_and_skips_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store has no room the same batch is retried, and then the next is written."""
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    journal = await written()
    store, straight = Counting(*[Unavailable("full", reason=STORE_BUSY)] * 7), MemoryStore()
    await project(journal, store, ProjectorLimits(batch_events=10))
    await project(journal, straight)
    assert store.failures == []
    assert await everything(store) == await everything(straight)


@pytest.mark.parametrize("error", [StoreUnfit("gone"), Unavailable("elsewhere", reason="another_writer")])
async def test_a_store_that_will_never_take_the_batch_ends_it(error: Unavailable) -> None:
    """A permanent error is raised to the caller, which can open another store."""
    with pytest.raises(type(error), match=str(error.message)):
        await Projector(await written(), Counting(error)).run()


async def test_a_snapshot_spares_folding_and_changes_nothing() -> None:
    """A snapshot at or before the store's position gives the same rows; one ahead of it is not used."""
    journal = await written(KEEPS_LITTLE)
    straight = MemoryStore()
    await project(journal, straight)
    for at in (1, 7, 20):
        snapshot = (await folded(journal, at)).snapshot()
        store = MemoryStore()
        await project(_until(journal, 15), store)
        await project(journal, store, snapshot=snapshot)
        assert await everything(store) == await everything(straight)


async def test_listeners_are_told_each_record_once_it_is_stored() -> None:
    """In order, with its events, and only after it is stored; the iteration ends with the projector."""
    journal, store = MemoryJournal(), MemoryStore()
    projector = Projector(journal, store)
    told: list[Told] = []

    async def listen() -> None:
        with projector.listen() as listener:
            async for one in listener:
                assert store.position().position.sequence >= one.record.sequence
                told.append(one)

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen())
        async with running(projector), leading(journal) as engine:
            await a_bit_of_everything(engine)
        await asyncio.wait_for(listening, WAIT_S)
    records = await records_of(journal)
    assert [one.record for one in told] == records[: len(told)]
    assert len(told) >= len(records) - 1  # the last commit may have come after the projector was stopped
    assert [len(one.envelopes) for one in told[:2]] == [0, 2]


async def test_a_listener_that_falls_behind_is_told_so_and_holds_nobody_up() -> None:
    """It gets what was queued, then the error; the projector goes on."""
    journal, store = await written(), MemoryStore()
    projector = Projector(journal, store)
    with projector.listen(most=3) as slow:
        async with running(projector):
            await store.wait_for((await folded(journal)).position, WAIT_S)
            told = [(await anext(slow)).record.sequence for _ in range(3)]
            with pytest.raises(Unavailable) as caught:
                await anext(slow)
    assert told == [1, 2, 3]
    assert caught.value.reason == "fell_behind"


async def test_listeners_learn_of_damage() -> None:
    """When the journal is damaged the iteration ends with the reason."""
    records = await records_of(await written())
    projector = Projector(Given(records[:5] + records[6:]), MemoryStore())
    with projector.listen() as listener:
        with pytest.raises(Corrupt):
            await projector.run()
        told = [(await anext(listener)).record.sequence for _ in range(5)]
        with pytest.raises(Unavailable, match="7 came after 5"):
            await anext(listener)
    assert told == [1, 2, 3, 4, 5]


# --- history ----------------------------------------------------------------------------------------------------------


async def test_the_state_at_every_position_is_that_of_the_fold() -> None:
    """At the end of a commit it is the world after it; within a commit, the world after that event."""
    journal = await written()
    records = await records_of(journal)
    chain = GENESIS
    for record in records:
        world = await world_at(journal, Position(record.sequence, 0))
        chain = chain_after(chain, record.sequence, record.body)
        assert world.chain == chain
        assert world.position == Position(record.sequence, 0)
    big = next(record for record in records if record.kind == "commit" and len(codec.decode(record.body)) > 5)
    for index in range(6):
        world = await world_at(journal, Position(big.sequence, index))
        known = await folded(journal, big.sequence - 1)
        assert len(world.tasks) - len(known.tasks) == index + 1
    end = (await folded(journal)).position
    assert (await world_at(journal, end)).digest() == await replay_digest(journal)
    assert states_of(await world_at(journal, START)) == states_of(await folded(journal, 0))


async def test_a_position_that_is_not_in_the_journal_is_refused() -> None:
    """A position after the end, after the end of a commit, or before the beginning is refused."""
    journal = await written()
    last = (await journal.bounds()).last
    for position in (Position(last + 1, 0), Position(2, 99), Position(-1, 0)):
        with pytest.raises(Refused, match="not in the journal"):
            await world_at(journal, position)


async def test_replays_give_one_digest() -> None:
    """The same journal gives the same digest each time; a journal with another end gives another digest."""
    journal = await written(KEEPS_LITTLE)
    assert await replay_digest(journal) == await replay_digest(journal) == (await folded(journal)).digest()
    assert await replay_digest(journal, 5) != await replay_digest(journal)
