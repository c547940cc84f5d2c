"""Versions of workers: how they are routed, retired and reinstated, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.queue import RouteQueue
from coordinator.commands.task_pause import ResumeTask
from coordinator.commands.version import ReinstateVersion, RetireVersion
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders import version as deciders
from events.queue import DEFAULT, QueueDefined, QueueRouted, Route
from events.task_pause import TaskPaused, TaskResumed
from events.version import VersionReinstated, VersionRetired
from events.worker import WorkerLeft
from tests.specification import BEGIN, given
from tests.unit.deciders.facts import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    INFINITY,
    NAN,
    attempt_failed,
    started,
    submitted,
    worker,
)

TWO = (worker("v", build_id="b1"), worker("w", build_id="b2"))
RAMP = Route(current="b1", ramping="b2", percent=10.0)


def route(current: str = "b1", *, queue_id: str = DEFAULT, **others: Any) -> RouteQueue:
    more = {name: others.pop(name) for name in ("reason", "without_workers") if name in others}
    return RouteQueue(queue_id=queue_id, route=Route(current=current, **others), **more)


# --- registration -----------------------------------------------------------------------------------------------------


def test_a_worker_says_its_build() -> None:
    """Another one is another registration."""
    given().when(RegisterWorker(worker_id="w", build_id="b1")).then(worker(build_id="b1"))
    known = given(worker(build_id="b1"))
    known.when(RegisterWorker(worker_id="w", build_id="b1")).then_nothing()
    known.when(RegisterWorker(worker_id="w", build_id="b2")).then(worker(build_id="b2"))
    assert known.world.workers["w"].build_id == "b2"


@pytest.mark.parametrize("build_id", [one for one in HOSTILE_IDS if one])
def test_a_build_id_is_an_id(build_id: str) -> None:
    """Everywhere; '' says none where that is possible."""
    given().when(RegisterWorker(worker_id="w", build_id=build_id)).then_refused("bad_id")
    given(*TWO).when(route(build_id)).then_refused("bad_id")
    given(*TWO).when(route(ramping=build_id, percent=1.0)).then_refused("bad_id")
    given(*TWO).when(RetireVersion(build_id=build_id)).then_refused("bad_id")
    given(*TWO).when(RetireVersion(build_id="b1", move_to=build_id)).then_refused("bad_id")
    given(*TWO).when(ReinstateVersion(build_id=build_id)).then_refused("bad_id")


# --- routes -----------------------------------------------------------------------------------------------------------


def test_a_queue_is_routed_step_by_step_and_back() -> None:
    """Each step is one event, and the same again changes nothing."""
    facts: list[Any] = list(TWO)
    for percent in (10.0, 50.0, 100.0):
        event = QueueRouted(queue_id=DEFAULT, route=Route(current="b1", ramping="b2", percent=percent), reason="r")
        decided = given(*facts).when(route(ramping="b2", percent=percent, reason="r")).then(event)
        assert decided.world.queues[DEFAULT].route == event.route
        facts.append(event)
        given(*facts).when(route(ramping="b2", percent=percent)).then_nothing()
    back = QueueRouted(queue_id=DEFAULT, route=Route(current="b1"))
    given(*facts).when(route()).then(back).then_answers(given(*facts, back).world.queues[DEFAULT])
    given(*facts).when(RouteQueue()).then(QueueRouted(queue_id=DEFAULT))
    given(*TWO).when(RouteQueue()).then_nothing()


def test_a_route_of_another_queue_is_its_own() -> None:
    """One that does not exist has none."""
    defined = (*TWO, QueueDefined(queue_id="q"))
    given(*defined).when(route(queue_id="q")).then(QueueRouted(queue_id="q", route=Route(current="b1")))
    given(*defined).when(route(queue_id="p")).then_refused("not_found")


@pytest.mark.parametrize(("asked", "reason", "what"), [
    ({"percent": 10.0}, "bad_version", "route.percent 10 needs the build id"),
    ({"ramping": "b1", "percent": 1.0}, "bad_version", "route.ramping 'b1' is the current version"),
    ({"ramping": "b2", "percent": -1.0}, "bad_number", "percent"),
    ({"ramping": "b2", "percent": 100.5}, "bad_number", "percent"),
    ({"ramping": "b2", "percent": NAN}, "bad_number", "percent"),
    ({"ramping": "b2", "percent": INFINITY}, "bad_number", "percent"),
    ({"current": "olds"}, "unknown_version", "no worker with the build id 'olds' is registered; did you mean 'old'?"),
    ({"current": ""}, "unknown_version", "no worker without a build id is registered: start one first, or say"),
    ({"ramping": "mine"}, "unknown_version", "route.ramping: no worker with the build id 'mine' is registered: start"),
    ({"current": "old"}, "bad_version", "route.current 'old' is retired: reinstate it first"),
    ({"ramping": "old", "percent": 5.0}, "bad_version", "route.ramping 'old' is retired"),
])  # fmt: skip
def test_a_route_that_cannot_work_is_refused(asked: dict[str, Any], reason: str, what: str) -> None:
    """With the value, and what would be right."""
    facts = (*TWO, worker("old", build_id="old"), VersionRetired(build_id="old"))
    given(*facts).when(route(**asked)).then_refused(reason, what)


@pytest.mark.parametrize("reason", [*HOSTILE_TEXTS, "x" * 1025])
def test_a_reason_is_a_text(reason: str) -> None:
    """Everywhere."""
    given(*TWO).when(route(reason=reason)).then_refused("bad_text")
    given(*TWO).when(RetireVersion(build_id="b1", reason=reason)).then_refused("bad_text")
    given(*TWO).when(ReinstateVersion(build_id="b1", reason=reason)).then_refused("bad_text")


def test_a_version_may_come_later_if_that_is_said() -> None:
    """Workers that have left are none."""
    gone = (*TWO, WorkerLeft(worker_id="w"))
    given(*gone).when(route("b2")).then_refused("unknown_version")
    given(*gone).when(route("b2", without_workers=True)).then(QueueRouted(queue_id=DEFAULT, route=Route(current="b2")))
    given(worker("v")).when(route("")).then(QueueRouted(queue_id=DEFAULT, route=Route(current="")))
    moved = VersionRetired(build_id="b1", move_to="b9")
    given(*TWO).when(RetireVersion(build_id="b1", move_to="b9")).then_refused("unknown_version")
    given(*TWO).when(RetireVersion(build_id="b1", move_to="b9", without_workers=True)).then(moved)


# --- retirement -------------------------------------------------------------------------------------------------------


def test_a_version_is_retired_and_reinstated() -> None:
    """Its tasks are moved by the same event; another target is another event."""
    retired = VersionRetired(build_id="b1", move_to="b2", reason="r")
    decided = given(*TWO).when(RetireVersion(build_id="b1", move_to="b2", reason="r")).then(retired)
    version = decided.world.versions["b1"]
    assert (version.retired_at, version.move_to, version.retired_by, version.reason) == (BEGIN + 2, "b2", "tester", "r")
    decided.then_answers(None)
    known = (*TWO, retired)
    given(*known).when(RetireVersion(build_id="b1", move_to="b2")).then_nothing()
    given(*known).when(RetireVersion(build_id="b1")).then(VersionRetired(build_id="b1"))
    back = given(*known).when(ReinstateVersion(build_id="b1", reason="s"))
    assert not back.then(VersionReinstated(build_id="b1", reason="s")).then_answers(None).world.versions
    given(*TWO).when(ReinstateVersion(build_id="b1")).then_nothing()


def test_a_version_that_nobody_knows_is_not_retired() -> None:
    """One that only tasks remember is known."""
    near = (worker("v", build_id="main-41"), worker("w", build_id="main-40"))
    meant = "did you mean 'main-41' or 'main-40'?"
    given(*near).when(RetireVersion(build_id="main-42")).then_refused("unknown_version", meant, code="not_found")
    given(worker()).when(RetireVersion(build_id="b3")).then_refused("unknown_version", "no worker has this build id")
    pinned = (worker(), submitted(), started(build_id="b3"), attempt_failed())
    given(*pinned).when(RetireVersion(build_id="b3")).then(VersionRetired(build_id="b3"))


@pytest.mark.parametrize("used", [RAMP, Route(current="b2", ramping="b1", percent=1.0)])
def test_a_version_that_tasks_begin_on_is_not_retired(used: Route) -> None:
    """Nor is it moved to one that is retired, or to itself, so that no move leads in a circle."""
    routed = (*TWO, QueueDefined(queue_id="q"), QueueRouted(queue_id="q", route=used))
    given(*routed).when(RetireVersion(build_id="b1")).then_refused("version_in_use", "tasks of queue 'q'")
    given(*TWO).when(RetireVersion(build_id="b1", move_to="b1")).then_refused("bad_version")
    gone = (*TWO, VersionRetired(build_id="b2", move_to="b1"))
    given(*gone).when(RetireVersion(build_id="b1", move_to="b2")).then_refused("bad_version", "is retired")


def test_so_many_versions_are_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is may be moved elsewhere."""
    monkeypatch.setattr(deciders, "MOST_RETIRED", 1)
    full = (*TWO, VersionRetired(build_id="b1"))
    given(*full).when(RetireVersion(build_id="b2")).then_refused("too_many")
    given(*full).when(RetireVersion(build_id="b1", move_to="b2")).then(VersionRetired(build_id="b1", move_to="b2"))


