"""The logs of the process runtime: bounded on disk and in memory, and honest about what is missing."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Unavailable
from coordinator.runtime.process.log import rotate, tail
from tests.launches import launch
from tests.process_runtimes import exited, opened, stop_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


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
