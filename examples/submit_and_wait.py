"""
Submit tasks, execute them, and wait for their results: `python examples/submit_and_wait.py`.

With COORDINATOR_URL, or while `coordinator up` runs, it uses that coordinator; otherwise it starts an embedded one.
"""

from __future__ import annotations

import asyncio

from coordinator.scheduler import TaskScheduler


async def execute(scheduler: TaskScheduler, count: int) -> None:
    """Work without the worker SDK: claim a task, execute it, report its outcome."""
    for _ in range(count):
        task = await scheduler.get_next_task("worker_001", wait_s=10)
        if task is None:
            return
        if task.payload < 0:
            await scheduler.fail_task(task.task_id, "no square root of a negative number", retry=False)
        else:
            await scheduler.complete_task(task.task_id, result=task.payload**0.5)


async def main() -> None:
    """Submit a task for each number, and print the results."""
    numbers = [2, 9, -1]
    async with TaskScheduler() as scheduler, asyncio.TaskGroup() as group:
        # When `submit_task` returns, the task is on disk.
        ids = [await scheduler.submit_task("square_root", payload=number, timeout=60) for number in numbers]
        group.create_task(execute(scheduler, len(ids)))
        for number, task_id in zip(numbers, ids, strict=True):
            task = await scheduler.wait_for_task(task_id)
            print(f"{number}: {task.status.value}, {task.error or task.result}")


if __name__ == "__main__":
    asyncio.run(main())
