"""The code on the pages and in `examples/` runs unchanged: on a coordinator of its own, and on one that `up` runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from coordinator.home import Home
from tests.documents import blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs/guide"
EMBEDDED_PAGES = [
    ROOT / "README.md",
    *(GUIDE / f"{name}.md" for name in ("budgets", "containers", "embedding", "registry", "scheduler")),
]
CLUSTER_PAGES = [
    ROOT / "README.md",
    *(GUIDE / f"{name}.md" for name in ("workers", "inbox", "feed")),
    ROOT / "docs/protocol.md",
]
LIMIT_S = 60.0

EXAMPLES = {
    "submit_and_wait": ["2: completed, 1.4142135623730951", "9: completed, 3.0", "-1: failed, no square root"],
    "containers": ["container: running", "task: completed, {'to': 2, 'be': 2, 'or': 1, 'not': 1}", "destroyed: True"],
    "discovery": [
        "round robin: [8001, 8002, 8003, 8001]",
        "least loaded: [8002, 8002]",
        "failover avoids 8001: True",
        "8002: 'unhealthy'",
    ],
    "custom_policy": ["report_1_min → worker_002", "report_10_min → worker_001", "report_30_min → worker_002"],
}
"""Some of the lines that each example prints."""


class Up(NamedTuple):
    """A running `coordinator up`: its home and URL."""

    home: Path
    url: str


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `coordinator up` for all tests of this file."""
    home = tmp_path_factory.mktemp("up")
    with (home / "up.log").open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "up", "--port", "0"],
            env={**os.environ, "COORDINATOR_HOME": str(home)},
            cwd=ROOT,
            stdout=log_file,
            stderr=log_file,
        )
    try:
        yield Up(home, _url(home, process))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0, (home / "up.log").read_text()[-2000:]


def _url(home: Path, process: subprocess.Popen[bytes]) -> str:
    give_up_at = time.monotonic() + LIMIT_S
    while time.monotonic() < give_up_at and process.poll() is None:
        running = Home(home).read_running()
        if running is not None:
            return running.url
        time.sleep(0.05)
    process.kill()
    process.wait()
    pytest.fail((home / "up.log").read_text()[-2000:])


