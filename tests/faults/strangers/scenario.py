"""
Strangers: one honest client beside each of twelve hostile ones, one after the other. Who is hurt?

The cluster is that of `coordinator up` on a server with users: each hostile client has its own, as a domain, a worker,
a container's program and a node. No setting limits them. The honest client submits 50 tasks a second, which its own
worker executes. Beside no hostile client may the 99th percentile of its submits, or of its starts, be more than ten
times that of the first, quiet phase of the same run; none of its calls may fail, and its service must stay healthy. The
coordinator's memory must not grow by more than 256 MB.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.bench.measure import cpu_seconds, resident_bytes
from coordinator.home import Home
from coordinator.processes.program import Program
from coordinator.processes.up import run_cluster
from coordinator.settings.load import load
from coordinator.task_groups import task_group
from tests.faults.strangers.handlers_file import HANDLERS, STARTS
from tests.faults.strangers.honest import Honest, Phase, health_page
from tests.faults.strangers.hostile import KINDS
from tests.secured import secured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.secured import Secured

TIMES_MOST = 10
MEMORY_MOST = 256 * 1024 * 1024
QUIET_EVERY = 3
"""A quiet phase follows so many hostile ones."""
SETTLE_S, SETTLE_MOST_S = 2.0, 10.0
SLOW_TIMES = 3
"""The next phase begins when no submit takes longer than so many times the 99th percentile of the first, quiet one."""
REQUESTS_LEAST = 100
END_TIMEOUT_S = 20.0
SAMPLE_S = 0.25
_ROOT = Path(__file__).resolve().parent.parent.parent.parent

_SETTINGS = """
nats: {{auth: "{auth}", url: "{url}"}}
node: {{node_id: n1, container_creds: "{auth}/creds/agents-n1.nk"}}
registry:
  health_check_networks: ["127.0.0.0/8", "10.255.255.0/24"]
  health_check_interval: 2
  health_check_timeout_s: 1
agents:
  dies: {{command: ["/bin/false"]}}
"""


async def run(*, seconds: int = 10, per_s: int = 2000, only: int = 0, settle_s: float = SETTLE_S) -> dict[str, Any]:
    """
    Measure beside every hostile client for *seconds* seconds.

    Args:
        seconds: how long each hostile client goes on, and the first quiet phase.
        per_s: requests a second that each makes at most.
        only: the number of the only one to play, from 1; 0 plays all.
        settle_s: how long the honest client is watched at a time until it is served as before.
    """
    kinds = list(KINDS) if only == 0 else [list(KINDS)[only - 1]]
    with tempfile.TemporaryDirectory(prefix="coordinator-strangers-") as name:
        folder = Path(name)
        users = [("domain", "honest"), ("worker", "honest"), ("node", "n1"), ("agents", "n1")]
        users += [(role, kind) for kind in kinds for role in ("domain", "worker", "agents", "node")]
        async with secured(folder / "auth", users) as server, _honest(folder, server) as (honest, pids):
            play = _Play(server, honest, pids, seconds, per_s, settle_s)
            await play.all(kinds)
        honest.note_starts(play.phases)
        logs = [*(folder / "home/logs").iterdir(), folder / "auth/server.log"]
        result = play.told() | {"log_lines": {log.stem: log.read_bytes().count(b"\n") for log in logs}}
    print(_table(result), file=sys.stderr)
    return result


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if the honest client was not hurt beside any hostile one, and the memory stayed bounded."""
    beside = result["beside"].values()
    return (
        bool(beside)
        and all(one["requests"] >= REQUESTS_LEAST for one in beside)
        and all(one["submit_times"] <= TIMES_MOST and one["start_times"] <= TIMES_MOST for one in beside)
        and not result["failures"]
        and not result["unhealthy"]
        and result["memory_mb"]["coordinator"]["grown"] * 1e6 <= MEMORY_MOST
    )


