"""The command line against a running `coordinator up`."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.client import Client
from coordinator.commands.acting import acting
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.service import RegisterService
from coordinator.commands.task import ClaimTasks, FailTask
from coordinator.commands.worker import RegisterWorker
from events.container import ContainerStatus
from tests.commands import PROGRAM, Up, call, run, running, up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordinator.commands.command import Command

pytestmark = pytest.mark.e2e

ENDED_KEPT = 30
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-11111111111111111111111111111111-2222222222222222-00"
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\nb\x9b31m\u202eevil"
HANDLERS = """
from coordinator.worker import task

@task("double")
def double(payload):
    return payload * 2

@task("fail")
def fail(payload):
    raise ValueError(payload)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One cluster for all tests here; it evicts ended tasks early."""
    with up(tmp_path_factory.mktemp("cli") / "home", COORDINATOR_ENGINE__ENDED_KEPT=str(ENDED_KEPT)) as started:
        yield started


@pytest.fixture(autouse=True)
def _talk_to_it(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)


def ask(cluster: Up, *commands: Command) -> list[Any]:
    """Send commands and questions as another program would."""

    async def all_of_them() -> list[Any]:
        async with Client.open(cluster.url, source="other") as client:
            return [await client.execute(command) for command in commands]

    return asyncio.run(all_of_them())


def good(*arguments: str) -> str:
    """Run a command that must succeed, and return its output; it prints no errors."""
    ended = call(*arguments)
    noted = [line for line in ended.err.splitlines() if not line.startswith("note: ")]  # that no worker can run a task
    assert (ended.code, noted) == (0, []), ended
    return ended.out


def bad(code: int, *arguments: str) -> str:
    """Run a command that must fail with *code*, and return its one error line; it prints no data."""
    ended = call(*arguments)
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("coordinator: ")
    return ended.err


def facts(printed: str) -> dict[str, str]:
    """Parse the output about one thing."""
    return {name: value.strip() for name, _, value in (line.partition("  ") for line in printed.splitlines())}


def is_tame(printed: str) -> bool:
    """Return whether the text has no control characters that could drive a terminal."""
    return all(one.isprintable() or one == "\n" for one in printed)


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_is_submitted_shown_and_called_off() -> None:
    """`submit` prints only the id, `get` prints the task, `cancel` ends it."""
    task_id = good("task", "submit", "unknown", "--priority", "7", "--payload", '{"a": 1}').strip()
    assert task_id.startswith("task_")
    shown = facts(good("task", "get", task_id))
    assert [shown[name] for name in ("id", "name", "status", "priority")] == [task_id, "unknown", "pending", "7"]
    assert good("task", "cancel", task_id, "--reason", "no need") == ""
    assert json.loads(good("task", "get", task_id, "--json"))["status"] == "cancelled"


def test_json_is_the_same_by_either_option() -> None:
    """`-o json` and `--json` print one value that a program can read."""
    made = json.loads(good("task", "submit", "nobody", "-o", "json"))
    (task_id,) = made.values()
    assert list(made) == ["task_id"]
    for form in (["-o", "json"], ["--json"]):
        assert json.loads(good("task", "get", task_id, *form))["task_id"] == task_id
        assert task_id in {task["task_id"] for task in json.loads(good("task", "list", *form))}
    assert good("task", "cancel", task_id) == ""


def test_the_same_id_is_the_same_task() -> None:
    """Submitting the same task again succeeds; submitting something else under that id is refused."""
    assert good("task", "submit", "nobody", "--id", "mine", "--payload", "1") == "mine\n"
    assert good("task", "submit", "nobody", "--id", "mine", "--payload", "1") == "mine\n"
    assert "'mine'" in bad(5, "task", "submit", "nobody", "--id", "mine", "--payload", "2")
    assert good("task", "cancel", "mine") == ""


def test_lists_are_newest_first_and_by_status() -> None:
    """`list` prints up to the given number of tasks of one status."""
    made = [good("task", "submit", "nobody").strip() for _ in range(3)]
    listed = [line.split()[0] for line in good("task", "list", "--status", "pending", "--limit", "2").splitlines()]
    assert listed == ["ID", made[2], made[1]]
    for task_id in made:
        good("task", "cancel", task_id)
    assert good("task", "list", "--status", "running").splitlines() == [
        "ID  NAME  STATUS  PRIORITY  ATTEMPT  WORKER  SUBMITTED  ENDED"
    ]


def test_what_is_wrong_with_a_task_is_told() -> None:
    """Something unknown gives 4, something refused gives 5 with the value, and no data is printed."""
    assert "task 'task_none' not found: it never existed" in bad(4, "task", "get", "task_none")
    assert "task_none" in bad(4, "task", "cancel", "task_none")
    assert "task_id 'a.b' is not an identifier: use 1 to 64" in bad(5, "task", "get", "a.b")
    assert "'a b' is not an identifier" in bad(5, "task", "submit", "n", "--id", "a b")
    assert "max_retries" in bad(5, "task", "submit", "n", "--max-retries", "-1")
    assert "'2 cores'" in bad(5, "task", "submit", "n", "--cpu", "2 cores")
    assert "cannot be written as JSON" in bad(5, "task", "submit", "\ud800")
    assert bad(5, "task", "get", HOSTILE).strip().isprintable()


def test_budgets_are_defined_shown_and_corrected() -> None:
    """In tokens and in money, which is a decimal number; what a task may spend, and what it cannot."""
    good("prices", "set", "v1", "--price", "m=2.50,10,0.25", "--reason", "new")
    good("prices", "set", "v2", "--add", "--price", "x:y=1,2")
    shown = [one.split() for one in good("prices", "get").splitlines()[-2:]]
    assert shown == [["m", "2.50", "10.00", "0.25"], ["x:y", "1.00", "2.00"]]
    of_team = ("--by", "attributes.team", "--window", "none", "--reason", "trial")
    good("budget", "define", "t", "--tokens", "5000", *of_team)
    floor = ("--floor", "0.01", "--floor-for", "priority > 5")
    good("budget", "define", "m", "--money", "0.05", "--where", 'task_name == "dear"', *floor, "--stop", "kill")
    spends = ("--model", "m", "--input-tokens", "3000", "--output-tokens", "500")
    made = good("task", "submit", "think", *spends, "--attribute", "team=acme", "--json")
    task_id = json.loads(made)["task_id"]
    assert "may spend   3,000 tokens in, 500 out of m" in good("task", "get", task_id).replace("       ", "   ")
    dear = call("task", "submit", "dear", *spends, "--money", "0.03")
    assert (dear.code, "over_budget" in dear.err or "may spend only 40000" in dear.err) == (5, True), dear
    good("budget", "correct", "t", "--key", "acme", "--tokens", "2000", "--reason", "late bill")
    told = " ".join(good("task", "explain", task_id).split())
    assert "of the budget t of 'acme' only 3,000 tokens are left" in told, told
    assert good("budget", "get", "t").splitlines()[-1].split() == [
        "acme",
        "2,000",
        "0",
        "3,000",
        "0",
        "2,000",
        "0",
        "1",
    ]
    assert [line.split()[0] for line in good("budget", "list").splitlines()[1:]] == ["m", "t"]
    assert "0.01 for priority > 5" in good("budget", "get", "m")
    wrong = (
        "define b", "define b --tokens 1 --money 1", "define b --money 1 --floor x", "define b --tokens 1 --floor x",
        "define b --money 0.0000001", "define b --money nan", "correct t", "correct t --money 1",
    )  # fmt: skip
    for line in (*(f"budget {one}" for one in wrong), "prices set v3 --price m=1", "prices set v3 --price m=1,x"):
        assert call(*line.split()).code == 2, line
    good("task", "cancel", task_id)
    good("budget", "remove", "t")
    good("budget", "remove", "m")


def test_a_plan_submits_nothing() -> None:
    """It says what `task explain` would; so does a submit with --plan."""
    before = good("task", "list", "--json")
    planned = good("task", "plan", "nobody's", "--gpu", "1", "--id", "planned")
    assert planned.splitlines()[0] == "planned: pending for 0.0 s"
    assert good("task", "submit", "nobody's", "--gpu", "1", "--id", "planned", "--plan") == planned
    assert json.loads(good("task", "plan", "n", "--json"))["status"] == "pending"
    assert good("task", "list", "--json") == before
    assert call("task", "plan", "n", "--queue", "none").code == 5
    assert call("task", "plan").code == 2


def test_waiting_for_a_task_that_nobody_runs_times_out() -> None:
    """A wait that times out exits with 6, on time, and prints the task's status."""
    began = time.monotonic()
    ended = call("task", "submit", "nobody", "--wait", "0.3")
    assert time.monotonic() - began < 20
    assert ended.code == 6
    assert facts(ended.out)["status"] == "pending"
    assert ended.err == "task has not ended yet; its status is pending\n"
    good("task", "cancel", facts(ended.out)["id"])


