"""The task handlers of the benchmarks; they do as little as possible."""

from __future__ import annotations

import time
from typing import Any

from coordinator.worker import task

RESULT = "y" * 98


@task("bench_nothing")
async def bench_nothing(payload: Any) -> str:  # noqa: ARG001  # a handler takes one
    """Return 100 bytes of JSON."""
    return RESULT


@task("bench_stamp")
async def bench_stamp(payload: Any) -> float:  # noqa: ARG001  # a handler takes one
    """Return the start time of the handler by the monotonic clock, which all processes of the machine share."""
    return time.monotonic()