@asynccontextmanager
async def _honest(folder: Path, server: Secured) -> AsyncIterator[tuple[Honest, dict[str, Callable[[], int | None]]]]:
    """Run the cluster, the honest worker and the honest client; yield it, and where the process ids are found."""
    config = folder / "coordinator.yaml"
    config.write_text(_SETTINGS.format(auth=server.directory.path, url=server.url))
    home = Home(folder / "home")
    environment = {"COORDINATOR_CONFIG": str(config)}
    async with (
        run_cluster(home, load(config), environment=environment, quiet=True) as cluster,
        server.client("domain", "honest") as client,
        health_page() as port,
        task_group() as tasks,
    ):
        starts = folder / "starts"
        worker = _worker(home, server, starts)
        keeping = tasks.create_task(worker.keep_running())
        honest = Honest(client, starts)
        await honest.register(port)
        going = tasks.create_task(honest.go_on())
        programs = {**cluster.programs, "worker": worker}
        pids: dict[str, Callable[[], int | None]] = {name: partial(_pid, one) for name, one in programs.items()}
        pids["nats-server"] = partial(_pid, server)
        try:
            yield honest, pids
        finally:
            going.cancel()
            await worker.stop()
            keeping.cancel()


def _pid(one: Program | Secured) -> int | None:
    return one.pid


def _worker(home: Home, server: Secured, starts: Path) -> Program:
    argv = [sys.executable, "-m", "coordinator.cli", "worker", "run", str(HANDLERS), "--slots", "16"]
    env = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "COORDINATOR_NATS__CREDS": server.creds("worker", "honest"),
        "COORDINATOR_NATS__URL": server.url,
        "COORDINATOR_URL": server.url,
        "COORDINATOR_HOME": str(home.path),
        STARTS: str(starts),
    }
    return Program("worker", argv, env, home.path / "logs" / "worker.log")


class _Play:
    """Plays the phases, one after the other, and watches the processes."""

    def __init__(
        self,
        server: Secured,
        honest: Honest,
        pids: dict[str, Callable[[], int | None]],
        seconds: float,
        per_s: int,
        settle_s: float,
    ) -> None:
        self.phases: list[Phase] = []
        self._server = server
        self._honest = honest
        self._pids = pids
        self._seconds = seconds
        self._per_s = per_s
        self._settle_s = settle_s
        self._hostile: dict[str, dict[str, Any]] = {}
        self._cpu: dict[str, dict[str, float]] = {}
        self._memory: dict[str, dict[str, int]] = {}
        self._quiet_memory: dict[str, int] = {}

    async def all(self, kinds: list[str]) -> None:
        """Be quiet, then let each hostile client play, with quiet phases between."""
        await asyncio.sleep(3 * SETTLE_S)
        await self._phase("quiet", asyncio.sleep(self._seconds))
        self._quiet_memory = dict(self._memory["quiet"])
        for number, kind in enumerate(kinds, 1):
            await self._phase(kind, self._be_hostile(kind))
            await self._settle(kind)
            if number % QUIET_EVERY == 0:
                await self._phase("quiet", asyncio.sleep(3 * self._settle_s))
        self._honest.phase = Phase("end")
        await asyncio.sleep(3 * SETTLE_S)

    def told(self) -> dict[str, Any]:
        """Return the figures of all phases."""
        quiet = [one for one in self.phases if one.name == "quiet"]
        submit, start = _figures(quiet[0].submits), _figures(quiet[0].starts)  # later ones work off what was left
        return {
            "quiet": {"submit_ms": submit, "start_ms": start, "cpu": self._cpu["quiet"]},
            "beside": {
                one.name: self._beside(one, submit["p99"], start["p99"])
                for one in self.phases
                if one.name in self._hostile
            },
            "failures": [f"{one.name}: {failure}" for one in self.phases for failure in one.failures],
            "unhealthy": {one.name: one.unhealthy for one in self.phases if one.unhealthy},
            "memory_mb": {name: self._memory_of(name) for name in self._pids},
        }

    def _beside(self, phase: Phase, submit_p99: float, start_p99: float) -> dict[str, Any]:
        submit, start, memory = _figures(phase.submits), _figures(phase.starts), self._memory[phase.name]
        return {
            **self._hostile[phase.name],
            "submit_ms": submit,
            "submit_times": round(submit["p99"] / submit_p99, 1),
            "start_ms": start,
            "start_times": round(start["p99"] / start_p99, 1),
            "failures": len(phase.failures),
            "cpu": self._cpu[phase.name],
            "memory_mb": {name: round(size / 1e6) for name, size in memory.items()},
        }

    def _memory_of(self, name: str) -> dict[str, int]:
        quiet = self._quiet_memory.get(name, 0)
        most = max(one.get(name, 0) for one in self._memory.values())
        return {"quiet": round(quiet / 1e6), "most": round(most / 1e6), "grown": round((most - quiet) / 1e6)}

    async def _settle(self, kind: str) -> None:
        """Wait until the honest client is served as before; what the hostile one left behind is worked off."""
        loop = asyncio.get_running_loop()
        began, usual_s = loop.time(), SLOW_TIMES * _figures(self.phases[0].submits)["p99"] / 1000
        while loop.time() < began + SETTLE_MOST_S:
            self._honest.phase = phase = Phase(f"after {kind}")
            self.phases.append(phase)
            await asyncio.sleep(self._settle_s)
            if phase.submits and max(phase.submits) < usual_s:
                break
        self._hostile[kind]["settled_s"] = round(loop.time() - began, 1)

    async def _phase(self, name: str, what: Any) -> None:
        """Play one phase while its memory is watched; what is quiet is measured once."""
        self._honest.phase = phase = Phase(name)
        self.phases.append(phase)
        before, loop = self._now(cpu_seconds), asyncio.get_running_loop()
        began = loop.time()
        watching = asyncio.ensure_future(self._watch(self._memory.setdefault(name, {})))
        try:
            await what
        finally:
            watching.cancel()
        took_s, after = loop.time() - began, self._now(cpu_seconds)
        shares = {one: round((after[one] - before[one]) / took_s, 2) for one in after if one in before}
        self._cpu.setdefault(name, shares)

    async def _be_hostile(self, kind: str) -> None:
        argv = [sys.executable, "-m", "tests.faults.strangers.hostile", kind, self._server.url]
        argv += [str(self._server.directory.path / "creds"), str(self._seconds), str(self._per_s)]
        one = await asyncio.create_subprocess_exec(
            *argv,
            cwd=_ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._seconds + END_TIMEOUT_S):
                told, _ = await one.communicate()
        finally:
            with suppress(ProcessLookupError):
                one.kill()
        self._hostile[kind] = msgspec.json.decode(told) if one.returncode == 0 else {"requests": 0, "answers": {}}

    async def _watch(self, most: dict[str, int]) -> None:
        while True:
            for name, size in self._now(resident_bytes).items():
                most[name] = max(most.get(name, 0), size)
            await asyncio.sleep(SAMPLE_S)

    def _now(self, measure: Callable[[int], Any]) -> dict[str, Any]:
        found = {}
        for name, find in self._pids.items():
            pid = find()
            with suppress(OSError):
                if pid is not None:
                    found[name] = measure(pid)
        return found


