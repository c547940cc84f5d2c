"""
A hostile client: `python -m tests.faults.strangers.hostile KIND URL CREDS SECONDS PER_S`.

It is nice, makes at most PER_S requests a second, ends by itself, and prints how many it made and how they were
answered. It is only ever pointed at a server of the scenario, on loopback.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from coordinator.logs import configure
from tests.faults.strangers import bulky, floods, lures, storms
from tests.faults.strangers.sender import Pace, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NICE = 10

KINDS: dict[str, Callable[[Place], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        *(floods.submits, floods.questions, floods.claims, floods.registrations),
        *(bulky.giant_payloads, bulky.giant_environments, bulky.slow_readers),
        *(storms.reconnects, storms.forged_subjects),
        *(lures.poison_tasks, lures.dead_names, lures.dead_agents),
    )
}


async def play(kind: str, url: str, creds: Path, seconds: float, per_s: int) -> Place:
    """Be hostile."""
    place = Place(url, creds, kind, Pace(seconds, per_s))
    await KINDS[kind](place)
    return place


def be_nice() -> None:
    """Yield the CPU to all others. Linux with autogroups schedules sessions first: this process must have its own."""
    os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(f"{NICE}\n")


if __name__ == "__main__":
    be_nice()
    configure("error")
    kind, url, creds, seconds, per_s = sys.argv[1:]
    tally = asyncio.run(play(kind, url, Path(creds), float(seconds), int(per_s))).tally
    print(msgspec.json.encode({"requests": tally.requests, "answers": tally.answers}).decode())
