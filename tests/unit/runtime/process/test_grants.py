"""The dead man's switch of the process runtime: what the watcher in the shim does when nobody is there any more."""

# ruff: noqa: ASYNC240 - files here are small and local

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.clock import SystemClock
from coordinator.errors import Unavailable
from coordinator.runtime.process import directory as on_disk
from coordinator.runtime.process import table
from coordinator.runtime.process.grants import Grants
from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.process.table import process_table
from coordinator.runtime.protocol import Launch, RuntimeState
from tests.launches import CLUSTER, launch
from tests.process_runtimes import lives, needs_proc, opened, stop_all, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRANT = f".grant-{CLUSTER}"
LATE_S = 1.5
"""How late a kill may be on a busy machine."""

pytestmark = needs_proc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "containers"


@pytest.fixture(autouse=True)
async def _no_container_left(root: Path) -> AsyncIterator[None]:
    yield
    await stop_all(root)


def heard() -> float:
    return SystemClock().heard()


def granted(for_s: float, *command: str) -> Launch:
    return msgspec.structs.replace(launch("a", *command), until=heard() + for_s)


async def until_dead(pid: int, *, at: float) -> None:
    """Wait until a process is gone, which must be at that time and not before."""
    async with asyncio.timeout(20):
        while lives(pid):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert at - 0.05 <= heard() < at + LATE_S


async def test_it_needs_no_runtime(root: Path) -> None:
    """After the runtime is gone, the last grant counts; the next runtime sees why the container ended."""
    async with opened(root) as runtime:
        seen = await runtime.start(granted(0.5))
        at = heard() + 1.5
        await runtime.grant(at)
    assert seen.pid
    await until_dead(seen.pid, at=at)
    async with opened(root) as runtime:
        (ended,) = await runtime.list()
        assert (ended.state, ended.exit_code, ended.cause) == (RuntimeState.EXITED, 137, "cut_off")


async def test_the_next_runtime_continues_it(root: Path) -> None:
    """An agent that comes back in time renews the grant of what it finds."""
    async with opened(root) as runtime:
        seen = await runtime.start(granted(1.0))
    async with opened(root) as runtime:
        at = heard() + 2.0
        await runtime.grant(at)
    assert seen.pid
    await until_dead(seen.pid, at=at)


@pytest.mark.parametrize(
    "content", [None, "", "\n", "garbage", "no-such-boot 99999999999\n", "- 99999999999\n", "{boot} 1e9\n"]
)
async def test_what_cannot_be_read_grants_nothing(root: Path, content: str | None) -> None:
    """Without a file, with another one, or with one of another boot, the last known grant is the last."""
    async with opened(root) as runtime:
        launched = granted(1.0)
        seen = await runtime.start(launched)
        await runtime.grant(heard() + 60)
    if content is None:
        (root / GRANT).unlink()
    else:
        boot = (root / GRANT).read_text().split()[0]
        (root / GRANT).write_text(content.format(boot=boot))
    assert seen.pid
    assert launched.until
    await until_dead(seen.pid, at=launched.until)


async def test_a_start_that_comes_too_late_runs_nothing(root: Path) -> None:
    """The command does not run for a moment, even if the node has a grant again."""
    async with opened(root) as runtime:
        await runtime.grant(heard() + 60)
        for number, late_s in enumerate((0.0, 5.0, 1e6)):
            late = launch("a", "sh", "-c", "echo it ran", generation=f"{number}.0")
            seen = await runtime.start(msgspec.structs.replace(late, until=max(0.0, heard() - late_s)))
            assert (seen.state, seen.cause) == (RuntimeState.EXITED, "cut_off")
            assert await runtime.logs("a", late.generation, 1) == []


async def test_a_full_disk_renews_the_grant_in_place(root: Path) -> None:
    """Otherwise it would end every container of the node; without any earlier grant it cannot."""
    root.mkdir()
    grants = Grants(root, cluster=CLUSTER, kind="proc", clock=SystemClock())
    (root / f"{GRANT}.new").mkdir()  # now no new file can be written
    with pytest.raises(OSError, match=GRANT):
        grants.write(heard() + 1)
    (root / f"{GRANT}.new").rmdir()
    grants.write(heard() + 1)
    before = (root / GRANT).read_text()
    (root / f"{GRANT}.new").mkdir()
    grants.write(at := heard() + 5)
    after = (root / GRANT).read_text()
    assert len(after) == len(before)
    assert after.split()[0] == before.split()[0]
    assert abs(int(after.split()[1]) / 100 - at) < 1
    async with opened(root) as runtime:
        (root / GRANT).unlink()
        with pytest.raises(Unavailable, match="grant"):
            await runtime.grant(heard() + 60)


