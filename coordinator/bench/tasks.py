"""Measure durable task throughput: tasks submitted one by one, run and completed by two workers that do nothing."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from coordinator.bench.bare import bare_figures
from coordinator.bench.loads import worker_process
from coordinator.bench.measure import cpu_seconds, machine, measured_cluster
from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.cluster import GetStats
from coordinator.commands.reads import Behind, HowFarBehind
from coordinator.commands.shadow import SetShadow
from coordinator.guard import spawn
from events.queue import Policy

if TYPE_CHECKING:
    from coordinator.processes.up import Cluster

WORKERS = 2
SLOTS = 500
IN_FLIGHT = 1000
FOLLOWING = ("store", "feed")
LOOK_S = 0.05
ANSWER_S = 60.0
LAG_MOST_S = 600.0
"""Longest wait for the read model and the feed."""


async def run(*, tasks: int, repeats: int, candidates: int = 0) -> dict[str, Any]:
    """
    Run *tasks* tasks with 100 B of payload and of result, *repeats* times, each time in a new cluster.

    With a candidate, PRIORITY is compared with the live policy meanwhile.

    Returns medians: `tasks_per_s` from the first submit to the last durable completion; `store_lag_s` and `feed_lag_s`,
    the time after that until read model and feed hold everything; `cpu_us_per_task`, the CPU time of each process.
    """
    alone: dict[str, Any] = {}
    seen: list[dict[str, Any]] = []
    for number in range(repeats):
        async with measured_cluster() as cluster:
            if number == 0:
                alone = await bare_figures(cluster.url)
            seen.append(await _through(cluster, tasks, with_candidate=candidates > 0))
    return {
        "tasks_per_s": round(median(one["tasks_per_s"] for one in seen)),
        "store_lag_s": round(median(one["store_lag_s"] for one in seen), 2),
        "feed_lag_s": round(median(one["feed_lag_s"] for one in seen), 2),
        "cpu_us_per_task": {
            name: round(median(one["cpu_us_per_task"][name] for one in seen), 1) for name in seen[0]["cpu_us_per_task"]
        },
        "each": [one["tasks_per_s"] for one in seen],
        "n": repeats,
        "tasks": tasks,
        **alone,
        "machine": await machine(),
    }


async def _through(cluster: Cluster, count: int, *, with_candidate: bool) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.open(cluster.url, source="bench"))
        pids = {name: program.pid for name, program in cluster.programs.items() if program.pid is not None}
        pids["nats_server"] = cluster.server.pid
        for number in range(WORKERS):
            worker_id = f"worker_{number}"
            running = worker_process(client, cluster.url, worker_id, slots=SLOTS)
            pids[worker_id] = await stack.enter_async_context(running)
        if with_candidate:
            await client.execute(SetShadow(policy=Policy(strategy="priority", ageing_s=60.0)))
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        began, submit_cpu_s = await _submitted(cluster, count)
        while (await client.execute(GetStats(), timeout_s=ANSWER_S)).totals.get("tasks_completed", 0) < count:  # noqa: ASYNC110  # over NATS
            await asyncio.sleep(LOOK_S)
        ended = time.monotonic()
        used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()} | {"submitter": submit_cpu_s}
        lags = await _lags(client, client.position.sequence, ended)
    return {
        "tasks_per_s": round(count / (ended - began)),
        "cpu_us_per_task": {name: seconds / count * 1e6 for name, seconds in used.items()},
        **lags,
    }


async def _submitted(cluster: Cluster, count: int) -> tuple[float, float]:
    """Run the submitter; return its start time, and its CPU time until the last answer."""
    argv = [sys.executable, "-P", "-m", "coordinator.bench.submitter", str(count), str(IN_FLIGHT)]
    env = {**os.environ, "COORDINATOR_URL": cluster.url, "COORDINATOR_LOG__LEVEL": "warning"}
    with tempfile.TemporaryFile() as output:
        async with await spawn(argv, env=env, stdout=output) as submitter:
            await submitter.wait()
        output.seek(0)
        began, cpu_s = map(float, output.read().split())
    return began, cpu_s


async def _lags(client: Client, until: int, ended: float) -> dict[str, float]:
    """Wait until read model and feed hold all up to *until*; return the time from *ended* for each."""
    lags: dict[str, float] = {}
    async with asyncio.timeout(LAG_MOST_S):
        while len(lags) < len(FOLLOWING):
            lag = await ask_follower(client, HowFarBehind(), timeout_s=ANSWER_S)
            for name in FOLLOWING:
                behind: Behind | None = getattr(lag, name)
                if behind is not None and behind.through >= until:
                    lags.setdefault(f"{name}_lag_s", max(0.0, time.monotonic() - ended))
            await asyncio.sleep(LOOK_S)
    return lags
