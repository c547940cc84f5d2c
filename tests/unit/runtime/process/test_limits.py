"""The limits of the process runtime, on the control groups of this kernel."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.clock import SystemClock
from coordinator.runtime.protocol import Launch, RuntimeState
from events.container import ExitCause
from tests.control_groups import groups_left, needs_control_groups
from tests.launches import launch
from tests.process_runtimes import exited, lives, opened, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 2**20
PIDS = 16
CPU_S = 2.0
SHARE_MAX = 0.7
"""Of a container limited to half a core: the quota holds for each 100 ms, which a measurement may begin within."""

# A node agent that dies once its container runs, or, if told, when it has made the group and forks next.
AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
import msgspec
from coordinator.runtime.process import runtime as process
from coordinator.runtime.protocol import Launch

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    launch = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Launch)
    if sys.argv[3] == "early":
        process.spawn = die
    async with process.ProcessRuntime(Path(sys.argv[2]), cluster=launch.cluster, isolation="limits") as runtime:
        await runtime.start(launch)
        die()

asyncio.run(main())
"""

# Starts a process in a session of its own, writes its pid to the file, and waits.
LEAVER = """
import os, subprocess, sys
left = subprocess.Popen(("sleep", "300"), start_new_session=True)
with open(sys.argv[1], "w") as file:
    file.write(f"{left.pid}\\n")
if sys.argv[2] == "wait":
    left.wait()
"""

# Forks as often as the kernel lets it, but not forever.
BOMB = """
import os, time
for count in range(200):
    try:
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)
    except BlockingIOError:
        break
print(count, flush=True)
time.sleep(300)
"""

pytestmark = needs_control_groups


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "containers"


@pytest.fixture(autouse=True)
async def _nothing_left(root: Path) -> AsyncIterator[None]:
    """After the end of what a test has left, no control group of it is there."""
    yield
    async with opened(root) as runtime:
        for seen in await runtime.list():
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)
    assert groups_left(root) == []


def limited(*command: str, memory_bytes: int = 0, cpu_millis: int = 0) -> Launch:
    return msgspec.structs.replace(launch("a", *command), memory_bytes=memory_bytes, cpu_millis=cpu_millis)


