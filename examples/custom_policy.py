"""
A custom scheduling policy: `python examples/custom_policy.py`.

A policy chooses among the tasks and workers that it is given. It is for programs that distribute work themselves; the
coordinator itself uses the built-in strategies.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from coordinator.scheduler import PolicyType, SchedulingPolicy, TaskScheduler, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Sequence


class ShortestFirst(SchedulingPolicy):
    """Chooses the task with the shortest time-out, and the worker with the lowest load."""

    def __init__(self) -> None:
        super().__init__(PolicyType.CUSTOM)

    def select_task(self, available_tasks: Sequence[Any], available_workers: Sequence[Any], **_: Any) -> Any:
        """Return the task with the shortest time-out."""
        if not available_workers:
            return None
        return min(available_tasks, key=lambda task: task.timeout or float("inf"), default=None)


async def main() -> None:
    """Submit three tasks, and choose their order and a worker for each."""
    policy = ShortestFirst()
    loads = {"worker_001": 0.2, "worker_002": 0.0}
    async with TaskScheduler() as scheduler:
        for minutes in (30, 1, 10):
            await scheduler.submit_task(f"report_{minutes}_min", timeout=minutes * 60)
        waiting = await scheduler.list_tasks(TaskStatus.PENDING)
        while task := policy.select_task(waiting, list(loads)):
            for worker_id, load in loads.items():
                policy.update_worker_load(worker_id, load)
            worker_id = policy.select_worker(task, list(loads))
            print(f"{task.task_name} → {worker_id}")
            loads[worker_id] += 0.3
            waiting.remove(task)
            await scheduler.cancel_task(task.task_id, "it was an example")


if __name__ == "__main__":
    asyncio.run(main())
