"""A cancellation that arrives together with the result is not lost."""

from __future__ import annotations

import asyncio

import pytest

from events.cancellation import heeded


async def _swallowing(came: asyncio.Event) -> str:
    """Swallow a cancellation that arrives together with the result, as `asyncio.wait_for` of Python 3.11 does."""
    try:
        await came.wait()
    except asyncio.CancelledError:
        return "the result"
    return "never"


async def test_a_swallowed_cancellation_is_raised() -> None:
    """A cancelled task stops even if the awaited call returned a result."""
    went_on = False

    async def work() -> None:
        nonlocal went_on
        await heeded(_swallowing(asyncio.Event()))
        went_on = True

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on


async def test_a_time_limit_that_was_swallowed_is_one() -> None:
    """A time-out raises TimeoutError even if the awaited call swallowed the cancellation."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await heeded(_swallowing(asyncio.Event()))


async def test_who_cleans_up_after_a_cancellation_may_await() -> None:
    """A cancellation from before the call is ignored here: clean-up runs to its end."""
    cleaned = ""

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            cleaned = await heeded(asyncio.sleep(0, "cleaned"))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == "cleaned"


async def test_errors_pass() -> None:
    """An error of the awaited call is raised."""

    async def fails() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await heeded(fails())
