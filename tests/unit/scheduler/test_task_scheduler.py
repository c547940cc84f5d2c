"""Tasks through the scheduler facade: reports, leases and statistics."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.task import ClaimTasks, SubmitTask
from coordinator.deciders.rules import Rules
from coordinator.scheduler import After, RetryPolicy, SchedulingStrategy, TaskInfo, TaskScheduler, TaskStatus
from events.errors import Corrupt, NotFound, Refused, StaleLease, Unavailable
from events.task import Payload
from tests.facades import Here, opened_here

if TYPE_CHECKING:
    from coordinator.app.app import App

SOON = Rules(retry_backoff_s=0.0)


@pytest.fixture
async def scheduler(app: App) -> TaskScheduler:
    return TaskScheduler(app)


async def test_a_task_from_submit_to_result(scheduler: TaskScheduler) -> None:
    """The worker gets what was submitted, and the submitter sees the result that the worker reported."""
    task_id = await scheduler.submit_task(
        "resize", "batch", 5, 60.0, {"cpu": 2, "memory": "4Gi"}, payload={"width": 7}, max_retries=1
    )
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    assert (task.task_id, task.task_name, task.task_type, task.priority) == (task_id, "resize", "batch", 5)
    assert (task.status, task.attempt, task.worker_id, task.timeout) == (TaskStatus.RUNNING, 1, "worker_1", 60.0)
    assert (task.resources.cpu_millis, task.resources.memory_bytes) == (2000, 4 * 1024**3)
    assert task.payload == {"width": 7}
    await scheduler.report_progress(task_id, 0.5, "half of it")
    assert (await scheduler.get_task(task_id)).progress == 0.5
    await scheduler.complete_task(task_id, execution_time=1.5, result=b"\x00png")
    done = await scheduler.get_task(task_id)
    assert (done.status, done.execution_time, done.result) == (TaskStatus.COMPLETED, 1.5, b"\x00png")
    assert done.lease == ""
    assert done.ended_at is not None


async def test_a_plan_is_what_explain_would_say(scheduler: TaskScheduler) -> None:
    """Whatever the task asks for; nothing is submitted, and what its submit would be refused for is refused."""
    await scheduler.get_next_task("worker_1")
    content: dict[str, Any] = {"task_id": "t", "resources": {"cpu": 1}, "attributes": {"a": "x"}, "delay": 60.0}
    planned = await scheduler.plan_task("resize", **content)
    assert [reason.code for reason in planned.reasons] == ["not_before"]
    assert await scheduler.list_tasks() == []
    await scheduler.submit_task("resize", **content)
    explained = await scheduler.explain_task("t")
    assert [one.code for one in explained.reasons] == [one.code for one in planned.reasons]
    assert (explained.worker_counts, explained.policy) == (planned.worker_counts, planned.policy)
    with pytest.raises(Refused, match="queue 'q' does not exist"):
        await scheduler.plan_task("resize", queue="q")
    with pytest.raises(NotFound):
        await scheduler.explain_task("nobody")


async def test_no_task_is_none(scheduler: TaskScheduler) -> None:
    """A claim returns None when there is no task, at once or after its wait."""
    assert await scheduler.get_next_task("worker_1") is None
    assert await scheduler.get_next_task("worker_1", wait_s=0.02) is None


async def test_a_program_gets_its_own_tasks(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of others wait; it is said once which ones, and how to ask for them."""
    async with opened_here() as other_here:
        assert other_here.app.program == here.app.program  # the same file: the same program in two runs
    scheduler, again = TaskScheduler(here.app), TaskScheduler(here.app)
    for number, program in enumerate(("other-1", "other-2", "")):
        await here.app.execute(SubmitTask(task_id=f"o{number}", task_name=f"name_{number}", program=program))
    own = await scheduler.submit_task("name_0")
    task = await again.get_next_task("worker_1")
    assert task is not None
    assert task.task_id == own
    for _ in range(2):
        assert await scheduler.get_next_task("worker_1", wait_s=0.01) is None
    said = capsys.readouterr()
    assert (said.out + said.err).count("tasks_of_other_programs_wait") == 1
    assert all(one in said.out + said.err for one in ("name_0", "name_1", "name_2", "task_names=['name_0']"))
    taken = [await scheduler.get_next_task("worker_1", task_names=["name_2", "name_0"]) for _ in range(3)]
    assert [one and one.task_id for one in taken] == ["o0", "o2", None]


