"""
Power cuts: three nats-servers lose power at the same time while clients submit. Nothing acknowledged may be lost.

Their stores are on a separate disk in an image file. All are frozen, the image is copied without a sync, and they
continue from the copy: data only in kernel memory is gone. Every second coordinator dies with them, the others live on.
The control uses servers with nats-server's default sync interval, and must lose data. Needs root and loop mounts.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from coordinator.client.client import Client
from coordinator.errors import Corrupt, Unavailable
from coordinator.task_groups import task_group
from tests.faults.replicated import Judge, Keeper, Submitters, nothing_broken
from tests.nats_cluster import nats_cluster

AT_ONCE = 64
GIVEN_UP_S = 4.0
"""How long a client of the control waits for an answer that never comes."""


async def run(*, cuts: int = 20, acknowledged: int = 2000, control: int = 3, goes_on: bool = True) -> dict[str, Any]:
    """
    Cut the power *cuts* times, each after *acknowledged* more tasks, and *control* times on servers without fsync.

    In the control a coordinator must notice, if *goes_on*: it waits before it reports a loss.

    Raises:
        RuntimeError: not possible on this machine; the message has what is missing.
    """
    kept = await _cut_and_go_on(cuts, acknowledged) if cuts else {}
    return {**kept, "control": [await _cut_unsynced(acknowledged, goes_on=goes_on) for _ in range(control)]}


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if nothing was lost, all nodes have the same, and the control detected its losses."""
    kept = not result.get("cuts") or (nothing_broken(result) and result["same_on_each_node"])
    return bool(kept and all(one["lost"] and one["refused"] is not False for one in result["control"]))


async def _cut_and_go_on(cuts: int, acknowledged: int) -> dict[str, Any]:
    began, slowest_s = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(prefix="coordinator-powercut-") as folder:
        async with nats_cluster(Path(folder), on_disk=True) as cluster, task_group() as tasks:
            judge = Judge(cluster.url)
            keeper = Keeper(cluster.url, Path(folder), tasks)
            keeper.start()
            async with Client.open(cluster.url) as client:
                submitters = Submitters(client, at_once=AT_ONCE)
                async with submitters.running():
                    for number in range(cuts):
                        await submitters.until(acknowledged)
                        if number % 2:
                            await keeper.crash()
                        await cluster.power_cut()
                        on_at = time.monotonic()
                        if number % 2:
                            keeper.start()
                        await cluster.start()
                        await submitters.until(AT_ONCE)
                        slowest_s = max(slowest_s, time.monotonic() - on_at)
                        await judge.read()
            await judge.read()
            same = await judge.same_on_each_node(cluster)
            await keeper.crash()
    return {
        "cuts": cuts,
        **judge.verdict(submitters.acknowledged),
        "same_on_each_node": same,
        "slowest_until_answered_s": round(slowest_s, 1),
        "took_s": round(time.monotonic() - began, 1),
    }


async def _cut_unsynced(acknowledged: int, *, goes_on: bool) -> dict[str, Any]:
    """Cut the power of servers without fsync; return what was lost and whether the coordinator noticed."""
    with tempfile.TemporaryDirectory(prefix="coordinator-powercut-") as folder:
        async with nats_cluster(Path(folder), on_disk=True, sync=False) as cluster, task_group() as tasks:
            judge = Judge(cluster.url)
            keeper = Keeper(cluster.url, Path(folder), tasks)
            keeper.start()
            async with Client.open(cluster.url) as client:
                submitters = Submitters(client, at_once=AT_ONCE, timeout_s=GIVEN_UP_S)
                async with submitters.running():
                    await submitters.until(acknowledged)
                    await keeper.crash()
                    await cluster.power_cut()
            await cluster.start()
            refused = None
            if goes_on:
                keeper.start()
                refused = await keeper.has_refused()
            with suppress(Corrupt, Unavailable):  # the journal is missing or truncated
                await judge.read()
            await keeper.crash()
    verdict = judge.verdict(submitters.acknowledged)
    return {"acknowledged": verdict["acknowledged"], "lost": verdict["lost"], "refused": refused}
