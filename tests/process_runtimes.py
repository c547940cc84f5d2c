"""Helpers for tests of the process runtime: open it, wait for its effects, clean up."""

# ruff: noqa: ASYNC240 - files here are small and local

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import pytest

from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.process.table import process_table
from coordinator.runtime.protocol import Observed, RuntimeState
from tests.launches import CLUSTER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextlib.asynccontextmanager
async def opened(root: Path, **settings: object) -> AsyncIterator[ProcessRuntime]:
    """Open the process runtime of a folder."""
    async with ProcessRuntime(root, cluster=CLUSTER, **settings) as runtime:  # type: ignore[arg-type]
        yield runtime


async def stop_all(root: Path) -> None:
    """Stop all containers that a test has left, by their records."""
    async with opened(root) as runtime:
        for seen in await runtime.list():
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)


async def exited(runtime: ProcessRuntime, timeout_s: float = 10.0) -> Observed:
    """Wait for the only container to exit."""
    async with asyncio.timeout(timeout_s):
        while (seen := (await runtime.list())[0]).state is not RuntimeState.EXITED:
            await runtime.wait_change(1)
    return seen


async def until_no_remains(root: Path) -> None:
    """Wait until nothing is being deleted any more."""
    async with asyncio.timeout(60):
        while list(root.glob(".gone-*")) or list(root.glob(".new-*")):  # noqa: ASYNC110 - a disk sends no notification
            await asyncio.sleep(0.02)


async def until(path: Path) -> str:
    """Wait for a line in a file."""
    async with asyncio.timeout(10):
        while not (path.exists() and path.read_text().endswith("\n")):  # noqa: ASYNC110 - a file sends no notification
            await asyncio.sleep(0.005)
    return path.read_text().strip()


def lives(pid: int) -> bool:
    """Return True if a process with that pid runs; a zombie does not."""
    found = process_table().read(pid)
    return found is not None and found.state != "dead"
