"""The logs of the process runtime: bounded on disk and in memory, and honest about what is missing."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Unavailable
from coordinator.runtime.process import log
from coordinator.runtime.process.log import rotate, tail
from tests.launches import launch
from tests.process_runtimes import exited, opened, stop_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.runtime.protocol import LogPart


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "containers"


@pytest.fixture(autouse=True)
async def _no_container_left(root: Path) -> AsyncIterator[None]:
    yield
    await stop_all(root)


async def test_a_log_stays_within_its_bounds(root: Path) -> None:
    """However much a container writes, its disk use is bounded; whole lines are kept, except at marked gaps."""
    script = 'n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo "line $n"; done; sleep 0.1; echo last'
    async with opened(root, max_log_bytes=20_000, log_check_s=0.005) as runtime:
        await runtime.start(launch("a", "sh", "-c", script))
        await exited(runtime)
        lines = await runtime.logs("a", "7.0", 10_000)
        await asyncio.sleep(0.05)
    size = sum(path.stat().st_size for path in (root / launch().name).glob("log*"))
    assert size <= 50_200
    assert "last" in lines[-2:]  # the mark of a cut may come after it
    assert any(line.startswith("[log rotated here") for line in lines)
    for before, after in itertools.pairwise(lines):
        if before.removeprefix("line ").isdigit() and after.removeprefix("line ").isdigit() and before != lines[0]:
            assert int(after.removeprefix("line ")) == int(before.removeprefix("line ")) + 1


def test_rotation_keeps_the_newest_and_says_what_it_dropped(tmp_path: Path) -> None:
    """Dropped bytes are counted in the line that marks the rotation."""
    (tmp_path / "log").write_bytes(b"x" * 900 + b"\n" + b"y" * 99 + b"\n")
    assert rotate(tmp_path, 101)
    with (tmp_path / "log").open("ab") as file:
        file.write(b"after\n")
    first, kept, mark, after = tail(tmp_path, 10)
    assert (first, kept, after) == ("", "y" * 99, "after")
    assert "900 bytes were dropped" in mark
    assert not rotate(tmp_path, 1_000)


def test_a_cut_within_a_line_leaves_the_mark_on_its_own(tmp_path: Path) -> None:
    """A line that is unfinished when the log is rotated is shown in two parts, with the mark between."""
    (tmp_path / "log").write_bytes(b"x" * 60)
    assert rotate(tmp_path, 100)
    with (tmp_path / "log").open("ab") as file:
        file.write(b"yy\n")
    assert [line[:12] for line in tail(tmp_path, 10)] == ["x" * 12, "[log rotated", "yy"]


def test_rotation_follows_no_link(tmp_path: Path) -> None:
    """When a container replaces its log by a link, the runtime truncates nothing else."""
    (tmp_path / "precious").write_text("x" * 1_000)
    (tmp_path / "log").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="log"):
        rotate(tmp_path, 10)
    with pytest.raises(Unavailable):
        tail(tmp_path, 10)
    assert (tmp_path / "precious").stat().st_size == 1_000


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    """One endless line costs a bounded read and is marked as incomplete."""
    (tmp_path / "log").write_bytes(b"\xff" * 20_000_000 + b"end\nlast")
    first, last = tail(tmp_path, 10)
    assert first.startswith("…")
    assert first.endswith("end")
    assert len(first) <= 16 * 1024 * 1024 + 1
    assert last == "last"


def test_as_much_is_read_as_the_lines_need(tmp_path: Path) -> None:
    """However long they are, and in whichever of the two files they begin."""
    lines = [f"{number:03}{'x' * 9_000}" for number in range(300)]
    (tmp_path / "log.1").write_text("\n".join(lines[:250]) + "\n")
    (tmp_path / "log").write_text("\n".join(lines[250:]) + "\n")
    for count in (1, 20, 50, 51, 200, 299, 300):
        assert tail(tmp_path, count) == lines[-count:]
    assert tail(tmp_path, 301) == lines


def test_a_log_may_be_empty_or_missing(tmp_path: Path) -> None:
    """No output is no lines; an empty line is one."""
    assert tail(tmp_path, 10) == []
    (tmp_path / "log").write_text("")
    assert tail(tmp_path, 10) == []
    (tmp_path / "log").write_text("\n\na\n")
    assert tail(tmp_path, 10) == ["", "", "a"]


def write(directory: Path, text: str) -> None:
    with (directory / "log").open("a") as file:
        file.write(text)


def part(directory: Path, position: str, *, bytes_most: int = 10_000, ended: bool = False, lines: int = 10) -> LogPart:
    place = int(position) if position else None
    return log.after(directory, place, lines=lines, bytes_most=bytes_most, is_ended=ended)


def test_a_reader_by_position_gets_every_line_once(tmp_path: Path) -> None:
    """However it is rotated meanwhile, as long as it is not behind by more than is kept; rotations are lines of it."""
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    dice = random.Random(seed)
    read: list[str] = []
    written, position = 0, "0"
    write(tmp_path, "")
    for _ in range(400):
        for _ in range(dice.randrange(6)):
            write(tmp_path, f"line {written}\n")
            written += 1
        if dice.random() < 0.4:
            rotate(tmp_path, dice.choice((40, 100, 400)))
        if dice.random() < 0.9:
            found = part(tmp_path, position, bytes_most=dice.choice((64, 200, 1000)))
            read += found.lines if not found.is_cut else ("[cut]", *found.lines)
            position = found.position
    while (found := part(tmp_path, position, ended=True)).lines or found.is_cut:
        read += found.lines if not found.is_cut else ("[cut]", *found.lines)
        position = found.position
    assert found.is_end
    numbers = [line for line in read if line.startswith("line ")]
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers, key=lambda line: int(line[5:]))
    assert numbers[-1] == f"line {written - 1}"
    for before, line in itertools.pairwise(read):
        if line.startswith("line ") and before.startswith("line "):
            assert int(line[5:]) == int(before[5:]) + 1, (before, line)
    assert sum(line.startswith("[log rotated") for line in read) > 10


def test_what_was_rotated_away_is_told(tmp_path: Path) -> None:
    """The first line of what is left may lack its beginning; a position beyond the end is one that is not kept."""
    write(tmp_path, "".join(f"line {number:02}\n" for number in range(20)))
    position = part(tmp_path, "0", bytes_most=64).position
    assert rotate(tmp_path, 60)
    write(tmp_path, "after\n")
    found = part(tmp_path, position)
    assert found.is_cut
    assert found.lines[0].startswith("…")
    assert found.lines[1:-2] == tuple(f"line {number}" for number in range(13, 20))[-len(found.lines[1:-2]) :]
    assert (found.lines[-2][:12], found.lines[-1]) == ("[log rotated", "after")
    beyond = part(tmp_path, "99999")
    assert (beyond.lines, beyond.is_cut, beyond.position) == ((), True, found.position)


def test_a_line_comes_when_it_is_whole(tmp_path: Path) -> None:
    """Or at the end of the container; one that is longer than a part comes in pieces of whole characters."""
    write(tmp_path, "one\ntw")
    found = part(tmp_path, "0", ended=False)
    assert (found.lines, found.position) == (("one",), "4")
    assert part(tmp_path, "4", ended=False).lines == ()
    assert part(tmp_path, "4", ended=True).lines == ("tw",)
    (tmp_path / "log").write_text("é" * 50 + "\nend\n")
    pieces: list[str] = []
    position = "0"
    while (found := part(tmp_path, position, bytes_most=65, ended=True)).lines:
        pieces += found.lines
        position = found.position
    assert pieces == ["é" * 32, "é" * 18, "end"]


@pytest.mark.parametrize("is_truncated", [True, False])
def test_a_rotation_that_was_cut_off(tmp_path: Path, is_truncated: bool) -> None:
    """An agent that was killed after the copy has not written down where the files begin; nothing comes twice."""
    write(tmp_path, "one\ntwo\nthree\n")
    position = part(tmp_path, "0", bytes_most=64).position
    (tmp_path / "log.1").write_bytes((tmp_path / "log").read_bytes())
    if is_truncated:
        (tmp_path / "log").write_text("")
    write(tmp_path, "four\n")
    assert part(tmp_path, position).lines == ("four",)
    assert part(tmp_path, "4").lines == ("two", "three", "four")
    assert rotate(tmp_path, 8)
    write(tmp_path, "five\n")
    assert part(tmp_path, position).lines[-1] == "five"


def test_the_last_lines_by_position(tmp_path: Path) -> None:
    """Over both files; their position goes on from there."""
    write(tmp_path, "one\ntwo\n")
    assert rotate(tmp_path, 10)
    write(tmp_path, "three\nfour\nfi")
    assert part(tmp_path, "", lines=2).lines == ("three", "four")
    found = part(tmp_path, "", lines=4)
    assert [line[:6] for line in found.lines] == ["two", "[log r", "three", "four"]
    write(tmp_path, "ve\n")
    assert part(tmp_path, found.position).lines == ("five",)
    assert part(tmp_path, "", lines=100).lines[:2] == ("one", "two")
