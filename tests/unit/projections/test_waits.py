"""What a task waited for adds up to all the time in which it did not run."""

from __future__ import annotations

from typing import Any

import pytest

from events.after import After
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from events.queue import DEFAULT, QueueBlocked, QueueDefined, QueueDeleted, QueuePaused, QueueResumed
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskStarted,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
)
from events.task_pause import TaskPaused, TaskResumed
from projections.blockage import MOST_BLOCKAGES, MOST_PAIRS, SPANS_KEPT, CauseSpan, Pair, name_in, parts, shape_id
from projections.hold import MOST_PAST
from projections.queue import MOST_PAST as MOST_PAUSES
from projections.ready import shape_of
from projections.task import ATTEMPTS_KEPT
from projections.waits import waited
from projections.world import World
from tests.specification import BEGIN, Scribe, said
from tests.unit.deciders.facts import attempt_failed, completed, failed, started, submitted
from tests.unit.deciders.test_pool_tasks import POOL, holds, waits
from tests.unit.projections.histories import write_history


def story(*facts: tuple[float, Any], until: float) -> World:
    """Fold facts at their times, in seconds after the begin, and let time pass."""
    scribe = Scribe()
    for at, event in facts:
        scribe.commit(said(event, at=BEGIN + at))
    scribe.world.indexes.advance(BEGIN + until)
    return scribe.world


def blocked(cause: str, since: float, **others: Any) -> QueueBlocked:
    """Say why the shape of the task `t` waits."""
    scribe = Scribe()
    scribe.commit(submitted())
    shape = shape_id(shape_of(scribe.world.tasks["t"], ()))
    said_of = {"queue_id": DEFAULT, "shape": shape, "task_name": "work"} | others
    return QueueBlocked(since=BEGIN + since, cause=cause, **said_of)


def told(*facts: tuple[float, Any], until: float) -> dict[str, float]:
    world = story(*facts, until=until)
    return waited(world, world.tasks["t"])


def test_a_shape_says_why_its_tasks_wait() -> None:
    """Each cause from when it held until the next one; before the first one the task was not claimed."""
    facts = ((0, submitted()), (4, blocked("workers_busy", 3)), (10, blocked("key_full", 8)), (11, blocked("", 11)))
    found = told(*facts, until=15)
    assert found == {"not_claimed": 7.0, "workers_busy": 5.0, "key_full": 3.0}
    assert list(found) == ["not_claimed", "workers_busy", "key_full"]
    assert told(*facts, (12, started()), until=99) == {"workers_busy": 5.0, "not_claimed": 4.0, "key_full": 3.0}
    ended = told(*facts, (12, started()), (20, completed()), until=99)
    assert ended == {"workers_busy": 5.0, "not_claimed": 4.0, "key_full": 3.0}
    assert told((0, submitted("u")), (3, submitted()), (4, blocked("workers_busy", 0)), until=5) == {
        "workers_busy": 2.0
    }


def test_a_cause_begins_when_it_is_said_to_within_what_is_known() -> None:
    """Not before the last one did, and not after the event."""
    facts = ((0, submitted()), (4, blocked("workers_busy", 4)), (6, blocked("key_full", 1)), (7, blocked("", 99)))
    assert told(*facts, until=8) == {"not_claimed": 5.0, "key_full": 3.0}
    again = (*facts[:2], (6, blocked("workers_busy", 6, holders=("a",))))
    world = story(*again, until=8)
    (kept,) = world.blockages.values()
    assert (kept.cause, kept.holders, kept.noted_at) == ("workers_busy", ("a",), BEGIN + 6)
    assert kept.spans == (CauseSpan(BEGIN + 4, "workers_busy"),)


