"""
Replicas: one of three nats-servers is killed, frozen or destroyed while tasks run. Nothing may be lost.

Everything is real: a coordinator with its follower and two workers, each in its own process that knows all three
servers. The target is the server that leads the journal. A destroyed server returns with an empty store; a second one
is replaced by a server with a new name. At the end each of the three must have the whole journal.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.reads import Wait
from events.base import Position
from tests.faults.replicated import (
    JOURNAL,
    PATIENCE_S,
    Judge,
    Submitters,
    nothing_broken,
    programs,
    worker_argv,
)
from tests.nats_cluster import nats_cluster

if TYPE_CHECKING:
    from tests.nats_cluster import NatsCluster

AT_ONCE = 4
PAUSE_S = 0.05
"""Interval between two tasks of a submitter: about 80 tasks a second in total, none waits long."""
TASKS_BETWEEN = 200
BETWEEN_S = 2.0
READ_MODEL_S = 30.0
FROZEN_S = 16.0
"""Longer than the others need to elect a leader, and clients to leave the frozen one."""


async def run(*, kills: int = 5, freezes: int = 2, losses: int = 2) -> dict[str, Any]:
    """Kill the journal's leader *kills* times, freeze it *freezes* times, and destroy it *losses* times."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coordinator-replicas-") as made:
        folder = Path(made)
        argv = {"serve": ["serve"], "worker_0": worker_argv(), "worker_1": worker_argv()}
        async with (
            nats_cluster(folder) as cluster,
            programs(cluster.url, folder, **argv) as started,
            Client.open(cluster.url, source="faults") as client,
        ):
            judge, submitters = Judge(cluster.url), Submitters(client, at_once=AT_ONCE, pause_s=PAUSE_S)
            faults = _Faults(cluster, submitters)
            async with submitters.running():
                await submitters.until(20)
                for _ in range(kills):
                    await faults.kill()
                for _ in range(freezes):
                    await faults.freeze()
                for number in range(losses):
                    await faults.lose(f"new_{number}" if number % 2 else "")
            await judge.until_ended(submitters.acknowledged)
            question = Wait(position=f"{judge.world.position.sequence}.0", timeout_s=READ_MODEL_S)
            read_model = await ask_follower(client, question, timeout_s=PATIENCE_S)
            return {
                "kills": kills,
                "freezes": freezes,
                "losses": losses,
                **judge.verdict(submitters.acknowledged),
                "not_acknowledged": submitters.given_up,
                "not_ended": len(submitters.acknowledged - judge.ends.keys()),
                "read_model_at": str(read_model),
                "same_on_each_node": await judge.same_on_each_node(cluster),
                "slowest_answer_s": round(submitters.slowest_s, 1),
                "until_replaced_is_current_s": faults.until_current_s,
                "restarts": {
                    **{name: one.starts - 1 for name, one in started.items()},
                    # The coordinator logs when it restarts its child.
                    "follower": (folder / "serve.log").read_text().count('"program_ended"'),
                },
                "took_s": round(time.monotonic() - began, 1),
            }


class _Faults:
    """Faults of the node that leads the journal; after each one the cluster is complete and tasks have continued."""

    def __init__(self, cluster: NatsCluster, submitters: Submitters) -> None:
        self.until_current_s: list[float] = []
        self._cluster = cluster
        self._submitters = submitters

    async def kill(self) -> None:
        """Kill it, and restart it during the election of the others."""
        leader = await self._cluster.leader_of(JOURNAL)
        await self._cluster.kill(leader)
        await asyncio.sleep(BETWEEN_S)
        await self._cluster.start(leader)
        await self._went_on()

    async def freeze(self) -> None:
        """Freeze it until another leads, and wake it: for a moment it still believes it leads."""
        leader = await self._cluster.leader_of(JOURNAL)
        node = self._cluster.nodes[leader]
        node.pause()
        await asyncio.sleep(FROZEN_S)
        node.resume()
        await self._went_on()

    async def lose(self, name: str) -> None:
        """Destroy it with its store, continue with two, then add an empty one, possibly with a new name."""
        leader = await self._cluster.leader_of(JOURNAL)
        await self._cluster.lose(leader)
        await self._submitters.until(TASKS_BETWEEN)
        began = time.monotonic()
        await self._cluster.replace(leader, name or leader)
        await self._cluster.until_current(JOURNAL)
        self.until_current_s.append(round(time.monotonic() - began, 1))
        await self._went_on()

    async def _went_on(self) -> None:
        await self._submitters.until(TASKS_BETWEEN)
        await self._cluster.until_current(JOURNAL)


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if every promise was kept."""
    return (
        nothing_broken(result)
        and result["acknowledged"] > 0
        and not result["not_acknowledged"]
        and not result["not_ended"]
        and not any(result["restarts"].values())
        and result["same_on_each_node"]
        and Position.parse(result["read_model_at"]).sequence >= Position.parse(result["chain_verified_to"]).sequence
    )
