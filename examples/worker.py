"""
A worker: functions that execute tasks, each for one task name.

    coordinator up                                  # in one terminal
    coordinator worker run examples/worker.py       # in another; or: COORDINATOR_URL=… python examples/worker.py
    coordinator task submit word_count --payload '"to be or not to be"' --wait 10
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter

from coordinator.worker import Context, DoNotRetry, run_worker, task


@task("word_count")
async def word_count(context: Context, text: str) -> dict[str, int]:
    """Count words. An async handler shares the worker's event loop."""
    words = text.split()
    await context.progress(0.5, f"{len(words)} words")
    return dict(Counter(words))


@task("digest")
def digest(payload: dict[str, str]) -> str:
    """Hash a text. A handler that is not async runs in a thread, so it may block."""
    if payload["algorithm"] not in hashlib.algorithms_guaranteed:
        # After any other exception the task is retried, up to its `max_retries`.
        message = f"unknown algorithm {payload['algorithm']!r}"
        raise DoNotRetry(message)
    return hashlib.new(payload["algorithm"], payload["text"].encode()).hexdigest()


if __name__ == "__main__":
    asyncio.run(run_worker(__file__, url=os.environ["COORDINATOR_URL"]))
