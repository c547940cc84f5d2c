"""
Node agents as processes, and containers that record when they ran, so that twins can be counted afterwards.

A twin: two generations of one container that ran at the same time. Every container writes the time it began and, again
and again, the time it last ran; all containers of a test run on one machine and so by one clock.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import asynccontextmanager
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from coordinator.home import Home
from coordinator.runtime.process.runtime import ProcessRuntime
from tests.faults.instances import Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GENTLE, SLOW, DEAF = "gentle", "slow", "deaf"
"""How a container takes SIGTERM: it exits with 0 at once, or after a second, or not at all."""

_PROGRAM = """
import os, signal, sys, time

def now():
    return time.clock_gettime(time.CLOCK_MONOTONIC)

how, folder = sys.argv[1:]
ends_at = [float("inf")]
pause_s = {"gentle": 0.0, "slow": 1.0, "deaf": float("inf")}[how]
signal.signal(signal.SIGTERM, lambda *_: ends_at.__setitem__(0, min(ends_at[0], now() + pause_s)))
name = f"{os.environ['COORDINATOR_CONTAINER_ID']} {os.environ['RUNTIME_CONTAINER_NAME']} {os.getpid()}"
file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o600)
began = now()
while now() < ends_at[0]:
    os.pwrite(file, f"{began:.3f} {now():.3f}\\n".encode(), 0)
    time.sleep(0.01)
"""


class Ran(NamedTuple):
    """When one generation of a container ran, in seconds of the machine's clock."""

    began: float
    last: float
    name: str


class NodeProcess(Instance):
    """One `coordinator node run` with its state in *home*; `kill`, `freeze` and `stop` leave its containers alone."""

    def __init__(self, home: Path, url: str, node_id: str, *, environment: dict[str, str] | None = None) -> None:
        super().__init__(home, url, environment=environment)
        self.node_id = node_id
        self._arguments = ["node", "run", "--id", node_id]

    async def close(self) -> None:
        """End the agent if it runs, and every container that it has left."""
        await super().close()
        home = Home(self.home)
        if not home.containers.exists():
            return
        async with ProcessRuntime(home.containers, cluster="coordination") as runtime:
            for one in await runtime.list():
                await runtime.stop(one.container_id, one.generation, grace_s=0, force=True)


@asynccontextmanager
async def closed_after(*those: Instance) -> AsyncIterator[None]:
    """Close *those* after the block, in order."""
    try:
        yield
    finally:
        for one in those:
            await one.close()


def recorder(folder: Path, how: str, **settings: object) -> dict[str, object]:
    """Return the settings of an agent type whose containers record in *folder* when they ran."""
    program = folder.parent / "recorder.py"
    program.write_text(_PROGRAM)
    return {"command": [sys.executable, "-I", "-S", str(program), how, str(folder)], **settings}


def recorded(folder: Path) -> dict[str, list[Ran]]:
    """Read when each container ran, each list in order of its beginnings."""
    found: dict[str, list[Ran]] = defaultdict(list)
    for file in folder.iterdir():
        container_id, name, _ = file.name.split()
        times = file.read_text().split()
        if len(times) == 2:  # otherwise it was killed before it had written its first line
            found[container_id].append(Ran(float(times[0]), float(times[1]), name))
    return {container_id: sorted(ran) for container_id, ran in found.items()}


def twins(ran: dict[str, list[Ran]]) -> list[tuple[float, str, str]]:
    """Return each overlap of two generations of a container: for how many seconds, and the two."""
    return [
        (round(min(earlier.last, later.last) - later.began, 3), earlier.name, later.name)
        for generations in ran.values()
        for earlier, later in combinations(generations, 2)
        if later.began < earlier.last
    ]
