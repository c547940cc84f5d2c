"""Workers on a real cluster: killed, drained, blocked, cut off; each task still ends exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.cluster import GetStats
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import CancelTask, GetTask, ListTasks, SubmitTask
from coordinator.commands.worker import ListWorkers, RegisterWorker
from coordinator.deciders.rules import Rules
from coordinator.guard import Child, spawn
from coordinator.task_groups import task_group
from coordinator.worker import Context, DoNotRetry, Worker
from events.errors import Refused, Unavailable
from events.resources import Resources
from events.task import TaskStatus
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from projections.task import Task
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 30.0
SHORT_LEASES = pytest.mark.parametrize("cluster", [Rules(lease_s=1.5, retry_backoff_s=0.05)], indirect=True)

HANDLERS = """
import asyncio, os, signal, sys, time
from coordinator.worker import task

@task("nap")
async def nap(payload):
    await asyncio.sleep(payload)
    return payload

@task("doze")
def doze(payload):
    time.sleep(payload)
    return payload

@task("kill")
async def kill(how):
    await asyncio.sleep(0.1)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "_exit":
        os._exit(0)
    if how == "callback":
        asyncio.get_running_loop().call_soon(sys.exit)
        await asyncio.sleep(60)
    if how == "loop":
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)

@task("exit")
async def exit(how):
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "child":
        await asyncio.create_task(asyncio.to_thread(sys.exit, 3))
    if how == "group":
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(exit("interrupt"))
    if how == "all":
        raise BaseExceptionGroup("all", [SystemExit(), KeyboardInterrupt()])
    asyncio.current_task().cancel()
    await asyncio.sleep(60)

@task("exit_in_thread")
def exit_in_thread(how):
    raise {"interrupt": KeyboardInterrupt, "exit": SystemExit, "generator": GeneratorExit}[how]

@task("spin")
async def spin(payload):
    end = time.monotonic() + payload
    while time.monotonic() < end:
        pass

@task("spin_in_thread")
def spin_in_thread(payload):
    end = time.monotonic() + payload
    while time.monotonic() < end:
        pass
