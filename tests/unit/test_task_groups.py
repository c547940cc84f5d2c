"""Task groups: the first error is raised, and no cancellation is lost."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.task_groups import task_group
from events.errors import Unavailable


async def _fail(message: str) -> None:
    raise Unavailable(message)


async def _fail_on_the_way_out(message: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise Unavailable(message)


async def test_the_first_error_comes_bare() -> None:
    """Later errors are its notes; code that waits in the block is cancelled."""

    async def work() -> None:
        async with task_group() as tasks:
            tasks.create_task(_fail_on_the_way_out("second"))
            await asyncio.sleep(0)
            tasks.create_task(_fail("first"))
            await asyncio.sleep(60)

    with pytest.raises(Unavailable, match="first") as raised:
        await work()
    assert raised.value.__notes__ == ["and then Unavailable('second')"]


async def test_an_error_of_the_block_comes_bare() -> None:
    with pytest.raises(Unavailable, match="own"):
        async with task_group():
            await _fail("own")


async def test_a_child_that_fails_behind_the_end_of_the_block_cancels_nobody() -> None:
    """Its error is raised without a group, and the task that ran the group is not left marked as cancelled."""

    async def work() -> None:
        async with task_group() as tasks:
            tasks.create_task(_fail_on_the_way_out("second"))
            tasks.create_task(_fail("first"))

    with pytest.raises(Unavailable, match="first"):
        await work()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_who_was_cancelled_stops_whatever_else_failed() -> None:
    """A child that fails while it is cancelled must not replace its parent's cancellation by an error to retry."""
    tries = 0

    async def persistent() -> None:
        nonlocal tries
        while tries < 3:
            tries += 1
            try:
                async with task_group() as tasks:
                    tasks.create_task(_fail_on_the_way_out("broken"))
                    await asyncio.sleep(60)
            except Unavailable:
                await asyncio.sleep(0)

    task = asyncio.create_task(persistent())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tries == 1


async def test_who_cleans_up_after_a_cancellation_is_told_errors() -> None:
    """A cancellation from before the group is ignored."""
    found = ""

    async def work() -> None:
        nonlocal found
        try:
            await asyncio.sleep(60)
        finally:
            try:
                async with task_group() as tasks:
                    tasks.create_task(_fail("while cleaning up"))
            except Unavailable as error:
                found = error.message

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found == "while cleaning up"
