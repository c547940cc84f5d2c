"""Mass silence, with a real coordinator and the command line."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from coordinator.client.client import Client
from coordinator.commands.cluster import ClusterStats, GetStats
from coordinator.commands.worker import RegisterWorker
from coordinator.task_groups import task_group
from tests.commands import call, up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.e2e

WAIT_S = 30.0


def test_many_silent_workers_are_kept_until_somebody_says_they_are_gone(tmp_path: Path) -> None:
    """`silence list` shows how many, `silence accept` treats them as lost; before, there is nothing to accept."""
    with up(
        tmp_path / "home", COORDINATOR_SCHEDULER__WORKER_TIMEOUT_S="1", COORDINATOR_SCHEDULER__LEASE_S="2"
    ) as cluster:
        refused = call("silence", "accept", "worker", "--url", cluster.url)
        assert (refused.code, refused.out) != (0, "")
        assert "there is no mass silence of workers to accept" in refused.err

        asyncio.run(registered_and_silent(cluster.url))
        listed = call("silence", "list", "--json", "--url", cluster.url)
        assert json.loads(listed.out) == [{"kind": "worker", "silent": 12}]
        assert asyncio.run(workers(cluster.url)) == {"active": 12}

        accepted = call("silence", "accept", "worker", "--reason", "rack 7", "--url", cluster.url)
        assert (accepted.code, accepted.out) == (0, "silent workers are now treated as lost\n")
        asyncio.run(until_lost(cluster.url))
        assert json.loads(call("silence", "list", "--json", "--url", cluster.url).out) == []


async def registered_and_silent(url: str) -> None:
    async with Client.open(url, source="test") as client:
        async with task_group() as group:
            for number in range(12):
                group.create_task(client.execute(RegisterWorker(worker_id=f"w{number}")))
        await until(client, lambda stats: bool(stats.mass_silence))


async def workers(url: str) -> dict[str, int]:
    async with Client.open(url, source="test") as client:
        stats: ClusterStats = await client.execute(GetStats())
        return stats.workers


async def until_lost(url: str) -> None:
    async with Client.open(url, source="test") as client:
        await until(client, lambda stats: stats.workers == {"lost": 12})


async def until(client: Client, so: Callable[[ClusterStats], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not so(await client.execute(GetStats())):  # noqa: ASYNC110  # told over NATS
            await asyncio.sleep(0.1)
