"""The process runtime, as a command sees it that runs in it: what it is given, and how it ends."""

# ruff: noqa: ASYNC240 - files here are small and local, and processes end at once

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

from coordinator.errors import Refused, Unavailable
from coordinator.runtime.process.group import MARKER
from coordinator.runtime.process.table import Process, ProcTable, process_table
from coordinator.runtime.protocol import Observed, RuntimeState
from tests.descriptors import no_descriptor_left
from tests.launches import launch
from tests.process_runtimes import exited, lives, needs_proc, opened, stop_all, until, until_no_remains

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.runtime.process.runtime import ProcessRuntime

# Holds 50 MB and a child, uses a fifth of a second of processor time, and says when.
BUSY = """
import subprocess, time
held = bytearray(50_000_000)
subprocess.Popen(["sleep", "300"])
while time.process_time() < 0.2:
    pass
open("ready", "w").write("ready\\n")
time.sleep(300)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "containers"


@pytest.fixture(autouse=True)
async def _no_container_left(root: Path) -> AsyncIterator[None]:
    yield
    await stop_all(root)


async def test_the_command_gets_its_arguments_untouched(root: Path) -> None:
    """No argument is ever shell text: quotes, dollars, newlines and options arrive as they were given."""
    hostile = [
        "; touch pwned",
        "$(touch pwned)",
        "`touch pwned`",
        "a\nb",
        "'",
        '"',
        "\\",
        "*",
        "",
        "-n",
        "--",
        "ü€😀",
        "%s",
    ]
    code = "import sys; print(sys.argv[1:])"
    async with opened(root) as runtime:
        await runtime.start(launch("a", "python", "-c", code, *hostile))
        seen = await exited(runtime)
        assert await runtime.logs("a", "7.0", 10) == [repr(hostile)]
    assert seen.exit_code == 0
    assert list((root / seen.name / "work").iterdir()) == []


async def test_the_environment_is_minimal_and_untouched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sees PATH, HOME, LANG, its container's name, and what the launch says: nothing of ours."""
    monkeypatch.setenv("AGENT_TOKEN", "of the node agent")
    # Names that the shim's own variables have.
    given = {"start": "1", "boot": "2", "line": "3", "code": "4", "A": "$(id)\n'\"", "EMPTY": "", "LANG": "C"}
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    async with opened(root) as runtime:
        await runtime.start(launch("a", "python", "-c", code, environment=given))
        await exited(runtime)
        (line,) = await runtime.logs("a", "7.0", 10)
    found = msgspec.json.decode(line, type=dict[str, str])
    shell_adds = {"PWD", "SHLVL", "_", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    assert set(found) - shell_adds == {"PATH", "HOME", MARKER, *given}
    assert {name: found[name] for name in given} == given


async def test_python_is_the_one_that_runs_us(root: Path) -> None:
    """`python` needs no PATH: it is the interpreter, with the packages, that the node agent runs on."""
    async with opened(root) as runtime:
        await runtime.start(launch("a", "python", "-c", "import sys; print(sys.executable)"))
        await exited(runtime)
        assert await runtime.logs("a", "7.0", 10) == [sys.executable]


@needs_proc
async def test_no_file_is_inherited(root: Path, tmp_path: Path) -> None:
    """A command has only its three standard files, even when the node agent has inheritable ones open."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        async with opened(root) as runtime:
            await runtime.start(launch("a", "sh", "-c", "ls /proc/$$/fd; readlink /proc/$$/fd/0"))
            await exited(runtime)
            assert await runtime.logs("a", "7.0", 10) == ["0", "1", "2", "/dev/null"]


async def test_signals_have_their_defaults(root: Path) -> None:
    """What the shim traps is neither trapped nor ignored in the command."""
    code = "import signal; print([signal.getsignal(n) is signal.SIG_IGN for n in (1, 2, 3, 13, 15)])"
    # Python itself ignores SIGPIPE; what whoever started us ignores, nobody below can undo.
    here = [signal.getsignal(n) is signal.SIG_IGN for n in (1, 2, 3, 13, 15)]
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sh", "-c", 'exec "$0" -c "$1"', sys.executable, code))
        await exited(runtime)
        assert await runtime.logs("a", "7.0", 10) == [str(here)]


@pytest.mark.parametrize("program", ["no-such-program", "./sleep", "bin/sleep", "/no/such", "/etc/passwd", "/", "-c"])
async def test_a_program_that_is_not_there_is_refused(root: Path, program: str) -> None:
    """The error is raised before anything is created, with the name and what is allowed."""
    async with opened(root) as runtime:
        with pytest.raises(Refused, match="on the PATH, or an absolute path"):
            await runtime.start(launch("a", program))
        assert await runtime.list() == []
    assert [path.name for path in root.iterdir()] == [".lock"]


async def test_a_path_may_not_be_relative(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with a relative folder does not make the agent's own working directory a source of programs."""
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    async with opened(root) as runtime:
        for path in ("", ".", "./", "sub/.."):
            with pytest.raises(Refused, match="not found on this node"):
                await runtime.start(launch("a", "tool", environment={"PATH": path or ":"}))


async def test_secrets_are_on_no_disk(root: Path) -> None:
    """The values of the environment are in no file of the container; their names are."""
    async with opened(root) as runtime:
        await runtime.start(launch(environment={"TOKEN": "hush-hush"}))
        files = [path for path in root.rglob("*") if path.is_file()]
        assert any(b"TOKEN" in path.read_bytes() for path in files)
        assert not any(b"hush-hush" in path.read_bytes() for path in files)
        assert all(path.stat().st_mode & 0o077 == 0 for path in (root, root / launch().name))


@needs_proc
async def test_a_start_that_takes_too_long_leaves_nothing(root: Path) -> None:
    """When the shim does not record itself in time, the start fails, and nothing of it is left or will ever run."""
    before = children()
    async with opened(root, start_timeout_s=0) as runtime:
        outcomes = await asyncio.gather(*(runtime.start(launch(f"a{n}")) for n in range(10)), return_exceptions=True)
        assert any(isinstance(outcome, Unavailable) for outcome in outcomes)
        running = [outcome for outcome in outcomes if isinstance(outcome, Observed)]
        assert await runtime.list() == sorted(running, key=lambda seen: seen.name)
        await until_no_remains(root)
        assert {path.name for path in root.iterdir()} == {".lock", *(seen.name for seen in running)}
        for seen in running:
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)
    async with asyncio.timeout(10):
        while "Z" in states_of(children() - before):  # noqa: ASYNC110  # the last of them may have ended just now
            await asyncio.sleep(0.01)