def _figures(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds, and how many there are."""
    ordered = sorted(seconds)
    if not ordered:
        return {"p50": 0.0, "p99": float("inf"), "n": 0}
    points = {"p50": 0.5, "p99": 0.99}
    return {
        **{name: round(1000 * ordered[int(len(ordered) * point)], 1) for name, point in points.items()},
        "n": len(ordered),
    }


def _table(result: dict[str, Any]) -> str:
    """Return the result for people."""
    row = "{:<19}{:>9}{:>9}{:>9}{:>6}{:>9}{:>9}{:>6}{:>7}{:>7}{:>6}{:>6}  {}"
    heads = (
        "beside",
        "requests",
        "submit",
        "p99 ms",
        "×",
        "start",
        "p99 ms",
        "×",
        "failed",
        "after",
        "CPU",
        "MB",
        "answers",
    )
    quiet = result["quiet"]
    lines = [row.format(*heads)]
    for name, one in {"quiet": quiet, **result["beside"]}.items():
        lines.append(
            row.format(
                *(name, one.get("requests", ""), one["submit_ms"]["p50"], one["submit_ms"]["p99"]),
                *(one.get("submit_times", ""), one["start_ms"]["p50"], one["start_ms"]["p99"]),
                *(one.get("start_times", ""), one.get("failures", ""), one.get("settled_s", "")),
                *(one["cpu"].get("coordinator", ""), one.get("memory_mb", {}).get("coordinator", "")),
                ", ".join(f"{count} {what}" for what, count in sorted(one.get("answers", {}).items())),
            )
        )
    return "\n".join(lines)
