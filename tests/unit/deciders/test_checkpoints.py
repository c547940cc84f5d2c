"""Checkpoints: what an attempt saves for the next one."""

from __future__ import annotations

import pytest

from coordinator.commands.task import ProgressTask
from coordinator.deciders.rules import Rules
from coordinator.deciders.task import CHECKPOINT_BYTES_MAX
from events.base import version_of
from events.task import Payload, TaskCancelled, TaskProgressed
from tests.specification import given, said, write
from tests.unit.deciders.facts import attempt_failed, completed, payload, started, submitted

RUNS = (submitted(), started())
HERE, THERE = payload("[1]", digest="1f" * 32), payload("[2]", digest="2f" * 32)


def save(checkpoint: Payload, **others: object) -> ProgressTask:
    return ProgressTask(**{"task_id": "t", "lease": "c.1.1", "checkpoint": checkpoint, **others})  # type: ignore[arg-type]


def saved(checkpoint: Payload, progress: float = 0.0) -> TaskProgressed:
    return TaskProgressed(task_id="t", lease="c.1.1", progress=progress, checkpoint=checkpoint)


def test_a_checkpoint_is_kept_over_attempts_and_gone_at_the_end() -> None:
    """Progress begins again with the next attempt; the checkpoint does not."""
    decided = given(*RUNS).when(save(HERE, progress=0.5)).then(saved(HERE, 0.5))
    assert decided.world.tasks["t"].checkpoint == HERE
    assert (version_of(saved(HERE)), version_of(TaskProgressed(task_id="t", lease="c", progress=1.0))) == (2, 1)
    again = (*RUNS, saved(HERE, 0.5), attempt_failed(), started(lease="c.1.2"))
    task = write(*again).world.tasks["t"]
    assert (task.checkpoint, task.progress) == (HERE, 0.0)
    assert write(*again, completed(lease="c.1.2")).world.tasks["t"].checkpoint is None
    assert write(*RUNS, saved(HERE), TaskCancelled(task_id="t")).world.tasks["t"].checkpoint is None


def test_the_last_checkpoint_counts_and_a_repeat_records_nothing() -> None:
    """Progress without one keeps the last."""
    kept = (*RUNS, saved(HERE))
    given(*kept).when(save(HERE)).then_nothing()
    given(*kept).when(save(THERE)).then(saved(THERE))
    again = TaskProgressed(task_id="t", lease="c.1.1", progress=0.5)
    given(*kept).when(save(HERE, progress=0.5)).then(again)
    assert write(*kept, again).world.tasks["t"].checkpoint == HERE


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (payload("x" * (CHECKPOINT_BYTES_MAX + 1)), "payload_too_large"),
        (payload("ä" * (CHECKPOINT_BYTES_MAX // 2 + 1)), "payload_too_large"),
        (payload(encoding="pickle"), "bad_payload"),
        (payload(digest="x"), "bad_payload"),
    ],
)
def test_what_is_no_checkpoint_is_refused(wrong: Payload, reason: str) -> None:
    """The message names it."""
    given(*RUNS).when(save(wrong)).then_refused(reason, "checkpoint")


def test_the_bytes_of_checkpoints_are_bounded_with_those_of_payloads() -> None:
    """They count for who submitted the task, and a smaller one in place of a larger one is always accepted."""
    rules = Rules(max_pending_bytes=8_000)
    big, bigger = payload("x" * 3_000, digest="3f" * 32), payload("x" * 5_000, digest="4f" * 32)
    facts = (said(submitted(), actor="client"), started())
    given(*facts).when(save(big), rules=rules, actor="worker").then(saved(big))
    given(*facts).when(save(bigger), rules=rules, actor="worker").then_refused("queue_full", "client")
    kept = (*facts, saved(bigger))
    given(*kept).when(save(big), rules=rules, actor="worker").then(saved(big))
    indexes = write(*kept).world.indexes
    assert (indexes.payload_bytes, indexes.owned_payload_bytes.by_source) == (5_000, {"client": 5_000})
    assert write(*kept, completed()).world.indexes.payload_bytes == 0
