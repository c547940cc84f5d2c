"""The high-water mark: it survives any end of the process, and a damaged mark is never used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Corrupt, Refused
from coordinator.journal.high_water import HighWater
from coordinator.journal.witnesses import Seen, is_of_another, seen_by_store

if TYPE_CHECKING:
    from pathlib import Path

PLACE = 4096


def seen(sequence: int) -> Seen:
    return Seen(sequence=sequence, generation=1, chain=f"{sequence:064x}", created="then", stream="J", by="me")


def test_what_was_noted_is_there_again(tmp_path: Path) -> None:
    """The mark survives without a sync or an orderly end, in both places in turn; other users cannot read it."""
    file = tmp_path / "journal.seen"
    with HighWater.open(file) as high_water:
        assert high_water.seen is None
        for sequence in (1, 2, 3):
            high_water.note(seen(sequence))
            with HighWater.open(file) as again:
                assert again.seen == seen(sequence)
    assert file.stat().st_mode & 0o077 == 0


def test_a_torn_write_leaves_the_mark_before(tmp_path: Path) -> None:
    """When one place is damaged, the other one counts, and the next mark continues from there."""
    file = tmp_path / "journal.seen"
    with HighWater.open(file) as high_water:
        high_water.note(seen(1))
        high_water.note(seen(2))
    with file.open("r+b") as opened:
        opened.write(b"torn")  # the second note is in the first place
    with HighWater.open(file) as high_water:
        assert high_water.seen == seen(1)
        high_water.note(seen(3))
    with HighWater.open(file) as high_water:
        assert high_water.seen == seen(3)


def test_a_read_model_is_of_the_stream_that_the_mark_says() -> None:
    """Without a mark the read model counts; with a mark of another stream it does not, until it has moved on."""
    assert not is_of_another(seen(5), None, "J")
    assert not is_of_another(seen(5), seen(1), "J")
    assert is_of_another(seen(5), seen(1), "K")
    turned = Seen(sequence=1, generation=1, stream="K", beside=seen(5).chain)
    assert is_of_another(seen(5), turned, "K")
    assert not is_of_another(seen(6), turned, "K")
    assert not is_of_another(Seen(sequence=1, generation=1), Seen(sequence=1, generation=1, stream="K"), "K")


def test_a_damaged_mark_is_told(tmp_path: Path) -> None:
    """When neither place is readable but the file has content, no coordinator may lead: records may be lost."""
    file = tmp_path / "journal.seen"
    file.write_bytes(b"x" * PLACE * 2)
    with pytest.raises(Corrupt, match="is damaged"), HighWater.open(file):
        pass


def test_a_mark_of_zeros_is_none(tmp_path: Path) -> None:
    """This is what a power cut may leave of a file that was just created."""
    file = tmp_path / "journal.seen"
    file.write_bytes(bytes(PLACE * 2))
    with HighWater.open(file) as high_water:
        assert high_water.seen is None


def test_without_a_file_it_lives_in_memory() -> None:
    """An instance without a home keeps the mark while it runs."""
    with HighWater.open(None) as high_water:
        high_water.note(seen(5))
        high_water.sync()
        assert high_water.seen == seen(5)


def test_a_mark_that_cannot_be_kept_stops_nobody(tmp_path: Path) -> None:
    """A write error is logged, and the mark in memory still counts."""
    with HighWater.open(tmp_path / "journal.seen") as high_water:
        good, broken = high_water._fd, os.open(tmp_path, os.O_RDONLY)
        high_water._fd = broken
        high_water.note(seen(1))
        high_water.note(seen(2))
        high_water._fd = good
        os.close(broken)
        assert high_water.seen == seen(2)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The error names the file, before anything else starts."""
    with pytest.raises(Refused, match="cannot be opened"), HighWater.open(tmp_path / "none" / "journal.seen"):
        pass


def test_a_store_that_is_none_has_seen_nothing(tmp_path: Path) -> None:
    """A missing read model and a file that is not a database are not witnesses."""
    assert seen_by_store(tmp_path / "state.db") is None
    (tmp_path / "state.db").write_bytes(b"x" * 5000)
    assert seen_by_store(tmp_path / "state.db") is None