@pytest.mark.parametrize(("facts", "until", "found"), [
    (((0, submitted(after=After(tasks=("a",)), waits_for=("a",))),), 5, {"waits_for": 5.0}),
    (((0, submitted(after=After(tasks=("a",)), waits_for=("a",))), (5, TaskUnblocked(task_id="t", predecessor="a"))), 7,
     {"waits_for": 5.0, "not_claimed": 2.0}),
    (((0, submitted(not_before=BEGIN + 5)),), 7, {"not_before": 5.0, "not_claimed": 2.0}),
    (((0, submitted(not_before=BEGIN + 5)),), 3, {"not_before": 3.0}),
    (((0, submitted()), (2, TaskPaused(task_id="t", reason="r"))), 7, {"task_paused": 5.0, "not_claimed": 2.0}),
    (((0, submitted()), (2, TaskPaused(task_id="t", reason="r")), (6, TaskResumed(task_id="t"))), 7,
     {"task_paused": 6.0, "not_claimed": 1.0}),
    (((0, submitted()), (1, started()), (4, attempt_failed(attempt=1, retry_at=BEGIN + 9))), 11,
     {"back_off": 5.0, "not_claimed": 3.0}),
    (((0, submitted()), (1, started()), (4, attempt_failed(attempt=1, retry_at=BEGIN + 9)),
      (10, started(lease="d.1.2", attempt=2)), (12, failed(lease="d.1.2"))), 99, {"back_off": 5.0, "not_claimed": 2.0}),
    (((0, submitted()), (1, started()), (4, attempt_failed(attempt=1, retry_at=BEGIN + 9)),
      (12, TaskCancelled(task_id="t", reason="r"))), 99, {"back_off": 5.0, "not_claimed": 4.0}),
    (((0, submitted()), (1, started()), (4, attempt_failed(reason="released", retry_at=0.0))), 6, {"not_claimed": 6.0}),
    (((0, submitted()), (2, HoldPlaced(hold_id="h", where='task_name == "work"')), (6, HoldLifted(hold_id="h"))), 9,
     {"not_claimed": 5.0, "held": 4.0}),
    (((0, HoldPlaced(hold_id="h", where="true")), (2, HoldPlaced(hold_id="i", where="true")), (3, submitted()),
      (6, HoldExpired(hold_id="h")), (7, HoldLifted(hold_id="i"))), 9, {"held": 4.0, "not_claimed": 2.0}),
    (((0, HoldPlaced(hold_id="h", where='task_name == "x"')), (3, submitted())), 9, {"not_claimed": 6.0}),
    (((0, submitted()), (3, HoldPlaced(hold_id="h", where="true"))), 9, {"held": 6.0, "not_claimed": 3.0}),
    (((0, submitted()), (3, QueuePaused(queue_id=DEFAULT)), (6, QueueResumed(queue_id=DEFAULT))), 8,
     {"not_claimed": 5.0, "queue_paused": 3.0}),
    (((0, submitted()), (3, QueuePaused(queue_id=DEFAULT)), (4, QueuePaused(queue_id=DEFAULT, reason="r"))), 8,
     {"queue_paused": 5.0, "not_claimed": 3.0}),
    (((0, POOL), (1, waits("r")), (2, submitted(request="r"))), 8, {"request_waits": 6.0}),
    (((0, POOL), (1, waits("r")), (2, submitted(request="r")), (5, holds("r"))), 8,
     {"not_claimed": 3.0, "request_waits": 3.0}),
    (((0, submitted(request="r")),), 8, {"not_claimed": 8.0}),
    (((0, POOL), (0, submitted(request="r"))), 8, {"not_claimed": 8.0}),
    (((0, QueueDefined(queue_id="q")), (1, QueuePaused(queue_id="q")), (2, submitted()), (3, QueueDeleted(queue_id="q"))
      ), 8, {"not_claimed": 6.0}),
])  # fmt: skip
def test_what_is_no_shapes(facts: tuple[tuple[float, Any], ...], until: float, found: dict[str, float]) -> None:
    """The task's own state says why it was not ready, and so do holds."""
    assert told(*facts, until=until) == found


def test_a_hold_comes_before_what_its_shape_says() -> None:
    """The shape is that of others, too, which no hold keeps."""
    facts = ((0, submitted()), (2, blocked("workers_busy", 2)), (4, HoldPlaced(hold_id="h", where="true")))
    assert told(*facts, until=9) == {"held": 5.0, "not_claimed": 2.0, "workers_busy": 2.0}


def test_many_changes_are_kept_as_shares() -> None:
    """The whole stays exact; of what is old only the share of each cause is known."""
    changes = [(1.0 + n, blocked("workers_busy" if n % 2 else "key_full", 1 + n)) for n in range(5 * SPANS_KEPT)]
    world = story((0, submitted()), *changes, until=5 * SPANS_KEPT + 1)
    (kept,) = world.blockages.values()
    assert len(kept.spans) <= SPANS_KEPT
    assert waited(world, world.tasks["t"]) == pytest.approx(
        {"workers_busy": 2.5 * SPANS_KEPT, "key_full": 2.5 * SPANS_KEPT, "not_claimed": 1.0}
    )
    middle = parts(kept.spans, BEGIN + 100, BEGIN + 200)
    assert sum(middle.values()) == pytest.approx(100)


