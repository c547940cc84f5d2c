"""
A program that asks the coordinator more than anybody should: `python -m tests.questioner <url> <kind> <verb> <file>`.

The file holds the body of one request. The program sends it again and again as the source `questioner`, several times
at once, and reads the answers, until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coordinator.bus.connection import Bus
from events.errors import Unavailable
from events.subjects import Subjects

AT_ONCE = 8
TIMEOUT_S = 30.0


async def ask(url: str, subject: str, body: bytes) -> None:
    """Ask *body* over and over; each of several connections has one request under way."""

    async def one(bus: Bus) -> None:
        while True:
            try:
                await bus.request(subject, body, timeout_s=TIMEOUT_S)
            except Unavailable:
                await asyncio.sleep(0.1)

    async with Bus.open(url, name="questioner") as bus, asyncio.TaskGroup() as tasks:
        print("asking", flush=True)  # the test waits for it
        for _ in range(AT_ONCE):
            tasks.create_task(one(bus))


if __name__ == "__main__":
    url, kind, verb, file = sys.argv[1:]
    asyncio.run(ask(url, Subjects().rpc("questioner", kind, verb), Path(file).read_bytes()))