def children() -> set[str]:
    """Return the ids of the children of this process; tests before may have left some that have ended."""
    return set((Path("/proc/self/task") / str(os.getpid()) / "children").read_text().split())


def states_of(pids: set[str]) -> str:
    """Return the state of each process, a letter each."""
    found = ""
    for pid in pids:
        with suppress(FileNotFoundError):
            found += (Path("/proc") / pid / "stat").read_text().rpartition(") ")[2][0]
    return found


async def test_a_working_directory_that_is_gone_is_told_in_the_log(root: Path, tmp_path: Path) -> None:
    """The command does not run elsewhere: it exits with 126 and its log says why."""
    async with opened(root, working_directory=tmp_path / "gone") as runtime:
        await runtime.start(launch())
        assert (await exited(runtime)).exit_code == 126
        assert "gone" in (await runtime.logs("a", "7.0", 10))[0]


async def test_nothing_is_left_of_what_has_ended(root: Path) -> None:
    """No zombies: the pids of ended containers are free, whether they were stopped, killed or ended by themselves."""
    async with opened(root) as runtime:
        pids = [(await runtime.start(launch(f"a{n}"))).pid for n in range(10)]
        pids += [(await runtime.start(launch(f"b{n}", "sh", "-c", "exit 1"))).pid for n in range(10)]
        stops = [runtime.stop(f"a{n}", "7.0", grace_s=5, force=n % 2 == 0) for n in range(10)]
        await asyncio.gather(*stops)
        async with asyncio.timeout(5):
            while any(seen.state is not RuntimeState.EXITED for seen in await runtime.list()):
                await runtime.wait_change(1)
        assert not [pid for pid in pids if pid and process_table().read(pid) is not None]


async def test_children_end_with_their_container(root: Path, tmp_path: Path) -> None:
    """What a command leaves behind in its group, orphaned by a double fork, does not outlive it."""
    script = '(trap "" TERM HUP; sleep 300 & echo $! >"$1"; wait) & sleep 0.1; exit 4'
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sh", "-c", script, "sh", str(tmp_path / "child")))
        assert (await exited(runtime)).exit_code == 4
        child = int(await until(tmp_path / "child"))
        await runtime.stop("a", "7.0", grace_s=0)
        assert not lives(child)


