"""The outcome of calls during faults: their durations, and the number of broken promises."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.task_groups import task_group
from tests.faults.calls import Calls, percentiles
from tests.faults.wiretap import broken_promises, record_of, tap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.calls import Call

MUST_BE_NONE = (
    "wrong_errors",
    "lost",
    "taken_twice",
    "another_was_taken",
    "commits_of_a_past_reign",
    "answered_in_two_ways",
    "accepted_and_not_in_the_journal",
    "asked_again_says_otherwise",
)


class Outcome:
    """The sum of the outcomes of several systems; `seconds` is what the scenario measures."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.calls: list[Call] = []
        self.broken: dict[str, int] = {}

    def add(self, calls: Calls, broken: dict[str, int]) -> None:
        """Add one system's calls and broken promises."""
        self.calls += calls.made
        for name, count in {**broken, "wrong_errors": sum(calls.errors().values())}.items():
            self.broken[name] = self.broken.get(name, 0) + count

    def told(self) -> dict[str, Any]:
        """Return the outcome."""
        return {"calls": len(self.calls), "call_s": percentiles(self.calls), **self.broken}


def promises_kept(result: dict[str, Any]) -> bool:
    """Return True if there were calls, each got its answer, and no promise was broken."""
    return result["calls"] > 0 and not any(result[name] for name in MUST_BE_NONE if name in result)


def spread_of(seconds: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum of the measured times."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {
        "least": round(ordered[0], 2),
        "median": round(ordered[len(ordered) // 2], 2),
        "most": round(ordered[-1], 2),
    }


@asynccontextmanager
async def under_calls(outcome: Outcome, url: str, *, every_s: float = 0.05) -> AsyncIterator[tuple[Client, Calls]]:
    """Call from two clients while the block runs; afterwards check every answer against the journal."""
    async with Client.open(url, source="one") as one, Client.open(url, source="two") as two, tap(url) as tapped:
        calls = Calls(every_s=every_s)
        async with task_group() as tasks:
            calling = tasks.create_task(calls.go_on([one, two]))
            try:
                yield one, calls
            finally:
                calls.stop()
            await calling
        differing = await calls.differing()
    broken = broken_promises(calls.taken(), tapped, await record_of(url))
    outcome.add(calls, broken | {"asked_again_says_otherwise": differing})
