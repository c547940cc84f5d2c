"""What handlers leave in a worker's process: tasks that do not end, threads, children; none holds the worker up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.deciders.rules import Rules
from coordinator.guard import Child, spawn
from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from projections.task import Task
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 30.0
ENDS_S = 12.0
"""A drain of 0.5 s, a second to clean up, the calls to a coordinator that answers, and the rest of the process."""

HANDLERS = """
import asyncio, concurrent.futures, multiprocessing, os, signal, subprocess, sys, threading, time
from coordinator.worker import task

fork = multiprocessing.get_context("fork")
kept = []

async def ignore_everything():
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@task("nap")
async def nap(payload):
    await asyncio.sleep(payload)
    return payload

@task("stay")
async def stay(how):
    if how == "itself":
        await ignore_everything()
    if how == "child":
        await asyncio.create_task(ignore_everything())
    if how == "group":
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ignore_everything())
    if how == "forgotten":
        kept.append(asyncio.create_task(ignore_everything()))
    if how == "executor":
        await asyncio.to_thread(time.sleep, 600)
    if how == "thread":
        threading.Thread(target=time.sleep, args=(600,)).start()
    if how == "process":
        fork.Process(target=time.sleep, args=(600,)).start()
    if how == "pool":
        kept.append(concurrent.futures.ProcessPoolExecutor(1, mp_context=fork))
        kept[-1].submit(time.sleep, 600)
    if how == "generator":
        async def numbers():
            try:
                yield 1
            finally:
                await ignore_everything()
        kept.append(numbers())
        await anext(kept[-1])
    await asyncio.sleep(600)

@task("stay_in_thread")
def stay_in_thread(how):
    time.sleep(600)

def report(number):
    "What a signal does to a child that handles none itself."
    child = fork.Process(target=time.sleep, args=(600,))
    child.start()
    time.sleep(0.2)
    os.kill(child.pid, number)
    child.join(5)
    code = child.exitcode
    child.kill()
    child.join()
    return code

@task("signal")
async def signal_a_child(number):
    return report(number)

@task("signal_from_thread")
def signal_a_child_of_a_thread(number):
    return report(number)

@task("pool")
def use_a_pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:  # ends its children by SIGTERM
        return pool.map(abs, [-1, -2])

@task("fork")
async def fork_and_go_on(how):
    child = os.fork()
    if child:
        for _ in range(500):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            await asyncio.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "the child went on"
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise ValueError("in the child")
    if how == "wait":
        await asyncio.sleep(0.1)
    return "from the child"

@task("fork_in_thread")
def fork_in_thread(how):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise ValueError("in the child")
    return "from the child"

@task("daemon")
def make_a_daemon(seconds):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            print("daemon", os.getpid(), file=sys.stderr, flush=True)
            time.sleep(seconds)
        os._exit(0)
    os.wait()
    return "made"
"""


class Workers:
    """Starts `coordinator worker run` on the handlers of this test, and reads its log."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        (folder / "handlers.py").write_text(HANDLERS)

    @asynccontextmanager
    async def process(self, worker_id: str, *options: str, prefix: tuple[str, ...] = ()) -> AsyncIterator[Child]:
        argv = [
            *(*prefix, sys.executable, "-m", "coordinator.cli", "worker", "run", str(self._folder / "handlers.py")),
            *("--nats", self._url, "--id", worker_id, *options),
        ]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (self._folder / f"{worker_id}.log").open("ab") as log:
            child = await spawn(argv, env=env, stdout=log, stderr=log, grace_s=5.0)
        async with child:
            yield child

    def log(self, worker_id: str) -> str:
        return (self._folder / f"{worker_id}.log").read_text()


@pytest.fixture
def workers(tmp_path: Path, cluster: Cluster) -> Workers:
    return Workers(tmp_path, cluster.url)


async def submit(cluster: Cluster, name: str, payload: Any = None, **options: Any) -> str:
    task_id = f"{name}-{time.monotonic_ns()}"
    await cluster.client.execute(
        SubmitTask(task_id=task_id, task_name=name, payload=payload_of(payload), **({"max_retries": 0} | options))
    )
    return task_id


async def task_of(cluster: Cluster, task_id: str, *, wait_s: float = 0.0) -> Task:
    task: Task = await cluster.client.execute(GetTask(task_id=task_id, wait_s=wait_s))
    return task


