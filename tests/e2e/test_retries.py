"""Retries with a real cluster, a real worker and the command line: policies, pauses, what is kept of each failure."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import NotFound
from coordinator.scheduler import RetryPolicy, TaskInfo, TaskScheduler, TaskStatus
from tests.commands import Up, call, running, up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
HANDLERS = """
from coordinator.worker import Context, RetryAfter, task

class Gone(LookupError):
    pass

@task("fail")
def fail(payload):
    raise ValueError(payload)

@task("gone")
async def gone(payload):
    raise Gone(payload)

@task("limited")
async def limited(context: Context, payload):
    if context.attempt == 1:
        raise RetryAfter(payload, "429")
    return context.attempt

@task("only")
async def only(payload):
    if payload != "good":
        raise ValueError(f"{payload} is not good")
    return payload
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One cluster for all tests here, with short pauses, which evicts ended tasks early; and one worker."""
    folder = tmp_path_factory.mktemp("retries")
    handlers = folder / "handlers_of_retries.py"
    handlers.write_text(HANDLERS)
    with up(
        folder / "home", COORDINATOR_SCHEDULER__RETRY_BACKOFF_S="0.05", COORDINATOR_ENGINE__ENDED_KEPT="3"
    ) as started:
        words = ("worker", "run", str(handlers), "--id", "w", "--slots", "4")
        with running(*words, written=folder / "worker.out", COORDINATOR_URL=started.url) as worker:
            worker.until_written("worker_registered")
            yield started


@pytest.fixture(autouse=True)
def _talk_to_it(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)


async def _ended(scheduler: TaskScheduler, task_id: str) -> TaskInfo:
    task = await scheduler.wait_for_task(task_id, PATIENCE_S)
    assert task.ended_at is not None, task
    return task


async def test_every_attempt_is_kept_with_its_error() -> None:
    """A task that failed three times tells of each: when, where, what was raised."""
    async with TaskScheduler() as scheduler:
        policy = RetryPolicy(backoff="fixed", first_s=0.2, jitter=0.0)
        task = await _ended(scheduler, await scheduler.submit_task("fail", payload="no", max_retries=2, retry=policy))
    assert (task.status, task.error, task.error_type) == (TaskStatus.FAILED, "ValueError: no", "ValueError")
    assert [(one.attempt, one.worker_id, one.error) for one in task.attempts] == [
        (number, "w", "ValueError: no") for number in (1, 2, 3)
    ]
    pauses = [two.started_at - one.ended_at for one, two in zip(task.attempts, task.attempts[1:], strict=False)]
    assert all(0.2 <= pause_s < 5.0 for pause_s in pauses), pauses
    shown = await asyncio.to_thread(call, "task", "get", task.task_id)
    assert shown.code == 0
    assert shown.out.count("failed on w: ValueError: no") == 3
    shown = await asyncio.to_thread(call, "task", "get", task.task_id, "--json")
    assert [one["attempt"] for one in json.loads(shown.out)["attempts"]] == [1, 2, 3]


async def test_an_error_that_is_not_retried_ends_the_task() -> None:
    """By the name of its class, or of one that it is a kind of."""
    async with TaskScheduler() as scheduler:
        for name in ("handlers_of_retries.Gone", "Gone", "LookupError"):
            policy = RetryPolicy(non_retryable=(name,))
            task = await _ended(scheduler, await scheduler.submit_task("gone", payload="x", retry=policy))
            assert (task.status, task.attempt) == (TaskStatus.FAILED, 1)
            assert task.error_type == "handlers_of_retries.Gone"


async def test_a_handler_says_when_to_retry() -> None:
    """The second attempt begins no sooner, although the pause of the settings is shorter."""
    async with TaskScheduler() as scheduler:
        task = await _ended(scheduler, await scheduler.submit_task("limited", payload=1.0))
    assert (task.status, task.result) == (TaskStatus.COMPLETED, 2)
    assert task.started_at is not None
    assert task.started_at - task.attempts[0].ended_at >= 1.0


def test_the_command_line_sets_a_policy() -> None:
    """Each option is a field of the policy; one that contradicts itself is refused."""
    words = ("--backoff", "linear", "--backoff-first", "0.1", "--backoff-most", "0.3", "--jitter", "0")
    done = call("task", "submit", "gone", *words, "--non-retryable", "Gone", "--payload", "1", "--wait", "20", "--json")
    task = json.loads(done.out)
    assert (done.code, task["status"], task["attempt"]) == (1, "failed", 1)
    assert task["retry"] == {
        "backoff": "linear", "first_s": 0.1, "most_s": 0.3, "jitter": 0.0, "non_retryable": ["Gone"],
    }  # fmt: skip
    refused = call("task", "submit", "gone", "--backoff-first", "5", "--backoff-most", "1")
    assert refused.code == 5
    assert "retry.most_s 1 is less than retry.first_s 5" in refused.err


# --- pause and resume -------------------------------------------------------------------------------------------------


async def test_a_task_is_paused_instead_of_failed_and_resumed_with_another_payload() -> None:
    """No worker gets it meanwhile; it is listed as paused; with a payload that is right it completes."""
    async with TaskScheduler() as scheduler:
        policy = RetryPolicy(backoff="fixed", first_s=0.05, when_exhausted="pause")
        task_id = await scheduler.submit_task("only", payload="bad", max_retries=1, retry=policy)
        async with asyncio.timeout(PATIENCE_S):
            while not (task := await scheduler.get_task(task_id)).is_paused:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.05)
        assert (task.status, task.attempt, task.pause_reason) == (TaskStatus.PENDING, 2, "retries_exhausted")
        assert [one.task_id for one in await scheduler.list_tasks(paused=True)] == [task_id]
        assert await scheduler.get_next_task("v", task_names=["only"], wait_s=0.5) is None
        shown = await asyncio.to_thread(call, "task", "get", task_id)
        assert "retries_exhausted" in shown.out
        assert "status      paused" in shown.out
        listed = await asyncio.to_thread(call, "task", "list", "--paused")
        assert task_id in listed.out
        await scheduler.resume_task(task_id, "found it", payload="good")
        task = await _ended(scheduler, task_id)
    assert (task.status, task.result, task.attempt, task.is_paused) == (TaskStatus.COMPLETED, "good", 3, False)


def test_an_operator_pauses_and_resumes() -> None:
    """A task that waits for its retry is held back, until it is resumed with more retries."""
    words = ("--backoff-first", "0.5", "--max-retries", "1", "--when-exhausted", "pause", "--payload", '"bad"')
    task_id = call("task", "submit", "only", *words).out.strip()

    def status() -> str:
        found = json.loads(call("task", "get", task_id, "--json").out)
        return "paused" if "paused_at" in found else str(found["status"])

    _until(lambda: status() == "paused")
    assert call("task", "resume", task_id, "--more-retries", "3").code == 0
    _until(lambda: json.loads(call("task", "get", task_id, "--json").out).get("attempt", 0) >= 3)
    assert call("task", "pause", task_id, "--reason", "enough").code in (0, 5)
    assert call("task", "resume", "unknown").code == 4
    assert call("task", "cancel", task_id).code == 0


def _until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.05)


# --- dead letters -----------------------------------------------------------------------------------------------------


async def test_dead_tasks_are_listed_shown_and_requeued() -> None:
    """From the read model, after the writer evicted them; a repeat makes no second task."""
    async with TaskScheduler() as scheduler:
        began = time.time() - 1.0
        dead = [
            await scheduler.submit_task("only", payload=f"bad {n}", max_retries=0, idempotency_key=f"key {n}")
            for n in range(5)
        ]
        other = await scheduler.submit_task("gone", payload="x", max_retries=0)
        for task_id in (*dead, other):
            await _dead_one(scheduler, task_id)
        with pytest.raises(NotFound):  # all but three of those that ended have left the writer
            await scheduler.get_task(dead[0])
        found = await scheduler.list_dead_tasks("only", error_type="ValueError", since=began)
        assert [one.task_id for one in found] == [*reversed(dead)]
        assert found[-1].attempts[0].error == "ValueError: bad 0 is not good"
        assert [one.task_id for one in await scheduler.list_dead_tasks(error_type="Gone", since=began)] == [other]
        assert await scheduler.list_dead_tasks("only", error_type="Gone") == []
        assert len(await scheduler.list_dead_tasks("only", limit=2)) == 2

        again = await scheduler.requeue_task(dead[0])
        assert again == f"{dead[0]}-r1" == await scheduler.requeue_task(dead[0])
        task = await _dead_one(scheduler, again)
        assert (task.requeued_from, task.error) == (dead[0], "ValueError: bad 0 is not good")
        assert await scheduler.requeue_task(again) == f"{dead[0]}-r2"
        listed = {one.task_id: one.requeued_as for one in await scheduler.list_dead_tasks("only", since=began)}
        assert (listed[dead[0]], listed[again], listed[dead[1]]) == (again, f"{dead[0]}-r2", "")

        await _dead_one(scheduler, f"{dead[0]}-r2")
        start = time.monotonic()
        made = await scheduler.requeue_tasks("only", since=began, most=6, rate=10)
        assert made == [*(f"{one}-r1" for one in dead[1:]), f"{dead[0]}-r3"]
        assert time.monotonic() - start >= 0.1 * (len(made) - 1)
        with pytest.raises(NotFound):
            await scheduler.requeue_task("unknown")


async def _dead_one(scheduler: TaskScheduler, task_id: str) -> TaskInfo:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for one in await scheduler.list_dead_tasks():
                if one.task_id == task_id:
                    return one
            await asyncio.sleep(0.05)


def test_the_command_line_lists_shows_and_requeues_dead_tasks() -> None:
    """`show` has the payload, every attempt and the traceback; `requeue` prints the new ids."""
    words = ("--payload", '{"rows": 7}', "--max-retries", "1", "--backoff-first", "0.01", "--wait", "20", "--json")
    task_id = json.loads(call("task", "submit", "fail", *words).out)["task_id"]
    listed = call("dead", "list", "--name", "fail", "--error-type", "ValueError")
    assert (listed.code, listed.err) == (0, "")
    assert task_id in listed.out
    shown = call("dead", "show", task_id)
    assert shown.code == 0
    assert '{"rows": 7}' in shown.out or '{"rows":7}' in shown.out
    assert "attempt 2" in shown.out
    assert "Traceback (most recent call last):" in shown.out
    assert json.loads(call("dead", "show", task_id, "--json").out)["submitted"]["task_name"] == "fail"
    assert call("dead", "requeue", task_id).out == f"{task_id}-r1\n"
    assert call("dead", "requeue", task_id).out == f"{task_id}-r1\n"
    alive = call("task", "submit", "nobody").out.strip()
    refused = call("dead", "requeue", alive)
    assert refused.code == 5
    assert "is pending: only one that failed or timed out" in refused.err
    assert call("dead", "requeue").code == 2
    assert call("dead", "requeue", "--all", "--name", "x").code == 2
    assert call("dead", "list", "--since", "yesterday").code == 2
    assert call("task", "cancel", alive).code == 0


# --- the sample of the requirements -----------------------------------------------------------------------------------


async def test_a_program_retries_what_it_holds_and_what_failed() -> None:
    """`if task_info.can_retry(): task_info.increment_retry()` acts on the queue, whatever became of the task."""
    async with TaskScheduler() as scheduler:
        task_id = await scheduler.submit_task("held", max_retries=2)
        task_info = await scheduler.get_next_task("v", task_names=["held"], wait_s=5)
        assert task_info is not None
        if task_info.can_retry():
            task_info.increment_retry()
        again = await scheduler.get_next_task("v", task_names=["held"], wait_s=10)
        assert again is not None
        assert (again.task_id, again.attempt, again.retry_count) == (task_id, 2, 1)
        await scheduler.fail_task(task_id, "no use", retry=False)
        task_info = await scheduler.get_task(task_id)
        assert (task_info.status, task_info.retry_count) == (TaskStatus.FAILED, 1)
        if task_info.can_retry():
            task_info.increment_retry()
        requeued = await scheduler.get_next_task("v", task_names=["held"], wait_s=10)
        assert requeued is not None
        assert (requeued.task_id, requeued.requeued_from) == (f"{task_id}-r1", task_id)
        await scheduler.complete_task(requeued.task_id)
