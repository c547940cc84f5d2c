"""Handlers for the fault runs: work that takes a moment, so that a kill falls into it."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.worker import task


@task("square")
async def square(payload: dict[str, Any]) -> dict[str, Any]:
    """Take as long as told and give the square."""
    await asyncio.sleep(payload["takes_s"])
    return {"square": payload["number"] ** 2}
