"""Holds and filters on the command line and in a program, against a running `coordinator up`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from coordinator.scheduler import TaskHolds, TaskScheduler
from tests.commands import Up, call, up

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ACME = 'task_name == "report" && attributes.customer == "acme"'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("holds") / "home") as started:
        yield started


@pytest.fixture(autouse=True)
def _talk_to_it(cluster: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)


def good(*arguments: str) -> str:
    """Run a command that must succeed, and return its output."""
    ended = call(*arguments)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def submit(task_id: str, customer: str, *more: str) -> None:
    good("task", "submit", "report", "--id", task_id, "--attribute", f"customer={customer}", *more)


def taken(count: int, wait_s: float = 0.0) -> list[str]:
    """Claim and complete so many tasks, as a program does; return their ids, '' where there was none."""

    async def take() -> list[str]:
        ids = []
        async with TaskScheduler() as scheduler:
            for _ in range(count):
                task = await scheduler.get_next_task("w", task_names=["report"], wait_s=wait_s)
                ids.append("" if task is None else task.task_id)
                if task is not None:
                    await scheduler.complete_task(task.task_id)
        return ids

    return asyncio.run(take())


def held() -> list[tuple[str, int]]:
    """Return the holds in force, and how many tasks each keeps, as a program sees them."""

    async def listed() -> list[tuple[str, int]]:
        async with TaskHolds() as holds:
            return [(view.hold_id, view.tasks) for view in await holds.list_holds()]

    return asyncio.run(listed())


def test_a_hold_keeps_tasks_until_it_is_lifted_or_expires() -> None:
    """It is seen who placed it, why, and what it keeps; a task says which hold is in its way."""
    submit("before", "acme")
    assert good("hold", "place", "--where", ACME, "--id", "h", "--reason", "they asked") == "h\n"
    submit("later", "acme")
    submit("other", "blue")
    (shown,) = json.loads(good("hold", "list", "--json"))
    assert (shown["hold"]["where"], shown["hold"]["reason"], shown["tasks"]) == (ACME, "they asked", 2)
    assert shown["hold"]["placed_by"]
    assert "they asked" in good("hold", "get", "h")
    explained = good("task", "explain", "later")
    assert "keeps it: they asked" in explained
    assert "coordinator hold lift h" in explained
    assert taken(2) == ["other", ""]
    good("hold", "place", "--where", ACME, "--id", "short", "--for", "2")
    good("hold", "lift", "h", "--reason", "they are ready")
    assert held() == [("short", 2)]
    assert taken(2, wait_s=10.0) == ["before", "later"]
    assert held() == []


def test_tasks_are_listed_and_cancelled_by_a_filter() -> None:
    """A filter that is none is refused with its place; so is a hold that does not exist."""
    for number in range(5):
        submit(f"many{number}", "many", "--priority", str(number))
    listed = json.loads(good("task", "list", "--where", 'attributes.customer == "many" && priority > 1', "--json"))
    assert [task["task_id"] for task in listed] == ["many4", "many3", "many2"]
    where = 'attributes.customer == "many" and priority in [1, 4]'
    assert good("task", "cancel", "--where", where, "--reason", "r", "--rate", "1000").split() == ["many4", "many1"]
    left = good("task", "list", "--where", 'attributes.customer == "many"', "--status", "pending", "--json")
    assert [task["task_id"] for task in json.loads(left)] == ["many3", "many2", "many0"]
    wrong = call("hold", "place", "--where", "colour == 1")
    assert wrong.code == 5
    assert "character 1: 'colour' is not a field" in wrong.err
    assert call("hold", "lift", "none").code == 4
    assert call("task", "cancel").code == call("task", "cancel", "many0", "--where", "true").code == 2
