"""Questions to the read model, sent to `….read.<source>.<verb>`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from events.codec import UNREADABLE
from events.errors import Refused, shown

QUOTED_CHARS = 200

_Place = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}\.[0-9]{1,6}\Z", description="<sequence>.<index>")]
_Text = Annotated[str, msgspec.Meta(max_length=1024)]
_Kind = Literal["task", "container", "service", "worker", "node", "pool", "session"]


class _Question(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    pass


class Get(_Question, frozen=True, kw_only=True, gc=False):
    """Get one object, ended or not."""

    kind: _Kind
    id: str
    at_least: _Place | None = None


class List(_Question, frozen=True, kw_only=True, gc=False):
    """List objects, newest first."""

    kind: _Kind
    status: _Text | None = None
    tenant: _Text | None = None
    name: _Text | None = None
    limit: int = 100
    before: _Place | None = None
    at_least: _Place | None = None


class CountAll(_Question, frozen=True, kw_only=True, gc=False):
    """Count all objects that ever existed, by their last status."""

    kind: Literal["container"]
    """The only kind that the writer's statistics forget, and one that is never many."""
    at_least: _Place | None = None


class Events(_Question, frozen=True, kw_only=True, gc=False):
    """List events in the order of their positions."""

    subject: _Text | None = None
    type: _Text | None = None
    limit: int = 100
    after: _Place | None = None
    at_least: _Place | None = None


class CheckOutcomes(_Question, frozen=True, kw_only=True, gc=False):
    """List the last outcomes of a service's health checks, newest first; see `CheckOutcome`."""

    id: str
    limit: int = 100


class WhichPosition(_Question, frozen=True, kw_only=True, gc=False):
    """Get the position of the store."""


class Wait(_Question, frozen=True, kw_only=True, gc=False):
    """Wait until the store has reached *position*."""

    position: _Place
    timeout_s: float = 10.0


class HowFarBehind(_Question, frozen=True, kw_only=True, gc=False):
    """Get how far the store and the feed are behind the journal."""


Question = Get | List | CountAll | Events | CheckOutcomes | WhichPosition | Wait | HowFarBehind


VERBS: dict[str, type[Question]] = {
    "get": Get,
    "list": List,
    "count": CountAll,
    "events": Events,
    "checks": CheckOutcomes,
    "position": WhichPosition,
    "wait": Wait,
    "lag": HowFarBehind,
}


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
