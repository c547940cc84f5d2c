"""Tasks that begin after others, in the engine: at once, some hundred a turn, and under the next writer."""

from __future__ import annotations

import asyncio

from coordinator.commands.task import CancelTask, ClaimTasks, GetTask, ListTasks
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.dependencies import MOST_LOOKED
from events.after import After
from events.task import TaskCancelled, TaskStatus, TaskUnblocked
from tests.unit.deciders.facts import claim, complete, submit
from tests.unit.engine.engine_rig import Rig, leading

MANY = 3 * MOST_LOOKED


async def fan(rig: Rig, count: int = MANY) -> None:
    """Submit a task, and many after it."""
    await rig.order(submit("a"))
    await asyncio.gather(*(rig.order(submit(f"t{number}", after=After(tasks=("a",)))) for number in range(count)))


def settled_in(rig: Rig, kind: type[object]) -> list[int]:
    """Return how many events of a kind each commit has that has some."""
    counts = (sum(isinstance(one.data, kind) for one in commit) for commit in rig.commits())
    return [count for count in counts if count]


async def test_a_task_begins_in_the_commit_in_which_the_one_before_it_ends() -> None:
    """A chain costs no turn and no tick for each link."""
    async with leading() as rig:
        await rig.order(submit("a"))
        await rig.order(submit("t", after=After(tasks=("a",))))
        (first,) = await rig.order(claim("c1"))
        waits = rig.ask(claim("c2", wait_s=5.0))
        await rig.settle()
        assert (first.task_id, waits.yet) == ("a", False)
        await rig.order(complete(task_id="a", lease=first.lease))
        (second,) = await waits.outcome()
        assert second.task_id == "t"
        types = [[one.type for one in commit] for commit in rig.commits()]
        together = next(commit for commit in types if "task.completed" in commit)
        assert [one for one in together if one.startswith("task.")] == [
            "task.completed", "task.unblocked", "task.started",
        ]  # fmt: skip


async def test_many_that_wait_are_settled_over_several_turns() -> None:
    """And all of them are, whatever ends the one that they wait for."""
    async with leading() as rig:
        await fan(rig)
        await rig.order(CancelTask(task_id="a"))
        await rig.settle()
        assert {task.status for task in rig.world.tasks.values()} == {TaskStatus.CANCELLED}
        counts = settled_in(rig, TaskCancelled)
        assert sum(counts) == MANY + 1
        assert max(counts) <= 2 * MOST_LOOKED + 1
        assert len(counts) > 1


async def test_the_next_writer_goes_on_with_those_that_wait() -> None:
    """It finds them by the state of the world alone."""
    async with leading() as rig:
        await fan(rig)
        await rig.order(RegisterWorker(worker_id="w", slots=MANY))
        (first,) = await rig.order(claim("c1", slots=1))
        await rig.hold()
        rig.ask(complete(task_id="a", lease=first.lease))
        rig.let_go()
        await asyncio.sleep(0)
        rig.engine.resign("enough")
        await rig.run
        stream, hands = rig.stream, rig.hands
    async with leading(stream=stream, hands=hands, generation=1) as rig:
        await rig.settle()
        await rig.settle()
        assert sum(settled_in(rig, TaskUnblocked)) == MANY
        assert rig.world.awaited == {}
        got = await rig.order(ClaimTasks(claim_id="c2", worker_id="w", slots=MANY))
        assert rig.world.indexes.ready == MANY - len(got)


async def test_a_task_says_what_it_still_waits_for() -> None:
    """Of several, those that have not ended."""
    async with leading() as rig:
        for one in ("a", "b"):
            await rig.order(submit(one))
        await rig.order(submit("t", after=After(tasks=("a", "b"))))
        assert (await rig.order(GetTask(task_id="t"))).waiting_for == ("a", "b")
        (first,) = await rig.order(claim("c1", slots=1))
        await rig.order(complete(task_id=first.task_id, lease=first.lease))
        assert (await rig.order(GetTask(task_id="t"))).waiting_for == ("b",)
        assert next(one for one in await rig.order(ListTasks()) if one.task_id == "t").waiting_for == ("b",)
        assert (await rig.order(GetTask(task_id="b"))).waiting_for == ()
