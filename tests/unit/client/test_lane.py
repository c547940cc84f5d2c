"""Calls that share requests, each with a deadline of its own."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from coordinator.client.lane import Lane
from events.errors import Unavailable

if TYPE_CHECKING:
    from coordinator.commands.wire import Answer

APART_S = 0.0005


async def never(subject: str, encoded: list[bytes], deadline: float) -> list[Answer]:
    await asyncio.sleep(3600)
    raise AssertionError


async def seconds_to_give_up(count: int) -> float:
    """Return the CPU time that it takes to fail so many calls, one after the other."""
    async with asyncio.TaskGroup() as tasks:
        lane = Lane("s", never, tasks)
        first = asyncio.get_running_loop().time() + 0.1
        calls = [lane.ride(b"x", first + number * APART_S) for number in range(count)]
        began = time.process_time()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        took_s = time.process_time() - began
        lane.close()
    assert all(isinstance(end, Unavailable) and end.reason == "timeout" for end in ends)
    return took_s


@pytest.mark.alone
async def test_each_call_that_gives_up_costs_the_same() -> None:
    """Ten times as many that nobody answers take about ten times as long, not a hundred times."""
    few = min([await seconds_to_give_up(500) for _ in range(3)])
    many = min([await seconds_to_give_up(5000) for _ in range(3)])
    assert many < 30 * few, (few, many)


async def test_a_call_fails_at_its_deadline_not_at_that_of_another() -> None:
    """The earliest first, in whatever order they came, and answered ones never."""
    async with asyncio.TaskGroup() as tasks:
        lane, now = Lane("s", never, tasks), asyncio.get_running_loop().time()
        late, early, answered = (lane.ride(b"x", now + after_s) for after_s in (30.0, 0.05, 0.01))
        answered.set_result(SimpleNamespace(error=None))  # type: ignore[arg-type]  # no more is read of it
        await asyncio.wait([early])
        assert isinstance(early.exception(), Unavailable)
        assert not late.done()
        lane.close()
        await asyncio.wait([late])
        assert (late.exception().reason, answered.exception()) == ("closed", None)  # type: ignore[union-attr]