async def test_names_of_tasks_to_take(scheduler: TaskScheduler) -> None:
    """None at all would never be given a task."""
    for wrong, why in (([], "task_names is empty"), ("resize", "a list of texts"), (["x"] * 33, "at most 32")):
        with pytest.raises(Refused, match=why):
            await scheduler.get_next_task("worker_1", task_names=wrong)


async def test_waiting_for_a_task(scheduler: TaskScheduler) -> None:
    """A waiting claim returns a task as soon as it is submitted."""
    waiting = asyncio.ensure_future(scheduler.get_next_task("worker_1", wait_s=5))
    await asyncio.sleep(0.02)
    task_id = await scheduler.submit_task("a")
    task = await asyncio.wait_for(waiting, 1)
    assert task is not None
    assert task.task_id == task_id


@pytest.mark.parametrize("strategy", [SchedulingStrategy.PRIORITY, "priority"])
async def test_priority(scheduler: TaskScheduler, strategy: SchedulingStrategy | str) -> None:
    """PRIORITY returns the highest priority first, the oldest among equals; by default the oldest task comes first."""
    ids = [await scheduler.submit_task("a", priority=priority) for priority in (1, 9, 9, 5)]
    by_priority = [await scheduler.get_next_task("worker_1", strategy) for _ in range(3)]
    assert [task.task_id for task in by_priority if task] == [ids[1], ids[2], ids[3]]
    oldest = await scheduler.get_next_task("worker_1")
    assert oldest is not None
    assert oldest.task_id == ids[0]


async def test_reporting_without_a_lease(scheduler: TaskScheduler) -> None:
    """Completing uses the lease that this process claimed; repeating it changes nothing; another outcome is refused."""
    task_id = await scheduler.submit_task("a")
    await scheduler.get_next_task("worker_1")
    await scheduler.complete_task(task_id)
    await scheduler.complete_task(task_id)
    with pytest.raises(Refused, match="already ended as completed"):
        await scheduler.fail_task(task_id, "too late")
    with pytest.raises(Refused, match="already ended as completed"):
        await scheduler.cancel_task(task_id)
    assert (await scheduler.get_task(task_id)).status is TaskStatus.COMPLETED


async def test_a_task_nobody_holds(scheduler: TaskScheduler) -> None:
    """A task that was never claimed can be reported without a lease: it starts and ends at once."""
    task_id = await scheduler.submit_task("a")
    await scheduler.complete_task(task_id, 120.5)
    assert (await scheduler.get_task(task_id)).execution_time == 120.5


async def test_only_the_holder_reports(here: Here) -> None:
    """Another process needs the lease of the task; with a wrong one or none it gets StaleLease."""
    scheduler = TaskScheduler(here.app)
    task_id = await scheduler.submit_task("a")
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    here.app.held.drop(task_id, task.lease)  # as in a process that did not claim it
    for lease in (None, "claim.1.1"):
        with pytest.raises(StaleLease):
            await scheduler.complete_task(task_id, lease=lease)
    await scheduler.complete_task(task_id, lease=task.lease)


