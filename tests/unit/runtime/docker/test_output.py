"""The output of a container: from frames, in any pieces, to its last lines."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import Unavailable
from coordinator.runtime.docker.output import FramePlace, LinesAfter, last_lines, read_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def frame(stream: int, content: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


async def pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.integers(1, 50))
async def test_lines_arrive_whole(lines: list[str], size: int) -> None:
    """However the answer is cut, the lines are those that were written."""
    content = b"".join(frame(1 + n % 2, f"{line}\n".encode()) for n, line in enumerate(lines))
    assert await last_lines(pieces(content, size), 1_000) == lines
    assert await last_lines(pieces(content, size), 2) == lines[-2:]


async def test_a_long_line_comes_in_parts() -> None:
    """Docker cuts a long line; what the other stream wrote between its parts is another line."""
    content = frame(1, b"a" * 10) + frame(2, b"error\n") + frame(1, b"b\n") + frame(1, b"no end")
    assert await last_lines(pieces(content, 7), 9) == ["error", "a" * 10 + "b", "no end"]


async def test_memory_is_bounded() -> None:
    """Only the newest bytes are kept, also of one line without end."""
    content = b"".join(frame(1, b"%04d\n" % n) for n in range(100))
    assert await last_lines(pieces(content, 64), 100, max_bytes=8) == ["0098", "0099"]
    endless = b"".join(frame(1, b"x" * 10) for _ in range(100))
    assert sum(map(len, await last_lines(pieces(endless, 64), 100, max_bytes=25))) <= 40


@pytest.mark.parametrize("content", [b"plain text", bytes([1, 0, 0, 0, 255, 255, 255, 255])])
async def test_anything_else_is_no_output(content: bytes) -> None:
    with pytest.raises(Unavailable, match="no frames"):
        await last_lines(pieces(content, 64), 1)


# --- by position ------------------------------------------------------------------------------------------------------

Written = tuple[int, int, bytes]
"""A frame as Docker keeps it: when it got it, in nanoseconds; the stream; the content."""


def timed(nanos: int, content: bytes) -> bytes:
    return b"2026-11-30T15:00:%02d.%09dZ " % divmod(nanos, 1_000_000_000) + content


def after(
    written: list[Written], place: FramePlace | None, bytes_most: int = 1000, *, is_end: bool = False
) -> LinesAfter:
    """Return what a reader takes of frames, those that Docker sends for the place."""
    found = LinesAfter(place, bytes_most)
    since = 0.0 if place is None else float(place.since)
    base = 1_796_050_800
    for nanos, stream, content in written:
        if found.is_full:
            return found
        if base + nanos / 1e9 >= since:
            found.add(stream, timed(nanos, content))
    found.end_search()
    return found


def read_all(written: list[Written], bytes_most: int, place: FramePlace | None = None) -> list[str]:
    lines: list[str] = []
    for _ in range(1000):
        found = after(written, place, bytes_most)
        assert not found.is_cut
        taken, place = found.taken(is_end=not found.is_full)
        lines += taken
        if not found.is_full:
            return lines
    raise AssertionError


def test_every_line_comes_once() -> None:
    """In parts of any size, also where the two streams overtake each other, and times and contents are equal."""
    written = [(n // 3 * 1000 + n % 2 * 50_000_000, 1 + n % 2, b"line %d\n" % (n // 4)) for n in range(200)]
    expected = [content.decode().strip() for _, _, content in written]
    for bytes_most in (64, 100, 1000, 100_000):
        assert read_all(written, bytes_most) == expected


def test_a_place_is_where_no_line_is_open() -> None:
    """A line that Docker cut is not torn by what the other stream writes between its parts."""
    parts = [(1, 1, b"a" * 30), (2, 2, b"error\n"), (1, 1, b"b\n"), (4, 1, b"next\n")]
    taken, place = after(parts[:2], None).taken(is_end=False)
    assert (taken, place) == ([], None)
    taken, place = after(parts[:3], None).taken(is_end=False)
    assert taken == ["error", "a" * 30 + "b"]
    assert after(parts, place).taken(is_end=False)[0] == ["next"]
    assert after(parts[:1], None).taken(is_end=True)[0] == ["a" * 30]


def test_what_docker_has_dropped_is_told() -> None:
    """If the frame before the place is not there any more, all that is there comes after it."""
    written = [(n * 10_000_000, 1, b"line %d\n" % n) for n in range(300)]
    place = after(written[:150], None, 100_000).taken(is_end=False)[1]
    found = after(written[200:], place, 100_000)
    assert (found.is_cut, found.taken(is_end=False)[0][0]) == (True, "line 200")
    found = after(written[155:], place, 300)
    lines, place = found.taken(is_end=False)
    assert (found.is_cut, lines[0]) == (True, "line 155")
    rest = read_all(written, 300, place)
    numbers = [int(line.split()[1]) for line in lines + rest]
    assert all(later == earlier + 1 for earlier, later in pairwise(numbers))
    assert numbers[-1] == 299


def test_a_place_is_text() -> None:
    """It is read again as it was written; other texts are none."""
    place = FramePlace(1_796_050_800_123_456_789, "00ff" * 4, 3)
    assert FramePlace.parse(str(place)) == place
    assert FramePlace(1_700_000_000_100_000_000, "00ff" * 4).since == "1699999999.850000000"
    for odd in ("", "0", "1-2-3", "1-00ff00ff00ff00ff", "-1-00ff00ff00ff00ff-1", f"{place}\n"):
        assert FramePlace.parse(odd) is None


async def test_a_wait_ends_soon_after_the_first_line() -> None:
    """Or when its time is over; a frame without its time is no output of a container."""

    async def slowly(*frames: bytes) -> AsyncIterator[bytes]:
        for one in frames:
            yield one
            await asyncio.sleep(0.03)
        await asyncio.sleep(60)

    loop = asyncio.get_running_loop()
    found, began = LinesAfter(None, 1000), loop.time()
    await read_lines(found, slowly(*(frame(1, timed(n, b"%d\n" % n)) for n in range(3))), 30.0)
    lines = found.taken(is_end=False)[0]
    assert lines
    assert lines == ["0", "1", "2"][: len(lines)]
    assert loop.time() - began < 5
    silent = LinesAfter(None, 1000)
    await read_lines(silent, slowly(), 0.05)
    assert not silent.has_lines
    with pytest.raises(Unavailable, match="without its time"):
        await read_lines(LinesAfter(None, 1000), pieces(frame(1, b"line\n"), 4), None)
