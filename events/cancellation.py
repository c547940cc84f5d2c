"""
Keeps a cancellation from being lost on the way through other libraries; it knows nothing of what is awaited.

`asyncio.wait_for` before Python 3.12 swallows a cancellation that comes in the same turn of the loop as the result: the
caller goes on as if nobody had asked it to stop. nats-py waits so wherever it connects, flushes and closes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

_Value = TypeVar("_Value")


async def heeded(work: Awaitable[_Value]) -> _Value:
    """
    Await *work* and give what it gives; a cancellation that came meanwhile is heeded whatever *work* made of it.

    Raises:
        asyncio.CancelledError: this task was cancelled while *work* was awaited. Otherwise what *work* raises.
    """
    task = asyncio.current_task()
    assert task is not None  # only a task can await
    before = task.cancelling()
    try:
        return await work
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