def run_agent(tmp_path: Path, root: Path, launched: Launch, point: str) -> None:
    """Run a node agent in a process of its own until it dies by its own hand."""
    file = tmp_path / "launch.json"
    file.write_bytes(msgspec.json.encode(launched))
    command = (sys.executable, "-c", AGENT, str(file), str(root), point)
    ended = subprocess.run(command, check=False, timeout=60, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


async def test_more_memory_than_the_limit_is_killed_as_oom(root: Path) -> None:
    """The end says so, also to the next agent, when the group is gone; what stays below its limit is not killed."""
    hog = "print(len(bytearray(324_000_000)), flush=True)"
    async with opened(root, isolation="limits") as runtime:
        assert runtime.limits.startswith("cpu, memory, pids by cgroup v")
        await runtime.start(limited("python", "-c", hog, memory_bytes=32 * MIB))
        seen = await exited(runtime, 30)
        assert (seen.exit_code, seen.reason, seen.cause) == (137, "oom", ExitCause.OOM)
        assert await runtime.logs("a", "7.0", 1) == []
    assert groups_left(root) == []
    async with opened(root) as runtime:
        assert await runtime.list() == [seen]
        await runtime.remove("a", "7.0")
        await runtime.start(limited("python", "-c", hog, memory_bytes=512 * MIB))
        assert (await exited(runtime, 30)).reason == "exited"


async def test_a_kill_by_somebody_else_is_not_oom(root: Path) -> None:
    """SIGKILL without a lack of memory is an ordinary signal."""
    async with opened(root, isolation="limits") as runtime:
        await runtime.start(limited("sh", "-c", 'kill -KILL "$$"', memory_bytes=64 * MIB))
        seen = await exited(runtime)
        assert (seen.exit_code, seen.reason, seen.cause) == (137, "killed by signal 9", ExitCause.CRASHED)


async def test_half_a_core_is_about_half_a_core(root: Path) -> None:
    """Two busy processes together get no more than the quota, which the kernel enforced."""
    busy = "while :; do :; done & while :; do :; done"
    async with opened(root, isolation="limits") as runtime:
        await runtime.start(limited("sh", "-c", busy, cpu_millis=500))
        began, before = time.monotonic(), await runtime.usage("a", "7.0")
        await asyncio.sleep(CPU_S)
        used = (await runtime.usage("a", "7.0")).cpu_seconds - before.cpu_seconds
        share = used / (time.monotonic() - began)
        # A busy machine may give less than the limit allows.
        assert 0.05 < share < SHARE_MAX
        assert (await runtime.usage("a", "7.0")).pids == 2
        stats = [Path(group, "cpu.stat") for group in groups_left(root)]
        throttled = [line for file in stats if file.exists() for line in file.read_text().splitlines()]
        assert any(line.startswith("nr_throttled ") and line != "nr_throttled 0" for line in throttled)


async def test_a_fork_bomb_has_an_end(root: Path) -> None:
    """It gets the processes of its limit, cannot keep its own end from being recorded, and leaves none."""
    async with opened(root, isolation="limits", pids_max=PIDS) as runtime:
        await runtime.start(limited("python", "-c", BOMB))
        async with asyncio.timeout(30):
            while not (lines := await runtime.logs("a", "7.0", 1)):  # noqa: ASYNC110 - a file sends no notification
                await asyncio.sleep(0.02)
        assert lines == [str(PIDS - 1)]
        assert (await runtime.usage("a", "7.0")).pids == PIDS
        await runtime.stop("a", "7.0", grace_s=10)
        assert (await exited(runtime)).reason == "killed by signal 15"


@pytest.mark.parametrize("until_when", ["wait", "exit"])
async def test_what_leaves_the_process_group_ends_with_the_container(
    root: Path, tmp_path: Path, until_when: str
) -> None:
    """A session of its own is no way out: neither when the container is stopped, nor when its command ends."""
    file = tmp_path / "left"
    async with opened(root, isolation="limits") as runtime:
        await runtime.start(limited("python", "-c", LEAVER, str(file), until_when))
        pid = int(await until(file))
        if until_when == "wait":
            assert lives(pid)
            await runtime.stop("a", "7.0", grace_s=0, force=True)
        await exited(runtime)
        async with asyncio.timeout(10):
            while lives(pid):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_paused", [False, True])
async def test_the_watcher_kills_the_whole_group(root: Path, tmp_path: Path, is_paused: bool) -> None:
    """When the grant has expired, also what is frozen and has left the process group, and without a runtime."""
    file = tmp_path / "left"
    async with opened(root, isolation="limits") as runtime:
        launched = limited("python", "-c", LEAVER, str(file), "wait")
        await runtime.start(msgspec.structs.replace(launched, until=SystemClock().heard() + 3))
        pid = int(await until(file))
        if is_paused:
            await runtime.pause("a", "7.0")
    async with asyncio.timeout(15):
        while lives(pid):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    async with opened(root) as runtime:
        assert (await exited(runtime)).cause == ExitCause.CUT_OFF


async def test_a_paused_container_uses_nothing(root: Path, tmp_path: Path) -> None:
    """The group is frozen, with what has left the process group, until it is resumed by this agent or the next."""
    busy = 'setsid sh -c "while :; do :; done" & echo >"$1"; wait'
    async with opened(root, isolation="limits") as runtime:
        await runtime.start(limited("sh", "-c", busy, "sh", str(tmp_path / "begun")))
        await until(tmp_path / "begun")
        await runtime.pause("a", "7.0")
        before = (await runtime.usage("a", "7.0")).cpu_seconds
        await asyncio.sleep(0.5)
        assert (await runtime.usage("a", "7.0")).cpu_seconds - before < 0.1
    async with opened(root) as runtime:
        assert (await runtime.list())[0].state is RuntimeState.PAUSED
        await runtime.resume("a", "7.0")
        assert (await runtime.list())[0].state is RuntimeState.RUNNING
        async with asyncio.timeout(10):
            while (await runtime.usage("a", "7.0")).cpu_seconds - before < 0.1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)


async def test_groups_outlive_a_killed_agent_and_end_with_their_containers(root: Path, tmp_path: Path) -> None:
    """The next agent adopts the container with its group, whatever isolation it has itself."""
    run_agent(tmp_path, root, limited("sleep", "300", memory_bytes=64 * MIB), "running")
    assert len(groups_left(root)) > 1
    async with opened(root) as runtime:
        (seen,) = await runtime.list()
        assert seen.state is RuntimeState.RUNNING
        assert 0 < (await runtime.usage("a", "7.0")).memory_bytes < 64 * MIB
        await runtime.stop("a", "7.0", grace_s=10)
        await runtime.remove("a", "7.0")
    assert groups_left(root) == []


async def test_groups_of_starts_that_were_cut_short_are_removed(root: Path, tmp_path: Path) -> None:
    """An agent that was killed between group and fork leaves an empty group, and no container."""
    run_agent(tmp_path, root, limited("sleep", "300"), "early")
    assert len(groups_left(root)) > 1
    async with opened(root) as runtime:
        assert await runtime.list() == []
    assert groups_left(root) == []


async def test_what_runs_without_a_record_is_killed_by_its_group(root: Path, tmp_path: Path) -> None:
    """A container whose files are gone has no name any more, but its processes are known."""
    file = tmp_path / "left"
    run_agent(tmp_path, root, limited("python", "-c", LEAVER, str(file), "wait"), "running")
    pid = int(await until(file))
    shutil.rmtree(root / "coordination-a-7.0")
    async with opened(root, isolation="limits"):
        async with asyncio.timeout(10):
            while lives(pid):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
    assert groups_left(root) == []


async def test_groups_of_another_node_are_left_alone(root: Path, tmp_path: Path) -> None:
    """Two nodes of a cluster on one machine: each removes only what its own agents left."""
    async with opened(root, isolation="limits") as runtime:
        await runtime.start(limited("sleep", "300"))
        groups = groups_left(root)
        async with opened(tmp_path / "other", isolation="limits") as other:
            assert await other.list() == []
        assert groups_left(root) == groups
        assert (await runtime.list())[0].state is RuntimeState.RUNNING
