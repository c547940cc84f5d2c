"""
Memory runs out: which process of a machine goes first is chosen, and why one has gone is said.

The kernel's own killer does it here, in a control group with little memory; that needs root.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.client.client import Client
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.task import SubmitTask
from events.container import ContainerStatus
from tests.commands import Up, running, up
from tests.conftest import living_in

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PATIENCE_S = 25.0
LITTLE_BYTES = 256 * 1024
_GROUPS = Path("/sys/fs/cgroup/memory")


def pid_of(started: Up, word: str) -> int:
    """Return the process of `up` whose command has this word, or is this program."""
    for process in living_in(started.home):
        words = process.command.split()
        if word in words or (Path(words[0]).name == word):
            return process.pid
    raise AssertionError(f"nothing of {word} runs")


def score(pid: int) -> int:
    """Return how expendable a process is to the kernel."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def nice(pid: int) -> tuple[int, int]:
    """Return the nice value of a process, and that of its session where the kernel groups by session."""
    own = os.getpriority(os.PRIO_PROCESS, pid)
    try:
        return own, int(Path(f"/proc/{pid}/autogroup").read_text().rpartition("nice ")[2])
    except OSError:
        return own, own


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def little_memory(name: str) -> Iterator[Path]:
    """Make a control group whose processes may allocate next to nothing more while the block runs."""
    group = _GROUPS / name
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LITTLE_BYTES))
    except OSError as error:
        pytest.skip(f"no control group of memory can be made here: {error}")
    try:
        yield group
    finally:
        give_up_at = time.monotonic() + PATIENCE_S
        while group.exists() and time.monotonic() < give_up_at:
            with suppress(OSError):
                group.rmdir()
            time.sleep(0.05)


def test_the_order_in_which_processes_go_and_get_the_cpu(tmp_path: Path) -> None:
    """
    Containers go first, then workers, follower and node agent, the coordinator; `up` and nats-server last.

    The coordinator gets the CPU first, then NATS and what is not ours, then follower, node agent and containers.
    """
    module = tmp_path / "handlers_of_memory.py"
    module.write_text("from coordinator.worker import task\n\n\n@task('n')\nasync def n(_: object) -> None: ...\n")

    with up(tmp_path / "home") as started:
        home = {"COORDINATOR_HOME": str(started.home)}
        with running("worker", "run", str(module), written=tmp_path / "worker.out", **home) as worker:

            async def pid_in_container() -> int:
                async with Client.open(started.url, source="other") as client:
                    await client.execute(CreateContainer(container_id="box", agent_id="a", agent_type="task_agent"))
                    await client.execute(StartContainer(container_id="box"))
                    question = GetContainer(container_id="box", unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S)
                    return int((await client.execute(question)).pid)

            container = asyncio.run(pid_in_container())
            worker.until(lambda: score(worker.pid) != score(os.getpid()))
            order = [
                max(score(pid) for pid in children(container)),
                score(worker.pid),
                score(pid_of(started, "follow")),
                score(pid_of(started, "serve")),
                score(pid_of(started, "nats-server")),
            ]
            assert order == sorted(set(order), reverse=True), order
            assert score(pid_of(started, "node")) == score(pid_of(started, "follow"))
            assert score(started.pid) == score(pid_of(started, "nats-server")) == score(os.getpid())

            # And which gets the CPU first.
            usual = os.nice(0)  # whoever starts all of them with another nice value is obeyed
            first = -10 if os.geteuid() == 0 and usual == 0 else usual
            assert nice(pid_of(started, "serve")) == (first, min(first, 0))
            assert nice(pid_of(started, "nats-server")) == (usual, 0)
            for later in (pid_of(started, "follow"), pid_of(started, "node"), container, *children(container)):
                assert nice(later) == (usual + 5, usual + 5), later


def test_a_program_without_memory_is_started_again(tmp_path: Path) -> None:
    """The kernel ends the coordinator: the log says why, and it leads again; a `kill -9` is not taken for that."""
    with up(tmp_path / "home") as started, little_memory(f"coordinator-test-{os.getpid()}") as group:

        async def submit(prefix: str) -> None:
            async with Client.open(started.url, source="other") as client:
                tasks = [SubmitTask(task_id=f"{prefix}{number}", task_name="n" * 60) for number in range(2000)]
                await asyncio.gather(*(client.execute(task, timeout_s=PATIENCE_S) for task in tasks))

        os.kill(pid_of(started, "serve"), signal.SIGKILL)
        started.until_written("killed by SIGKILL, and not for want of memory")
        asyncio.run(submit("before"))
        (group / "cgroup.procs").write_text(str(pid_of(started, "serve")))
        asyncio.run(submit("after"))
        started.until_written("killed by SIGKILL, perhaps because memory ran out")
        assert started.stop() == 0
