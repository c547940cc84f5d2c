"""Dead letters of a store: which tasks they are, their pages, and what each has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.commands.reads import ListDead
from coordinator.errors import Refused
from coordinator.follower.dead_letters import dead_letter, list_dead
from events import codec
from events.base import START, Position
from events.task import TaskCancelled, TaskTimedOut
from events.task_pause import TaskPaused, TaskResumed
from projections.store.memory import MemoryStore
from projections.store.port import Batch, EventRow, Mark, place_of
from tests.specification import write
from tests.unit.deciders.facts import attempt_failed, failed, payload, started, submitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.base import Envelope, Event

LARGE = 10_000_000
OTHER = msgspec.structs.replace(payload("[2]"), digest="2" * 64)


async def stored(*facts: Event) -> MemoryStore:
    """Return a store of these events."""
    scribe = write(*facts)
    rows = [_row(envelope) for record in scribe.records for envelope in codec.decode(record.body)]
    store = MemoryStore()
    states = {"task": dict(scribe.world.tasks)}
    await store.write(Batch(before=START, after=Mark(position=scribe.world.position), events=rows, states=states))
    return store


def _row(envelope: Envelope) -> EventRow:
    kind, _, _ = envelope.type.partition(".")
    place = place_of(Position.parse(envelope.id))
    body = codec.encode(envelope)
    return EventRow(place, envelope.type, kind, envelope.subject, envelope.time, "default", "tester", "", body)


def a_dead(task_id: str, ends: str = "failed") -> Iterator[Event]:
    yield submitted(task_id, timeout_s=5.0)
    yield started(task_id)
    if ends == "failed":
        yield failed(task_id)
    elif ends == "timeout":
        yield TaskTimedOut(task_id=task_id, lease="c.1.1", ran_for_s=9.0, limit_s=5.0, attempt=1)
    elif ends == "cancelled":
        yield TaskCancelled(task_id=task_id)


async def pages(store: MemoryStore, limit: int, **asked: Any) -> list[list[str]]:
    """Read a list to its end, and return the ids of each page."""
    read: list[list[str]] = []
    question = ListDead(**asked)
    while True:
        dead, more = await list_dead(store, question, limit, LARGE)
        read.append([msgspec.json.decode(one.encoded)["task_id"] for one in dead])
        if not more or not dead:
            return read
        question = msgspec.structs.replace(question, before=str(dead[-1].cursor))


@given(
    ends=st.lists(st.sampled_from(("failed", "failed", "timeout", "cancelled", "")), max_size=12),
    limit=st.integers(1, 5),
)
async def test_all_that_failed_or_timed_out_is_in_the_list_once(ends: list[str], limit: int) -> None:
    """Newest first, whatever the size of the pages; a page has no more than was asked for."""
    facts = [event for number, end in enumerate(ends) for event in a_dead(f"t{number}", end)]
    store = await stored(*(facts or [submitted("living")]))
    read = await pages(store, limit)
    assert all(len(page) <= limit for page in read)
    assert [one for page in read for one in page] == [
        f"t{number}" for number, end in reversed([*enumerate(ends)]) if end in ("failed", "timeout")
    ]


async def test_a_dead_letter_has_what_it_takes_to_do_the_task_again() -> None:
    """The content as it was submitted, the traceback of the last failure, and the attempts."""
    store = await stored(
        submitted(payload=payload(), priority=3),
        started(),
        attempt_failed(traceback="the first"),
        started(lease="c.2.2"),
        failed(lease="c.2.2", traceback="the last"),
    )
    thing = await store.get("task", "t")
    assert thing is not None
    letter = await dead_letter(store, thing)
    assert letter.submitted is not None
    assert (letter.submitted["priority"], letter.submitted["payload"]["data"]) == (3, "{}")
    assert (letter.traceback, letter.requeued_as) == ("the last", "")
    assert [one["attempt"] for one in msgspec.json.decode(bytes(letter.task))["attempts"]] == [1, 2]


@pytest.mark.parametrize(("resumed", "data"), [((OTHER,), "[2]"), ((OTHER, None), "[2]"), ((None,), "{}")])
async def test_a_payload_that_came_with_a_resume_is_the_payload(resumed: tuple[Any, ...], data: str) -> None:
    """The last one that was given: the task failed with it."""
    facts: list[Event] = [submitted(payload=payload())]
    for one in resumed:
        facts += [TaskPaused(task_id="t", reason="r"), TaskResumed(task_id="t", payload=one)]
    store = await stored(*facts, started(), failed())
    thing = await store.get("task", "t")
    assert thing is not None
    letter = await dead_letter(store, thing)
    assert letter.submitted is not None
    assert letter.submitted["payload"]["data"] == data


async def test_what_was_requeued_says_as_what() -> None:
    """Only by a task that names it: another one may happen to have that id."""
    store = await stored(
        *a_dead("a"), submitted("a-r1", requeued_from="a"), *a_dead("b"), submitted("b-r1"), *a_dead("c", "timeout")
    )
    dead, _ = await list_dead(store, ListDead(), 10, LARGE)
    assert [one.told.requeued_as for one in dead] == ["", "", "a-r1"]


async def test_what_has_not_failed_is_no_dead_letter() -> None:
    """The error says what it is."""
    store = await stored(*a_dead("a", "cancelled"))
    thing = await store.get("task", "a")
    assert thing is not None
    with pytest.raises(Refused, match="is cancelled: only one that failed") as refused:
        await dead_letter(store, thing)
    assert refused.value.reason == "not_dead"
