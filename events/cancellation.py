"""
Makes sure that a cancellation is not lost inside another library; knows nothing about what is awaited.

`asyncio.wait_for` before Python 3.12 swallows a cancellation that arrives in the same iteration of the loop as the
result: the caller continues as if it had not been cancelled. nats-py uses it to connect, to flush and to close.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

_Value = TypeVar("_Value")


async def heeded(work: Awaitable[_Value]) -> _Value:
    """
    Await *work* and return its result; a cancellation during the wait takes effect even if *work* swallowed it.

    Raises:
        asyncio.CancelledError: this task was cancelled while it awaited *work*. Otherwise what *work* raises.
    """
    task = asyncio.current_task()
    assert task is not None  # only a task can await
    before = task.cancelling()
    try:
        return await work
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