def test_who_made_whom_wait() -> None:
    """Task-seconds by the tenants of what was in the way and of what waited, since the last look."""
    shared = {"held_by": {"a": 3, "b": 1}, "waiting": {"a": 1, "c": 2}}
    world = story(
        *((0, submitted()), (4, blocked("workers_busy", 2, **shared)), (8, blocked("workers_busy", 8, **shared))),
        *((10, blocked("", 10)), (20, blocked("", 20))),
        until=30,
    )
    seconds = {(one.holder, one.waiter): one.seconds for one in world.made_wait.values()}
    assert seconds == {("a", "a"): 4.5, ("a", "c"): 9.0, ("b", "a"): 1.5, ("b", "c"): 3.0}
    assert World.restore(world.snapshot()).snapshot() == world.snapshot()


def test_what_is_kept_is_bounded() -> None:
    """The oldest go first."""
    scribe = Scribe()
    world = scribe.world
    for number in range(MOST_PAIRS):
        world.made_wait[str(number)] = Pair(name=str(number), queue_id="q")
    old = story((0, blocked("no_worker", 0)), until=1)
    for number in range(MOST_BLOCKAGES):
        world.blockages[str(number)] = next(iter(old.blockages.values()))
    one = blocked("no_worker", 0, held_by={"a": 1}, waiting={"b": 1})
    scribe.commit(one)
    scribe.commit(one)
    assert len(world.made_wait) == MOST_PAIRS
    assert "0" not in world.made_wait
    assert (len(world.blockages), "0" in world.blockages) == (MOST_BLOCKAGES, False)
    assert list(world.blockages)[-1] == name_in(DEFAULT, one.shape)
    for number in range(MOST_PAST + 1):
        scribe.commit(HoldPlaced(hold_id=f"h{number}", where="true"))
        scribe.commit(HoldLifted(hold_id=f"h{number}"))
    assert len(world.past_holds) == MOST_PAST
    for _ in range(MOST_PAUSES + 1):
        scribe.commit(QueuePaused(queue_id=DEFAULT))
        scribe.commit(QueueResumed(queue_id=DEFAULT))
    assert len(world.past_pauses) == MOST_PAUSES


def test_the_oldest_attempts_are_not_known_any_more() -> None:
    """What was before the ten that are kept is left out."""
    facts: list[tuple[float, Any]] = [(0, submitted())]
    for number in range(1, ATTEMPTS_KEPT + 3):
        facts += [
            (10.0 * number, started(lease=f"c{number}.1.{number}", attempt=number)),
            (10.0 * number + 1, attempt_failed(lease=f"c{number}.1.{number}", attempt=number, retry_at=0.0)),
        ]
    last = 10.0 * (ATTEMPTS_KEPT + 2)
    assert told(*facts, until=last + 1) == {"not_claimed": 9.0 * (ATTEMPTS_KEPT - 1)}


@pytest.mark.parametrize("seed", range(12))
def test_the_parts_are_the_whole(seed: int) -> None:
    """Over random histories: all the time in which no attempt ran, as the events say it."""
    written = write_history(seed, 400)
    world = World()
    waits: dict[str, list[float]] = {}
    """Of each task, how long it waited, and since when it waits; -1 while it does not."""
    given_back: dict[str, float] = {}
    for record in written.records:
        for envelope in world.apply_record(record):
            if isinstance(envelope.data, TaskEvent):
                _note(waits, given_back, envelope.data, world.indexes.now)
    looked = 0
    for task in world.tasks.values():
        if len(task.attempts) == ATTEMPTS_KEPT:
            continue
        whole, since = waits[task.task_id]
        whole += 0.0 if since < 0 else world.indexes.now - since
        assert sum(waited(world, task).values()) == pytest.approx(whole, abs=1e-6), task
        looked += whole > 0
    assert looked > 0


def _note(waits: dict[str, list[float]], began: dict[str, float], event: TaskEvent, now: float) -> None:
    """Count the time that a task waits; an attempt that is not recorded counts as waiting."""
    task_id = event.task_id
    if isinstance(event, TaskSubmitted):
        waits[task_id] = [0.0, now]
    elif isinstance(event, TaskStarted):
        began[task_id], began[f"{task_id}/waited"] = waits[task_id][1], now - waits[task_id][1]
        waits[task_id] = [waits[task_id][0] + now - waits[task_id][1], -1.0]
    elif isinstance(event, TaskAttemptFailed | TaskPaused) and waits[task_id][1] < 0:
        if event.attempt and (isinstance(event, TaskPaused) or event.reason != "released"):
            waits[task_id][1] = now
        else:
            waits[task_id] = [waits[task_id][0] - began.pop(f"{task_id}/waited"), began[task_id]]
    elif isinstance(event, TaskCompleted | TaskFailed | TaskCancelled | TaskTimedOut) and waits[task_id][1] >= 0:
        waits[task_id] = [waits[task_id][0] + now - waits[task_id][1], -1.0]
