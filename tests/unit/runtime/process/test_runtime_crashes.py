"""
The process runtime after crashes of the node agent, and among strangers: reused pids, forged records, others' files.

Every process that a test signals is one that it started.
"""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC222, ASYNC240 - files here are small and local, and processes end at once

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.errors import Refused, Unavailable
from coordinator.runtime.launch_checks import check_launch
from coordinator.runtime.process import directory as on_disk
from coordinator.runtime.process.shim import SCRIPT
from coordinator.runtime.process.table import process_table
from coordinator.runtime.protocol import Launch, RuntimeState
from events.container import ExitCause
from tests.launches import CLUSTER, launch
from tests.process_runtimes import exited, lives, needs_proc, opened, stop_all, until, until_no_remains

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

# A node agent that dies at the point named first: it starts what the launch in the file named second says.
AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
import msgspec
from coordinator.runtime.process import directory as on_disk, runtime as process
from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.protocol import Launch
from events.container import ExitCause

point, launch_file, root = sys.argv[1:]
launch = msgspec.json.decode(Path(launch_file).read_bytes(), type=Launch)

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def after(function):
    def call(*args, **kwargs):
        function(*args, **kwargs)
        die()
    return call

async def main():
    match point:
        case "directory made":
            on_disk._write = die
        case "record written":
            on_disk._write = after(on_disk._write)
        case "directory named":
            process.spawn = die
        case "forked":
            process.spawn = after(process.spawn)
        case "cause marked":
            on_disk.mark_cause = after(on_disk.mark_cause)
        case "kill marked":
            on_disk.mark_killed = after(on_disk.mark_killed)
        case "discarded":
            on_disk.put_away = after(on_disk.put_away)
    async with ProcessRuntime(Path(root), cluster=launch.cluster) as runtime:
        await runtime.start(launch)
        if point in ("cause marked", "kill marked", "discarded"):
            await runtime.stop(
                launch.container_id, launch.generation, grace_s=0, force=True, cause=ExitCause.CUT_OFF
            )
            await runtime.remove(launch.container_id, launch.generation)
        die()

asyncio.run(main())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "containers"