"""

LAUNCH = """
import asyncio, sys
from coordinator.logs import configure
from coordinator.worker import run_worker
configure("info", "json")
module, url, worker_id = sys.argv[1:4]
limits = {"slots": int(sys.argv[4]), "beat_s": float(sys.argv[5]), "drain_s": float(sys.argv[6])}
asyncio.run(run_worker(module, url=url, worker_id=worker_id, **limits))
"""


class Workers:
    """Starts worker processes of this test, and reads their logs."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        (folder / "some_handlers.py").write_text(HANDLERS)

    @asynccontextmanager
    async def process(
        self, worker_id: str, *, slots: int = 4, beat_s: float = 0.3, drain_s: float = 30.0
    ) -> AsyncIterator[Child]:
        argv = [
            *(sys.executable, "-c", LAUNCH, str(self._folder / "some_handlers.py"), self._url, worker_id),
            *map(str, (slots, beat_s, drain_s)),
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


async def _nothing(_payload: object) -> None: ...


async def submit(
    cluster: Cluster, name: str, payload: Any = None, *, count: int = 1, task_id: str = "", **options: Any
) -> list[str]:
    ids = [f"{task_id or name}-{number}" for number in range(count)]
    commands = [SubmitTask(task_id=one, task_name=name, payload=payload_of(payload), **options) for one in ids]
    await asyncio.gather(*map(cluster.client.execute, commands))
    return ids


async def ended(cluster: Cluster, ids: list[str]) -> list[Task]:
    return list(await asyncio.gather(*(cluster.client.execute(GetTask(task_id=one, wait_s=PATIENCE_S)) for one in ids)))


async def task_of(cluster: Cluster, task_id: str) -> Task:
    found: Task = await cluster.client.execute(GetTask(task_id=task_id))
    return found


async def until(cluster: Cluster, status: TaskStatus, count: int) -> list[Task]:
    """Wait until that many tasks have this status."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: list[Task] = await cluster.client.execute(ListTasks(status=status, limit=1000))
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(cluster: Cluster, worker: Worker) -> AsyncIterator[None]:
    """Run a worker in this loop."""
    async with task_group() as tasks:
        running = tasks.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([running])


def some_worker(cluster: Cluster, **options: Any) -> Worker:
    return Worker("tested", url=cluster.url, **{"beat_s": 0.3, **options})


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  # what is asked for has no event
            await asyncio.sleep(0.01)


# --- deaths -----------------------------------------------------------------------------------------------------------


@SHORT_LEASES
async def test_the_tasks_of_a_killed_worker_go_to_another(cluster: Cluster, workers: Workers) -> None:
    """A worker killed with SIGKILL loses its leases; its tasks are retried on other workers, and each ends once."""
    async with workers.process("first") as first, workers.process("second"):
        ids = await submit(cluster, "nap", 0.15, count=60)
        await until(cluster, TaskStatus.COMPLETED, 10)
        first.kill()
        done = await ended(cluster, ids)
    assert {task.status for task in done} == {TaskStatus.COMPLETED}
    assert {value_of(task.result) for task in done} == {0.15}
    assert max(task.attempt for task in done) == 2
    totals = (await cluster.client.execute(GetStats())).totals
    assert totals["tasks_completed"] == 60
    assert totals["tasks_placed"] == sum(task.attempt for task in done)


@SHORT_LEASES
@pytest.mark.parametrize("name", ["spin", "spin_in_thread"])
async def test_a_busy_handler_does_not_lose_its_lease(cluster: Cluster, workers: Workers, name: str) -> None:
    """A computation of twice the lease, in the loop or in a thread: the first attempt is the one that counts."""
    async with workers.process("busy", slots=1):
        (task_id,) = await submit(cluster, name, 3.0)
        (done,) = await ended(cluster, [task_id])
    assert (done.status, done.attempt, done.failures) == (TaskStatus.COMPLETED, 1, 0)
    assert ("loop_blocked" in workers.log("busy")) == (name == "spin")
    if name == "spin":
        assert "some_handlers.py" in workers.log("busy").split("loop_blocked")[1].splitlines()[0]


async def test_a_worker_goes_on_over_a_takeover(cluster: Cluster) -> None:
    """What it executes while nobody leads is reported to the next leader, under the same lease."""
    worker = some_worker(cluster, slots=3)

    @worker.task("nap")
    async def nap(payload: float) -> float:
        await asyncio.sleep(payload)
        return payload

    async with serving(cluster, worker):
        ids = await submit(cluster, "nap", 0.3, count=12)
        await until(cluster, TaskStatus.COMPLETED, 2)
        await cluster.crash()
        await asyncio.sleep(0.5)
        await cluster.start()
        done = await ended(cluster, ids)
    assert {(task.status, task.attempt) for task in done} == {(TaskStatus.COMPLETED, 1)}


async def test_a_worker_goes_on_over_a_restart_of_nats(cluster: Cluster) -> None:
    """A server that is killed and comes back costs only time."""
    worker = some_worker(cluster, slots=3)

    @worker.task("nap")
    async def nap(payload: float) -> float:
        await asyncio.sleep(payload)
        return payload

    async with serving(cluster, worker):
        ids = await submit(cluster, "nap", 0.3, count=12)
        await until(cluster, TaskStatus.COMPLETED, 2)
        await cluster.restart_nats()
        done = await ended(cluster, ids)
    assert {(task.status, task.attempt) for task in done} == {(TaskStatus.COMPLETED, 1)}


@pytest.mark.parametrize("cluster", [Rules(lease_s=1.5, retry_backoff_s=0.05, poison_after=2)], indirect=True)
@pytest.mark.parametrize("how", ["SIGKILL", "_exit", "callback", "loop"])
async def test_a_task_that_ends_worker_after_worker_fails(cluster: Cluster, workers: Workers, how: str) -> None:
    """The end of a process that nobody asked for counts, also when it looks orderly; retries do not matter then."""
    (task_id,) = await submit(cluster, "kill", how, max_retries=100)
    for number in range(2):
        async with workers.process(f"victim-{number}") as child:
            await asyncio.wait_for(child.wait(), PATIENCE_S)
    async with workers.process("survivor"):
        (task,) = await ended(cluster, [task_id])
        assert (task.status, task.attempt, task.failures, task.lapses) == (TaskStatus.FAILED, 2, 2, 2)
        assert task.error == "2 workers ended while they ran it; the last: worker victim-1 did not renew its lease"
        await ended(cluster, await submit(cluster, "nap", 0.01))


@pytest.mark.parametrize("cluster", [Rules(retry_backoff_s=0.01)], indirect=True)
async def test_no_handler_ends_its_worker(cluster: Cluster, workers: Workers) -> None:
    """Exits, interrupts and cancellations of a handler, its tasks and its thread end their attempts alone."""
    async with workers.process("calm", slots=8) as child:
        (napping,) = await submit(cluster, "nap", 2.0)
        ids: list[str] = []
        for name, hows in (
            ("exit", ("interrupt", "child", "group", "all", "itself")),
            ("exit_in_thread", ("interrupt", "exit", "generator")),
        ):
            for how in hows:
                ids += await submit(cluster, name, how, task_id=f"{name}-{how}", max_retries=1)
        tasks = await ended(cluster, ids)
        assert {(task.status, task.attempt, task.lapses) for task in tasks} == {(TaskStatus.FAILED, 2, 0)}
        (nap,) = await ended(cluster, [napping])
        assert (nap.status, nap.attempt) == (TaskStatus.COMPLETED, 1)
        os.kill(child.pid, signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0


# --- two workers under one id -----------------------------------------------------------------------------------------


@SHORT_LEASES
async def test_a_second_worker_with_the_same_id_waits_for_the_first(cluster: Cluster, workers: Workers) -> None:
    """It says so; stopping either does not end the other, and it takes over once the first has left."""
    async with workers.process("twin") as first:
        await ended(cluster, await submit(cluster, "nap", 0.01))
        async with workers.process("twin") as second:
            await eventually(lambda: "worker_id_in_use" in workers.log("twin"))
            async with workers.process("twin") as third:
                await eventually(lambda: workers.log("twin").count("worker_id_in_use") == 2)
                os.kill(third.pid, signal.SIGTERM)
                assert await asyncio.wait_for(third.wait(), PATIENCE_S) == 0
            done = await ended(cluster, await submit(cluster, "nap", 0.01, count=5, task_id="while"))
            assert {(task.status, task.attempt) for task in done} == {(TaskStatus.COMPLETED, 1)}
            os.kill(first.pid, signal.SIGTERM)
            assert await asyncio.wait_for(first.wait(), PATIENCE_S) == 0
            done = await ended(cluster, await submit(cluster, "nap", 0.01, count=5, task_id="then"))
            assert {(task.status, task.attempt) for task in done} == {(TaskStatus.COMPLETED, 1)}
            (worker,) = await cluster.client.execute(ListWorkers())
            assert (worker.worker_id, worker.status) == ("twin", WorkerStatus.ACTIVE)
            assert second.returncode is None


@SHORT_LEASES
async def test_a_worker_that_was_silent_too_long_is_told_that_it_was_replaced(
    cluster: Cluster, workers: Workers
) -> None:
    """It takes no more tasks and ends with the reason; the one that took over goes on."""
    async with workers.process("frozen") as first:
        await ended(cluster, await submit(cluster, "nap", 0.01))
        os.kill(first.pid, signal.SIGSTOP)
        async with workers.process("frozen") as second:
            done = await ended(cluster, await submit(cluster, "nap", 0.01, count=5, task_id="then"))
            assert {task.status for task in done} == {TaskStatus.COMPLETED}
            os.kill(first.pid, signal.SIGCONT)
            assert await asyncio.wait_for(first.wait(), PATIENCE_S) != 0
            assert "another program has registered under this id" in workers.log("frozen")
            done = await ended(cluster, await submit(cluster, "nap", 0.01, count=5, task_id="after"))
            assert {(task.status, task.attempt) for task in done} == {(TaskStatus.COMPLETED, 1)}
            assert second.returncode is None


# --- the end of a worker ----------------------------------------------------------------------------------------------


async def test_a_drained_worker_finishes_what_runs_and_takes_no_more(cluster: Cluster, workers: Workers) -> None:
    """SIGTERM: the running task completes, the waiting ones are left to other workers, and the process exits with 0."""
    async with workers.process("drained", slots=1) as child:
        ids = await submit(cluster, "nap", 3.0, count=3)
        await until(cluster, TaskStatus.RUNNING, 1)
        await asyncio.sleep(1.0)  # it holds the task; the start of its handler is not reported
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    tasks = [await task_of(cluster, one) for one in ids]
    assert [task.status for task in tasks] == [TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.PENDING]
    (left,) = await cluster.client.execute(ListWorkers())
    assert (left.worker_id, left.status) == ("drained", WorkerStatus.LEFT)


@pytest.mark.parametrize("name", ["nap", "doze"])
async def test_what_outlasts_the_drain_is_given_back(cluster: Cluster, workers: Workers, name: str) -> None:
    """After `drain_s` running tasks go back to the queue, uncounted; a thread that continues does not delay the end."""
    async with workers.process("hasty", drain_s=0.3) as child:
        ids = await submit(cluster, name, 60, count=2)
        await until(cluster, TaskStatus.RUNNING, 2)
        os.kill(child.pid, signal.SIGTERM)
        began = time.monotonic()
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert time.monotonic() - began < 20.0
    tasks = [await task_of(cluster, one) for one in ids]
    assert {(task.status, task.attempt, task.failures) for task in tasks} == {(TaskStatus.PENDING, 1, 0)}


async def test_a_second_interrupt_forces(cluster: Cluster, workers: Workers) -> None:
    """Ctrl-C drains; a second Ctrl-C returns running tasks to the queue at once."""
    async with workers.process("forced") as child:
        ids = await submit(cluster, "nap", 60, count=2)
        await until(cluster, TaskStatus.RUNNING, 2)
        os.kill(child.pid, signal.SIGINT)
        await eventually(lambda: "worker_draining" in workers.log("forced"))
        os.kill(child.pid, signal.SIGINT)
        began = time.monotonic()
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert time.monotonic() - began < 20.0
    tasks = [await task_of(cluster, one) for one in ids]
    assert {(task.status, task.failures) for task in tasks} == {(TaskStatus.PENDING, 0)}


async def test_a_second_interrupt_ends_a_blocked_worker(cluster: Cluster, workers: Workers) -> None:
    """A handler that never yields to the loop cannot block Ctrl-C."""
    async with workers.process("blocked") as child:
        await submit(cluster, "spin", 60)
        await until(cluster, TaskStatus.RUNNING, 1)
        await eventually(lambda: "loop_blocked" in workers.log("blocked"))
        os.kill(child.pid, signal.SIGINT)
        await asyncio.sleep(0.2)
        os.kill(child.pid, signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 10.0) != 0


async def test_a_worker_without_a_parent_drains(cluster: Cluster, workers: Workers) -> None:
    """A spawned worker ends cleanly when its parent is gone."""
    async with workers.process("orphan") as child:
        await submit(cluster, "nap", 0.01)
        await until(cluster, TaskStatus.COMPLETED, 1)
        child._let_go()
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert "its parent died" in workers.log("orphan")


async def test_a_worker_that_nobody_answers_can_be_stopped(cluster: Cluster, workers: Workers) -> None:
    """Draining takes a bounded time even when the coordinator is gone."""
    async with workers.process("alone") as child:
        await submit(cluster, "nap", 0.01)
        await until(cluster, TaskStatus.COMPLETED, 1)
        await cluster.crash()
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 12.0) == 0
        await cluster.start()


# --- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [Rules(retry_backoff_s=0.2)], indirect=True)
async def test_failures_are_tried_again_after_a_growing_pause(cluster: Cluster) -> None:
    """Two attempts fail and the third succeeds; each pause is at least half of twice the one before."""
    worker = some_worker(cluster)
    at: list[float] = []

    @worker.task("flaky")
    async def flaky(context: Context, _payload: None) -> int:
        at.append(time.monotonic())
        if context.attempt < 3:
            msg = "not yet"
            raise ConnectionError(msg)
        return context.attempt

    async with serving(cluster, worker):
        (task_id,) = await submit(cluster, "flaky")
        (done,) = await ended(cluster, [task_id])
    assert (done.status, done.attempt, done.failures, value_of(done.result)) == (TaskStatus.COMPLETED, 3, 2, 3)
    assert at[1] - at[0] >= 0.1
    assert at[2] - at[1] >= 0.2


async def test_a_handler_may_say_that_retrying_is_of_no_use(cluster: Cluster) -> None:
    """`DoNotRetry` ends the task with its message, on one line, however many retries are left."""
    worker = some_worker(cluster)

    @worker.task("hopeless")
    def hopeless(payload: str) -> None:
        msg = f"no customer {payload}"
        raise DoNotRetry(msg)

    async with serving(cluster, worker):
        (task_id,) = await submit(cluster, "hopeless", "x")
        (done,) = await ended(cluster, [task_id])
    assert (done.status, done.attempt, done.error) == (TaskStatus.FAILED, 1, "DoNotRetry: no customer x")


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_task_that_is_called_off_stops_its_handler(cluster: Cluster, how: str) -> None:
    """The worker is notified at once, cancels the handler, reports nothing, and takes the next task."""
    worker = some_worker(cluster, slots=1)
    seen: list[str] = []

    @worker.task("hang")
    async def hang(_payload: None) -> None:
        try:
            seen.append("began")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    @worker.task("next")
    async def after(_payload: None) -> str:
        return "done"

    async with serving(cluster, worker):
        (hanging,) = await submit(cluster, "hang", timeout_s=0.5 if how == "timed out" else None)
        (following,) = await submit(cluster, "next")
        await eventually(lambda: seen == ["began"])
        if how == "cancelled":
            await cluster.client.execute(CancelTask(task_id=hanging))
        (done,) = await ended(cluster, [following])
        await eventually(lambda: seen == ["began", "cancelled"])
    assert done.status is TaskStatus.COMPLETED
    status = TaskStatus.CANCELLED if how == "cancelled" else TaskStatus.TIMEOUT
    assert (await task_of(cluster, hanging)).status is status


async def test_progress_is_seen_while_the_task_runs(cluster: Cluster) -> None:
    """Progress reported by a handler can be read before it ends."""
    worker = some_worker(cluster)
    go_on = asyncio.Event()

    @worker.task("slow")
    async def slow(context: Context, _payload: None) -> None:
        await context.progress(0.25, "a quarter")
        await go_on.wait()

    async with serving(cluster, worker):
        (task_id,) = await submit(cluster, "slow")
        await until(cluster, TaskStatus.RUNNING, 1)
        async with asyncio.timeout(PATIENCE_S):
            while (running := await task_of(cluster, task_id)).progress == 0:  # noqa: ASYNC110  # it is asked for
                await asyncio.sleep(0.01)
        go_on.set()
        await ended(cluster, [task_id])
    assert (running.progress, running.progress_message) == (0.25, "a quarter")


async def test_a_worker_is_given_only_what_it_handles(cluster: Cluster) -> None:
    """Tasks of other names wait for another worker, and the worker's slots are never exceeded."""
    worker = some_worker(cluster, slots=2)
    now = most = 0

    @worker.task("known")
    async def known(_payload: None) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    async with serving(cluster, worker):
        others = await submit(cluster, "unknown", count=3)
        await ended(cluster, await submit(cluster, "known", count=20))
    assert most == 2
    assert {(await task_of(cluster, one)).attempt for one in others} == {0}


async def test_a_worker_with_resources_is_given_what_fits(cluster: Cluster) -> None:
    """Running tasks never need more together than the worker declared; one that never fits waits for another."""
    worker = some_worker(cluster, slots=8, resources={"cpu": 2, "memory": "4Gi"})
    now = most = 0

    @worker.task("known")
    async def known(_payload: None) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    async with serving(cluster, worker):
        (large,) = await submit(cluster, "known", task_id="large", resources=Resources.parse({"memory": "5Gi"}))
        await ended(cluster, await submit(cluster, "known", count=12, resources=Resources.parse({"cpu": "700m"})))
    assert most == 2
    assert (await task_of(cluster, large)).attempt == 0


async def test_a_worker_that_was_forgotten_gives_back_what_it_cannot_run(cluster: Cluster) -> None:
    """A task it has no handler for is returned, uncounted, and the worker repeats which names it handles."""
    worker = some_worker(cluster)
    worker.task("known")(_nothing)
    async with serving(cluster, worker):
        await ended(cluster, await submit(cluster, "known"))
        await cluster.client.execute(RegisterWorker(worker_id=worker.worker_id))
        (unknown,) = await submit(cluster, "unknown")
        async with asyncio.timeout(PATIENCE_S):
            while (task := await task_of(cluster, unknown)).attempt == 0 or task.status is TaskStatus.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (task.status, task.failures) == (TaskStatus.PENDING, 0)
        async with asyncio.timeout(PATIENCE_S):
            while (await cluster.client.execute(ListWorkers()))[0].handles != ("known",):  # noqa: ASYNC110  # it is asked
                await asyncio.sleep(0.01)


async def test_a_worker_takes_no_orders_from_an_unreadable_notice(cluster: Cluster) -> None:
    """An invalid notice changes nothing."""
    worker = some_worker(cluster)
    worker.task("known")(_nothing)
    async with serving(cluster, worker):
        await ended(cluster, await submit(cluster, "known"))
        for body in (b"", b"{", b'{"lost":7}', b'{"lost":["unknown"]}', b"{}"):
            cluster.client.bus.send(cluster.client.subjects.notice("worker", worker.worker_id), body)
        (again,) = await submit(cluster, "known", task_id="again")
        assert (await ended(cluster, [again]))[0].status is TaskStatus.COMPLETED


@pytest.mark.parametrize("cluster", [Rules(claim_slots_max=4)], indirect=True)
async def test_a_worker_the_coordinator_does_not_take_ends_with_the_reason(cluster: Cluster) -> None:
    """A limit exceeded from the start is an error of the caller."""
    worker = some_worker(cluster, slots=8)
    worker.task("known")(_nothing)
    with pytest.raises(Refused, match="slots 8 is out of range: use 1 to 4"):
        await worker.run()


async def test_a_worker_with_a_wrong_login_ends_with_the_reason(cluster: Cluster) -> None:
    """The worker reports it and does not retry for ever; nor does it when there is no server at all."""
    for url, error, why in (
        (cluster.url.replace("nats://", "nats://wrong"), Refused, "does not accept the credentials"),
        ("nats://127.0.0.1:1", Unavailable, "no NATS server at"),
    ):
        worker = Worker("stranger", url=url)
        worker.task("known")(_nothing)
        with pytest.raises(error, match=why):
            await worker.run()


async def test_a_worker_that_cannot_beat_does_not_go_on(cluster: Cluster) -> None:
    """Without heartbeats every lease would be lost: the worker ends with the reason, and returns its tasks."""
    worker = Worker("mute", url=cluster.url.replace("nats://", "nats://wrong"))
    worker.task("nap")(asyncio.sleep)
    (task_id,) = await submit(cluster, "nap", 60)
    with pytest.raises(Refused, match="does not accept the credentials"):
        await worker.run(cluster.client)
    assert (await task_of(cluster, task_id)).status is TaskStatus.PENDING


async def test_large_payloads_are_given_in_portions(cluster: Cluster) -> None:
    """Many large payloads fit into one claim's slots but not into one message: they arrive in several."""
    worker = some_worker(cluster, slots=100)
    large = '"' * 30_000  # each character is escaped, and escaped again

    @worker.task("weigh")
    async def weigh(payload: str) -> list[Any]:
        return [len(payload), "日" * 20_000]

    ids = await submit(cluster, "weigh", large, count=60)
    async with serving(cluster, worker):
        done = await ended(cluster, ids)
    assert {(task.status, task.attempt) for task in done} == {(TaskStatus.COMPLETED, 1)}
    assert {value_of(task.result)[0] for task in done} == {30_000}


@pytest.mark.parametrize("is_async", [True, False])
async def test_many_small_tasks(
    cluster: Cluster, is_async: bool, record_property: Callable[[str, object], None]
) -> None:
    """Ten thousand tasks that do nothing all complete, each once; the speed is printed, not asserted."""
    worker = some_worker(cluster, slots=200)

    def nothing_in_thread(_payload: None) -> None: ...

    worker.task("noop")(_nothing if is_async else nothing_in_thread)
    ids = await submit(cluster, "noop", count=10_000)
    began = time.perf_counter()
    async with serving(cluster, worker):
        await ended(cluster, ids[-200:])
        while (stats := await cluster.client.execute(GetStats())).tasks["completed"] < len(ids):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        took_s = time.perf_counter() - began
    assert stats.totals["tasks_completed"] == stats.totals["tasks_placed"] == len(ids)
    record_property("tasks_per_s", round(len(ids) / took_s))
    print(f"{len(ids) / took_s:.0f} tasks/s in one process with the coordinator")
