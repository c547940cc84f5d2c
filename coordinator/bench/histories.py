"""
Histories for the benchmarks: a journal with the events of many tasks, written at full speed.

It writes what the engine would write: commits of encoded events, chained and fenced, through the journal's interface.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.bench.loads import PAYLOAD
from coordinator.clock import SystemClock
from coordinator.ids import TimeOrderedIds
from coordinator.journal.slots import Epoch
from events import codec
from events.base import Event, Position
from events.coordinator import CoordinatorStarted, CoordinatorTurn, EpochClaim, WaitingClaim
from events.task import TaskCompleted, TaskStarted, TaskSubmitted
from events.worker import WorkerRegistered
from projections.source import GENESIS, Record, chain_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from coordinator.journal.slots import Journal

INSTANCE, WORKER = "bench", "worker_of_bench"
TASKS_A_COMMIT = 166
"""About 500 events, with the starts and ends of the tasks and the turn."""
RETENTION_S, ENDED_KEPT = 3600.0, 10_000

_ids = TimeOrderedIds()


class Written(NamedTuple):
    """The contents of a written journal."""

    events: int
    tasks: int
    commits: int
    bytes: int


def task_lives(events: int) -> Iterator[list[Event]]:
    """Yield commits of *events* events in total: tasks start when submitted and complete in the next commit."""
    yield [
        CoordinatorStarted(instance=INSTANCE, version="bench", retention_s=RETENTION_S, ended_kept=ENDED_KEPT),
        WorkerRegistered(worker_id=WORKER, slots=1000, handles=("bench",)),
    ]
    left, running = events - 2, list[TaskStarted]()
    while left > 0:
        made: list[Event] = [
            TaskCompleted(task_id=one.task_id, lease=one.lease, execution_time_s=0.001, result=PAYLOAD)
            for one in running
        ]
        submitted = pending(TASKS_A_COMMIT)
        claim_id = _ids.new("claim")
        running = [
            TaskStarted(
                task_id=one.task_id, worker_id=WORKER, claim_id=claim_id, attempt=1, lease=f"{claim_id}.{number}.1"
            )
            for number, one in enumerate(submitted)
        ]
        made += [*submitted, *running, _turn(claim_id, len(running))]
        yield made[:left]
        left -= len(made)


def pending(tasks: int) -> list[TaskSubmitted]:
    """Return the events of *tasks* submitted tasks with 100 bytes of payload."""
    return [
        TaskSubmitted(task_id=_ids.new("task"), task_name="bench", max_retries=3, payload=PAYLOAD) for _ in range(tasks)
    ]


def _turn(claim_id: str, placed: int) -> CoordinatorTurn:
    return CoordinatorTurn(
        instance=INSTANCE,
        now=SystemClock().wall(),
        claims=(WaitingClaim(claim_id, WORKER, placed, "priority"),),
        policy="schedule",
        policy_version=1,
        placed=placed,
    )


def records(commits: Iterable[list[Event]]) -> Iterator[Record]:
    """Encode commits as journal records, after a claim in the first slot."""
    clock = SystemClock()
    claim = EpochClaim(generation=1, holder=INSTANCE, time=codec.rfc3339(clock.wall()))
    body = msgspec.json.encode(claim)
    yield Record(sequence=1, kind="claim", body=body)
    chain = chain_after(GENESIS, 1, body)
    for sequence, events in zip(count(2), commits):
        time = codec.rfc3339(clock.wall())
        body = codec.join(_encoded(event, Position(sequence, index), time) for index, event in enumerate(events))
        yield Record(sequence=sequence, kind="commit", body=body, chain=chain.hex())
        chain = chain_after(chain, sequence, body)


def _encoded(event: Event, position: Position, time: str) -> bytes:
    source, actor = "/coordination/1", "bench"
    return codec.encode(
        codec.envelope(event, position=position, time=time, source=source, tenant="default", actor=actor)
    )


async def write_journal(journal: Journal, events: int) -> Written:
    """Write a journal of *events* events into an empty stream."""
    tasks = commits = size = 0

    def noted() -> Iterator[list[Event]]:
        nonlocal tasks
        for made in task_lives(events):
            tasks += sum(isinstance(one, TaskSubmitted) for one in made)
            yield made

    for record in records(noted()):
        if record.kind == "claim":
            assert await journal.claim(record.body) == record.sequence
            continue
        chain = bytes.fromhex(record.chain or "")
        await journal.commit(record.sequence, Epoch(1, 1), chain, record.body)
        commits, size = commits + 1, size + len(record.body)
    return Written(events, tasks, commits, size)