async def result_of(cluster: Cluster, name: str, payload: Any) -> Any:
    task = await task_of(cluster, await submit(cluster, name, payload), wait_s=PATIENCE_S)
    assert task.status is TaskStatus.COMPLETED, task
    return value_of(task.result)


async def until_running(cluster: Cluster, task_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await task_of(cluster, task_id)).status is not TaskStatus.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # its handler has begun: that is not reported


async def until_logged(workers: Workers, worker_id: str, word: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while word not in workers.log(worker_id):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# --- the end of the process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["itself", "child", "group", "forgotten", "executor", "thread", "process", "pool", "generator"]
)
async def test_nothing_that_a_handler_leaves_holds_its_worker_up(cluster: Cluster, workers: Workers, how: str) -> None:
    """After two interrupts it ends in seconds with 0, its task is in the queue again, the log says what was left."""
    async with workers.process("held") as child:
        task_id = await submit(cluster, "stay", how)
        await until_running(cluster, task_id)
        os.kill(child.pid, signal.SIGINT)
        await until_logged(workers, "held", "worker_draining")
        os.kill(child.pid, signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), ENDS_S) == 0, workers.log("held")
    task = await task_of(cluster, task_id)
    assert (task.status, task.failures) == (TaskStatus.PENDING, 0)
    assert "left_behind" in workers.log("held")
    if how in {"itself", "child", "group"}:
        (line,) = [one for one in workers.log("held").splitlines() if "handler_left_behind" in one]
        assert f'"task_id":"{task_id}"' in line
        assert "handlers.stay" in line


async def test_a_thread_that_is_left_behind_is_named(cluster: Cluster, workers: Workers) -> None:
    """The log names its handler and its task."""
    async with workers.process("held") as child:
        task_id = await submit(cluster, "stay_in_thread")
        await until_running(cluster, task_id)
        os.kill(child.pid, signal.SIGINT)
        await until_logged(workers, "held", "worker_draining")
        os.kill(child.pid, signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), ENDS_S) == 0
    (line,) = [one for one in workers.log("held").splitlines() if "handler_left_behind" in one]
    assert f'"task_id":"{task_id}"' in line
    assert "handlers.stay_in_thread" in line


PROGRAM = """
import asyncio, sys
from coordinator.worker import Worker

worker = Worker("inner", url=sys.argv[1], worker_id="inner", drain_s=0.2)

@worker.task("stay")
async def stay(how):
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

async def main():
    running = asyncio.create_task(worker.run())
    while not worker.running:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    worker.stop()
    await running
    print("over", flush=True)

asyncio.run(main())
"""


async def test_a_program_that_holds_a_worker_ends_too(cluster: Cluster) -> None:
    """A handler that ignores its cancellation holds up neither `Worker.run` nor `asyncio.run`; no warning follows."""
    await submit(cluster, "stay")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-X", "dev", "-c", PROGRAM, cluster.url]
    child = await asyncio.create_subprocess_exec(*argv, env=env, stdout=-1, stderr=-1)
    async with asyncio.timeout(ENDS_S):
        out, err = await child.communicate()
    assert (child.returncode, out.decode().splitlines()[-1]) == (0, "over")
    assert "handler_left_behind" in out.decode()
    assert err == b""


# --- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stay", "stay_in_thread"])
async def test_a_stuck_handler_gives_its_slot_back(cluster: Cluster, workers: Workers, name: str) -> None:
    """Some seconds after its time-out; the log names it, and the next task runs on the same single slot."""
    async with workers.process("stuck", "--slots", "1"):
        stuck = await submit(cluster, name, "itself", timeout_s=1.0)
        ended = await task_of(cluster, stuck, wait_s=PATIENCE_S)
        assert ended.status is TaskStatus.TIMEOUT
        assert await result_of(cluster, "nap", 0.01) == 0.01
        (line,) = [one for one in workers.log("stuck").splitlines() if "handler_left_behind" in one]
        assert stuck in line


