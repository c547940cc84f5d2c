"""`coordinator container …` against a running `coordinator up` with a real node agent."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import call, running, up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Up

pytestmark = pytest.mark.e2e

PATIENCE_S = 20.0
SETTINGS = """
agents:
  deaf: {command: ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], stop_grace_s: 60}
  slow: {command: ["sh", "-c", "trap '' TERM; echo slow; while :; do sleep 0.1; done"], stop_grace_s: 3}
  ill: {command: ["sh", "-c", "echo ill; exit 3"]}
  hopeless: {command: ["sh", "-c", "exit 4"], restart: {attempts: 0}}
  idle: {command: ["sh", "-c", "echo begun $COORDINATOR_GENERATION $COLOUR; exec sleep 600"]}
container: {default_timeout: 5, restart_backoff_s: 200}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("containers")
    (folder / "settings.yaml").write_text(SETTINGS)
    with up(folder / "home", COORDINATOR_CONFIG=str(folder / "settings.yaml")) as started:
        yield started


@pytest.fixture(autouse=True)
def _talk_to_it(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    monkeypatch.setenv("COORDINATOR_CONTAINER__DEFAULT_TIMEOUT", "5")


def good(*words: str) -> str:
    """Run a command that must succeed without a word on standard error, and return its output."""
    ended = call("container", *words)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def bad(code: int, *words: str) -> str:
    """Run a command that must end with *code*, and return what it said."""
    ended = call("container", *words)
    assert ended.code == code, ended
    return ended.err


def shown(container_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(good("show", container_id, "--json"))
    return found


def until(seen: Any) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < give_up, call("container", "list").out
        time.sleep(0.05)


def test_a_life_on_the_command_line(cluster: Up) -> None:
    """Each command returns when it has happened on the node, and says what the container is then."""
    made = good("create", "idle", "--cpu", "100m", "--memory", "16Mi", "--env", "COLOUR=blue green").strip()
    assert shown(made)["container"]["environment"] == {"COLOUR": "blue green"}
    assert good("start", made) == "running\n"
    first = shown(made)["container"]["generation"]
    until(lambda: good("logs", made) == f"begun {first} blue green\n")
    assert good("pause", made) == "paused\n"
    assert "resume it" in bad(5, "start", made)
    assert json.loads(good("resume", made, "--json"))["status"] == "running"
    assert good("usage", made).startswith("cpu ")
    assert json.loads(good("usage", made, "-o", "json"))["pids"] >= 1
    assert good("restart", made) == "running\n"
    second = shown(made)["container"]["generation"]
    assert second != first
    until(lambda: good("logs", made) == f"begun {second} blue green\n")
    assert good("logs", made, "--previous") == f"begun {first} blue green\n"
    assert good("stop", made, "--reason", "lunch") == "stopped\n"
    assert ["why", "lunch"] in [line.split() for line in good("show", made).splitlines()]
    assert "is not running" in bad(4, "usage", made)
    assert good("restart", made, "--no-wait") in {"starting\n", "running\n"}
    assert good("destroy", made, "--force") == "destroyed\n"
    assert "coordinator container create idle" in good("show", made)
    assert "'nobody'" in bad(4, "start", "nobody")


def test_what_is_wrong_is_said_before_it_is_sent(cluster: Up) -> None:
    """An unknown type, no room, and a variable without a value."""
    assert "use one of deaf, hopeless, idle, ill, slow, task_agent" in bad(5, "create", "nothing")
    assert "no node has room" in bad(3, "create", "idle", "--memory", "7Pi")
    assert "is not NAME=VALUE" in bad(2, "create", "idle", "--env", "COLOUR")
    assert good("create", "idle", "--id", "same") == good("create", "idle", "--id", "same") == "same\n"
    assert "use a new id" in bad(5, "create", "idle", "--id", "same", "--secret", "KEY=key")


def test_what_fails_says_how_and_what_to_do(cluster: Up) -> None:
    """A container that ends at once is in error, with its last exit and a step for each way out."""
    good("create", "ill", "--id", "sick")
    call("container", "start", "sick")  # it may have run for a moment
    until(lambda: shown("sick")["container"]["status"] == "error")
    found = shown("sick")
    assert found["container"]["last_exit"]["exit_code"] == 3
    assert [one["run"].split()[2] for one in found["next"]] == ["logs", "start", "stop", "destroy"]
    table = good("show", "sick")
    assert "exit code 3" in table
    assert "wrote before it failed:\n  ill\n" in table
    assert max(map(len, table.partition("what to do:")[2].splitlines())) <= 80
    assert good("logs", "sick") == "ill\n"
    assert good("stop", "sick") == "stopped\n"


def test_what_was_given_up_says_so(cluster: Up) -> None:
    """Its policy, how many failures there were, and that it does not start by itself any more."""
    good("create", "hopeless", "--id", "lost-cause")
    call("container", "start", "lost-cause")  # it may have run for a moment
    until(lambda: shown("lost-cause")["container"]["status"] == "error")
    table = good("show", "lost-cause")
    assert "none: it was given up" in table
    assert "after 0 failures within 600 s it is given up; 1 since" in table
    assert "failure 1 within 0 s, and 0 may be" in table


def test_what_does_not_end_in_time(cluster: Up) -> None:
    """The wait ends with 6 and the container goes on stopping; force ends it."""
    good("create", "deaf", "--id", "deaf")
    good("start", "deaf")
    until(lambda: good("logs", "deaf") == "deaf\n")
    assert "deaf is stopping after 5 s" in bad(6, "stop", "deaf")
    assert "stop deaf --force" in good("show", "deaf")
    assert good("stop", "deaf", "--force") == "stopped\n"


def test_a_restart_that_is_interrupted_can_be_finished(cluster: Up, tmp_path: Path) -> None:
    """It leaves a container that is stopping or stopped, with its reason, and the word for the next step."""
    good("create", "slow", "--id", "half")
    good("start", "half")
    until(lambda: good("logs", "half") == "slow\n")
    environment = {"COORDINATOR_URL": cluster.url, "COORDINATOR_CONTAINER__DEFAULT_TIMEOUT": "60"}
    with running("container", "restart", "half", written=tmp_path / "said", **environment) as restart:
        until(lambda: shown("half")["container"]["status"] == "stopping")
        assert restart.stop(signal.SIGINT) == 130
        assert "it may stay stopped" in restart.written
    until(lambda: shown("half")["container"]["status"] == "stopped")
    found = shown("half")
    assert found["container"]["reason"] == "restart"
    assert "finishes its restart" in found["next"][0]["does"]
    assert good(*found["next"][0]["run"].split()[2:]) == "running\n"


def test_logs_are_followed_over_a_restart(cluster: Up, tmp_path: Path) -> None:
    """Until the container is destroyed, or until Ctrl-C, which is no error; `--previous` has an end already."""
    good("create", "idle", "--id", "told")
    environment = {"COORDINATOR_URL": cluster.url}
    with (
        running("container", "logs", "told", "-f", written=tmp_path / "one", **environment) as one,
        running("container", "logs", "told", "--follow", written=tmp_path / "two", **environment) as two,
    ):
        good("start", "told")
        first = shown("told")["container"]["generation"]
        for reader in (one, two):
            reader.until_written(f"begun {first}\n")
        good("restart", "told")
        second = shown("told")["container"]["generation"]
        for reader in (one, two):
            reader.until_written(f"begun {second}\n")
        assert two.stop(signal.SIGINT) == 0
        good("destroy", "told", "--force")
        assert one.ended() == 0
        assert one.written == two.written == f"begun {first}\nbegun {second}\n"
    assert "either --follow or --previous" in bad(2, "logs", "told", "-f", "-p")
    assert "'nobody'" in bad(4, "logs", "nobody", "-f")
