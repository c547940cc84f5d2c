"""
The submitter of `bench tasks`: `python -m coordinator.bench.submitter TASKS IN_FLIGHT`.

Through the facade that everyone uses, one `submit_task` for each task, so many at once, at the coordinator that
COORDINATOR_URL names. Prints the moment of the first submit, by the monotonic clock, and what it computed, in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

from coordinator.groups import task_group
from coordinator.guard import watch_parent
from coordinator.scheduler import TaskScheduler

TASK_NAME = "bench_nothing"
PAYLOAD = "x" * 98
"""100 bytes of JSON."""


async def submit(count: int, in_flight: int) -> None:
    """Submit *count* tasks, and end; or when the parent has died."""
    async with TaskScheduler() as scheduler:
        tasks = iter(range(count))

        async def keep_submitting() -> None:
            for _ in tasks:
                await scheduler.submit_task(TASK_NAME, payload=PAYLOAD)

        async def submit_all() -> None:
            async with task_group() as group:
                for _ in range(in_flight):
                    group.create_task(keep_submitting())

        began, computed_s = time.monotonic(), time.process_time()
        working = asyncio.ensure_future(submit_all())
        orphaned = asyncio.ensure_future(watch_parent())
        await asyncio.wait((working, orphaned), return_when=asyncio.FIRST_COMPLETED)
        orphaned.cancel()
        if not working.done():
            working.cancel()
            return
        working.result()
        print(began, time.process_time() - computed_s, flush=True)  # noqa: T201  # its answer


if __name__ == "__main__":
    asyncio.run(submit(int(sys.argv[1]), int(sys.argv[2])))
