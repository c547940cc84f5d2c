"""
Takeover on three nats-servers: `kill -9` of the leading coordinator, with a standby and running clients.

Measures the time until a new command is answered, and its parts: nearly all of it is the lease, which the server keeps
for 12 s after the last renewal. A claim made before each kill is repeated after it and must get the same tasks; a task
submitted again must not run twice.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.client.client import Client
from coordinator.commands.task import ClaimTasks, SubmitTask
from coordinator.leadership.lease import TTL_S
from tests.commands import Running, running
from tests.faults.replicated import PATIENCE_S, Judge, Submitters, nothing_broken
from tests.nats_cluster import nats_cluster

if TYPE_CHECKING:
    from collections.abc import Iterable

AT_ONCE, PAUSE_S = 4, 0.05
TAKEN_OVER_WITHIN_S = 20.0
TASKS_BEFORE = 20
LOOK_S = 0.02
NAMES = ("one", "two")
SLOTS = 3


async def run(*, takeovers: int = 20, lease_s: int = TTL_S) -> dict[str, Any]:
    """Kill the leading coordinator *takeovers* times, on three servers with three replicas."""
    with tempfile.TemporaryDirectory(prefix="coordinator-takeover-") as folder:
        async with nats_cluster(Path(folder)) as cluster:
            return await take_over(cluster.url, Path(folder), takeovers=takeovers, lease_s=lease_s, replicas=3)


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if every takeover was fast enough and no repeat got a different answer."""
    slowest_s: float = result["until_answered_s"]["slowest"]
    return (
        nothing_broken(result)
        and slowest_s < TAKEN_OVER_WITHIN_S
        and not result["not_acknowledged"]
        and not result["answered_differently"]
    )


async def take_over(
    url: str, folder: Path, *, takeovers: int, lease_s: int = TTL_S, replicas: int = 1
) -> dict[str, Any]:
    """Kill the leading coordinator at *url* repeatedly; the killed one is the next standby."""
    began, rounds = time.monotonic(), list[_Round]()
    with ExitStack() as stack:
        pair = _Pair(stack, folder, url, replicas, lease_s)
        async with Client.open(url, source="faults") as client:
            judge, submitters = Judge(url), Submitters(client, at_once=AT_ONCE, pause_s=PAUSE_S)
            await asyncio.gather(*map(pair.start, NAMES))
            async with submitters.running():
                for number in range(takeovers):
                    await submitters.until(TASKS_BEFORE)
                    if number:
                        await pair.start(pair.killed)
                    rounds.append(await _once(client, pair, number))
                    assert rounds[-1].claimed == SLOTS, "a claim that gets nothing proves nothing"
            await judge.read()
    return {
        "takeovers": takeovers,
        "replicas": replicas,
        **judge.verdict(submitters.acknowledged),
        "not_acknowledged": submitters.given_up,
        "answered_differently": sum(one.told_differently for one in rounds),
        "until_answered_s": _shown(one.answered_s for one in rounds),
        "of_which_until_the_lease_s": _shown(one.lease_s for one in rounds),
        "took_s": round(time.monotonic() - began, 1),
    }


class _Round(msgspec.Struct, frozen=True, kw_only=True):
    """One takeover: seconds from the kill, and the number of repeats with a different answer."""

    answered_s: float
    lease_s: float
    claimed: int
    told_differently: int


class _Pair:
    """Two coordinators, each with its own home; one leads, the other is on standby."""

    def __init__(self, stack: ExitStack, folder: Path, url: str, replicas: int, lease_s: int) -> None:
        self.killed = ""
        """The one killed last."""
        self._running: dict[str, Running] = {}
        self._written_before: dict[str, int] = {}
        self._stack = stack
        self._folder = folder
        self._environment = {
            "COORDINATOR_URL": url,
            "COORDINATOR_NATS__REPLICAS": str(replicas),
            "COORDINATOR_LOG__FORMAT": "json",
            "COORDINATOR_LEADERSHIP__TTL_S": str(lease_s),
            "COORDINATOR_LEADERSHIP__RENEW_S": str(lease_s / 6),
            "COORDINATOR_LEADERSHIP__FRESH_S": str(lease_s * 0.5),
            "COORDINATOR_LEADERSHIP__STOP_AFTER_S": str(lease_s * 0.8),
        }

    async def start(self, name: str) -> None:
        """Start the named one, and wait until it leads or is on standby."""
        out, home = self._folder / f"{name}.out", self._folder / name
        self._written_before[name] = out.stat().st_size if out.exists() else 0
        started = running("serve", "--without-follower", written=out, COORDINATOR_HOME=str(home), **self._environment)
        self._running[name] = self._stack.enter_context(started)
        async with asyncio.timeout(PATIENCE_S):
            while not (self.told_at(name, "leadership_started") or self.told_at(name, "standby_started")):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    def kill(self, name: str) -> datetime:
        """Kill the named one, and return the time."""
        self.killed = name
        self._running[name].process.kill()
        killed_at = datetime.now(UTC)
        self._running[name].ended()
        return killed_at

    def leader(self) -> str:
        """Return the name of the leader; the other is on standby."""
        return max(NAMES, key=lambda name: self.told_at(name, "leadership_started"))

    def told_at(self, name: str, event: str) -> str:
        """Return the time of its last log *event* since it was started, or ''."""
        written = self._running[name].written[self._written_before[name] :]
        lines = [line for line in written.splitlines() if f'"event":"{event}"' in line]
        return str(msgspec.json.decode(lines[-1])["timestamp"]) if lines else ""


async def _once(client: Client, pair: _Pair, number: int) -> _Round:
    leader = pair.leader()
    other = NAMES[1 - NAMES.index(leader)]
    claim = ClaimTasks(claim_id=f"claim_{number}", worker_id=f"worker_{number}", slots=SLOTS)
    submit = SubmitTask(task_id=f"again_{number}", task_name="again")
    told = await _told(client, claim, submit)
    killed_at, began = pair.kill(leader), time.monotonic()
    await client.execute(SubmitTask(task_id=f"fresh_{number}", task_name="fresh"), timeout_s=PATIENCE_S)
    answered_s = time.monotonic() - began
    lease_at = datetime.fromisoformat(pair.told_at(other, "lease_taken"))
    repeated = [await _told(client, claim, submit) for _ in range(2)]
    return _Round(
        answered_s=answered_s,
        lease_s=(lease_at - killed_at).total_seconds(),
        claimed=len(told[0]),
        told_differently=sum(again != told for again in repeated),
    )


async def _told(client: Client, claim: ClaimTasks, submit: SubmitTask) -> tuple[list[str], str]:
    submitted: str = await client.execute(submit, timeout_s=PATIENCE_S)
    claimed = await client.execute(claim, timeout_s=PATIENCE_S)
    return [task.task_id for task in claimed], submitted


def _shown(seconds: Iterable[float]) -> dict[str, float]:
    given = sorted(seconds)
    return {
        name: round(value, 1)
        for name, value in zip(("fastest", "median", "slowest"), (given[0], median(given), given[-1]), strict=True)
    }
