"""Ready tasks are returned in order, once each; of one shape and of all, without a look at what is not wanted."""

from __future__ import annotations

import heapq
from itertools import islice

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.base import Position
from events.resources import Resources
from events.task import TaskCancelled, TaskStatus, TaskSubmitted
from projections import ready
from projections.ready import ORDERINGS, ReadyTasks, ShapeKey, aged, fifo_key, key_in, priority_key, shape_of, walk
from projections.task import Task
from tests.specification import Scribe, write
from tests.unit.deciders.facts import started, submitted, worker
from tests.unit.projections.index_content import assert_bounded, found_in_order

KEY = ShapeKey("n", "", Resources())


def task(number: int, *, priority: int = 0, attempt: int = 0, born: int = 0) -> Task:
    return Task(
        task_id=f"t{number}",
        task_name="n",
        status=TaskStatus.PENDING,
        submitted=Position(100 - number + born, number % 3),
        submitted_at=0.0,
        priority=priority,
        attempt=attempt,
    )


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-2, 2), st.sampled_from(["toggle", "requeue", "look"]))))
def test_ready_tasks_are_sorted_however_they_came_and_went(steps: list[tuple[int, int, str]]) -> None:
    """Every ordering returns all tasks that are there, none that are not, none twice; of one shape and of all."""
    ready = ReadyTasks()
    living: dict[int, Task] = {}
    lives: dict[int, int] = {}

    def add(number: int, one: Task) -> None:
        living[number] = one
        ready.add(ready.shape(shape_of(one, ())), one)

    def remove(number: int) -> Task:
        one = living.pop(number)
        shape = ready.shapes[shape_of(one, ())]
        shape.remove(one.task_id)
        if not shape.members and number % 2:
            ready.discard(shape)
        return one

    def look(ordering: str) -> None:
        before = ORDERINGS[ordering]
        of_shape: dict[ShapeKey, list[Task]] = {}
        for one in sorted(living.values(), key=before):
            of_shape.setdefault(shape_of(one, ()), []).append(one)
        assert found_in_order(ready, ordering) == of_shape.keys()
        for key, expected in of_shape.items():
            found = list(ready.shapes[key].ordered(ordering))
            assert found == [(before(one), one) for one in expected]

    for number, priority, what in steps:
        if what == "look":
            look("priority" if priority > 0 else "fifo")
        elif number not in living:
            lives[number] = lives.get(number, -1) + 1
            one = task(number, priority=priority, born=100 * lives[number])
            add(number, msgspec.structs.replace(one, task_name=f"n{number % 4}"))
        elif what == "requeue":
            one = remove(number)
            add(number, msgspec.structs.replace(one, attempt=one.attempt + 1))
        else:
            remove(number)
    for ordering in ORDERINGS:
        look(ordering)


def test_the_first_tasks_are_found_without_a_look_at_the_others() -> None:
    """However many names there are, and however many came and went since the last look."""
    scribe = Scribe()
    for number in range(300):
        scribe.commit(TaskSubmitted(task_id=f"t{number}", task_name=f"n{number}"))
    ready = scribe.world.indexes.lanes.usual
    opened = [shape.key.task_name for _, shape in islice(ready.in_order("fifo"), 3)]
    assert opened == ["n0", "n1", "n2"]
    for number in range(298):
        scribe.commit(TaskCancelled(task_id=f"t{number}"))
    for number in range(2000):
        scribe.commit(TaskSubmitted(task_id=f"u{number}", task_name=f"u{number}"), TaskCancelled(task_id=f"u{number}"))
        assert_bounded(scribe.world.indexes)
    assert [shape.key.task_name for _, shape in ready.in_order("fifo") if shape.members] == ["n298", "n299"]


@given(st.lists(st.tuples(st.integers(), st.integers())))
def test_a_walk_gives_a_heap_in_order_and_leaves_it_alone(entries: list[tuple[int, int]]) -> None:
    """Reading changes nothing, so it may be repeated or stopped half-way."""
    heap = list(entries)
    heapq.heapify(heap)
    before = list(heap)
    assert list(walk(heap)) == sorted(entries)
    assert heap == before


def test_orders_are_by_submission_and_by_priority_first() -> None:
    """Higher priority first, ties by age; every key ends with submission, attempt and id."""
    old, new, urgent = task(5), task(3), task(1, priority=1)
    assert sorted([urgent, new, old], key=fifo_key) == [old, new, urgent]
    assert sorted([old, new, urgent], key=priority_key) == [urgent, old, new]
    assert fifo_key(old) == (95, 2, 0, "t5")
    assert priority_key(urgent) == (-1, 99, 1, 0, "t1")
    assert all(key(urgent)[-4:] == fifo_key(urgent) for key in ORDERINGS.values())


def test_tasks_of_one_shape_may_run_on_the_same_workers() -> None:
    """Name, type, resources and the keys of limits decide the shape; nothing else does."""
    one = task(1)
    assert shape_of(one, ()) == KEY
    assert shape_of(msgspec.structs.replace(one, task_name="m"), ()) != KEY
    assert shape_of(msgspec.structs.replace(one, task_type="y"), ()) != KEY
    assert shape_of(msgspec.structs.replace(one, resources=Resources(gpus=1)), ()) != KEY
    assert shape_of(one, ("l:x",)) != KEY
    assert shape_of(msgspec.structs.replace(one, priority=9, tenant="x", attempt=3, timeout_s=1.0), ()) == KEY


@pytest.mark.parametrize("exact", [5000, 10])
def test_how_many_are_before_a_task_is_counted(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly up to a number; beyond it, what has gone since may be taken off where it was not."""
    monkeypatch.setattr(ready, "EXACT", exact)
    scribe = write(worker(), *(submitted(f"t{number:03}", priority=number % 7) for number in range(200)))
    for ordering in (*ORDERINGS, aged(60.0)):
        scribe.world.indexes.lanes.usual.in_order(ordering)
    gone = [f"t{number:03}" for number in range(3, 200, 5)]
    scribe.commit(*(started(task_id, lease=f"{task_id}.1.1") for task_id in gone))
    tasks = [task for task in scribe.world.tasks.values() if task.status is TaskStatus.PENDING]
    for ordering in (*ORDERINGS, aged(60.0)):
        in_order = sorted(tasks, key=key_in(ordering))
        for place, task in enumerate(in_order):
            found = scribe.world.indexes.lanes.ahead_of(task, ordering)
            assert found == place or (place > exact - len(gone) and place - len(gone) <= found < place)
