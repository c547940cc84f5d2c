"""The app behind the facades, with real processes: what it opens works, and nothing of it outlives its program."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.container import ContainerConfig, ContainerManager
from coordinator.home import Home
from coordinator.processes.janitor import clear
from coordinator.processes.up import run_cluster
from coordinator.registry import ServiceRegistry
from coordinator.scheduler import TaskScheduler
from coordinator.settings.load import load
from tests.conftest import children

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 20.0

PROGRAM = """
import asyncio, sys
from coordinator.container import ContainerConfig, ContainerManager

async def main():
    manager = ContainerManager()
    for agent_type in ("sleeper", "stubborn"):
        container_id = await manager.create_container(ContainerConfig(agent_id="a", agent_type=agent_type))
        assert await manager.start_container(container_id)
    print("runs", flush=True)
    {end}

asyncio.run(main())
"""
AGENTS = """
agents:
  sleeper: {command: [sleep, "600"]}
  stubborn: {command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; done"], stop_grace_s: 0.5}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary folders; it must be empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert inside(folder) == []


def inside(folder: Path) -> list[str]:
    return sorted(str(one) for one in folder.iterdir())


async def test_facades_over_a_real_coordinator(folder: Path) -> None:
    """Two facades share one app; closing one leaves the other working; one opened after the last gets a new app."""
    scheduler, registry = TaskScheduler(), ServiceRegistry()
    task_id = await scheduler.submit_task("a")
    await registry.register_service("agent", "worker", "localhost", 80)
    assert len(inside(folder)) == 1
    await scheduler.close()
    assert len(await registry.find_services("agent")) == 1
    async with TaskScheduler() as again:
        assert (await again.get_task(task_id)).task_name == "a"
    await registry.close()
    assert inside(folder) == []
    assert await registry.find_services() == []
    await registry.close()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5])
async def test_a_cancel_while_opening(folder: Path, after_s: float) -> None:
    """A cancel at any moment leaves no process, no task and no folder."""
    tasks, processes = asyncio.all_tasks(), children()
    manager = ContainerManager()
    opening = asyncio.ensure_future(manager.initialize())
    await asyncio.sleep(after_s)
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled():  # opening was quicker than the cancel
        await manager.close()
    assert asyncio.all_tasks() == tasks
    assert children() == processes
    assert inside(folder) == []


def test_one_loop_after_the_other(folder: Path) -> None:
    """A program whose event loop ends with open facades leaves nothing behind, containers included."""
    manager = ContainerManager()

    async def program() -> None:
        container_id = await manager.create_container(ContainerConfig(agent_id="a", agent_type="task_agent"))
        assert await manager.start_container(container_id)
        assert len(await manager.list_containers()) == 1

    for _ in range(2):
        asyncio.run(program())
        assert inside(folder) == []
        assert children() == []


async def test_what_runs_on_this_machine_is_found(coordinator_home: Path, folder: Path) -> None:
    """If this user runs `coordinator up`, the facades use it and leave it running."""
    async with run_cluster(Home(coordinator_home), load(), quiet=True):
        async with TaskScheduler() as scheduler:
            assert (await scheduler.opened()).where == "coordinator up"
            task_id = await scheduler.submit_task("a")
        async with TaskScheduler() as scheduler:
            assert (await scheduler.get_task(task_id)).task_name == "a"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("raise RuntimeError('of the user')", 1),
        ("sys.exit(3)", 3),
        ("await asyncio.sleep(60)", -signal.SIGINT),
        ("await asyncio.sleep(60)", -signal.SIGTERM),
        ("await asyncio.sleep(60)", -signal.SIGKILL),
    ],
    ids=["returns", "raises", "exits", "interrupted", "terminated", "killed"],
)
def test_however_a_program_ends(folder: Path, end: str, code: int) -> None:
    """No container, server or folder outlives the program, even if it is killed."""
    (folder.parent / "coordinator.yaml").write_text(AGENTS)
    env = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{end}", end)],
        cwd=folder.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "runs\n"
        if code < 0:
            assert len(_left_of(folder)) > 5
            program.send_signal(-code)
        assert program.wait(PATIENCE_S) == code
    give_up = time.monotonic() + PATIENCE_S
    while (left := _left_of(folder) or inside(folder)) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert left == []


def _left_of(folder: Path) -> list[str]:
    """List the processes whose arguments or working directory name *folder*."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            place = str((process / "cwd").readlink())
        except OSError:
            continue
        if process.name != str(os.getpid()) and (str(folder).encode() in told or place.startswith(str(folder))):
            found.append(f"{process.name}: {told[:200]!r}")
    return found


async def test_clearing_what_is_not_there(tmp_path: Path) -> None:
    """A janitor that comes too late finds nothing to clean up and creates nothing."""
    await clear(tmp_path / "gone", "process", "coordination", "{}")
    assert inside(tmp_path) == []
