"""
Questions to the read model, sent to `….read.<source>.<verb>`: operations whose door is that of the followers.

Their answers come from the store. With `at_least`, from one that has reached that position.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal

import msgspec

from coordinator.commands.command import Example, Operation, Told_co
from coordinator.commands.examples import (
    CHECKS_KEPT,
    COUNTS,
    DEAD_LETTER,
    EVENT_PAGE,
    LAG,
    TASK_CANCELLED,
    TASK_COMPLETED,
    TASK_FAILED,
)
from coordinator.commands.service import CheckOutcome
from events.codec import UNREADABLE
from events.errors import Refused, shown
from projections.store.port import Counts

QUOTED_CHARS = 200

_Place = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}\.[0-9]{1,6}\Z", description="<sequence>.<index>")]
_Text = Annotated[str, msgspec.Meta(max_length=1024)]
_Kind = Literal["task", "container", "service", "worker", "node", "pool", "session", "schedule"]


class ReadQuestion(Operation[Told_co], Generic[Told_co], frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A question to the followers."""

    KIND = "read"
    IS_QUESTION = True
    FOR = frozenset({"domain", "monitor"})
    ALWAYS = frozenset(
        {
            *("another_writer", "bad_question", "bad_verb", "closed", "internal", "overloaded", "starting"),
            *("store_busy", "too_large", "unavailable"),
        }
    )


class Listed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """States, newest first; `next` is where the list goes on (`before`), None at its end."""

    items: list[Any]
    next: str | None


class EventPage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """CloudEvents in order; `next` is where new ones appear (`after`), `begins` from where on all are there."""

    events: list[dict[str, Any]]
    next: str
    more: bool
    begins: str = ""