def test_a_worker_runs_tasks_and_the_exit_code_tells_how_they_ended(cluster: Up, tmp_path: Path) -> None:
    """Completed gives 0 with the result, failed gives 1 with the error; a stopped worker exits cleanly."""
    handlers = tmp_path / "handlers.py"
    handlers.write_text(HANDLERS)
    with running(
        *("worker", "run", str(handlers), "--id", "w", "--slots", "2", "--cpu", "500m", "--memory", "1Gi"),
        written=tmp_path / "worker.out",
    ) as worker:
        worker.until_written("worker_registered")
        ended = call("task", "submit", "double", "--payload", "21", "--cpu", "0.5", "--wait", "20")
        assert (ended.code, facts(ended.out)["result"]) == (0, "42"), ended
        ended = call("task", "submit", "double", "--payload", "21", "--cpu", "0.6", "--id", "too_much", "--wait", "0.5")
        assert (ended.code, facts(ended.out)["status"]) == (6, "pending"), ended
        good("task", "cancel", "too_much")
        ended = call("task", "submit", "fail", "--payload", '"no"', "--max-retries", "0", "--wait", "20")
        failed = facts(ended.out)
        assert (ended.code, failed["status"], failed["error"]) == (1, "failed", "ValueError: no"), ended
        assert call("task", "get", failed["id"], "--wait", "5").code == 1
        assert call("task", "get", failed["id"]).code == 0
        assert worker.stop() == 0


