"""The output of a container: from frames, in any pieces, to its last lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import Unavailable
from coordinator.runtime.docker.output import last_lines

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