@pytest.fixture(autouse=True)
async def _no_container_left(root: Path) -> AsyncIterator[None]:
    yield
    await stop_all(root)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no container, leader of a group of its own, as ours would be."""
    process = subprocess.Popen(("sleep", "300"), start_new_session=True)
    yield process
    process.kill()
    process.wait()


def run_agent(point: str, launched: Launch, root: Path) -> None:
    """Run a node agent in a process of its own until it dies by its own hand at *point*."""
    file = root.parent / "launch.json"
    file.write_bytes(msgspec.json.encode(launched))
    command = (sys.executable, "-c", AGENT, point, str(file), str(root))
    ended = subprocess.run(command, check=False, timeout=30, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def forge(root: Path, launched: Launch, pid: str) -> Path:
    """Leave what a runtime would have left that had started *launched* under that pid and start."""
    root.mkdir(exist_ok=True)
    directory, _ = on_disk.create(root, launched, 1.0)
    (directory / "pid").write_text(pid)
    return directory


async def test_containers_outlive_a_killed_agent(root: Path) -> None:
    """After `kill -9` of the agent the same process runs; the next agent adopts it and can stop it."""
    run_agent("running", launch(), root)
    async with opened(root) as runtime:
        (seen,) = await runtime.list()
        assert seen.state is RuntimeState.RUNNING
        assert seen.pid
        assert lives(seen.pid)
        assert await runtime.start(launch()) == seen
        assert (await runtime.usage("a", "7.0")).pids == 1
        await runtime.pause("a", "7.0")
        await runtime.stop("a", "7.0", grace_s=30)
        assert (await exited(runtime)).reason == "killed by signal 15"
        assert not lives(seen.pid)
        await runtime.remove("a", "7.0")
    assert [path.name for path in root.iterdir()] == [".lock"]


async def test_an_adopted_container_wakes_the_waiter(root: Path) -> None:
    """The end of what somebody else started is noticed like any other."""
    run_agent("running", launch("a", "sh", "-c", "sleep 1; exit 6"), root)
    async with opened(root) as runtime:
        if (await runtime.list())[0].state is RuntimeState.RUNNING:
            assert await runtime.wait_change(5)
        assert (await exited(runtime)).exit_code == 6


async def test_an_end_that_no_agent_saw_is_known(root: Path) -> None:
    """What ends while no agent runs leaves its exit code."""
    run_agent("running", launch("a", "sh", "-c", "sleep 0.05; exit 6"), root)
    await until(root / launch().name / "exit")
    async with opened(root) as runtime:
        assert (await exited(runtime)).exit_code == 6


@pytest.mark.parametrize("point", ["directory made", "record written", "directory named", "discarded"])
async def test_what_never_began_or_was_removed_is_cleaned_up(root: Path, point: str) -> None:
    """A crash before the fork or within the removal leaves nothing, and the generation can be started."""
    run_agent(point, launch(), root)
    async with opened(root) as runtime:
        assert await runtime.list() == []
        await until_no_remains(root)
        assert [path.name for path in root.iterdir()] == [".lock"]
        assert (await runtime.start(launch())).state is RuntimeState.RUNNING


async def test_a_crash_right_after_the_fork_makes_no_twin(root: Path, tmp_path: Path) -> None:
    """Whether the shim or the next agent is first: after a repeated start the command runs once."""
    runs = tmp_path / "runs"
    launched = launch("a", "sh", "-c", 'echo $$ >>"$1"; exec sleep 300', "sh", str(runs))
    for _ in range(4):
        run_agent("forked", launched, root)
        async with opened(root) as runtime:
            adopted = await runtime.list()
            seen = await runtime.start(launched)
            assert adopted in ([], [seen])
            await until(runs)
            await asyncio.sleep(0.05)  # time for a twin to show
            pids = [int(pid) for pid in runs.read_text().split()]
            assert len(pids) == 1
            assert lives(pids[0])
            await runtime.stop("a", "7.0", grace_s=0, force=True)
            await runtime.remove("a", "7.0")
            runs.unlink()


async def test_a_shim_in_a_directory_that_is_being_deleted_runs_nothing(root: Path, tmp_path: Path) -> None:
    """The claim that made a start void is deleted with the directory; a shim that then records itself knows better."""
    root.mkdir()
    directory, _ = on_disk.create(root, launch(), 1.0)
    gone = directory.rename(root / ".gone-x")
    command = ("/bin/sh", "-c", SCRIPT, "container", "proc", directory, "", "touch", tmp_path / "ran")
    for name_taken_again in (False, True):
        if name_taken_again:
            on_disk.create(root, launch(), 1.0)
        (gone / "pid").unlink(missing_ok=True)
        ended = subprocess.run(command, cwd=gone, start_new_session=True, check=False, capture_output=True, timeout=10)
        assert ended.returncode == 125
    assert not (tmp_path / "ran").exists()


@needs_proc
async def test_a_shim_that_comes_too_late_runs_nothing(root: Path, tmp_path: Path) -> None:
    """A shim that the machine held up until the next agent had given it up exits, even if its name is taken again."""
    root.mkdir()
    directory, _ = on_disk.create(root, launch(), 1.0)
    held = 'kill -STOP "$$"; exec "$@"'
    command = (
        "/bin/sh",
        "-c",
        SCRIPT,
        "container",
        "proc",
        str(directory),
        "",
        "touch",
        str(tmp_path / "ran"),
    )
    shim = subprocess.Popen(
        ("/bin/sh", "-c", held, "sh", *command), cwd=directory, start_new_session=True, stderr=subprocess.DEVNULL
    )
    os.waitpid(shim.pid, os.WUNTRACED)
    async with opened(root) as runtime:
        assert await runtime.list() == []
        seen = await runtime.start(launch())
        os.kill(shim.pid, signal.SIGCONT)
        assert shim.wait(10) == 125
        assert await runtime.list() == [seen]
    assert not (tmp_path / "ran").exists()


async def test_a_crash_before_sigkill_loses_no_container(root: Path) -> None:
    """Killed between the note and the signal, the agent has killed nothing, and the next one can."""
    run_agent("kill marked", launch(), root)
    async with opened(root) as runtime:
        assert (await runtime.list())[0].state is RuntimeState.RUNNING
        await runtime.stop("a", "7.0", grace_s=0, force=True)
        assert (await exited(runtime)).reason == "killed by signal 9"


async def test_a_crash_between_the_cause_and_the_signal_is_seen(root: Path) -> None:
    """Whether the signal was sent nobody knows: the next agent sees the cause of what still runs, and can end it."""
    run_agent("cause marked", launch("a", "sh", "-c", "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done"), root)
    async with opened(root) as runtime:
        (seen,) = await runtime.list()
        await until(root / seen.name / "log")
        assert (seen.state, seen.cause) == (RuntimeState.RUNNING, "cut_off")
        await runtime.stop("a", "7.0", grace_s=5)
        ended = await exited(runtime)
        assert (ended.exit_code, ended.cause) == (0, "cut_off")


async def test_a_signal_to_everything_is_no_end_by_itself(root: Path) -> None:
    """A service manager or a shutdown sends SIGTERM to all: exit code 0 does not mean that it has finished."""
    async with opened(root) as runtime:
        script = "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done"
        seen = await runtime.start(launch("a", "sh", "-c", script))
        await until(root / seen.name / "log")
        assert seen.pid
        os.killpg(seen.pid, signal.SIGTERM)
        ended = await exited(runtime)
        assert (ended.exit_code, ended.cause) == (0, "crashed")


@pytest.mark.parametrize(
    ("script", "exit_code", "cause"),
    [("exit 0", 0, "exited"), ("exit 3", 3, "exited"), ("kill -SEGV $$", 139, "crashed")],
)
async def test_what_nobody_here_ended_has_its_own_cause(root: Path, script: str, exit_code: int, cause: str) -> None:
    """Its exit code decides; the next agent reports the same."""
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sh", "-c", script))
        ended = await exited(runtime)
        assert (ended.exit_code, ended.cause) == (exit_code, cause)
    async with opened(root) as runtime:
        assert await runtime.list() == [ended]


async def test_a_cause_that_cannot_be_written_is_reported_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk keeps no container alive; only the next agent would not know the cause."""

    def full(directory: Path, cause: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(on_disk, "mark_cause", full)
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done"))
        await runtime.stop("a", "7.0", grace_s=5, cause=ExitCause.CUT_OFF)
        assert (await exited(runtime)).cause == "cut_off"


ON_A_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from coordinator.runtime.process.runtime import ProcessRuntime

async def main():
    async with ProcessRuntime(Path(sys.argv[1]), cluster=sys.argv[2]) as runtime:
        for one in await runtime.list():
            await runtime.stop(one.container_id, one.generation, grace_s=0)
            print((await runtime.list())[0].state, file=sys.stderr, flush=True)

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can get longer
asyncio.run(main())
"""


async def test_a_full_disk_keeps_no_agent_from_its_containers(root: Path) -> None:
    """It can be opened, although it cannot write its pid into the lock, and ends what runs."""
    async with opened(root) as runtime:
        await runtime.start(launch())
    ended = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(root), CLUSTER],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
        text=True,
    )
    # What measures coverage cannot write either, and says so behind it.
    assert (ended.returncode, ended.stderr.partition("\n")[0]) == (0, "exited")


async def test_a_start_is_known_whatever_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forked must never be forgotten: its next generation would run beside it."""
    read, failures = on_disk.read_cause, [Unavailable("too many open files")]

    def failing(directory: Path) -> str:
        if failures:
            raise failures.pop()
        return read(directory)

    monkeypatch.setattr(on_disk, "read_cause", failing)
    async with opened(root) as runtime:
        with pytest.raises(Unavailable, match="too many"):
            await runtime.start(launch())
        (seen,) = await runtime.list()
        assert seen.state is RuntimeState.RUNNING
        assert await runtime.start(launch()) == seen


async def test_a_record_without_process_and_exit_is_lost(root: Path) -> None:
    """After a reboot, or a crash between exit and exit file, the container has exited as lost."""
    directory = forge(root, launch(), "2147483647 no-such-boot/1\n")
    async with opened(root) as runtime:
        (seen,) = await runtime.list()
        assert (seen.state, seen.exit_code, seen.reason) == (RuntimeState.EXITED, None, "lost")
        assert seen.cause == "unknown"
        assert await runtime.start(launch()) == seen
        await runtime.remove("a", "7.0")
    assert not directory.exists()


async def test_a_kill_that_nobody_saw_succeed_is_ours(root: Path) -> None:
    """After a crash, the mark made before SIGKILL explains why the shim left no exit code."""
    directory = forge(root, launch(), "2147483647 no-such-boot/1\n")
    on_disk.mark_killed(directory)
    async with opened(root) as runtime:
        (seen,) = await runtime.list()
        assert (seen.exit_code, seen.reason) == (137, "killed by signal 9")


async def test_a_root_has_one_runtime(root: Path) -> None:
    """A second agent on the same directory does not start: it would adopt running containers of the first."""
    async with opened(root):
        with pytest.raises(Unavailable, match=str(os.getpid())):
            async with opened(root):
                pass
    async with opened(root):
        pass


async def test_a_reused_pid_is_never_touched(root: Path, stranger: subprocess.Popen[bytes]) -> None:
    """A container whose pid now belongs to a process with another start is lost; that process gets no signal."""
    forge(root, launch(), f"{stranger.pid} another-boot/12345\n")
    async with opened(root) as runtime:
        (seen,) = await runtime.list()
        assert (seen.state, seen.reason, seen.pid) == (RuntimeState.EXITED, "lost", None)
        await runtime.stop("a", "7.0", grace_s=0)
        await runtime.stop("a", "7.0", grace_s=0, force=True)
        with pytest.raises(Refused):
            await runtime.pause("a", "7.0")
        await runtime.remove("a", "7.0")
    found = process_table().read(stranger.pid)
    assert found is not None
    assert found.state == "alive"


@needs_proc
async def test_a_reused_group_without_leader_is_never_touched(root: Path, tmp_path: Path) -> None:
    """The group of a daemon without leader, with the id of a lost container's group, is not signalled."""
    script = 'sleep 300 & echo $! >"$1"'
    leader = subprocess.Popen(("sh", "-c", script, "sh", str(tmp_path / "daemon")), start_new_session=True)
    leader.wait()
    daemon = int(await until(tmp_path / "daemon"))
    try:
        forge(root, launch(), f"{leader.pid} another-boot/12345\n")
        async with opened(root) as runtime:
            assert (await runtime.list())[0].reason == "lost"
            await runtime.stop("a", "7.0", grace_s=0, force=True)
        assert lives(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


async def test_a_process_that_leads_no_group_is_no_container(root: Path) -> None:
    """Even with the right start: a signal to the group of its pid would reach another one, here this process's own."""
    process = subprocess.Popen(("sleep", "300"))
    try:
        found = process_table().read(process.pid)
        assert found is not None
        forge(root, launch(), f"{process.pid} {found.start}\n")
        async with opened(root) as runtime:
            assert (await runtime.list())[0].reason == "lost"
            await runtime.stop("a", "7.0", grace_s=0, force=True)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "pid", ["0 x", "1 x", "-1 x", "-5 x", "+5 x", " 5 x", "5", "5 ", "", "x", "\0", "9" * 30 + " x", "٣ x"]
)
async def test_a_mad_pid_is_nobody(root: Path, pid: str) -> None:
    """0, 1 and negative numbers would signal this process or all; without a valid pid the container is lost."""
    directory = forge(root, launch(), f"{pid}\n")
    assert on_disk.read_identity(directory) is None
    async with opened(root) as runtime:
        assert (await runtime.list())[0].reason == "lost"
        await runtime.stop("a", "7.0", grace_s=0, force=True)


async def test_what_is_not_ours_stays(root: Path) -> None:
    """Another cluster's container, a folder without record, a file and a link are neither listed nor touched."""
    directory = forge(root, launch("b", cluster="cluster-2"), "2147483647 no-such-boot/1\n")
    (root / "coordination-c-7.0").mkdir()
    (root / "notes.txt").write_text("mine")
    (root / "coordination-d-7.0").symlink_to(directory)
    before = sorted(path.name for path in root.rglob("*"))
    async with opened(root) as runtime:
        assert await runtime.list() == []
        with pytest.raises(Unavailable, match="cannot be created"):
            await runtime.start(launch("b"))
    assert sorted(path.name for path in root.rglob("*") if path.name != ".lock") == before


async def test_a_container_that_cannot_be_told_is_ended(root: Path) -> None:
    """A container whose record is unreadable is killed; otherwise it would run next to its successor."""
    run_agent("running", launch(), root)
    directory = root / launch().name
    identity = on_disk.read_identity(directory)
    assert identity
    (directory / "record.json").write_text("")
    async with opened(root) as runtime:
        assert await runtime.list() == []
        assert not directory.exists()
        async with asyncio.timeout(5):
            while lives(identity.pid):  # noqa: ASYNC110 - its parent is gone, nobody tells
                await asyncio.sleep(0.005)


@given(st.text(max_size=100), st.text(max_size=30))
def test_no_text_becomes_a_path(container_id: str, generation: str) -> None:
    """Every name that passes the checks is one folder directly under the root."""
    hostile = msgspec.structs.replace(
        launch(), container_id=container_id, generation=generation, name=f"coordination-{container_id}-{generation}"
    )
    try:
        check_launch(hostile, cluster=CLUSTER)
    except Refused:
        return
    assert os.path.normpath(hostile.name) == os.path.basename(hostile.name) == hostile.name  # noqa: PTH119
    assert len(hostile.name) < 200
    assert hostile.name.isprintable()