def test_what_the_writer_has_forgotten_is_found_in_the_read_model(cluster: Up) -> None:
    """A task that was evicted from the writer's memory is still shown, and waiting for its end returns at once."""
    first = failed_task(cluster, "it broke")
    remembered = good("task", "get", first, "--json")
    for number in range(ENDED_KEPT + 5):
        good("task", "submit", "nobody", "--id", f"filler_{number}")
        good("task", "cancel", f"filler_{number}")
    assert first not in good("task", "list", "--limit", "1000")
    shown = facts(good("task", "get", first))
    assert (shown["id"], shown["status"], shown["error"]) == (first, "failed", "it broke")
    assert good("task", "get", first, "--json") == remembered
    assert call("task", "get", first, "--wait", "30").code == 1


def failed_task(cluster: Up, error: str) -> str:
    """Make a task fail; return its id."""
    task_id = good("task", "submit", "long_ago", "--payload", "5").strip()
    claim = ClaimTasks(claim_id=f"claim_{task_id}", worker_id="other", slots=1)
    (given,) = ask(cluster, RegisterWorker(worker_id="other"), claim)[1]
    ask(cluster, FailTask(task_id=task_id, lease=given.lease, error=error, retry=False))
    return task_id


def test_what_somebody_sent_cannot_drive_the_terminal(cluster: Up) -> None:
    """An error full of escape sequences is shown with them escaped, in a table, in JSON and among events."""
    task_id = failed_task(cluster, HOSTILE)
    shown, as_json = good("task", "get", task_id), good("task", "get", task_id, "--json")
    tail = good("events", "tail", "--no-follow", "--type", "task.failed")
    assert is_tame(shown)
    assert is_tame(as_json)
    assert is_tame(tail)
    assert facts(shown)["error"].startswith(r"a\x1b[2J\x1b]0;owned")
    assert r"error=a\x1b[2J" in tail
    assert json.loads(as_json)["error"] == HOSTILE