async def test_a_lost_lease_stays_lost() -> None:
    """
    A worker whose lease is lost cannot report, not even by trying twice.

    If its lease were dropped after the first refusal, the second report would count as one without a claim.
    """
    async with opened_here(SOON) as (app, rig):
        scheduler = TaskScheduler(app)
        task_id = await scheduler.submit_task("a")
        await scheduler.get_next_task("worker_1")
        rig.hands.turn(SOON.lease_s + 1)
        await rig.settle()
        assert (await scheduler.get_task(task_id)).status is TaskStatus.PENDING
        for _ in range(2):
            with pytest.raises(StaleLease):
                await scheduler.complete_task(task_id)
        again = await scheduler.get_next_task("worker_2")
        assert again is not None
        assert again.attempt == 2
        await scheduler.complete_task(task_id)  # of the new attempt, which this process holds
        assert (await scheduler.get_task(task_id)).worker_id == "worker_2"


@pytest.mark.parametrize("here", [SOON], indirect=True)
async def test_failures_and_retries(here: Here) -> None:
    """A failed task is pending again while retries are left, and then FAILED; `retry=False` ends it at once."""
    scheduler = TaskScheduler(here.app)
    task_id = await scheduler.submit_task("a", max_retries=1)
    first = await scheduler.get_next_task("worker_1")
    assert first is not None
    assert first.can_retry()
    assert await scheduler.fail_task(task_id, "no disk") is TaskStatus.PENDING
    second = await scheduler.get_next_task("worker_1", wait_s=1)
    assert second is not None
    assert (second.task_id, second.attempt, second.retry_count, second.error) == (task_id, 2, 1, "no disk")
    assert not second.can_retry()
    assert await scheduler.fail_task(task_id, "no disk again") is TaskStatus.FAILED
    assert await scheduler.fail_task(task_id, "no disk again") is TaskStatus.FAILED
    other = await scheduler.submit_task("b")
    await scheduler.get_next_task("worker_1")
    assert await scheduler.fail_task(other, "nonsense", retry=False) is TaskStatus.FAILED


@pytest.mark.parametrize("here", [SOON], indirect=True)
async def test_a_retry_puts_a_held_task_back_into_the_queue(here: Here) -> None:
    """As the requirements write it: without `await`; the next claim gets it, and the count is that of the queue."""
    scheduler = TaskScheduler(here.app)
    task_id = await scheduler.submit_task("a", max_retries=1)
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    if task.can_retry():
        task.increment_retry()
    again = await scheduler.get_next_task("worker_1", wait_s=5)
    assert again is not None
    assert (again.task_id, again.attempt, again.retry_count, again.max_retries) == (task_id, 2, 1, 1)
    assert (task.retry_count, again.can_retry()) == (1, False)
    assert again.attempts[0].error == "the program that held it asked for a retry"
    with pytest.raises(Refused, match="was retried 1 times of at most 1"):
        again.increment_retry()


@pytest.mark.parametrize("here", [SOON], indirect=True)
async def test_a_retry_of_what_is_back_already_changes_nothing(here: Here) -> None:
    """A program that reports the failure itself, and then follows the sample, fails one attempt and not two."""
    scheduler = TaskScheduler(here.app)
    task_id = await scheduler.submit_task("a", max_retries=3)
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    await scheduler.fail_task(task_id, "no disk")
    assert await task.increment_retry() == task_id
    now = await scheduler.get_task(task_id)
    assert (now.status, now.retry_count, [one.error for one in now.attempts]) == (TaskStatus.PENDING, 1, ["no disk"])
    assert await now.increment_retry() == task_id
    assert (await scheduler.get_task(task_id)).retry_count == 1


