"""The follower's retries: outages are waited out, an unfit store is rebuilt, a damaged journal is reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Corrupt, Unavailable
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.journal.memory import MemoryJournal
from tests.journals import a_bit_of_everything, folded, leading, rows_of, states_of

if TYPE_CHECKING:
    from pathlib import Path

QUICK = FollowerLimits(first_pause_s=0.001, longest_pause_s=0.01)
WAIT_S = 5.0


@pytest.fixture
async def journal() -> MemoryJournal:
    made = MemoryJournal()
    async with leading(made) as engine:
        await a_bit_of_everything(engine)
    return made


async def expect_all(follower: Follower, journal: MemoryJournal) -> None:
    """Wait until the follower has folded the whole journal, and compare its rows with the fold."""
    world = await folded(journal)
    async with asyncio.timeout(WAIT_S):
        while True:
            store = await follower.wait_opened(WAIT_S)
            try:
                await store.wait_for(world.position, 0.05)
            except Unavailable:
                continue
            assert await rows_of(store) == states_of(world)
            return


async def test_a_store_that_cannot_be_opened_is_tried_again(journal: MemoryJournal, tmp_path: Path) -> None:
    """While the store cannot be opened, waiting for it raises Unavailable; then it is opened and filled."""
    blocking = tmp_path / "home"
    blocking.touch()
    follower = Follower(journal, blocking / "state.db", QUICK)
    async with follower.following():
        with pytest.raises(Unavailable, match="is not open within"):
            await follower.wait_opened(0.03)
        assert follower.store is None
        blocking.unlink()
        await expect_all(follower, journal)
    assert follower.store is None


async def test_a_store_that_can_be_neither_used_nor_moved_is_tried_again(
    journal: MemoryJournal, tmp_path: Path
) -> None:
    """A damaged file that cannot be moved aside is kept, and the follower waits until it can be moved."""
    path, aside = tmp_path / "state.db", tmp_path / "state.db.aside"
    path.write_bytes(b"no database" * 1000)
    aside.mkdir()
    follower = Follower(journal, path, QUICK)
    async with follower.following():
        with pytest.raises(Unavailable):
            await follower.wait_opened(0.03)
        assert path.read_bytes().startswith(b"no database")
        aside.rmdir()
        await expect_all(follower, journal)


async def test_a_store_deleted_under_it_is_built_anew(journal: MemoryJournal, tmp_path: Path) -> None:
    """A store file that was deleted is noticed at the next write."""
    path = tmp_path / "state.db"
    follower = Follower(journal, path, QUICK)
    async with follower.following():
        await expect_all(follower, journal)
        path.unlink()
        async with leading(journal) as engine:
            await a_bit_of_everything(engine, "b")
        await expect_all(follower, journal)
        assert path.exists()


async def test_a_restored_journal_has_the_store_built_anew(journal: MemoryJournal, tmp_path: Path) -> None:
    """After a restore, which raises the generation, the lost events are not in the read model any more."""
    path = tmp_path / "state.db"
    follower = Follower(journal, path, QUICK)
    async with follower.following():
        await expect_all(follower, journal)
    journal.stream.truncate(5)
    async with leading(journal, generation=2) as engine:
        await a_bit_of_everything(engine, "b", tasks=4)
    follower = Follower(journal, path, QUICK)
    async with follower.following():
        await expect_all(follower, journal)
    assert (tmp_path / "state.db.aside").exists()


async def test_a_journal_that_went_backwards_is_told_and_stays_told(journal: MemoryJournal, tmp_path: Path) -> None:
    """The store stays readable, and the follower does not resume by itself."""
    path = tmp_path / "state.db"
    follower = Follower(journal, path, QUICK)
    async with follower.following():
        await expect_all(follower, journal)
    before = await folded(journal)
    journal.stream.truncate(5)
    follower = Follower(journal, path, QUICK)
    async with follower.following():
        for _ in range(2):
            with pytest.raises(Corrupt, match="went backwards"):
                await asyncio.wait_for(follower.wait_failed(), WAIT_S)
        store = await follower.wait_opened(WAIT_S)
        assert await rows_of(store) == states_of(before)
    assert not (tmp_path / "state.db.aside").exists()
