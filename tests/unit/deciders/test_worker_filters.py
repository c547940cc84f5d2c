"""What a task may ask of a worker, and what a worker may say of itself: checked when it is said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coordinator.commands.container import CreateContainer
from coordinator.commands.node import RegisterNode
from coordinator.commands.pool import AllocatePool, DefinePool
from coordinator.commands.schedule import BackfillSchedule, DefineSchedule
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders import dependencies
from coordinator.deciders.worker import LABELS_BYTES_MAX, LABELS_MAX
from events.after import After, Otherwise
from events.base import version_of
from events.pool import PoolDefined
from events.resources import Resources
from events.schedule import TaskContent
from events.task import Prefer, TaskCompleted, TaskSubmitted, TaskUnblocked
from projections.task import content_of
from projections.worker_filters import condition
from tests.specification import fold, given
from tests.unit.deciders.facts import (
    attempt_failed,
    claim,
    completed,
    failed,
    node,
    resources,
    started,
    submit,
    submitted,
    worker,
)

EU = 'labels.zone == "eu"'
LICENCES = Resources(named={"licences": 2})


def register(**others: Any) -> RegisterWorker:
    return RegisterWorker(worker_id="w", **others)


def test_a_task_says_which_workers_may_run_it() -> None:
    """The event records it; a repeat must say the same, also after the end."""
    given().when(submit(worker_filter=EU)).then(submitted(worker_filter=EU))
    given(submitted(worker_filter=EU)).when(submit(worker_filter=EU)).then_nothing()
    given(submitted(worker_filter=EU)).when(submit()).then_refused("id_taken", "worker_filter")
    one, other = submitted(worker_filter=EU), submitted(resources=LICENCES)
    assert len({content_of(event, "") for event in (submitted(), one, other)}) == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("labels.zone = 'eu'", "character 13: '=': use == to compare"),
        ("zone == 'eu'", "character 1: 'zone' is not a field: use worker_id, container_id, agent_type, node_id, build"),
        ("labels", "character 1: 'labels' is not a field: did you mean labels.…?"),
        ("worker == 'w'", "did you mean worker_id?"),
        ("  ", "it is empty"),
        ("x" * 1001, "1001 characters"),
    ],
)
def test_a_filter_that_is_no_condition_on_workers_is_refused(text: str, why: str) -> None:
    """With the place."""
    given().when(submit(worker_filter=text)).then_refused("bad_filter", why)
    scheduled = DefineSchedule(schedule_id="s", every_s=60, task=TaskContent(task_name="n", worker_filter=text))
    given().when(scheduled).then_refused("bad_filter", why)


def test_the_tasks_of_a_schedule_have_its_filter() -> None:
    """It is a part of what they are."""
    content = TaskContent(task_name="n", worker_filter=EU, resources=LICENCES)
    defined = given().when(DefineSchedule(schedule_id="s", every_s=60, task=content)).events[0]
    fired = given(defined).when(BackfillSchedule(schedule_id="s", since=960.0, until=999.0)).events[0]
    assert isinstance(fired, TaskSubmitted)
    assert (fired.worker_filter, fired.resources) == (EU, LICENCES)


def test_a_worker_has_labels_and_keeps_them() -> None:
    """Until it registers with others; a worker that comes back by a claim has those that it had."""
    labels = {"zone": "eu", "gpu": 16, "spot": True, "price": 0.5}
    decided = given().when(register(labels=labels)).then(worker(labels=labels))
    assert decided.world.workers["w"].labels == labels
    given(worker(labels=labels)).when(register(labels=labels)).then_nothing()
    given(worker(labels=labels)).when(register()).then(worker())


@pytest.mark.parametrize(
    ("labels", "reason", "why"),
    [
        ({f"x{number}": 1 for number in range(LABELS_MAX + 1)}, "too_many", "labels has 33 names: use at most 32"),
        ({"a-b": 1}, "bad_text", "labels: 'a-b' is not a name"),
        ({"": 1}, "bad_text", "labels: '' is not a name"),
        ({"a": "x\n"}, "bad_text", "labels.a"),
        ({"a": float("nan")}, "bad_number", "labels.a"),
        ({"a": 2**53 + 1}, "bad_number", "labels.a"),
        ({"a": "x" * 2047, "b": "y"}, "too_large", f"labels has 2050 bytes: use at most {LABELS_BYTES_MAX}"),
    ],
)
def test_labels_that_are_none_are_refused(labels: dict[str, Any], reason: str, why: str) -> None:
    """Names are those that a filter can say."""
    given().when(register(labels=labels)).then_refused(reason, why)


def test_as_many_labels_as_there_may_be() -> None:
    """32, of 2 KiB."""
    most = {f"x{number:02}": "y" * 61 for number in range(LABELS_MAX)}
    given().when(register(labels=most)).then(worker(labels=most))


def test_tasks_and_workers_name_amounts_and_nothing_else_does() -> None:
    """Nodes, containers and pools have CPU, memory and GPUs."""
    given().when(submit(resources=LICENCES)).then(submitted(resources=LICENCES))
    given().when(register(resources=LICENCES)).then(worker(resources=LICENCES))
    given().when(claim(resources=LICENCES)).then(worker(resources=LICENCES))
    refused = ("bad_resources", "has 'licences': use cpu, memory and gpu; only tasks and workers may name others")
    given().when(RegisterNode(node_id="n", capacity=LICENCES, runtime="fake")).then_refused(*refused)
    given(node()).when(
        CreateContainer(container_id="k", agent_id="a", agent_type="task_agent", resources=LICENCES)
    ).then_refused(*refused)
    given().when(DefinePool(pool_id="p", capacity=LICENCES)).then_refused(*refused)
    pool = PoolDefined(pool_id="p", capacity=resources(cpu=1))
    given(pool).when(AllocatePool(pool_id="p", request_id="r", resources=LICENCES)).then_refused(*refused)


@pytest.mark.parametrize(
    ("named", "reason", "why"),
    [
        ({"CPU": 1}, "bad_resources", "'CPU' is not a name"),
        ({"mem": 1}, "bad_resources", "use memory"),
        ({"a": -1}, "bad_number", "resources.a -1"),
        ({f"x{number}": 1 for number in range(9)}, "too_many", "resources names 9"),
    ],
)
def test_amounts_that_are_none_are_refused(named: dict[str, int], reason: str, why: str) -> None:
    """Of a task, a worker, and a claim that registers one."""
    asked = Resources(named=named)
    for command in (submit(resources=asked), register(resources=asked), claim(resources=asked)):
        given().when(command).then_refused(reason, why)


def test_a_claim_registers_a_worker_that_is_not_known_with_what_it_says() -> None:
    """One that is known keeps what it has."""
    given().when(claim(resources=resources(cpu=1))).then(worker(resources=resources(cpu=1)))
    given(worker(slots=2)).when(claim(resources=resources(cpu=1))).then_nothing()


def test_events_say_no_newer_version_than_they_need() -> None:
    """Readers of before lose nothing that is not there."""
    assert [version_of(one) for one in (submitted(), submitted(resources=resources(cpu=1)))] == [1, 1]
    assert [version_of(one) for one in (submitted(worker_filter=EU), submitted(resources=LICENCES))] == [3, 3]
    assert [version_of(one) for one in (worker(), worker(resources=resources(cpu=1)))] == [2, 2]
    assert [version_of(one) for one in (worker(labels={"a": 1}), worker(resources=LICENCES))] == [3, 3]


def test_filters_of_pending_tasks_are_known() -> None:
    """As long as one has it."""
    facts = (submitted("a", worker_filter=EU), submitted("b", worker_filter=EU), submitted("c"))
    world = fold(*facts)
    assert world.indexes.worker_filters == {EU: 2}
    world = fold(*facts, started("a"), started("b", "c.2.1"), TaskCompleted(task_id="a", lease="c.1.1"))
    assert world.indexes.worker_filters == {}
    assert condition(EU) is condition(EU)


# --- preferences ------------------------------------------------------------------------------------------------------


def test_a_task_prefers_a_worker() -> None:
    """By a filter; a repeat must say the same."""
    prefer = Prefer(filter=EU, for_s=9.0)
    given().when(submit(prefer=prefer)).then(submitted(prefer=prefer))
    given(submitted(prefer=prefer)).when(submit(prefer=prefer)).then_nothing()
    given(submitted(prefer=prefer)).when(submit(prefer=Prefer(filter=EU))).then_refused("id_taken", "prefer")
    assert content_of(submitted(prefer=prefer), "") != content_of(submitted(), "")
    assert version_of(submitted(prefer=prefer)) == 3


def test_a_task_sticks_to_the_worker_that_ran_another_last() -> None:
    """Who it is, is recorded: running, ended or after a failed attempt; nobody, if that has not run."""
    stuck = Prefer(sticky_to="x")
    for facts, where in (
        ([submitted("x")], ""),
        ([submitted("x"), started("x", worker_id="v")], "v"),
        ([submitted("x"), started("x", worker_id="v"), attempt_failed("x")], "v"),
        ([submitted("x"), started("x", worker_id="v"), completed("x")], "v"),
    ):
        given(worker("v"), *facts).when(submit(prefer=stuck)).then(submitted(prefer=stuck, prefers_worker=where))
    asked = given(submitted("x"), submitted(prefer=stuck), started("x", worker_id="v"))
    asked.when(submit(prefer=stuck)).then_nothing()


def test_what_unblocks_a_task_says_where_it_sticks() -> None:
    """What it waited for may be what it sticks to."""
    stuck, after = Prefer(sticky_to="x"), After(tasks=("x",))
    waits = submitted(prefer=stuck, after=after, waits_for=("x",))
    facts = (submitted("x"), waits, started("x", worker_id="v"))
    for end, otherwise in ((completed("x"), False), (failed("x"), True)):
        join = msgspec.structs.replace(after, otherwise=Otherwise.RUN)
        world = fold(*facts[:1], msgspec.structs.replace(waits, after=join), *facts[2:], end)
        expected = TaskUnblocked(task_id="t", predecessor="x", otherwise=otherwise, prefers_worker="v")
        assert dependencies.following(world, world.tasks["t"]) == expected
    by_filter = submitted(after=after, waits_for=("x",), prefer=Prefer(filter=EU))
    world = fold(submitted("x"), by_filter, *facts[2:], completed("x"))
    assert dependencies.following(world, world.tasks["t"]) == TaskUnblocked(task_id="t", predecessor="x")
    assert dependencies.ran_on(world, "unknown") == ""


@pytest.mark.parametrize(
    ("prefer", "reason", "why"),
    [
        (Prefer(), "bad_filter", "prefer has filter '' and sticky_to '': give one of them"),
        (Prefer(filter=EU, sticky_to="x"), "bad_filter", "give one of them"),
        (Prefer(filter="zone"), "bad_filter", "'zone' is not a field"),
        (Prefer(filter=EU, for_s=-1.0), "bad_number", "prefer.for_s -1.0"),
        (Prefer(filter=EU, for_s=3601.0), "bad_number", "0 to 3600"),
        (Prefer(filter=EU, for_s=float("nan")), "bad_number", "prefer.for_s"),
        (Prefer(sticky_to="a b"), "bad_id", "prefer.sticky_to"),
        (Prefer(sticky_to="none"), "unknown_predecessor", "'none', a task that does not exist"),
    ],
)
def test_a_preference_that_is_none_is_refused(prefer: Prefer, reason: str, why: str) -> None:
    """With what is wrong."""
    given().when(submit(prefer=prefer)).then_refused(reason, why)
