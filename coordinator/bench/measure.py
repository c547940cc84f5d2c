"""
What all benchmarks share: timed calls, their statistics, CPU and memory of a process, and the facts of the machine.

It starts and stops the measured cluster and must never leave a process or a folder behind.
"""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from coordinator.home import Home
from coordinator.nats_server.find import find_server, server_version
from coordinator.processes.up import run_cluster
from coordinator.settings.load import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from coordinator.processes.up import Cluster


@contextmanager
def temporary_home() -> Iterator[Home]:
    """Yield a temporary home, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder:
        yield Home(Path(folder))


@asynccontextmanager
async def measured_cluster(**environment: str) -> AsyncIterator[Cluster]:
    """Run a cluster like `coordinator up`, in a temporary home, while the block runs."""
    with temporary_home() as home:
        async with run_cluster(home, load(), environment=environment, quiet=True) as cluster:
            yield cluster


@contextmanager
def facades_at(url: str) -> Iterator[None]:
    """Connect facades opened in the block to the coordinator at *url*."""
    before = os.environ.get("COORDINATOR_URL")
    os.environ["COORDINATOR_URL"] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ["COORDINATOR_URL"]
        else:
            os.environ["COORDINATOR_URL"] = before


async def timed(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Make *count* calls one after the other; return the milliseconds of each."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
    return took


def spread(milliseconds: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the number of the given times."""
    ordered = sorted(milliseconds)
    return {
        "p50": round(median(ordered), 4),
        "p99": round(ordered[int(len(ordered) * 0.99)], 4),
        "n": len(ordered),
    }


async def cpu_shares(pids: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Return the share of a core that each process, with all its threads, uses during *seconds* seconds."""
    before, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    await asyncio.sleep(seconds)
    took_s = time.monotonic() - began
    return {name: (cpu_seconds(pid) - before[name]) / took_s for name, pid in pids.items()}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def machine() -> dict[str, Any]:
    """Return the facts of the machine: cores, Python version, server version."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "nats_server": ".".join(map(str, await server_version(find_server()))),
    }
