"""
The base of every event: a frozen value with a type and a version, in a CloudEvents 1.0 envelope.

Positions order all events of a cluster. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import msgspec
from msgspec.structs import astuple

from events.defaults import defaults_of, getter_of
from events.errors import Refused, shown

_POSITION = re.compile(r"([0-9]{1,20})\.([0-9]{1,10})")
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Position(NamedTuple):
    """The place of an event: journal sequence, and index within that commit; `str()` is the event's id."""

    sequence: int
    index: int  # type: ignore[assignment]  # hides `tuple.index`, which a position does not need

    def __str__(self) -> str:
        return "%d.%d" % self  # noqa: UP031  # takes two thirds of the time of an f-string with two attributes

    @classmethod
    def parse(cls, text: str) -> Position:
        """
        Parse a text such as `"1042.0"`.

        Raises:
            Refused: the text is not `"<sequence>.<index>"`.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            msg = f"position {shown(text)} is not of the form '<sequence>.<index>', such as '1042.0'"
            raise Refused(msg, reason="bad_position")
        return cls(int(match[1]), int(match[2]))


START = Position(0, 0)


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One fact. Subclasses have a name in the past tense, `TaskSubmitted`, and are written as `task.submitted`.

    New fields have defaults and nothing is ever renamed. A change that old readers cannot read increments `VERSION` and
    adds an upcaster to the codec. A new field that a reader must not miss, because a decision or the fold depends on
    it, increments `VERSION` too and is listed in `SINCE`; it needs no upcaster.
    """

    VERSION: ClassVar[int] = 1
    SINCE: ClassVar[Mapping[str, int]] = {}
    """
    The version that added each field that a reader must not miss; events without such a field keep the old one.

    A part of a field that was added later has a property of its own, which is empty without it.
    """
    SUBJECT: ClassVar[str] = ""
    """Name of the field that holds the id of the thing the event is about."""

    @property
    def subject(self) -> str:
        """The id of the thing this event is about."""
        about: str = getattr(self, self.SUBJECT)
        return about


def version_of(event: Event) -> int:
    """Return the lowest version that says all of *event*: readers that know only that one lose nothing."""
    kind = type(event)
    known = _SINCE.get(kind)
    if known is None:
        known = _SINCE[kind] = _since(kind)
    versions, before = known
    for version, holds in versions:
        if holds(event):
            return version
    return before


_Versions = tuple[tuple[tuple[int, Callable[[Event], bool]], ...], int]
_SINCE: dict[type[Event], _Versions] = {}
_FEW = 4


def _since(event: type[Event]) -> _Versions:
    """Return the versions of `SINCE`, the highest first, with what tells whether an event needs it, and the lowest."""
    names, since = event.__struct_fields__, event.SINCE
    if not since:
        return (), event.VERSION
    versions: list[tuple[int, Callable[[Event], bool]]] = []
    for version in sorted({*since.values()}, reverse=True):
        fields = [name for name in names if since.get(name) == version]
        parts = [name for name in sorted(since.keys() - {*names}) if since[name] == version]
        versions.append((version, _needs(event, fields, parts)))
    return tuple(versions), min(since.values()) - 1


def _needs(event: type[Event], fields: list[str], parts: list[str]) -> Callable[[Event], bool]:
    """Return whether one of these fields has not its default, or one of these parts is not empty."""
    if not parts and len(fields) > _FEW:
        take, defaults = getter_of(event, fields), defaults_of(event, fields)
        return lambda one: bool(take(astuple(one)) != defaults)
    if len(fields) > _FEW:
        holds, needs_parts = _needs(event, fields, []), _needs(event, [], parts)
        return lambda one: holds(one) or needs_parts(one)
    get, usual = attrgetter(*fields, *parts), (*defaults_of(event, fields), *({} for _ in parts))
    none: Any = usual if len(usual) > 1 else usual[0]
    return lambda one: bool(get(one) != none)


class UnknownEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event of a type or version this release does not know; `raw` keeps its bytes unchanged."""

    SUBJECT = "about"

    type: str
    about: str
    raw: bytes


def type_of(event: type[Event]) -> str:
    """Return the type of an event class on the wire: `TaskAttemptFailed` → `task.attempt_failed`."""
    kind, *rest = _WORD.sub(" ", event.__name__).lower().split()
    return f"{kind}.{'_'.join(rest)}"


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The CloudEvents attributes of one event; `data` is the event itself.

    `time` is RFC 3339 in UTC and the same for all events of a commit; `tenant`, `actor`, `commandid`, `causationid`
    (the id of the event that caused this one) and `traceparent` (W3C) are extension attributes.
    """

    specversion: str
    id: str
    source: str
    subject: str
    time: str
    dataversion: int
    data: Event
    tenant: str = ""
    actor: str = ""
    commandid: str = ""
    causationid: str = ""
    traceparent: str = ""

    @property
    def type(self) -> str:
        """The event's type on the wire, such as `task.submitted`."""
        return self.data.type if isinstance(self.data, UnknownEvent) else type_of(type(self.data))
