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


@task("n")
async def note(payload: dict[str, Any]) -> dict[str, Any]:
    """Take a moment and give back what came."""
    await asyncio.sleep(0.01)
    return payload
