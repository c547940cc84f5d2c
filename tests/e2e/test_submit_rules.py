"""Who may submit which task, and who runs it, with real users on a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.container import CreateContainer, StartContainer
from coordinator.commands.explain import ExplainTask, PlanTask
from coordinator.commands.payloads import payload_of
from coordinator.commands.schedule import DefineSchedule
from coordinator.commands.task import CompleteTask, GetTask, SubmitTask
from coordinator.commands.worker import ListWorkers
from coordinator.home import Home
from coordinator.processes.up import run_cluster
from coordinator.settings.load import load
from coordinator.task_groups import task_group
from coordinator.worker import Worker
from events.errors import Forbidden
from events.publisher import EventPublisher
from events.schedule import TaskContent
from events.task import TaskStatus
from tests.secured import secured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.client.client import Client
    from tests.secured import Secured

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
RULES = """
security:
  tasks:
    secret: {users: [execution, admin], task_names: ["secret_*"], agent_types: [task_agent]}
    common: {task_names: [double, "nightly*"]}
"""
HANDLERS = """
from coordinator.worker import task

@task("secret_double")
async def secret(payload: int) -> int:
    return payload * 2
"""


@asynccontextmanager
async def leading(server: Secured, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run what `coordinator up` runs, each part as its own user, with the rules."""
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    for name, value in {**server.environment, "COORDINATOR_CONFIG": str(rules)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COORDINATOR_HOME", str(folder / "home"))
    async with run_cluster(Home(folder / "home"), load(), quiet=True):
        yield


async def test_tasks_are_submitted_and_run_by_those_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over RPC, from an inbox, by a schedule and in a plan; what is bound to agents does not run elsewhere."""
    (tmp_path / "secret_handlers.py").write_text(HANDLERS)
    async with (
        secured(tmp_path / "auth") as server,
        leading(server, tmp_path, monkeypatch),
        server.client("domain", "execution") as execution,
        server.client("domain", "monitoring") as monitoring,
        task_group() as tasks,
    ):
        worker = Worker("any", url=server.url, creds=server.creds("worker", "w1"), tls_ca=server.authority)
        for name in ("double", "secret_double"):
            worker.task(name)(lambda payload: payload * 2)
        working = tasks.create_task(worker.run())
        await _refused_to(monitoring, server)
        await monitoring.execute(SubmitTask(task_id="common", task_name="double", payload=payload_of(21)))
        done = await monitoring.execute(GetTask(task_id="common", wait_s=PATIENCE_S))
        assert (done.status, done.worker_id, done.rule, done.rule_filter) == (TaskStatus.COMPLETED, "w1", "common", "")
        await execution.execute(SubmitTask(task_id="mine", task_name="secret_double", payload=payload_of(21)))
        found = await execution.execute(ExplainTask(task_id="mine"))
        assert [(one.code, one.blockers[0].id) for one in found.reasons] == [("not_permitted", "secret")]
        with pytest.raises(Forbidden, match="rule secret lets task 'mine' run only where agent_type in"):
            await execution.execute(CompleteTask(task_id="mine"))
        environment: dict[str, Any] = {"COORDINATOR_HANDLERS": str(tmp_path / "secret_handlers.py")}
        await execution.execute(
            CreateContainer(container_id="c1", agent_id="a1", agent_type="task_agent", environment=environment)
        )
        await execution.execute(StartContainer(container_id="c1"))
        done = await execution.execute(GetTask(task_id="mine", wait_s=PATIENCE_S))
        assert (done.status, done.worker_id, done.rule) == (TaskStatus.COMPLETED, "c1", "secret")
        assert {one.worker_id for one in await execution.execute(ListWorkers())} == {"w1", "c1"}
        worker.stop()
        await working


async def _refused_to(monitoring: Client, server: Secured) -> None:
    """What one user may not submit is refused on every way, and the command line says why."""
    secret = SubmitTask(task_id="theirs", task_name="secret_double")
    for command in (
        secret,
        PlanTask(task=secret),
        DefineSchedule(schedule_id="s", every_s=60, task=TaskContent(task_name="secret_double")),
    ):
        with pytest.raises(
            Forbidden, match="'monitoring' may not submit task 'secret_double' to queue 'default'"
        ) as no:
            await monitoring.execute(command)
        assert no.value.message.endswith("the nearest, secret, is for users execution, admin")
    creds = server.creds("domain", "monitoring")
    listed = [sys.executable, "-m", "coordinator.cli", "inbox", "add", "monitoring"]
    await asyncio.to_thread(subprocess.run, listed, capture_output=True, timeout=60, check=True)
    async with EventPublisher.open(server.url, domain="monitoring", creds=creds, tls_ca=server.authority) as publisher:
        await publisher.publish("task.submitted", {"task_name": "secret_double"}, subject="by-inbox")
    async with asyncio.timeout(PATIENCE_S):
        while not (refused := await asyncio.to_thread(_refusals)):  # noqa: ASYNC110  # it is asked
            await asyncio.sleep(0.2)
    assert (refused[0]["reason"], refused[0]["event_id"] != "") == ("forbidden", True)
    submitted = [sys.executable, "-m", "coordinator.cli", "task", "submit", "unknown"]
    done = await asyncio.to_thread(subprocess.run, submitted, capture_output=True, timeout=60, check=False)
    assert b"may not submit task 'unknown'" in done.stderr


def _refusals() -> list[dict[str, str]]:
    """Return what was refused from inboxes."""
    argv = [sys.executable, "-m", "coordinator.cli", "events", "tail", "--since", "0.0", "--no-follow", "--json"]
    done = subprocess.run([*argv, "--type", "inbox.refused"], capture_output=True, timeout=60, check=True)
    return [json.loads(line)["data"] for line in done.stdout.splitlines()]
