"""Programs that fork while threads of ours use SQLite."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

START = """
import asyncio, os, signal, sqlite3, sys
from projections.store.database import connect

def forked():
    "Whether a forked child can use SQLite, and ends."
    child = os.fork()
    if not child:
        sqlite3.connect(":memory:").execute("SELECT 1").fetchall()
        os._exit(0)
    for _ in range(500):
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        signal.sigtimedwait([], 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
"""
PROGRAMS = {
    "writes": """
async def main():
    database = await connect(sys.argv[1])
    await database.execute("CREATE TABLE t (a)")
    over = False
    async def write():
        while not over:
            await database.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(2000)])
            await database.commit()
    writing = asyncio.create_task(write())
    for _ in range(80):
        await asyncio.sleep(0.003)
        assert forked()
    over = True
    await writing
    await database.close()
""",
    "opens_and_closes": """
async def main():
    for _ in range(50):
        opening = asyncio.create_task(connect(sys.argv[1]))
        await asyncio.sleep(0)
        assert forked()
        database = await opening
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
        assert forked()
        await closing
        assert forked()
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_forked_child_can_use_sqlite(tmp_path: Path, name: str) -> None:
    """No lock of SQLite is held by a thread that the child does not have; the parent goes on."""
    source = START + PROGRAMS[name] + "asyncio.run(main())\n"
    argv = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source, str(tmp_path / "db")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