def test_one_task_is_moved_when_it_is_resumed() -> None:
    """To a version that has workers, or to any; also before it began, and if it would not be pinned."""
    paused = TaskPaused(task_id="t", reason="moved")
    facts = (*TWO, submitted(), started(build_id="b1"), attempt_failed(), paused)

    def resumed(move_to: str | None, *given_facts: Any) -> Any:
        decided = given(*given_facts).when(ResumeTask(task_id="t", move_to=move_to))
        world = decided.then(TaskResumed(task_id="t", move_to=move_to)).world
        return world.tasks["t"].build_id, world.indexes.builds.of(world.tasks["t"]), world.indexes.builds.pinned

    assert resumed(None, *facts) == ("b1", "b1", {"b1": 1})
    assert resumed("b2", *facts) == ("b2", "b2", {"b2": 1})
    assert resumed("", *facts) == ("", None, {})
    assert resumed("b2", *TWO, submitted(pin_version=False), paused) == ("b2", "b2", {"b2": 1})
    given(*facts).when(ResumeTask(task_id="t", move_to="b9")).then_refused("unknown_version", "start one first")
    given(*facts).when(ResumeTask(task_id="t", move_to="b 2")).then_refused("bad_id")
    retired = (*facts, VersionRetired(build_id="b2"))
    given(*retired).when(ResumeTask(task_id="t", move_to="b2")).then_refused("bad_version", "is retired")
