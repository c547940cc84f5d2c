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
    tell = _VERSIONS.get(kind)
    if tell is None:
        tell = _VERSIONS[kind] = _teller(kind)
    return tell(event)


_VERSIONS: dict[type[Event], Callable[[Event], int]] = {}
_FEW = 4


def _teller(kind: type[Event]) -> Callable[[Event], int]:
    """Return what tells the version of an event: one call, for one is written about each change of each thing."""
    since = kind.SINCE
    if not since:
        newest = kind.VERSION
        return lambda _: newest
    lowest = min(since.values()) - 1
    versions = sorted({*since.values()}, reverse=True)
    if len(versions) == 1 and len(since) <= _FEW:
        only, (get, none) = versions[0], _attributes(kind, list(since))
        return lambda event: only if get(event) != none else lowest
    steps = tuple(_step(kind, version) for version in versions)

    def tell(event: Event) -> int:
        values = astuple(event)
        for version, get, none, get_parts, no_parts in steps:
            if get(values) != none or (get_parts is not None and get_parts(event) != no_parts):
                return version
        return lowest

    return tell


def _step(kind: type[Event], version: int) -> tuple[int, Callable[[Any], Any], Any, Callable[[Any], Any] | None, Any]:
    """Return a version, what takes its fields out of a tuple, their defaults, and the same of its parts."""
    names = [name for name, since in kind.SINCE.items() if since == version]
    fields = [name for name in kind.__struct_fields__ if name in names]
    parts = [name for name in names if name not in fields]
    get = getter_of(kind, fields)
    return version, get, defaults_of(kind, fields), *(_attributes(kind, parts) if parts else (None, None))


def _attributes(kind: type[Event], names: list[str]) -> tuple[Callable[[Any], Any], Any]:
    """Return what takes these fields and parts of an event, and what it takes of one that has none of them."""
    fields = set(kind.__struct_fields__)
    usual = tuple(defaults_of(kind, [name])[0] if name in fields else {} for name in names)
    return attrgetter(*names), usual if len(usual) > 1 else usual[0]


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