def test_a_worker_without_handlers_is_refused(tmp_path: Path) -> None:
    """A module that is missing or has no handlers is named."""
    assert "no_such_module" in bad(5, "worker", "run", "no_such_module")
    empty = tmp_path / "empty.py"
    empty.touch()
    assert "module empty has no handlers" in bad(5, "worker", "run", str(empty))
    (tmp_path / "handlers.py").write_text(HANDLERS)
    assert "cpu '2x' is not a quantity" in bad(5, "worker", "run", str(tmp_path / "handlers.py"), "--cpu", "2x")


# --- services and containers ------------------------------------------------------------------------------------------


def test_services_are_listed_with_what_they_last_said(cluster: Up) -> None:
    """Services are listed by name and status, with their endpoints."""
    ask(
        cluster,
        RegisterService(service_id="s1", service_name="embed", service_type="model", host="localhost", port=8001),
        RegisterService(service_id="s2", service_name="rank", service_type="model", host="localhost", port=8002),
    )
    lines = good("service", "list", "--name", "embed", "--status", "healthy").splitlines()
    assert lines[0].split()[:5] == ["ID", "NAME", "TYPE", "ADDRESS", "STATUS"]
    assert [line.split()[:5] for line in lines[1:]] == [["s1", "embed", "model", "localhost:8001", "healthy"]]
    listed = json.loads(good("service", "list", "--json"))
    assert {"s1", "s2"} <= {one["service"]["service_id"] for one in listed}
    assert good("service", "list", "--status", "offline", "--json") == "[]\n"


def test_containers_are_listed_and_their_logs_read(cluster: Up) -> None:
    """A started agent is listed as running, and its output is printed, on request only the last lines."""
    ask(
        cluster,
        CreateContainer(
            container_id="box",
            agent_id="a",
            agent_type="task_agent",
            environment={"COORDINATOR_HANDLERS": "coordinator.demo.handlers"},
        ),
        StartContainer(container_id="box"),
        GetContainer(container_id="box", unless=(ContainerStatus.STARTING,), wait_s=20),
    )
    (line,) = [line for line in good("container", "list").splitlines() if line.startswith("box ")]
    assert line.split()[:4] == ["box", "a", "task_agent", "running"]
    (listed,) = json.loads(good("container", "list", "--json"))
    assert (listed["container_id"], listed["status"]) == ("box", "running")
    give_up = time.monotonic() + 20
    while "worker_registered" not in good("container", "logs", "box"):
        assert time.monotonic() < give_up, good("container", "logs", "box")
        time.sleep(0.05)
    assert len(good("container", "logs", "box", "-n", "1").splitlines()) == 1
    assert "'nowhere'" in bad(4, "container", "logs", "nowhere")


