"""What must hold of every run, judged from the journal and from what clients were told, never from a live world."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from events import codec
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskStarted,
    TaskSubmitted,
    TaskTimedOut,
)
from projections.world import World
from tests.simulation.inbox import faults_of

if TYPE_CHECKING:
    from events.base import Event
    from projections.source import Record
    from tests.simulation.cluster import Sim

TERMINAL = (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut)


class Violation(AssertionError):
    """A promise was broken"""


def check(sim: Sim) -> None:
    """
    Judge a finished run.

    Raises:
        Violation: says which promise was broken, about what.
    """
    records = _records(sim)
    replayed = World()
    events: dict[str, list[TaskEvent]] = defaultdict(list)
    others: list[Event] = []
    for record in records:
        for envelope in replayed.apply_record(record):
            if isinstance(envelope.data, TaskEvent):
                events[envelope.data.task_id].append(envelope.data)
            else:
                others.append(envelope.data)
    for task_id in sim.acked_submits:
        _check_task(task_id, events[task_id], sim)
    for task_id, lease in sim.acked_completes.items():
        if not any(isinstance(event, TaskCompleted) and event.lease == lease for event in events[task_id]):
            _broken(f"completion of {task_id} under {lease} was acknowledged and is not in the journal")
    for fault in faults_of(sim.inbox, others):
        _broken(fault)
    _check_replay(records, replayed)


def _check_task(task_id: str, events: list[TaskEvent], sim: Sim) -> None:
    if Counter(type(event) for event in events)[TaskSubmitted] != 1:
        _broken(f"{task_id} was acknowledged and stands in the journal {events}")
    ends = [event for event in events if isinstance(event, TERMINAL)]
    if len(ends) != 1:
        _broken(f"{task_id} has {len(ends)} terminal events: {events}")
    held = ""
    for event in events:
        if isinstance(event, TaskStarted):
            if held:
                _broken(f"{task_id} was started under {event.lease} while {held} was held")
            held = event.lease
        elif isinstance(event, (TaskCompleted, TaskFailed, TaskAttemptFailed, TaskTimedOut)):
            if event.lease != held:
                _broken(f"{task_id}: {event} was accepted, but {held or 'no lease'} was held")
            held = ""
    told = sim.answers.get(task_id)
    if told is None:
        _broken(f"{task_id} was never seen to end")


def _check_replay(records: list[Record], replayed: World) -> None:
    """Replaying gives the same world from the start and from a snapshot in the middle."""
    half = World()
    for record in records[: len(records) // 2]:
        half.apply_record(record)
    restored = World.restore(half.snapshot())
    for record in records[len(records) // 2 :]:
        restored.apply_record(record)
    if restored.digest() != replayed.digest():
        _broken("a world restored from a snapshot differs from one folded from the start")


def check_live(sim: Sim) -> None:
    """
    Judge a leader's live world against a replay to the same position.

    Raises:
        Violation: they differ.
    """
    for world in sim.worlds:
        replayed = World()
        for record in _records(sim):
            if record.sequence > world.position.sequence:
                break
            replayed.apply_record(record)
        if replayed.position == world.position and replayed.digest() != world.digest():
            _broken(f"the live world at {world.position} differs from its replay")


def trace(sim: Sim) -> str:
    """Hash the journal of a run: equal runs have equal journals."""
    world = World()
    for record in _records(sim):
        world.apply_record(record)
    return f"{world.chain.hex()} {sorted(sim.fired.items())}"


def _records(sim: Sim) -> list[Record]:
    first, last = sim.stream.bounds
    return [record for n in range(first, last + 1) if (record := sim.stream.get(n)) is not None]


def _broken(what: str) -> None:
    raise Violation(what)


def kinds(sim: Sim) -> Counter[str]:
    """Count the events of a run by type."""
    return Counter(
        envelope.type for record in _records(sim) if record.kind == "commit" for envelope in codec.decode(record.body)
    )