async def test_a_stopped_container_takes_deaf_children_along(root: Path, tmp_path: Path) -> None:
    """`stop` returns only when the whole group is gone, not when its first process is."""
    script = '(trap "" TERM; sleep 300 & echo $! >"$1"; wait) & wait'
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sh", "-c", script, "sh", str(tmp_path / "child")))
        child = int(await until(tmp_path / "child"))
        await runtime.stop("a", "7.0", grace_s=30)
        assert not lives(child)


async def test_sigterm_is_the_commands_to_answer(root: Path, tmp_path: Path) -> None:
    """A command that handles SIGTERM ends as it says, and what it writes last is in the log."""
    script = "trap 'echo bye; exit 7' TERM; echo ready >\"$1\"; while :; do sleep 0.01; done"
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sh", "-c", script, "sh", str(tmp_path / "ready")))
        await until(tmp_path / "ready")
        await runtime.stop("a", "7.0", grace_s=30)
        seen = await exited(runtime)
        assert (seen.exit_code, seen.reason) == (7, "exited")
        assert (await runtime.logs("a", "7.0", 10))[-1] == "bye"


async def test_a_stop_right_after_the_start_reaches_the_command(root: Path) -> None:
    """No SIGTERM is lost between fork and command: it would cost the whole grace."""
    async with opened(root) as runtime:
        for generation in range(30):
            await runtime.start(launch(generation=f"{generation}.0"))
            async with asyncio.timeout(5):
                await runtime.stop("a", f"{generation}.0", grace_s=30)
        assert [seen.reason for seen in await runtime.list()] == ["killed by signal 15"] * 30


async def test_a_stop_that_meets_the_end_loses_nothing(root: Path) -> None:
    """A SIGTERM that comes while a container ends by itself leaves one of the two ends, never a lost one."""
    async with opened(root) as runtime:
        for generation in range(30):
            await runtime.start(launch("a", "sh", "-c", "exit 5", generation=f"{generation}.0"))
            await asyncio.sleep(generation / 10_000)
            await runtime.stop("a", f"{generation}.0", grace_s=5)
        ended = await runtime.list()
        assert len(ended) == 30
        assert {seen.exit_code for seen in ended} <= {5, 143}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGINT])
async def test_a_signal_is_told_by_its_number(root: Path, number: signal.Signals) -> None:
    """A command that dies by a signal is told apart from one that exits."""
    async with opened(root) as runtime:
        await runtime.start(launch("a", "python", "-c", f"import os, signal; signal.signal({number}, 0) if "
                                   f"{number} != 9 else None; os.kill(os.getpid(), {number})"))  # fmt: skip
        seen = await exited(runtime)
        assert (seen.exit_code, seen.reason) == (128 + number, f"killed by signal {number.value}")


@needs_proc
async def test_a_container_whose_shim_is_killed_is_lost_whole(root: Path, tmp_path: Path) -> None:
    """Somebody kills only the shim: the command's end would be unknown, so the command is killed too."""
    async with opened(root) as runtime:
        script = 'echo $$ >"$1"; exec sleep 300'
        seen = await runtime.start(launch("a", "sh", "-c", script, "sh", str(tmp_path / "command")))
        command = int(await until(tmp_path / "command"))
        assert seen.pid
        os.kill(seen.pid, signal.SIGKILL)
        ended = await exited(runtime)
        assert (ended.exit_code, ended.reason) == (None, "lost")
        await runtime.stop("a", "7.0", grace_s=0)
        assert not lives(command)