class StoreSize(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Bytes of the file with its WAL, bytes that it grows by in a day (None: not known yet), bytes free on its disk."""

    bytes: int
    bytes_a_day: float | None
    free_bytes: int


class Behind(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many records are not processed yet, and the age in seconds of the oldest commit among them."""

    through: int
    behind: int
    behind_s: float
    state: str = ""
    reason: str = ""


class Lag(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The last slot of the journal; the lag of this follower's store and feed, and the store's size, if it has one."""

    journal: int
    store: Behind | None
    feed: Behind | None
    size: StoreSize | None = None


class Get(ReadQuestion[Any], frozen=True, kw_only=True, gc=False):
    """Get one object, ended or not."""

    VERB = "get"
    REFUSALS = frozenset({"bad_id", "bad_position", "behind", "not_found"})
    EXAMPLE = Example({"kind": "task", "id": "task_1"}, TASK_COMPLETED)

    kind: _Kind
    id: str
    at_least: _Place | None = None


class List(ReadQuestion[Listed], frozen=True, kw_only=True, gc=False):
    """List objects, newest first."""

    VERB = "list"
    REFUSALS = frozenset({"bad_number", "bad_position", "behind"})
    EXAMPLE = Example({"kind": "task", "status": "cancelled", "limit": 10}, {"items": [TASK_CANCELLED], "next": None})

    kind: _Kind
    status: _Text | None = None
    tenant: _Text | None = None
    name: _Text | None = None
    limit: int = 100
    before: _Place | None = None
    at_least: _Place | None = None


class DeadTask(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A task that failed or timed out, with its attempts; `requeued_as` is the task that does it again."""

    task: Any
    requeued_as: str = ""


class DeadTasks(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Dead tasks, newest first; `next` is where the list goes on (`before`), None at its end."""

    items: list[DeadTask]
    next: str | None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A dead task with what it takes to do it again.

    `submitted` is the content of its `task.submitted`, with the payload that it had at last; it is missing if the read
    model is bounded and has removed that event. `traceback` is that of its last failure.
    """

    task: Any
    submitted: dict[str, Any] | None = None
    traceback: str = ""
    requeued_as: str = ""


class ListDead(ReadQuestion[DeadTasks], frozen=True, kw_only=True, gc=False):
    """
    List the tasks that failed or timed out, newest first.

    `error_type` is a type, `package.module.Name`, or its last parts; `since` the earliest end, in seconds since 1970.
    """

    VERB = "dead"
    REFUSALS = frozenset({"bad_number", "bad_position", "behind"})
    EXAMPLE = Example({"name": "add", "limit": 10}, {"items": [{"task": TASK_FAILED}], "next": None})

    name: _Text | None = None
    tenant: _Text | None = None
    error_type: _Text | None = None
    since: float | None = None
    limit: int = 100
    before: _Place | None = None
    at_least: _Place | None = None


class GetDead(ReadQuestion[DeadLetter], frozen=True, kw_only=True, gc=False):
    """Get a task that failed or timed out, with its payload, its traceback, and what it takes to do it again."""

    VERB = "dead_letter"
    REFUSALS = frozenset({"bad_id", "bad_position", "behind", "not_dead", "not_found"})
    EXAMPLE = Example({"id": "task_5"}, DEAD_LETTER)

    id: str
    at_least: _Place | None = None


class CountAll(ReadQuestion[Counts], frozen=True, kw_only=True, gc=False):
    """Count all objects that ever existed, by their last status."""

    VERB = "count"
    REFUSALS = frozenset({"bad_position", "behind"})
    EXAMPLE = Example({"kind": "container"}, COUNTS)

    kind: Literal["container"]
    """The only kind that the writer's statistics forget, and one that is never many."""
    at_least: _Place | None = None


class Events(ReadQuestion[EventPage], frozen=True, kw_only=True, gc=False):
    """List events in the order of their positions."""

    VERB = "events"
    REFUSALS = frozenset({"bad_number", "bad_position", "behind"})
    EXAMPLE = Example({"subject": "task_4", "type": "task.cancelled"}, EVENT_PAGE)

    subject: _Text | None = None
    type: _Text | None = None
    limit: int = 100
    after: _Place | None = None
    at_least: _Place | None = None


class CheckOutcomes(ReadQuestion[list[CheckOutcome]], frozen=True, kw_only=True, gc=False):
    """List the last outcomes of a service's health checks, newest first; see `CheckOutcome`."""

    VERB = "checks"
    REFUSALS = frozenset({"bad_id", "bad_number", "bad_position"})
    EXAMPLE = Example({"id": "service_1", "limit": 10}, CHECKS_KEPT)

    id: str
    limit: int = 100


class WhichPosition(ReadQuestion[str], frozen=True, kw_only=True, gc=False):
    """Get the position of the store."""

    VERB = "position"
    EXAMPLE = Example({}, "39.0")


class Wait(ReadQuestion[str], frozen=True, kw_only=True, gc=False):
    """Wait until the store has reached *position*."""

    VERB = "wait"
    REFUSALS = frozenset({"bad_number", "bad_position", "behind"})
    EXAMPLE = Example({"position": "4.0", "timeout_s": 5.0}, "39.0")

    position: _Place
    timeout_s: float = 10.0


class HowFarBehind(ReadQuestion[Lag], frozen=True, kw_only=True, gc=False):
    """Get how far the store and the feed are behind the journal."""

    VERB = "lag"
    REFUSALS = frozenset({"bad_answer", "corrupt", "disconnected", "no_journal", "no_responders", "timeout"})
    EXAMPLE = Example({}, LAG)


Question = Get | List | ListDead | GetDead | CountAll | Events | CheckOutcomes | WhichPosition | Wait | HowFarBehind


_ASKED = (Get, List, ListDead, GetDead, CountAll, Events, CheckOutcomes, WhichPosition, Wait, HowFarBehind)

VERBS: dict[str, type[Question]] = {one.VERB: one for one in _ASKED}


def decode_question(verb: str, body: bytes) -> Question:
    """
    Decode a question.

    Raises:
        Refused: the verb is unknown, or the body is not a valid question for it.
    """
    question = VERBS.get(verb)
    if question is None:
        msg = f"unknown verb {shown(verb)}: use {', '.join(VERBS)}"
        raise Refused(msg, reason="bad_verb")
    try:
        return msgspec.json.decode(body or b"{}", type=question)
    except UNREADABLE as error:
        fields = ", ".join(question.__struct_fields__) or "no fields"
        # The error quotes the body, which may be long.
        msg = f"the body is not valid for {verb} ({str(error)[:QUOTED_CHARS]}): send a JSON object with {fields}"
        raise Refused(msg, reason="bad_question") from error


def bounded(name: str, value: float, least: float, most: float) -> float:
    """Return *value* if it is between *least* and *most*, else raise Refused with *name* in the message."""
    if not least <= value <= most:
        msg = f"{name} {value!r} is out of range: use {least:g} to {most:g}"
        raise Refused(msg, reason="bad_number")
    return value
