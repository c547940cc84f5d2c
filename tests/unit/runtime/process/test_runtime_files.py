"""Files that users made, however many: they never hold up the loop of the agent, and nothing of them stays."""

# ruff: noqa: ASYNC240 - files here are local

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.launches import launch
from tests.process_runtimes import exited, opened, until_no_remains

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FILES = 12_000
HELD_UP_MOST_S = 0.25
"""On a busy machine; deletions in the loop held it up for a second with these files, and a rotation for half of one."""
MANY_FILES = f"""
import os
for folder in range(10):
    os.mkdir(str(folder))
    for file in range({FILES} // 10):
        open(f"{{folder}}/{{file}}", "w").close()
"""


@asynccontextmanager
async def held_up() -> AsyncIterator[list[float]]:
    """Measure while the block runs: the list then has the longest time for which the loop ran nothing else."""
    longest = [0.0]

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            longest[0] = max(longest[0], now - last)
            last = now

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    try:
        yield longest
    finally:
        await asyncio.sleep(0.01)
        beating.cancel()


@pytest.mark.alone
async def test_removing_many_files_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    """They are out of the way when the removal returns, and a container of the same name may start at once."""
    async with opened(tmp_path) as runtime:
        await runtime.start(launch("a", sys.executable, "-c", MANY_FILES))
        await exited(runtime, 60)
        async with held_up() as longest:
            await runtime.remove("a", "7.0")
            assert not (tmp_path / launch().name).exists()
            again = await runtime.start(launch("a", "sleep", "300"))
            await until_no_remains(tmp_path)
        assert longest[0] < HELD_UP_MOST_S
        assert [one.pid for one in await runtime.list()] == [again.pid]
        await runtime.stop("a", "7.0", grace_s=0, force=True)


@pytest.mark.alone
async def test_what_a_crash_left_to_delete_is_deleted_at_the_next_opening_without_a_hold_up(tmp_path: Path) -> None:
    """Half deleted, half created: both go, and the agent serves meanwhile."""
    for name in (".gone-x", ".new-coordination-a-7.0"):
        (tmp_path / name / "work").mkdir(parents=True)
        for file in range(FILES // 2):
            (tmp_path / name / "work" / str(file)).touch()
    async with held_up() as longest, opened(tmp_path) as runtime:
        await runtime.start(launch("a", "sleep", "300"))
        await until_no_remains(tmp_path)
        assert len(await runtime.list()) == 1
        await runtime.stop("a", "7.0", grace_s=0, force=True)
    assert longest[0] < HELD_UP_MOST_S


async def test_an_end_does_not_wait_for_the_deletion(tmp_path: Path) -> None:
    """The process ends at once; its successor deletes the rest."""
    program = f"""
import asyncio, sys, pathlib, time
from tests.process_runtimes import opened, exited
from tests.launches import launch
from coordinator.runtime.process import removal
removal.END_S = 0.0
async def main():
    async with opened(pathlib.Path({str(tmp_path)!r})) as runtime:
        await runtime.start(launch("a", sys.executable, "-c", {MANY_FILES!r}))
        await exited(runtime, 60)
        await runtime.remove("a", "7.0")
asyncio.run(main())
print(len(list(pathlib.Path({str(tmp_path)!r}).glob(".gone-*/*/*"))))
"""
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(ran.stdout.split()[-1]) > 0, ran.stderr
    async with opened(tmp_path) as runtime:
        await until_no_remains(tmp_path)
        assert await runtime.list() == []


def test_folders_without_any_permission_are_deleted_too(tmp_path: Path) -> None:
    """Caches are made read-only by their tools, and whoever is not root may not delete from such a folder."""
    gone = tmp_path / ".gone-a"
    inner = gone / "work" / "cache" / "package"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    (outside := tmp_path / "outside").mkdir(mode=0o755)
    (gone / "work" / "link").symlink_to(outside)
    for folder in (inner, inner.parent):
        folder.chmod(0o000 if folder == inner else 0o555)
    program = f"""
import os, pathlib
import coordinator.runtime.process.directory as on_disk
if os.geteuid() == 0:
    for folder, _, _ in os.walk({str(tmp_path)!r}):
        os.chown(folder, 65534, 65534)
    os.chmod({str(tmp_path)!r}, 0o755)
    os.setgroups([]); os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
print(on_disk.delete(pathlib.Path({str(gone)!r})))
"""
    parents = [path for path in tmp_path.parents if path.stat().st_uid == os.geteuid() and path.name]
    modes = {path: path.stat().st_mode for path in parents if not path.stat().st_mode & 0o001}
    try:
        for path in modes:
            path.chmod(0o711)
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert ran.stdout == "True\n", ran.stderr
    assert not gone.exists()
    assert outside.stat().st_mode & 0o777 == 0o755


@pytest.mark.alone
async def test_full_logs_do_not_hold_up_the_loop(tmp_path: Path) -> None:
    """Each is copied when it is rotated, up to 32 MiB; many containers may write at once."""
    write = "import sys; line = 'x' * 999 + '\\n'\nfor _ in range(20_000): sys.stdout.write(line)"
    async with opened(tmp_path, log_check_s=0.1) as runtime, held_up() as longest:
        for name in "abcd":
            await runtime.start(launch(name, sys.executable, "-c", write, generation="7.0"))
        async with asyncio.timeout(60):
            while len(list(tmp_path.glob("*/log.1"))) < 4:  # noqa: ASYNC110 - the disk tells nobody
                await asyncio.sleep(0.05)
    assert longest[0] < HELD_UP_MOST_S
