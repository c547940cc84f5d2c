"""Versions of workers: what is pinned to which build, what a route says, and what a restored world knows of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from events.base import version_of
from events.errors import Corrupt
from events.queue import DEFAULT, QueueDefined, QueueRouted, Route
from events.version import VersionReinstated, VersionRetired
from projections.lanes import USUAL
from projections.task import content_of
from projections.version import Builds, Version, begins_on, place_of
from projections.world import World
from tests.specification import fold
from tests.unit.deciders.facts import attempt_failed, started, submitted, worker

HALF = Route(current="b1", ramping="b2", percent=50.0)


def goes_to(*facts: Any) -> str | None:
    world = facts[0] if isinstance(facts[0], World) else fold(*facts)
    return world.indexes.builds.of(world.tasks["t"])


def test_a_task_is_pinned_to_the_build_of_its_first_attempt() -> None:
    """Not to that of a later one; and not if it does not want to, or that worker said none."""
    assert goes_to(submitted()) is None
    assert goes_to(submitted(), started(build_id="b1"), attempt_failed()) == "b1"
    moved = (submitted(), started(build_id="b1"), attempt_failed(), started(lease="c.1.2", build_id="b2"))
    assert goes_to(*moved, attempt_failed(lease="c.1.2")) == "b1"
    unpinned = (submitted(pin_version=False), started(build_id="b1"), attempt_failed())
    assert goes_to(*unpinned) is None
    without = (submitted(), started(), attempt_failed(), started(lease="c.1.2", build_id="b2"))
    assert goes_to(*without, attempt_failed(lease="c.1.2")) is None


def test_a_route_says_where_tasks_begin() -> None:
    """Of its queue only, and not of those that have begun; without it, anywhere."""
    routed = QueueRouted(queue_id=DEFAULT, route=Route(current="b2"))
    assert goes_to(submitted(), routed) == "b2"
    assert goes_to(routed, submitted(), started(build_id="b1"), attempt_failed()) == "b1"
    assert goes_to(submitted(), routed, QueueRouted(queue_id=DEFAULT)) is None
    assert goes_to(QueueDefined(queue_id="q"), submitted(queue="q"), routed) is None
    assert goes_to(QueueRouted(queue_id=DEFAULT, route=Route(current="")), submitted()) == ""


def test_a_retired_version_moves_its_tasks() -> None:
    """To where that one moved its own; without a target they go as new ones; until it is reinstated."""
    pinned = (submitted(), started(build_id="b1"), attempt_failed())
    moved = (*pinned, VersionRetired(build_id="b1", move_to="b2"))
    assert goes_to(*moved) == "b2"
    assert goes_to(*moved, VersionRetired(build_id="b2", move_to="b3")) == "b3"
    assert goes_to(*moved, VersionRetired(build_id="b2")) is None
    routed = QueueRouted(queue_id=DEFAULT, route=Route(current="b4"))
    assert goes_to(*pinned, VersionRetired(build_id="b1"), routed) == "b4"
    assert goes_to(*moved, VersionReinstated(build_id="b1")) == "b1"


def test_a_restored_world_knows_where_tasks_go() -> None:
    """Routes, retired versions and pins; and a world without any says nothing of them."""
    world = fold(
        worker(build_id="b1"),
        *(QueueRouted(queue_id=DEFAULT, route=HALF), VersionRetired(build_id="b1", move_to="b3")),
        *(submitted(), started(build_id="b1"), attempt_failed(), submitted("u")),
    )
    again = World.restore(world.snapshot())
    assert again.digest() == world.digest()
    assert goes_to(again) == "b3"
    assert again.indexes.builds.of(again.tasks["u"]) == begins_on(HALF, "u")
    assert again.indexes.builds.pinned == {"b1": 1}
    assert again.versions["b1"] == Version(
        build_id="b1", retired=world.versions["b1"].retired, retired_at=1002.0, move_to="b3", retired_by="tester"
    )


def test_moves_in_a_circle_are_no_moves() -> None:
    """No coordinator writes them: whoever followed them would never end."""
    with pytest.raises(Corrupt, match=r"moves the tasks of 'b1' to where they come from"):
        fold(VersionRetired(build_id="b1", move_to="b1"))
    with pytest.raises(Corrupt, match="to where they come from"):
        fold(VersionRetired(build_id="b1", move_to="b2"), VersionRetired(build_id="b2", move_to="b1"))
    with pytest.raises(Corrupt, match="version"):
        fold(VersionReinstated(build_id="b1"))


@for_all(st.lists(st.integers(0, 10**9), min_size=200, max_size=200, unique=True), st.floats(0.0, 100.0))
def test_the_same_tasks_are_on_the_same_side_and_a_share_that_grows_keeps_its_own(
    numbers: list[int], percent: float
) -> None:
    """That is what makes a ramp a ramp: who was on the new version once stays there."""
    names = [f"task_{number}" for number in numbers]
    route = Route(current="b1", ramping="b2", percent=percent)
    more = Route(current="b1", ramping="b2", percent=min(100.0, percent * 1.5))
    on = {name for name in names if begins_on(route, name) == "b2"}
    assert on == {name for name in names if place_of(name) < percent}
    assert on <= {name for name in names if begins_on(more, name) == "b2"}


def test_a_share_is_kept() -> None:
    """Of 20,000 tasks, 10 % are 2,000 but for chance: within four standard deviations."""
    route = Route(current="b1", ramping="b2", percent=10.0)
    on = sum(begins_on(route, f"task-{number:08}") == "b2" for number in range(20_000))
    assert abs(on - 2000) < 4 * 42.5
    assert {begins_on(Route(current="b1", ramping="b2", percent=100.0), f"t{one}") for one in range(1000)} == {"b2"}
    assert {begins_on(Route(current="b1", ramping="b2"), f"t{one}") for one in range(1000)} == {"b1"}
    assert place_of("task_1") == pytest.approx(68.1, abs=0.01)  # a journal is read again with the same digest


def test_a_task_that_is_not_pinned_is_another_task() -> None:
    """A repeat must say it again; and older readers must not miss it."""
    plain, free = submitted(), submitted(pin_version=False)
    assert (version_of(plain), version_of(free)) == (1, 3)
    assert content_of(plain, "") != content_of(free, "")
    assert (version_of(started()), version_of(started(build_id="b1"))) == (1, 2)
    assert content_of(plain, "") != content_of(submitted(request="r"), "")  # the same of a request of a pool


def test_without_a_word_of_versions_nothing_is_kept() -> None:
    """No route, no pin, and one lane for all."""
    world = fold(worker(), submitted(), submitted("u", task_type="x"))
    builds = world.indexes.builds
    assert (builds.routes, builds.pinned, dict(builds.retired)) == ({}, {}, {})
    assert list(world.indexes.lanes.of) == [USUAL]
    assert Builds().of(world.tasks["t"]) is None
