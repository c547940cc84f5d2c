"""
The submitter of `bench tasks`: `python -m coordinator.bench.submitter TASKS IN_FLIGHT`.

Calls `submit_task` of the facade once for each task, IN_FLIGHT at a time, on the coordinator at COORDINATOR_URL. Prints
the monotonic time of the first submit and its own CPU time, in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import NoReturn

from coordinator.guard import watch_parent
from coordinator.scheduler import TaskScheduler
from coordinator.task_groups import task_group
from events.errors import Unavailable

TASK_NAME = "bench_nothing"
PAYLOAD = "x" * 98
"""100 bytes of JSON."""


async def submit(count: int, in_flight: int) -> None:
    """
    Submit *count* tasks.

    Raises:
        Unavailable: the parent process died.
    """
    async with TaskScheduler() as scheduler, task_group() as watching:
        orphaned = watching.create_task(_end_with_parent())
        began, computed_s = time.monotonic(), time.process_time()
        tasks = iter(range(count))

        async def keep_submitting() -> None:
            for _ in tasks:
                await scheduler.submit_task(TASK_NAME, payload=PAYLOAD)

        async with task_group() as submitting:
            for _ in range(in_flight):
                submitting.create_task(keep_submitting())
        orphaned.cancel()
        sys.stdout.write(f"{began} {time.process_time() - computed_s}\n")


async def _end_with_parent() -> NoReturn:
    await watch_parent()
    raise Unavailable("the parent process died")


if __name__ == "__main__":
    asyncio.run(submit(int(sys.argv[1]), int(sys.argv[2])))
