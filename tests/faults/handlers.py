"""Handlers for the fault runs: they take a moment, so that a kill can interrupt them."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.worker import task


@task("square")
async def square(payload: dict[str, Any]) -> dict[str, Any]:
    """Sleep for the given time and return the square."""
    await asyncio.sleep(payload["takes_s"])
    return {"square": payload["number"] ** 2}


@task("n")
async def note(payload: dict[str, Any]) -> dict[str, Any]:
    """Sleep a moment and return the payload."""
    await asyncio.sleep(0.01)
    return payload