def run(*arguments: str, home: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python with *arguments* to its end; with *url*, against that coordinator."""
    environment = {**os.environ, "COORDINATOR_HOME": str(home)} | ({"COORDINATOR_URL": url} if url else {})
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def cli(up: Up, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `coordinator` with a command; it finds the coordinator by its home."""
    return run("-m", "coordinator.cli", *arguments, home=up.home)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_on_a_coordinator_of_its_own(name: str, coordinator_home: Path) -> None:
    """The example prints what it should, exits with 0, and leaves no process behind (which every test checks)."""
    ran = run(f"examples/{name}.py", home=coordinator_home)
    assert ran.returncode == 0, ran.stderr
    assert [line for line in EXAMPLES[name] if line not in ran.stdout] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_on_uvloop(name: str, coordinator_home: Path) -> None:
    """The event loop of servers such as uvicorn, in which many programs run: what it lacks is not used."""
    ran = run("-m", "tests.on_uvloop", f"examples/{name}.py", home=coordinator_home)
    assert ran.returncode == 0, ran.stderr
    assert [line for line in EXAMPLES[name] if line not in ran.stdout] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_on_a_coordinator_that_is_up(name: str, up: Up) -> None:
    """The same program prints the same when it finds a `coordinator up` of its user."""
    ran = run(f"examples/{name}.py", home=up.home)
    assert ran.returncode == 0, ran.stderr
    assert [line for line in EXAMPLES[name] if line not in ran.stdout] == []
    assert "embedded" not in ran.stderr


@pytest.mark.parametrize(
    "how",
    [
        ["-m", "coordinator.cli", "worker", "run", "examples/worker.py"],
        ["examples/worker.py"],
        ["-m", "tests.on_uvloop", "examples/worker.py"],
    ],
)
def test_the_example_of_a_worker_executes_tasks_until_it_is_stopped(up: Up, how: list[str]) -> None:
    """Through the command line and on its own: results and refusals come back, and SIGTERM ends it with 0."""
    environment = {**os.environ, "COORDINATOR_URL": up.url}
    worker = subprocess.Popen([sys.executable, *how], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        counted = cli(up, "task", "submit", "word_count", "--payload", '"to be or not to be"', "--wait", "20")
        assert counted.returncode == 0, counted.stderr
        assert '{"to":2,"be":2,"or":1,"not":1}' in counted.stdout
        payload = '{"algorithm":"rot13","text":"x"}'
        refused = cli(up, "task", "submit", "digest", "--payload", payload, "--wait", "20")
        assert refused.returncode == 1
        assert "DoNotRetry: unknown algorithm 'rot13'" in refused.stdout
    finally:
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == 0, said


def test_the_example_of_a_publisher_fills_an_inbox(up: Up) -> None:
    """What the example published is read: the facts are recorded, the task completes, `inbox list` shows no lag."""
    added = cli(up, "inbox", "add", "warehouse")
    assert (added.returncode, added.stdout) == (0, "coordination.inbox.warehouse.*.*\n"), added.stderr
    ran = run("examples/publish_events.py", home=up.home, url=up.url)
    assert (ran.returncode, ran.stdout) == (0, "1000 events stored\n"), ran.stderr
    give_up_at = time.monotonic() + LIMIT_S
    listed: list[dict[str, Any]] = []
    while time.monotonic() < give_up_at and (not listed or listed[0]["recorded"] < 1001 or listed[0]["lag"]):
        listed = json.loads(cli(up, "inbox", "list", "--json").stdout)
    assert (listed[0]["domain"], listed[0]["recorded"], listed[0]["refused"]) == ("warehouse", 1001, 0)
    assert "completed" in cli(up, "task", "get", "count_7").stdout
    assert "warehouse" in cli(up, "inbox", "list").stdout
    tailed = cli(up, "events", "tail", "--no-follow", "--type", "inbox.recorded", "-n", "1").stdout
    assert 'data={"shelf":999}' in tailed
    again = cli(up, "inbox", "add", "warehouse")
    assert again.returncode == 0, again.stderr
    refused = cli(up, "inbox", "add", "Ware.House")
    assert refused.returncode == 5
    assert "is not a valid name" in refused.stderr


@pytest.mark.parametrize("page", EMBEDDED_PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_on_a_coordinator_of_its_own(page: Path, coordinator_home: Path) -> None:
    """Every block marked as runnable runs, in order."""
    assert blocks_of(page) != []
    ran = run("-m", "tests.documents", str(page), home=coordinator_home)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("page", CLUSTER_PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_on_a_coordinator_that_is_up(page: Path, up: Up) -> None:
    """Pages that need a coordinator's URL, and the first page."""
    assert blocks_of(page) != []
    assert cli(up, "inbox", "add", "warehouse").returncode == 0
    ran = run("-m", "tests.documents", str(page), home=up.home, url=up.url)
    assert ran.returncode == 0, ran.stderr


def test_the_first_program_touches_only_its_own_and_leaves_nothing(up: Up) -> None:
    """The task of somebody else with the same name still waits; no container and no service is left."""
    other = cli(up, "task", "submit", "data_processing")
    assert other.returncode == 0, other.stderr
    task_id = other.stdout.split()[0]
    for program in (["-m", "tests.documents", str(ROOT / "README.md")], ["examples/submit_and_wait.py"]):
        ran = run(*program, home=up.home, url=up.url)
        assert ran.returncode == 0, ran.stderr
    assert "pending" in cli(up, "task", "get", task_id).stdout
    assert json.loads(cli(up, "service", "list", "--json").stdout) == []
    containers = json.loads(cli(up, "container", "list", "--json").stdout)
    assert {one["status"] for one in containers} <= {"destroyed"}
    assert cli(up, "task", "cancel", task_id).returncode == 0