# --- children ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["signal", "signal_from_thread"])
async def test_a_child_does_not_inherit_our_signal_handlers(
    cluster: Cluster, workers: Workers, name: str, number: signal.Signals
) -> None:
    """A signal ends a forked child as it ends any Python process, and the worker does not notice."""
    async with workers.process("parent") as child:
        assert await result_of(cluster, name, int(number)) == (-15 if number == signal.SIGTERM else 1)
        assert await result_of(cluster, "nap", 0.01) == 0.01
        assert child.returncode is None
        assert "worker_draining" not in workers.log("parent")


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
async def test_pools_work_in_handlers(cluster: Cluster, workers: Workers, context: str) -> None:
    """Of each start method; `with Pool()` ends its children by SIGTERM."""
    async with workers.process("pooling"):
        assert await asyncio.wait_for(result_of(cluster, "pool", context), PATIENCE_S) == [1, 2]


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("raise", 1), ("return", 0), ("wait", 1)])
@pytest.mark.parametrize("name", ["fork", "fork_in_thread"])
async def test_a_forked_child_never_goes_on_as_the_worker(
    cluster: Cluster, workers: Workers, name: str, how: str, code: int
) -> None:
    """It ends where its handler would have returned: it reports nothing, runs no other task, and the worker goes on."""
    if (name, how) == ("fork_in_thread", "wait"):
        pytest.skip("a thread has nothing to await")
    async with workers.process("parent") as child:
        napping = [await submit(cluster, "nap", 0.8) for _ in range(3)]
        assert await result_of(cluster, name, how) == code, workers.log("parent")
        for one in napping:
            assert (await task_of(cluster, one, wait_s=PATIENCE_S)).status is TaskStatus.COMPLETED
        assert await result_of(cluster, "nap", 0.01) == 0.01
        log = workers.log("parent")
        assert "report_stale" not in log
        assert "report_refused" not in log
        assert child.returncode is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("cluster", [Rules(lease_s=1.5)], indirect=True)
async def test_a_daemon_holds_none_of_our_connections(cluster: Cluster, workers: Workers) -> None:
    """A daemon that a handler made outlives a killed worker, and the server sees at once that the worker is gone."""
    daemon = 0
    try:
        async with workers.process("parent") as child:
            assert await result_of(cluster, "daemon", 60) == "made"
            await until_logged(workers, "parent", "daemon ")
            daemon = int(workers.log("parent").split("daemon ")[1].split()[0])
            held = [os.readlink(f"/proc/{daemon}/fd/{fd}") for fd in os.listdir(f"/proc/{daemon}/fd")]  # noqa: PTH208, PTH115
            ours = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}  # noqa: PTH208, PTH115
            connections = set(_connections(cluster))
            assert connections & ours
            assert not connections & set(held)
    finally:
        if daemon:
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGKILL)


def _connections(cluster: Cluster) -> list[str]:
    """Return the sockets of this machine that are connected to the server, as /proc names them."""
    port = f":{int(cluster.url.rpartition(':')[2]):04X}"
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        rows = [line.split() for line in table][1:]
    return [f"socket:[{row[9]}]" for row in rows if row[2].endswith(port)]


# --- as process 1 -----------------------------------------------------------------------------------------------------

_FIRST = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")


def _can_unshare() -> bool:
    try:
        return subprocess.run([*_FIRST, "true"], capture_output=True, check=False, timeout=10).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not _can_unshare(), reason="no right to make a namespace of processes")
async def test_as_process_1_a_worker_reaps_and_stops(cluster: Cluster, workers: Workers) -> None:
    """In a container without an init: daemons that end leave no zombie; SIGTERM drains the worker, which exits 0."""
    async with workers.process("first", prefix=_FIRST) as child:
        for _ in range(5):
            assert await result_of(cluster, "daemon", 0.1) == "made"
        await asyncio.sleep(1.0)
        inside = _descendants(child.pid)
        zombies = [pid for pid in inside if _state(pid) == "Z"]
        assert zombies == []
        first = next(pid for pid in inside if _is_first(pid))
        os.kill(first, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert "worker_left" in workers.log("first")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
        with suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as children:  # noqa: PTH123
            for one in map(int, children.read().split()):
                found += [one, *_descendants(one)]
    return found


def _state(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
        return stat.read().rpartition(")")[2].split()[0]
    return ""


def _is_first(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return next(line for line in status if line.startswith("NSpid")).split()[-1] == "1"