@pytest.mark.parametrize("here", [SOON], indirect=True)
async def test_retries_are_counted_without_the_failure_that_led_to_none(here: Here) -> None:
    """A task that failed for good was retried once less often than it failed."""
    scheduler = TaskScheduler(here.app)
    for retries in (0, 1):
        task_id = await scheduler.submit_task("a", max_retries=retries)
        for _ in range(retries + 1):
            await scheduler.fail_task(task_id, "no")
        failed = await scheduler.get_task(task_id)
        assert (failed.status, failed.retry_count, failed.can_retry()) == (TaskStatus.FAILED, retries, False)
    at_once = await scheduler.submit_task("b", max_retries=3)
    await scheduler.fail_task(at_once, "nonsense", retry=False)
    failed = await scheduler.get_task(at_once)
    assert (failed.retry_count, failed.max_retries, failed.can_retry()) == (0, 3, True)
    paused = await scheduler.submit_task("c", max_retries=0, retry=RetryPolicy(when_exhausted="pause"))
    await scheduler.fail_task(paused, "no")
    now = await scheduler.get_task(paused)
    assert (now.retry_count, now.can_retry()) == (0, False)
    await scheduler.resume_task(paused, more_retries=2)
    now = await scheduler.get_task(paused)
    assert (now.retry_count, now.max_retries, now.can_retry()) == (1, 2, True)


async def test_what_has_ended_well_is_not_retried(scheduler: TaskScheduler) -> None:
    """Nor is what was cancelled."""
    done, cancelled = await scheduler.submit_task("a"), await scheduler.submit_task("b")
    await scheduler.complete_task(done)
    await scheduler.cancel_task(cancelled)
    for task_id in (done, cancelled):
        task = await scheduler.get_task(task_id)
        assert not task.can_retry()
        with pytest.raises(Refused, match=r"is (completed|cancelled)"):
            task.increment_retry()


async def test_a_retry_needs_a_loop_and_a_scheduler(scheduler: TaskScheduler) -> None:
    """The command has to be sent by somebody; a copy of what a scheduler returned is of none."""
    task = await scheduler.get_task(await scheduler.submit_task("a"))
    with pytest.raises(Refused, match="where an event loop runs"):
        await asyncio.to_thread(task.increment_retry)
    assert task.retry_count == 0
    for made in (copy.deepcopy(task), copy.copy(task), TaskInfo(**dataclasses.asdict(task))):
        assert made == task
        with pytest.raises(Refused, match="is of no TaskScheduler"):
            made.increment_retry()
    here = scheduler.given_app
    assert here is not None
    here.is_open = False
    with pytest.raises(Refused, match="is closed"):
        task.increment_retry()


async def test_only_the_holder_puts_a_running_task_back(here: Here) -> None:
    """To another program the retry is refused; it is logged, whether it is awaited or not."""
    scheduler = TaskScheduler(here.app)
    task_id = await scheduler.submit_task("a")
    claimed = await scheduler.get_next_task("worker_1")
    assert claimed is not None
    here.app.held.drop(task_id, claimed.lease)  # as in a process that did not claim it
    with pytest.raises(StaleLease, match="is held by worker 'worker_1'"):
        await claimed.increment_retry()
    assert (await scheduler.get_task(task_id)).status is TaskStatus.RUNNING


async def test_the_same_idempotency_key(scheduler: TaskScheduler) -> None:
    """The same idempotency key creates no second task; with other content it is refused."""
    first = await scheduler.submit_task("a", payload=[1], idempotency_key="order 7")
    assert await scheduler.submit_task("a", payload=[1], idempotency_key="order 7") == first
    assert await scheduler.submit_task("a", payload=[1], idempotency_key="order 8") != first
    with pytest.raises(Refused, match="another payload"):
        await scheduler.submit_task("a", payload=[2], idempotency_key="order 7")
    assert len(await scheduler.list_tasks()) == 2


async def test_an_id_of_the_callers_own(scheduler: TaskScheduler) -> None:
    """Submitting the same id and content again returns the same task; other content is refused."""
    assert await scheduler.submit_task("a", task_id="mine") == "mine"
    assert await scheduler.submit_task("a", task_id="mine") == "mine"
    with pytest.raises(Refused, match="used by a task with another task_name"):
        await scheduler.submit_task("b", task_id="mine")


