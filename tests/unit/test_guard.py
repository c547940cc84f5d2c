"""How children notice a dead parent: real processes, killed for real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator import guard

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SLEEP = ["sleep", "60"]

WATCHING = """
import asyncio, pathlib, sys
from coordinator import guard
async def main():
    watching = asyncio.gather(guard.watch_parent(), guard.watch_parent())
    await asyncio.sleep(0)
    pathlib.Path(sys.argv[1]).write_text("watching")
    await watching
    pathlib.Path(sys.argv[1]).write_text("parent gone")
asyncio.run(main())
"""

PARENT = """
import asyncio, subprocess, sys
from coordinator import guard
async def main():
    start = guard.spawn if sys.argv[1] == "ours" else guard.spawn_foreign
    child = await start(sys.argv[2:], grace_s=0.5)
    # A program started later, with every descriptor that can be inherited: as careless as a parent can be.
    other = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, other.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def python_env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def is_alive(pid: int) -> bool:
    """Say whether the process runs; one that is dead and not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not stat.parent.parent.joinpath("self").exists()


async def eventually(condition: Callable[[], bool], within_s: float = 3.0) -> bool:
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.01)
    return True


def holds(path: Path, text: str) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text().strip() == text


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def run_parent(*arguments: str) -> tuple[asyncio.subprocess.Process, int, int]:
    """Start a parent in its own process; return the ids of its child and of another process that it started later."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, *arguments, env=python_env(), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child, other = map(int, (await parent.stdout.readline()).split())
    return parent, child, other


async def kill_parent(parent: asyncio.subprocess.Process, other: int) -> None:
    parent.kill()
    await parent.wait()
    assert is_alive(other), "the bystander must outlive the parent, or the test shows nothing"


async def test_a_child_is_told_when_its_parent_is_killed(tmp_path: Path) -> None:
    """`watch_parent` returns, for all who await it, although a process the parent started later lives on."""
    told = tmp_path / "told"
    parent, child, other = await run_parent("ours", sys.executable, "-c", WATCHING, str(told))
    assert await eventually(holds(told, "watching"))
    await kill_parent(parent, other)
    assert await eventually(holds(told, "parent gone"), within_s=1)
    assert await eventually(lambda: not is_alive(child))
    os.kill(other, signal.SIGKILL)


async def test_a_foreign_program_is_stopped_when_its_parent_is_killed(tmp_path: Path) -> None:
    """It gets SIGTERM and has time to stop."""
    told = tmp_path / "told"
    script = f"trap 'echo asked >{told}; exit 0' TERM; echo up >{told}; while :; do sleep 0.02; done"
    parent, watcher, other = await run_parent("foreign", "sh", "-c", script)
    assert await eventually(holds(told, "up"))
    await kill_parent(parent, other)
    assert await eventually(holds(told, "asked"), within_s=1)
    assert await eventually(lambda: not is_alive(watcher))
    os.kill(other, signal.SIGKILL)


async def test_a_stubborn_program_is_killed_after_its_parent(tmp_path: Path) -> None:
    """A program that ignores SIGTERM is killed with its whole group when its time is over."""
    told = tmp_path / "told"
    script = f"trap '' TERM; echo $$ >{told}; while :; do sleep 0.02; done"
    parent, watcher, other = await run_parent("foreign", "sh", "-c", script)
    assert await eventually(lambda: told.exists() and told.read_text().endswith("\n"))
    await kill_parent(parent, other)
    assert await eventually(lambda: not is_alive(watcher) and not is_alive(int(told.read_text())))
    os.kill(other, signal.SIGKILL)


async def test_a_process_that_nobody_spawned_watches_nobody() -> None:
    """`watch_parent` waits for ever where no parent gave a pipe."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await guard.watch_parent()


@pytest.mark.parametrize("number", ["x", "-1", "99999", "file"])
async def test_a_number_that_is_no_pipe_is_refused(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong variable is an error, not an unguarded child; the message names it."""
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setenv(guard.PARENT_FD, str(file.fileno()) if number == "file" else number)
        with pytest.raises(ValueError, match=r"COORDINATOR_PARENT_FD '.+' is not an open pipe"):
            await guard.watch_parent()


async def test_a_grandchild_inherits_nothing_of_the_pipe(tmp_path: Path) -> None:
    """After `watch_parent` has been called, what the child starts sees neither the variable nor the descriptor."""
    seen = tmp_path / "seen"
    grandchild = f"import os; print(os.environ.get('{guard.PARENT_FD}'), len(os.listdir('/dev/fd')))"
    code = f"""
import asyncio, subprocess, sys
from coordinator import guard
async def main():
    watching = asyncio.ensure_future(guard.watch_parent())
    await asyncio.sleep(0)
    subprocess.run([sys.executable, "-ISE", "-c", {grandchild!r}], close_fds=False, stdout=open({str(seen)!r}, "w"))
    watching.cancel()
asyncio.run(main())
"""
    async with await guard.spawn([sys.executable, "-c", code], env=python_env()) as child:
        assert await child.wait() == 0
    # Three standard streams, and the one it lists the directory with.
    assert seen.read_text() == "None 4\n"