async def test_a_time_is_that_of_the_shims_clock(root: Path) -> None:
    """`/proc/uptime` is the kernel's CLOCK_BOOTTIME; a time long ago is 0, not negative."""
    root.mkdir()
    grants = Grants(root, cluster=CLUSTER, kind="proc", clock=SystemClock())
    assert abs(int(grants.shown(heard())) / 100 - heard()) < 1
    assert grants.shown(-1e9) == "0"
    wall = Grants(root, cluster=CLUSTER, kind="ps", clock=SystemClock())
    assert abs(int(wall.shown(heard())) / 100 - SystemClock().wall()) < 1


async def test_nothing_is_left_of_a_watcher(root: Path) -> None:
    """It ends with its container, however that ends, and is not counted as part of it."""
    async with opened(root) as runtime:
        for number, script in enumerate(("exit 0", "kill -KILL 0", "sleep 300")):
            launched = msgspec.structs.replace(
                launch("a", "sh", "-c", f"echo >go; {script}", generation=f"7.{number}"), until=heard() + 60
            )
            seen = await runtime.start(launched)
            directory = root / seen.name
            await until(directory / "work" / "go")
            watcher = on_disk.read_watcher(directory)
            if "sleep" in script:
                assert (await runtime.usage("a", launched.generation)).pids <= 2  # the shell, and its sleep
            await runtime.stop("a", launched.generation, grace_s=1)
            identity = on_disk.read_identity(directory)
            assert watcher
            assert identity
            async with asyncio.timeout(2):
                while lives(watcher) or process_table().members(identity.pid):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)


async def test_a_watcher_survives_the_signals_of_a_stop(root: Path) -> None:
    """SIGTERM reaches the whole group; the watcher still kills what does not obey."""
    async with opened(root) as runtime:
        launched = granted(1.5, "sh", "-c", "trap '' TERM HUP INT; echo >go; while :; do sleep 0.01; done")
        seen = await runtime.start(launched)
        await until(root / seen.name / "work" / "go")
        assert seen.pid
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.killpg(seen.pid, number)
        assert launched.until
    await until_dead(seen.pid, at=launched.until)


async def test_a_killed_shim_does_not_leave_its_command(root: Path) -> None:
    """The watcher is in the group of its container, so it finds what is left without its leader."""
    async with opened(root) as runtime:
        launched = granted(1.0, "sh", "-c", "echo $$ >command; exec sleep 300")
        seen = await runtime.start(launched)
        command = int(await until(root / seen.name / "work" / "command"))
    assert seen.pid
    os.kill(seen.pid, signal.SIGKILL)
    assert launched.until
    await until_dead(command, at=launched.until)


async def test_a_watcher_changes_no_environment(root: Path) -> None:
    """A command sees its own variables, even with the names that the watcher uses."""
    given = dict.fromkeys(("now", "rest", "left", "part", "until", "granted", "of", "boot"), "mine")
    async with opened(root) as runtime:
        launched = msgspec.structs.replace(
            launch("a", "sh", "-c", 'echo "$now$rest$left$part$until$granted$of$boot"', environment=given),
            until=heard() + 60,
        )
        seen = await runtime.start(launched)
        assert await until(root / seen.name / "log") == "mine" * len(given)


async def test_the_grant_of_another_cluster_keeps_nothing_alive(root: Path) -> None:
    """A node that serves another namespace now does not own what the last one left, so it must not renew its grant."""
    async with opened(root) as runtime:
        launched = granted(1.5)
        seen = await runtime.start(launched)
    async with ProcessRuntime(root, cluster="cluster-2") as other:
        await other.grant(heard() + 60)
        assert seen.pid
        assert launched.until
        await until_dead(seen.pid, at=launched.until)


def states_of_group(group: int) -> set[str]:
    """Return the states of the processes of a group, as letters of `/proc/PID/stat`; `T` is stopped."""
    if sys.platform != "linux":
        return set()
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            found |= {state} if int(its_group) == group else set()
    return found


async def test_an_agent_that_died_while_it_paused_leaves_a_watcher_that_sleeps(root: Path) -> None:
    """SIGSTOP of the group freezes the watcher too; the next agent wakes it, although nothing has to be paused."""
    async with opened(root) as runtime:
        launched = granted(5.0)  # the next agent comes before it ends, on a slow machine too
        seen = await runtime.start(launched)
    assert seen.pid
    os.killpg(seen.pid, signal.SIGSTOP)
    async with asyncio.timeout(3.0):
        while states_of_group(seen.pid) - {"T"}:  # noqa: ASYNC110  # each stops when it is let run
            await asyncio.sleep(0.01)
    async with opened(root) as runtime:
        (adopted,) = await runtime.list()
        assert adopted.state is RuntimeState.PAUSED
    assert launched.until
    await until_dead(seen.pid, at=launched.until)


async def test_a_machine_without_a_boot_id_has_grants(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some sandboxes have none; the watcher then expects a dash, as it does in the identity of a shim."""
    root.mkdir()
    monkeypatch.setattr(table, "_BOOT_ID", root / "missing")
    Grants(root, cluster=CLUSTER, kind="proc", clock=SystemClock()).write(heard() + 1)
    assert (root / GRANT).read_text().startswith("- ")
