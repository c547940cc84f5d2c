"""What the workers of the benchmarks execute: as little as there can be."""

from __future__ import annotations

import time
from typing import Any

from coordinator.worker import task


@task("bench_stamp")
async def bench_stamp(payload: Any) -> float:  # noqa: ARG001  # a handler takes one
    """Give the moment at which the handler began, by the monotonic clock that all processes here share."""
    return time.monotonic()