async def test_waiting_for_the_end(scheduler: TaskScheduler) -> None:
    """`wait_for_task` returns when the task ends, or after its time-out with the task as it is."""
    task_id = await scheduler.submit_task("a")
    assert (await scheduler.wait_for_task(task_id, wait_s=0.02)).status is TaskStatus.PENDING
    assert (await scheduler.wait_for_task(task_id, wait_s=0)).status is TaskStatus.PENDING
    waiting = asyncio.ensure_future(scheduler.wait_for_task(task_id))
    await asyncio.sleep(0.02)
    await scheduler.complete_task(task_id, result="done")
    ended = await asyncio.wait_for(waiting, 1)
    assert (ended.status, ended.result) == (TaskStatus.COMPLETED, "done")
    with pytest.raises(NotFound):
        await scheduler.wait_for_task("never-was")


async def test_cancelling(scheduler: TaskScheduler) -> None:
    """Pending and running tasks can be cancelled; the worker's report is then refused."""
    waiting, running = [await scheduler.submit_task("a") for _ in range(2)]
    await scheduler.cancel_task(waiting, "not needed")
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    assert task.task_id == running
    await scheduler.cancel_task(running)
    await scheduler.cancel_task(running)
    with pytest.raises(Refused, match="already ended as cancelled"):
        await scheduler.complete_task(running)
    assert [one.task_id for one in await scheduler.list_tasks("cancelled")] == [running, waiting]


async def test_a_task_of_another_program_is_asked_to_end_first(here: Here) -> None:
    """By default the caller waits for its end; without it, the task says that it is to be cancelled."""
    scheduler = TaskScheduler(here.app)
    ids = [await scheduler.submit_task("a") for _ in range(4)]
    tasks = await here.app.execute(ClaimTasks(claim_id="c", worker_id="w", slots=4))
    assert await scheduler.cancel_task(ids[0], "r", grace=60, wait=False) is TaskStatus.RUNNING
    shown = await scheduler.get_task(ids[0])
    assert (shown.status, shown.cancelling) == (TaskStatus.RUNNING, True)
    for one in ids[:2]:
        asyncio.get_running_loop().call_later(0.05, here.rig.hands.turn, 5.0)
        assert await scheduler.cancel_task(one, grace=4.0) is TaskStatus.CANCELLED
    with pytest.raises(Unavailable, match="still runs"):  # its clock stands still
        await scheduler.cancel_task(ids[2], grace=0.01)
    assert await scheduler.cancel_task(ids[2], grace=0) is TaskStatus.CANCELLED
    cancelling = asyncio.ensure_future(scheduler.cancel_task(ids[3], grace=5))
    await asyncio.sleep(0.05)
    await scheduler.complete_task(ids[3], lease=tasks[3].lease)
    with pytest.raises(Refused, match="ended as completed before it was cancelled"):
        await cancelling
    wrong: list[dict[str, Any]] = [{"grace": "soon"}, {"escalate": "machine"}, {"wait": 1}]
    for options in wrong:
        with pytest.raises(Refused):
            await scheduler.cancel_task(await scheduler.submit_task("a"), **options)


async def test_a_task_after_others(scheduler: TaskScheduler) -> None:
    """Given by their ids, or with more to say; members of enums by their values too."""
    first = await scheduler.submit_task("a")
    second = await scheduler.submit_task("b", after=[first])
    either: Any = {"tasks": (first, second), "on": "end", "join": "all", "otherwise": "run"}
    third = await scheduler.submit_task("c", after=After(**either))
    assert (await scheduler.get_task(second)).waiting_for == (first,)
    assert (await scheduler.get_task(third)).waiting_for == (first, second)
    await scheduler.fail_task(first, "no", retry=False)
    assert (await scheduler.get_task(second)).status is TaskStatus.CANCELLED
    assert (await scheduler.get_task(third)).waiting_for == ()
    with pytest.raises(NotFound, match="'none'"):
        await scheduler.submit_task("d", after=["none"])
    wrong: list[Any] = ["none", 7, [7], After(**either | {"on": "sometimes"})]
    for one in wrong:
        with pytest.raises(Refused):
            await scheduler.submit_task("d", after=one)


