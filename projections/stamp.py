"""Position, time, sender and trace of an event, which a reducer may use as well; and checks that reducers share."""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec

from events.base import Event, Position, type_of
from events.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from enum import Enum

    Status = TypeVar("Status", bound=Enum)


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """
    Where an event comes from.

    Position in the journal, commit time in seconds since 1970, tenant, actor whose command it was, trace, cause, and
    the version of the event, 0 where it is not known.
    """

    position: Position
    time: float
    tenant: str = ""
    actor: str = ""
    traceparent: str = ""
    causationid: str = ""
    dataversion: int = 0

    @property
    def owner(self) -> str:
        """The actor, to be kept: the same string for all that is its own."""
        return intern(self.actor)


def missing(event: Event, stamp: Stamp) -> NoReturn:
    """
    Stop at an event about an entity that does not exist.

    Raises:
        Corrupt: always.
    """
    msg = (
        f"event {stamp.position} is {type_of(type(event))} about {event.subject!r}, which does not exist at that point"
    )
    raise Corrupt(msg)


def existing(event: Event, stamp: Stamp) -> NoReturn:
    """
    Stop at an event that creates an entity that exists.

    Raises:
        Corrupt: always.
    """
    msg = (
        f"event {stamp.position} is {type_of(type(event))} about {event.subject!r}, which already exists at that point"
    )
    raise Corrupt(msg)


def check_legal(
    legal: Mapping[Status, frozenset[Status]], before: Status, after: Status, event: Event, stamp: Stamp
) -> None:
    """
    Stop at a transition that the table does not allow; it must list a transition to the same status, too.

    Raises:
        Corrupt: the table has no transition from *before* to *after*.
    """
    if after not in legal[before]:
        msg = (
            f"event {stamp.position} ({type_of(type(event))}) takes {event.subject!r} from {before.value} to "
            f"{after.value}, which is not allowed"
        )
        raise Corrupt(msg)


def check_status(allowed: Collection[Status], status: Status, event: Event, stamp: Stamp) -> None:
    """
    Stop at an event that is not allowed in the current status.

    Raises:
        Corrupt: *status* is not in *allowed*.
    """
    if status not in allowed:
        msg = (
            f"event {stamp.position} ({type_of(type(event))}) is not allowed for {event.subject!r}, "
            f"which is {status.value} at that point"
        )
        raise Corrupt(msg)
