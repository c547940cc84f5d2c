"""The handlers that workers execute while the witnesses of a release are made."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.worker import Context, DoNotRetry, task


@task("double")
async def double(payload: dict[str, Any]) -> dict[str, Any]:
    """Return twice the number."""
    return {"n": 2 * payload["n"]}


@task("flaky")
async def flaky(context: Context, payload: dict[str, Any]) -> str:
    """Fail the first attempt."""
    if context.attempt == 1:
        msg = "the first attempt always fails"
        raise ValueError(msg)
    return f"attempt {context.attempt} of {payload['n']}"


@task("hopeless")
async def hopeless(payload: dict[str, Any]) -> None:
    """Fail permanently."""
    msg = f"nothing can be done about {payload['n']}"
    raise DoNotRetry(msg)


@task("steps")
async def steps(context: Context, payload: dict[str, Any]) -> int:
    """Report progress."""
    await context.progress(0.5, "half way")
    await asyncio.sleep(0.01)
    return int(payload["n"])
