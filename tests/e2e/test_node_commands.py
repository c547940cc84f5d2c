"""Nodes on the command line, against a running `coordinator up`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.commands import Up, call, up

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PATIENCE_S = 20.0
COLUMNS = 80


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("nodes") / "home") as started:
        yield started


@pytest.fixture(autouse=True)
def _talk_to_it(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)


def good(*arguments: str) -> str:
    """Run a command that must succeed, and return its output."""
    ended = call(*arguments)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def until_shown(node_id: str, status: str) -> str:
    """Wait until the node has a status, as `node show` names it, and return all that is shown."""
    ends = time.monotonic() + PATIENCE_S
    while f"status      {status}\n" not in (shown := good("node", "show", node_id)):
        assert time.monotonic() < ends, shown
        time.sleep(0.1)
    return shown


def test_a_node_is_shown_cordoned_drained_and_removed() -> None:
    """Its agent still runs, so it comes back; what is shown fits a terminal."""
    (listed,) = json.loads(good("node", "list", "--json"))
    node_id = listed["node_id"]
    shown = until_shown(node_id, "ready")
    assert [line.split()[0] for line in shown.splitlines()] == [
        "id", "status", "runtime", "labels", "registered", "capacity", "held", "free",
    ]  # fmt: skip
    assert json.loads(good("node", "show", node_id, "-o", "json"))["node"]["node_id"] == node_id
    table = good("node", "list")
    assert max(len(line) for line in (*shown.splitlines(), *table.splitlines())) <= COLUMNS

    good("node", "cordon", node_id, "--reason", "a new disk")
    assert "why         a new disk" in until_shown(node_id, "cordoned")
    assert "a new disk" in good("node", "list")
    good("node", "uncordon", node_id)
    until_shown(node_id, "ready")

    good("node", "drain", node_id, "--deadline", "60", "--reason", "new kernel")
    drained = until_shown(node_id, "cordoned, drained")
    assert "new kernel" in drained
    assert "empty by" in drained
    good("node", "remove", node_id)
    until_shown(node_id, "ready")


def test_what_cannot_be_done_says_why() -> None:
    """With the exit code of its kind."""
    for verb in ("show", "cordon", "uncordon", "drain", "remove"):
        ended = call("node", verb, "none")
        assert ended.code == 4
        assert "node 'none' not found" in ended.err
    assert call("node", "drain", "none", "--deadline", "-1").code == 2
