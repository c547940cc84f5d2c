"""What the workers of the benchmarks execute: as little as there can be."""

from __future__ import annotations

import time
from typing import Any

from coordinator.worker import task

RESULT = "y" * 98


@task("bench_nothing")
async def bench_nothing(payload: Any) -> str:  # noqa: ARG001  # a handler takes one
    """Give 100 bytes of JSON."""
    return RESULT


@task("bench_stamp")
async def bench_stamp(payload: Any) -> float:  # noqa: ARG001  # a handler takes one
    """Give the moment at which the handler began, by the monotonic clock that all processes here share."""
    return time.monotonic()