async def test_exits_are_seen_without_handles(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pidfds the runtime polls, and still wakes its waiter."""
    monkeypatch.setattr(os, "pidfd_open", _no_handle, raising=False)
    async with opened(root, poll_s=0.02) as runtime:
        await runtime.start(launch("a", "sh", "-c", "sleep 0.1; exit 9"))
        async with asyncio.timeout(5):
            assert await runtime.wait_change(5)
        assert (await exited(runtime)).exit_code == 9


@needs_proc
async def test_an_exit_that_cannot_be_read_at_once_is_seen_later(root: Path) -> None:
    """While processes cannot be read, a container is as it was last seen; once they can, the exit is seen."""
    table = Blind()
    async with opened(root, poll_s=0.02, table=table) as runtime:
        await runtime.start(launch("a", "sh", "-c", "sleep 0.1; exit 9"))
        table.blind = True
        assert not await runtime.wait_change(0.3)
        assert [one.state for one in await runtime.list()] == [RuntimeState.RUNNING]
        table.blind = False
        assert await runtime.wait_change(5)
        assert (await exited(runtime)).exit_code == 9


class Blind(ProcTable):
    """A process table that fails while it is blind, as when this process has too many files open."""

    blind = False
    blind_to: int | None = None

    def read(self, pid: int) -> Process | None:
        if self.blind or pid == self.blind_to:
            raise Unavailable("too many open files")
        return super().read(pid)


def _no_handle(pid: int) -> int:
    raise OSError(pid, "no more files")


@needs_proc
async def test_usage_counts_the_command_and_its_children(root: Path, tmp_path: Path) -> None:
    """Processor time, memory and processes are the whole group's, the shim's memory excepted."""
    async with opened(root, working_directory=tmp_path) as runtime:
        await runtime.start(launch("a", "python", "-c", BUSY))
        await until(tmp_path / "ready")
        usage = await runtime.usage("a", "7.0")
        assert usage.pids == 2
        assert 50_000_000 < usage.memory_bytes < 200_000_000
        assert 0.15 < usage.cpu_seconds < 5
        assert usage.network_rx_bytes is None


@needs_proc
async def test_a_container_that_cannot_be_read_hides_no_other(root: Path) -> None:
    """Taken for gone it would be started elsewhere too."""
    table = Blind()
    async with opened(root, table=table) as runtime:
        first = await runtime.start(launch("a"))
        await runtime.start(launch("b", "sleep", "0.1"))
        table.blind_to = first.pid
        async with asyncio.timeout(5):
            while {one.container_id: one.state for one in await runtime.list()} != {  # noqa: ASYNC110
                "a": RuntimeState.RUNNING,
                "b": RuntimeState.EXITED,
            }:
                await asyncio.sleep(0.02)


async def test_a_log_that_is_no_text_or_no_file_is_told(root: Path) -> None:
    """Broken bytes are shown as such; a container can replace its log by anything, and whoever asks hears of it."""
    async with opened(root) as runtime:
        code = "import os; os.write(1, b'a\\xff\\xfe\\x00b\\n\\xe2\\x82\\n')"
        seen = await runtime.start(launch("a", "python", "-c", code))
        await exited(runtime)
        assert await runtime.logs("a", "7.0", 10) == ["a\ufffd\ufffd\0b", "\ufffd"]
        log = root / seen.name / "log"
        for make in (Path.mkdir, os.mkfifo):
            log.rmdir() if log.is_dir() else log.unlink()
            make(log)
            with pytest.raises(Unavailable, match="cannot be read"):
                await runtime.logs("a", "7.0", 10)


async def test_without_descriptors_a_start_names_the_node_and_nothing_is_reported_lost(root: Path) -> None:
    """A node that has no descriptor left says so; what runs still runs, what ends is told when it can be read."""
    async with opened(root) as runtime:
        await runtime.start(launch("a", "sleep", "300"))
        await runtime.start(launch("b", "sh", "-c", "exit 7"))
        await runtime.start(launch("c", "sh", "-c", "read line <go || sleep 0.2; exit 8"))
        await _exited(runtime, "b")
        with no_descriptor_left():
            with pytest.raises(Unavailable, match=r"this node lacks descriptors.*Too many open files"):
                await runtime.start(launch("d", "sleep", "300"))
            for _ in range(10):
                with suppress(Unavailable):
                    seen = {one.container_id: one for one in await runtime.list()}
                    assert seen["a"].state is RuntimeState.RUNNING
                    assert (seen["b"].exit_code, seen["c"].reason) != (None, "lost")
                with suppress(Unavailable):
                    await runtime.usage("a", "7.0")
                await asyncio.sleep(0.05)
        assert (await _exited(runtime, "c")).exit_code == 8
        assert {one.container_id for one in await runtime.list()} == {"a", "b", "c"}


async def _exited(runtime: ProcessRuntime, container_id: str) -> Observed:
    async with asyncio.timeout(10):
        while True:
            seen = next(one for one in await runtime.list() if one.container_id == container_id)
            if seen.state is RuntimeState.EXITED:
                return seen
            await runtime.wait_change(0.1)