def test_a_tenant_and_a_trace_go_through(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the options or environment of a command, and from a container to the service of its agent and the log."""
    monkeypatch.setenv("TRACEPARENT", OTHER_TRACE)
    for options, tenant, trace in (
        (["--tenant", "blue", "--traceparent", TRACE], "blue", TRACE),
        ([], "default", OTHER_TRACE),
    ):
        task_id = good("task", "submit", "nobody", *options).strip()
        found = json.loads(good("task", "get", task_id, "--json"))
        assert (found["tenant"], found["traceparent"]) == (tenant, trace)
        good("task", "cancel", task_id)
    assert "format of W3C Trace Context" in bad(5, "task", "submit", "nobody", "--traceparent", "odd")
    monkeypatch.setenv("COORDINATOR_CLIENT__TENANT", "green")
    assert facts(good("task", "get", good("task", "submit", "nobody", "--id", "of-green").strip()))["tenant"] == "green"
    good("task", "cancel", "of-green", "--tenant", "red")
    monkeypatch.undo()
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    with acting(tenant="blue", traceparent=TRACE):
        ask(
            cluster,
            CreateContainer(container_id="traced", agent_id="a", agent_type="task_agent"),
            StartContainer(container_id="traced"),
            GetContainer(container_id="traced", unless=(ContainerStatus.STARTING,), wait_s=20),
        )
    give_up = time.monotonic() + 20
    while "traced" not in good("service", "list"):
        assert time.monotonic() < give_up, good("container", "logs", "traced")
        time.sleep(0.1)
    by_id = {event["id"]: event for event in events("-n", "1000")}
    (service,) = [one for one in by_id.values() if (one["type"], one["subject"]) == ("service.registered", "traced")]
    assert (service["tenant"], service["traceparent"]) == ("blue", TRACE)
    assert by_id[service["causationid"]]["subject"] == "traced"
    of_it = [one for one in by_id.values() if one["subject"] == "traced"]
    assert {(one["tenant"], one["traceparent"]) for one in of_it if one["type"].startswith("container.")} == {
        ("blue", TRACE)
    }
    lines = [json.loads(line) for line in cluster.written.splitlines() if '"container_started"' in line]
    assert [(one["tenant"], one["trace_id"]) for one in lines if one["container_id"] == "traced"] == [
        ("blue", TRACE[3:35])
    ]


# --- events -----------------------------------------------------------------------------------------------------------


def events(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in good("events", "tail", "--no-follow", "--json", *arguments).splitlines()]


def test_events_are_printed_from_any_point_and_of_any_type() -> None:
    """`-n` limits how many events back, `--since` sets the position to start at, `--type` the beginning of types."""
    for number in range(4):
        good("task", "submit", "nobody", "--id", f"event_{number}")
        good("task", "cancel", f"event_{number}")
    last = events("-n", "8")
    assert [event["type"] for event in last] == ["task.submitted", "task.cancelled"] * 4
    cancelled = events("-n", "2", "--type", "task.cancelled")
    assert [event["subject"] for event in cancelled] == ["event_2", "event_3"]
    assert events("--since", last[5]["id"]) == last[5:]
    assert events("--since", last[5]["id"], "--type", "task.submitted") == [last[6]]
    assert events("-n", "0") == events("--since", "999999.0") == []
    assert events("--since", last[5]["time"])[-3:] == last[5:]
    assert events("--since", last[5]["id"], "--kind", "task.submitted", "--kind", "node.*") == [last[6]]
    assert "the nearest is 'task.*'" in bad(5, "events", "tail", "--kind", "tsk.*")
    everything = events("--since", "0.0")
    assert everything[0]["type"] == "coordinator.started"
    assert everything == events("-n", "100000")
    assert events("-n", "1", "--type", "node.registered")[0]["type"] == "node.registered"
    line = good("events", "tail", "--no-follow", "-n", "1").split()
    assert line[1:4] == [last[-1]["id"], "task.cancelled", "event_3"]


def test_events_are_followed_as_they_happen(tmp_path: Path) -> None:
    """An event committed after the start is printed at once, and Ctrl-C ends it with 130 and no message."""
    with running("events", "tail", "-n", "1", written=tmp_path / "tail.out") as tail:
        tail.until(lambda: tail.written.count("\n") >= 1)
        good("task", "submit", "nobody", "--id", "seen")
        assert tail.until_written("task.submitted         seen") < 5
        good("task", "cancel", "seen")
        tail.until_written("task.cancelled         seen")
        assert tail.stop(signal.SIGINT) == 130
        assert "Traceback" not in tail.written


def test_a_reader_that_has_seen_enough_ends_what_is_followed() -> None:
    """`events tail | head -1` ends at once with 0 without waiting for another event, and prints no error."""
    line = f"{' '.join(PROGRAM)} events tail -n 1 | head -1; exit ${{PIPESTATUS[0]}}"
    began = time.monotonic()
    ended = subprocess.run(["bash", "-c", line], capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.count(b"\n") == 1
    assert time.monotonic() - began < 10


# --- which coordinator ------------------------------------------------------------------------------------------------


def test_it_finds_what_runs_here(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address the command uses the `up` of this user, found by its running.json."""
    monkeypatch.delenv("COORDINATOR_URL")
    monkeypatch.setenv("COORDINATOR_HOME", str(cluster.home))
    good("task", "list")


def test_what_runs_is_told_to_its_owner_alone(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    """`running.json` is 0600; facades find it too; no log contains the token; a second `up` is refused with the pid."""
    file = cluster.home / "running.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = json.loads(file.read_bytes())
    assert (told["pid"], told["url"]) == (cluster.pid, cluster.url)
    token = told["url"].removeprefix("nats://").partition("@")[0]
    assert len(token) > 20
    assert token not in cluster.written
    monkeypatch.delenv("COORDINATOR_URL")
    monkeypatch.setenv("COORDINATOR_HOME", str(cluster.home))
    task_id = good("task", "submit", "nobody").strip()
    assert asyncio.run(seen_by_facades(task_id)) == task_id
    assert f"in use by the up of process {cluster.pid}: stop it, or set COORDINATOR_HOME" in bad(5, "up")
    good("task", "cancel", task_id)


async def seen_by_facades(task_id: str) -> str:
    from coordinator.scheduler import TaskScheduler

    async with TaskScheduler() as scheduler:
        task = await scheduler.get_task(task_id)
        assert task is not None
        return str(task.task_id)


def test_a_wrong_token_is_not_permitted(cluster: Up) -> None:
    """Exit code 7, and the message does not contain the token."""
    said = bad(7, "task", "list", "--url", f"nats://wr0ng@{cluster.url.rpartition('@')[2]}")
    assert "credentials" in said
    assert "wr0ng" not in said


def test_where_nobody_leads_it_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 8 after the time-out of calls."""
    monkeypatch.setenv("COORDINATOR_CLIENT__CALL_TIMEOUT_S", "0.5")
    monkeypatch.setenv("COORDINATOR_CLIENT__ATTEMPT_TIMEOUT_S", "0.2")
    monkeypatch.setenv("COORDINATOR_NAMESPACE", "elsewhere")
    began = time.monotonic()
    assert "nobody listens" in bad(8, "task", "list")
    assert time.monotonic() - began < 20


# --- terminals, pipes, signals ----------------------------------------------------------------------------------------


def test_in_a_process_of_its_own_it_does_the_same() -> None:
    """Data goes to standard output, and the exit code is that of the command."""
    assert run("task", "submit", "nobody", "--id", "own")[:2] == (0, "own\n")
    good("task", "cancel", "own")
    ended = run("task", "get", "none")
    assert (ended.code, ended.out) == (4, "")


def test_ctrl_c_while_waiting_is_130(tmp_path: Path) -> None:
    """An interrupt ends a waiting command at once, without a traceback."""
    with running(
        "task", "submit", "nobody", "--id", "waited", "--wait", "60", written=tmp_path / "submit.out"
    ) as waiting:
        waiting.until(lambda: call("task", "get", "waited").code == 0)
        began = time.monotonic()
        assert waiting.stop(signal.SIGINT) == 130
        assert time.monotonic() - began < 20
        assert waiting.written == ""
    good("task", "cancel", "waited")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_gets_a_table_and_no_color_a_plain_one(no_color: str) -> None:
    """On a terminal headings are styled, with NO_COLOR they are not; ids are complete in both."""
    main, terminal = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "70", "NO_COLOR": no_color}
    process = subprocess.Popen([*PROGRAM, "task", "list", "--limit", "3"], stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    written = b""
    with os.fdopen(main, "rb", buffering=0) as screen:
        try:
            while chunk := screen.read(65_536):
                written += chunk
        except OSError:  # a pseudo-terminal ends with this error
            pass
    assert process.wait(20) == 0
    assert b"ID" in written
    assert (b"\x1b[" in written) is not bool(no_color)


def test_a_stopped_cluster_is_unavailable(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is frozen a command gives up on time with 8; afterwards it works again."""
    monkeypatch.setenv("COORDINATOR_CLIENT__CALL_TIMEOUT_S", "1")
    monkeypatch.setenv("COORDINATOR_CLIENT__ATTEMPT_TIMEOUT_S", "0.5")
    monkeypatch.setenv("COORDINATOR_NATS__CONNECT_TIMEOUT_S", "1")
    (ports,) = (cluster.home / "nats").glob("*.ports")
    server = int(ports.stem.rpartition("_")[2])
    os.kill(server, signal.SIGSTOP)
    try:
        began = time.monotonic()
        bad(8, "task", "list")
        assert time.monotonic() - began < 20
    finally:
        os.kill(server, signal.SIGCONT)
    monkeypatch.setenv("COORDINATOR_CLIENT__CALL_TIMEOUT_S", "20")
    good("task", "list")