async def test_stopping_tells_how_the_child_ended(tmp_path: Path) -> None:
    """A child that ends on SIGTERM gives its own code; one that a signal ends gives the signal's negative number."""
    told = tmp_path / "told"
    script = f"trap 'exit 7' TERM; echo up >{told}; while :; do sleep 0.02; done"
    async with await guard.spawn(["sh", "-c", script]) as child:
        assert await eventually(holds(told, "up"))
        assert await child.terminate() == 7
    async with await guard.spawn(SLEEP) as child:
        assert await child.terminate() == -signal.SIGTERM


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """After its grace a child that ignores SIGTERM is killed."""
    told = tmp_path / "told"
    async with await guard.spawn(["sh", "-c", f"trap '' TERM; echo up >{told}; sleep 60"]) as child:
        assert await eventually(holds(told, "up"))
        assert await child.terminate(grace_s=0.1) == -signal.SIGKILL


async def test_a_cancelled_stop_kills(tmp_path: Path) -> None:
    """A cancelled stop leaves no child behind."""
    told = tmp_path / "told"
    async with await guard.spawn_foreign(["sh", "-c", f"trap '' TERM; echo up >{told}; sleep 60"]) as child:
        assert await eventually(holds(told, "up"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await child.terminate()
        async with asyncio.timeout(1):
            assert await child.wait() == -signal.SIGKILL


async def test_nothing_is_left_of_the_group_after_waiting(tmp_path: Path) -> None:
    """What a child started and left behind ends with it."""
    left = tmp_path / "left"
    async with await guard.spawn(["sh", "-c", f"sleep 60 & echo $! >{left}"], grace_s=1) as child:
        assert await child.wait() == 0
        assert not is_alive(int(left.read_text()))


async def test_a_foreign_program_runs_as_if_unwatched(tmp_path: Path) -> None:
    """Its exit code, its descriptors and its environment are as without the watcher; the pipe is not among them."""
    seen, given = tmp_path / "seen", tmp_path / "given"
    given.write_text("passed on")
    with given.open() as file:
        script = f"echo $COORDINATOR_PARENT_FD $COLOUR >{seen}; cat /dev/fd/{file.fileno()} >>{seen}; exit 42"
        child = await guard.spawn_foreign(["sh", "-c", script], env={"COLOUR": "blue"}, pass_fds=[file.fileno()])
        assert await child.wait() == 42
    assert seen.read_text() == "blue\npassed on"
    assert await (await guard.spawn_foreign(["sh", "-c", "kill -9 $$"])).wait() == 128 + signal.SIGKILL


async def test_a_program_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    """A missing program is an error in the parent, under a watcher code 127 and one line."""
    before = open_files()
    with pytest.raises(FileNotFoundError):
        await guard.spawn(["/no/such/program"])
    assert open_files() == before
    errors = tmp_path / "errors"
    with errors.open("wb") as sink:
        child = await guard.spawn_foreign(["/no/such/program"], stderr=sink)
        assert await child.wait() == 127
    assert errors.read_text() == "cannot start '/no/such/program': No such file or directory\n"


async def test_the_program_goes_when_its_watcher_is_killed(tmp_path: Path) -> None:
    """The program is asked to stop, and what it started itself is gone when the waiting ends."""
    told, left = tmp_path / "told", tmp_path / "left"
    script = f"trap 'echo asked >{told}; exit 0' TERM; sleep 60 & echo $! >{left}; echo up >{told}; wait"
    async with await guard.spawn_foreign(["sh", "-c", script]) as child:
        assert await eventually(holds(told, "up"))
        os.kill(child.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
        assert told.read_text() == "asked\n"
        assert await eventually(lambda: not is_alive(int(left.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux'")
async def test_on_linux_nobody_need_wait_for_that(tmp_path: Path) -> None:
    """The parent-death signal ends the program even if the parent does not wait for it."""
    told = tmp_path / "told"
    script = f"echo $$ >{told}; exec sleep 60"
    async with await guard.spawn_foreign(["sh", "-c", script]) as child:
        assert await eventually(lambda: told.exists() and told.read_text().endswith("\n"))
        os.kill(child.pid, signal.SIGKILL)
        assert await eventually(lambda: not is_alive(int(told.read_text())))


async def test_children_cost_no_descriptors() -> None:
    """Twenty children later as many files are open as before."""
    before = open_files()
    for start in [guard.spawn, guard.spawn_foreign] * 10:
        async with await start(SLEEP):
            pass
    assert open_files() == before


@pytest.mark.parametrize("arguments", [[], ["--"], ["sleep", "60"], ["--", "sleep", "60"]])
def test_the_watcher_refuses_to_start_unwatched_programs(arguments: list[str]) -> None:
    """Without a program or a parent's pipe the watcher prints what it needs."""
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.guard", *arguments],
        env=python_env(),
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr or "COORDINATOR_PARENT_FD is not set" in done.stderr
