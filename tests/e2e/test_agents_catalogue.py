"""The catalogue of agents on the command line, and over restarts of a coordinator whose settings change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.commands import call, up

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

SETTINGS = "agents: {reviewer: {command: [sleep, '600'], stop_grace_s: 3}}\n"
LATER = """
agents:
  reviewer: {command: [sleep, '700'], limits: {memory: 64Mi}}
  writer: {image: "images.example/writer:1"}
"""


def told(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of a command, whose errors are part of it."""
    ended = call("agents", *arguments)
    return ended.code, (ended.out + ended.err).strip()


def test_the_journal_holds_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first settings fill it; later ones change nothing, which is said, until they are applied."""
    file, later = tmp_path / "coordinator.yaml", tmp_path / "later.yaml"
    file.write_text(SETTINGS)
    later.write_text(LATER)
    home = tmp_path / "home"
    with up(home, COORDINATOR_CONFIG=str(file)) as cluster:
        monkeypatch.setenv("COORDINATOR_URL", cluster.url)
        assert told("diff", str(file)) == (0, "no difference")
        code, out = told("diff", str(later))
        assert (code, out.splitlines()) == (1, ["~ reviewer: command, stop_grace_s, limits", "+ writer"])
    with up(home, COORDINATOR_CONFIG=str(later)) as cluster:
        monkeypatch.setenv("COORDINATOR_URL", cluster.url)
        assert "agents_differ" in cluster.written
        assert "sleep 600" in told("list")[1]
        assert "differs from agents of these settings: reviewer, writer" in call("--config", str(later), "doctor").out
        assert told("apply", str(later), "--dry-run")[1].splitlines()[-1] == "+ writer"
        assert "sleep 600" in told("list")[1]
        code, out = told("apply", str(later), "--reason", "a writer")
        assert (code, out.splitlines()[-1][:20]) == (0, "the catalogue is now")
        assert told("apply", str(later)) == (0, "no difference")
        shown = json.loads(told("get", "writer", "--json")[1])
        assert shown == {"agent_type": "writer", "agent": {"image": "images.example/writer:1"}}
        assert "a writer" in told("get", "reviewer")[1]
        code, out = told("get", "revewer")
        assert (code, "did you mean reviewer?" in out) == (5, True)
        tail = call("events", "tail", "-n", "1000", "--no-follow", "--kind", "agents.changed", "--json").out
        changed = [json.loads(line) for line in tail.splitlines()]
        assert [one["data"].get("reason", "")[:12] for one in changed] == ["the settings", "a writer"]
