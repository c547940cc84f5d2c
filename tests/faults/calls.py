"""
Clients that call without pause, and the outcome of each call.

Every number is submitted twice at the same time, with two payloads: one is taken and the other refused, and a repeat
must get the same answer. This finds a coordinator that answers one request in two ways.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from coordinator.commands.payloads import payload_of
from coordinator.commands.task import SubmitTask
from coordinator.task_groups import task_group
from events.errors import CoordinationError, Refused

if TYPE_CHECKING:
    from coordinator.client.client import Client

CALL_TIMEOUT_S = 60.0
UNDER_WAY_MOST = 5_000
ASKED_AGAIN = 3_000


class Call(NamedTuple):
    """One call: its number, which of the two sides made it, when, how long it took, and its outcome."""

    number: int
    side: int
    began_s: float
    took_s: float
    outcome: str
    """`taken`, `refused`, or the code of an unexpected error."""

    @property
    def ended_s(self) -> float:
        """Return the time of the answer by the monotonic clock."""
        return self.began_s + self.took_s


class Calls:
    """
    Two clients that submit tasks against each other every *every_s* seconds, until `stop`.

    Args:
        prefix: prefix of the task ids.
        every_s: interval between two numbers, independent of the answers.
        timeout_s: time-out of each call.
    """

    def __init__(self, prefix: str = "t", *, every_s: float = 0.05, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self.made: list[Call] = []
        self._prefix = prefix
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._stopped = asyncio.Event()
        self._sides: list[Client] = []

    async def go_on(self, sides: list[Client]) -> None:
        """Call until `stop`, and return when all pending calls are answered."""
        self._sides = sides
        async with task_group() as tasks:
            number, under_way = 0, set[asyncio.Task[None]]()
            while not self._stopped.is_set():
                for side in range(len(sides)):
                    under_way.add(task := tasks.create_task(self._call(number, side)))
                    task.add_done_callback(under_way.discard)
                number += 1
                await asyncio.sleep(self._every_s)
                if len(under_way) > UNDER_WAY_MOST:
                    await asyncio.wait(under_way)

    def stop(self) -> None:
        """Stop calling."""
        self._stopped.set()

    async def differing(self) -> int:
        """
        Repeat the newest calls, and return how many get a different answer.

        The coordinator no longer knows a task when 10,000 others ended after it (`engine.ended_kept`).
        """
        differing = 0
        newest = max((one.number for one in self.made), default=0) - ASKED_AGAIN
        known = {(one.number, one.side): one.outcome for one in self.made if one.number > newest}
        for at_once in _portions(sorted(known), 200):
            verdicts = await asyncio.gather(*(self._ask(number, side) for number, side in at_once))
            differing += sum(
                verdict != known[one] and known[one] in ("taken", "refused")
                for one, verdict in zip(at_once, verdicts, strict=True)
            )
        return differing

    def taken(self) -> dict[str, int]:
        """Return the taken tasks with the side whose payload each must have; -1 if both were taken."""
        found: dict[str, int] = {}
        for one in self.made:
            if one.outcome == "taken":
                task_id = f"{self._prefix}{one.number}"
                found[task_id] = -1 if task_id in found else one.side
        return found

    def errors(self) -> dict[str, int]:
        """Count the unexpected outcomes, neither taken nor refused, by code."""
        found: dict[str, int] = {}
        for one in self.made:
            if one.outcome not in ("taken", "refused"):
                found[one.outcome] = found.get(one.outcome, 0) + 1
        return found

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        """Return the longest time without an answer between two monotonic times."""
        answered = sorted(one.ended_s for one in self.made if begin_s <= one.ended_s <= end_s)
        moments = [begin_s, *answered, end_s]
        return max(after - before for before, after in pairwise(moments))

    async def _call(self, number: int, side: int) -> None:
        began_s = time.monotonic()
        outcome = await self._ask(number, side)
        self.made.append(Call(number, side, began_s, time.monotonic() - began_s, outcome))

    async def _ask(self, number: int, side: int) -> str:
        command = SubmitTask(task_id=f"{self._prefix}{number}", task_name="n", payload=payload_of({"side": side}))
        try:
            await self._sides[side].execute(command, timeout_s=self._timeout_s)
        except Refused:
            return "refused"
        except CoordinationError as error:
            return error.code
        return "taken"


def percentiles(made: list[Call]) -> dict[str, float]:
    """Return percentiles of the duration of calls in seconds."""
    took = sorted(one.took_s for one in made)
    points: list[tuple[str, Any]] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("worst", 1.0)]
    return {name: round(took[min(len(took) - 1, int(len(took) * point))], 3) for name, point in points} if took else {}


def _portions(whole: list[tuple[int, int]], most: int) -> list[list[tuple[int, int]]]:
    return [whole[begin : begin + most] for begin in range(0, len(whole), most)]
