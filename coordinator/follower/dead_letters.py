"""
The dead letters of a store: tasks that failed or timed out, and what it takes to do them again.

They are read from the states and the events that the store has anyway; nothing is kept for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.commands.reads import DeadLetter, DeadTask
from coordinator.commands.requeue import requeued_id
from events.base import Position
from events.errors import Refused
from events.task import TaskStatus

if TYPE_CHECKING:
    from coordinator.commands.reads import ListDead
    from projections.store.port import Store, Thing

DEAD = (TaskStatus.FAILED.value, TaskStatus.TIMEOUT.value)


class _Found(NamedTuple):
    """One dead task of a list: the cursor for the next page, its state as JSON, and what is told of it."""

    cursor: Position
    encoded: bytes
    told: DeadTask


class _State(msgspec.Struct):
    """What is read of a task's state."""

    task_id: str
    status: str
    requeued_from: str = ""
    resumes: int = 0


_state = msgspec.json.Decoder(_State).decode


async def list_dead(store: Store, question: ListDead, limit: int, limit_bytes: int) -> tuple[list[_Found], bool]:
    """Return one page of the dead tasks that match, newest first, and whether there are more."""
    before = None if question.before is None else Position.parse(question.before)
    pages = [
        await store.list(
            "task",
            status=status,
            tenant=question.tenant,
            name=question.name,
            error_type=question.error_type,
            ended_since=question.since,
            limit=limit,
            before=before,
            limit_bytes=limit_bytes,
        )
        for status in DEAD
    ]
    # Of a page that was cut nothing is known after its last task, so neither page may go beyond that.
    ends = [page.items[-1].cursor for page in pages if page.more]
    found = sorted((thing for page in pages for thing in page.items), key=lambda thing: thing.cursor, reverse=True)
    known = [thing for thing in found if not ends or thing.cursor >= max(ends)]
    dead = [await _dead(store, thing) for thing in known[:limit]]
    return dead, bool(ends) or len(known) > limit


async def _dead(store: Store, thing: Thing) -> _Found:
    raw = msgspec.Raw(thing.state.encode())
    again = await _requeued_as(store, _state(thing.state))
    return _Found(thing.cursor, bytes(raw), DeadTask(task=raw, requeued_as=again))


async def dead_letter(store: Store, thing: Thing) -> DeadLetter:
    """
    Return a dead task with its content and its last traceback.

    Raises:
        Refused: it has not failed.
    """
    task = _state(thing.state)
    if task.status not in DEAD:
        msg = f"task {task.task_id!r} is {task.status}: only one that failed or timed out is a dead letter"
        raise Refused(msg, reason="not_dead")
    submitted = await _event(store, task.task_id, "task.submitted")
    if submitted is not None and task.resumes:
        resumed = await store.events(subject=task.task_id, type_prefix="task.resumed", limit=1000, newest_first=True)
        payloads = (msgspec.json.decode(one.body)["data"].get("payload") for one in resumed.items)
        submitted |= {"payload": payload} if (payload := next(filter(None, payloads), None)) else {}
    failed = await _event(store, task.task_id, "task.failed") or {}
    return DeadLetter(
        task=msgspec.Raw(thing.state.encode()),
        submitted=submitted,
        traceback=failed.get("traceback", ""),
        requeued_as=await _requeued_as(store, task),
    )


async def _requeued_as(store: Store, task: _State) -> str:
    """Return the task that does this one again, '' if there is none."""
    again = requeued_id(task.task_id, task.requeued_from)
    found = await store.get("task", again)
    return again if found is not None and _state(found.state).requeued_from == task.task_id else ""


async def _event(store: Store, task_id: str, event_type: str) -> dict[str, Any] | None:
    """Return the data of a task's event of a type, the newest; None if the store does not have it."""
    found = await store.events(subject=task_id, type_prefix=event_type, limit=1, newest_first=True)
    data: dict[str, Any] | None = msgspec.json.decode(found.items[0].body)["data"] if found.items else None
    return data
