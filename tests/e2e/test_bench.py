"""`coordinator bench …` with small numbers: what it prints and that it leaves nothing behind, never how fast it is."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

BENCH_TIMEOUT_S = 100.0
ALONE = {"bare_publish_ms", "packed_publish_events_per_s", "machine"}
"""The keys that accompany every figure."""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coordinator_home: Path) -> Iterator[Path]:
    """Give the benchmark a folder for temporary files; at the end it is empty, and the user's home was not used."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    assert processes_with(folder) == []
    assert list(coordinator_home.iterdir()) == []


def processes_with(folder: Path) -> list[str]:
    """Return the command lines of all other processes, of whatever parent, whose temporary files are in *folder*."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return found


def bench(*arguments: str) -> dict[str, Any]:
    """Run a benchmark to its end and return its output: one object on one line and nothing else."""
    ended = run("bench", *arguments, timeout_s=BENCH_TIMEOUT_S)
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1), ended
    figures: dict[str, Any] = json.loads(ended.out)
    assert figures.keys() >= ALONE
    assert_spread(figures["bare_publish_ms"])
    assert figures["packed_publish_events_per_s"] > 0
    assert figures["machine"].keys() == {"cores", "python", "nats_server"}
    return figures


def assert_spread(value: dict[str, float], n: int | None = None) -> None:
    """Assert that a figure states its sample count."""
    assert value.keys() == {"p50", "p99", "n"}
    assert 0 < value["p50"] <= value["p99"]
    assert n in (None, value["n"])


def test_latency() -> None:
    """Submit, task start, claims with few and many pending tasks, container start, discovery: each with its n."""
    counts = {"submits": 100, "tasks": 10, "claims": 10, "pending": 101, "starts": 1, "discoveries": 100}
    figures = bench("latency", *(f"--{name}={count}" for name, count in counts.items()))
    assert_spread(figures["submit_ms"], 100)
    assert_spread(figures["submit_to_start_ms"], 10)
    assert figures["claim_ms"].keys() == {"100_pending", "101_pending"}
    for claims in figures["claim_ms"].values():
        assert_spread(claims, 10)
    assert_spread(figures["container_running_ms"], 1)
    assert_spread(figures["agent_healthy_ms"], 1)
    assert_spread(figures["discovery_ms"], 100)
    assert figures["claim_ratio"] > 0
    assert isinstance(figures["coordinator_bytes_per_pending_task"], int)
    assert figures["submit_to_bare"] > 0


def test_tasks() -> None:
    """Every task completes, store and feed reach the end of the journal, and each process's CPU share is reported."""
    figures = bench("tasks", "--tasks=500", "--repeats=1")
    assert figures["tasks_per_s"] == figures["each"][0] > 0
    assert figures["store_lag_s"] >= 0
    assert figures["feed_lag_s"] >= 0
    processes = {"coordinator", "follower", "node", "nats_server", "worker_0", "worker_1", "submitter"}
    assert figures["cpu_us_per_task"].keys() == processes


def test_rebuild() -> None:
    """World and store are built from a journal of exactly the requested size."""
    figures = bench("rebuild", "--events=5000", "--repeats=2", "--tasks=1000")
    assert (figures["events"], figures["world_s"]["n"], figures["store_s"]["n"]) == (5000, 2, 2)
    assert figures["tasks"] > 1600
    for name in ("world", "store"):
        assert figures[f"{name}_cpu_s"]["p50"] > 0
        assert figures[f"{name}_events_per_s"] > 0
    assert figures["pending_tasks"] == 1000


def test_discovery() -> None:
    """Services are found in one process, from another, and over RPC; every change is seen."""
    figures = bench("discovery", "--services=40", "--discoveries=50", "--changes=6")
    for name in ("in_process_ms", "discover_ms", "rpc_ms"):
        assert_spread(figures[name], 50)
    assert_spread(figures["change_seen_ms"], 6)


def test_containers() -> None:
    """Each start is timed, alone and with others; on processes there is nothing to compare with."""
    ended = run("bench", "containers", "--starts=3", "--at-once=4", timeout_s=BENCH_TIMEOUT_S)
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1), ended
    figures: dict[str, Any] = json.loads(ended.out)
    assert_spread(figures["start_ms"], 3)
    assert figures["at_once_s"] > 0
    assert figures["runtime"] == "process"
    assert "start_to_bare" not in figures


def test_containers_need_an_image_where_their_runtime_does() -> None:
    """It says how to name one, before anything is started."""
    ended = run("bench", "containers", timeout_s=BENCH_TIMEOUT_S, COORDINATOR_NODE__RUNTIME="docker")
    assert ended.code == 5
    assert "agents: {bench: {image: busybox, command: [sleep, '600']}}" in ended.err


def test_heartbeats() -> None:
    """Heartbeats arrive, the journal does not grow, and no service becomes unhealthy."""
    figures = bench("heartbeats", "--services=50", "--seconds=2")
    assert figures["beats_per_s"] > 0
    assert (figures["commits"], figures["lost_health"]) == (0, 0)
    assert figures["both_cpu"] >= figures["coordinator_cpu"] >= 0


def test_packing() -> None:
    """The placements side by side, without a server; below the bound."""
    ended = run("bench", "packing", "--tasks=300", "--seed=5", timeout_s=BENCH_TIMEOUT_S)
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1), ended
    figures: dict[str, Any] = json.loads(ended.out)
    for name in ("ours", "first_fit", "best_fit"):
        for kind, most in figures["bound"]["used"].items():
            assert 0 < figures[name]["used"][kind] <= most <= 1


@pytest.mark.parametrize("name", ["heartbeats", "rebuild"])
def test_ctrl_c_stops_everything(name: str, tmp_path: Path, temporary: Path) -> None:
    """After the server has started, Ctrl-C ends everything with 130 and no output; no started process remains."""
    with running("bench", name, written=tmp_path / "bench.out") as started:
        started.until(lambda: any(temporary.glob("*/nats/*.ports")))
        assert started.stop(signal.SIGINT, timeout_s=60.0) == 130
        assert started.written == ""