async def test_a_damaged_payload_hides_nothing(here: Here) -> None:
    """A damaged payload raises when it is read, not when its task is claimed or listed."""
    damaged = Payload(encoding="json", digest="0" * 64, data="{}")
    await here.app.execute(SubmitTask(task_id="bad", task_name="a", payload=damaged))
    scheduler = TaskScheduler(here.app)
    assert [one.task_id for one in await scheduler.list_tasks()] == ["bad"]
    task = await scheduler.get_next_task("worker_1", task_names=["a"])
    assert task is not None
    with pytest.raises(Corrupt):
        _ = task.payload
    assert await scheduler.fail_task(task.task_id, "unreadable", retry=False) is TaskStatus.FAILED


async def test_leases_are_kept_while_the_process_lives() -> None:
    """
    A lease much shorter than the work is renewed until the task is reported.

    The coordinator uses real time here.
    """
    rules = Rules(lease_s=0.3)
    async with opened_here(rules, scheduler={"lease_s": 0.3}) as (app, rig):
        scheduler = TaskScheduler(app)
        task_id = await scheduler.submit_task("a")
        await scheduler.get_next_task("worker_1")
        for _ in range(20):
            await asyncio.sleep(0.05)
            rig.hands.turn(0.05)
        task = await scheduler.get_task(task_id)
        assert (task.status, task.attempt) == (TaskStatus.RUNNING, 1)
        await scheduler.complete_task(task_id)
        assert app.held.by_worker() == {}


async def test_leases_lapse_with_the_process() -> None:
    """A task whose lease is not renewed returns to the queue, which counts as a failed attempt."""
    rules = Rules(lease_s=0.3, retry_backoff_s=0.0)
    async with opened_here(rules) as (app, rig):  # this app believes in leases of 30 s, and renews too late
        scheduler = TaskScheduler(app)
        task_id = await scheduler.submit_task("a")
        await scheduler.get_next_task("worker_1")
        rig.hands.turn(1.0)
        await rig.settle()
        task = await scheduler.get_task(task_id)
        assert (task.status, task.retry_count) == (TaskStatus.PENDING, 1)
        assert "did not renew" in task.error


async def test_statistics(scheduler: TaskScheduler) -> None:
    """Pending and running tasks are counted now, ended ones since the start; the success rate is 1 before any ran."""
    empty = await scheduler.get_scheduler_stats()
    assert (empty["pending_tasks"], empty["running_tasks"], empty["success_rate"]) == (0, 0, 1.0)
    ids = [await scheduler.submit_task("a", max_retries=0) for _ in range(6)]
    for _ in range(4):
        await scheduler.get_next_task("worker_1")
    for task_id in ids[:2]:
        await scheduler.complete_task(task_id)
    await scheduler.fail_task(ids[2], "x")
    await scheduler.cancel_task(ids[4])
    stats = await scheduler.get_scheduler_stats()
    assert stats["success_rate"] == pytest.approx(2 / 3)
    assert {name: count for name, count in stats.items() if name != "success_rate"} == {
        "pending_tasks": 1,
        "running_tasks": 1,
        "completed_tasks": 2,
        "failed_tasks": 1,
        "cancelled_tasks": 1,
        "timeout_tasks": 0,
        "workers": 1,
    }


async def test_a_wait_longer_than_a_claim_may_wait_is_made_of_several() -> None:
    """The coordinator may allow claims to wait for a moment only, or not at all: the call still waits its time."""
    for longest_s in (0.0, 0.05):
        async with opened_here(Rules(claim_wait_max_s=longest_s), scheduler={"claim_wait_max_s": longest_s}) as here:
            scheduler = TaskScheduler(here.app)
            assert await scheduler.get_next_task("w", wait_s=0.1) is None
            waiting = asyncio.create_task(scheduler.get_next_task("w", wait_s=5.0))
            await asyncio.sleep(0.1)
            task_id = await scheduler.submit_task("late")
            found = await waiting
            assert found is not None
            assert found.task_id == task_id
