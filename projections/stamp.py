"""Where and when an event stands, and who caused it: what a reducer may know beside the event itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec

from events.base import Event, Position, type_of
from events.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from enum import Enum

    Status = TypeVar("Status", bound=Enum)


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Position in the journal, commit time in seconds since 1970, tenant, and the actor whose command it was."""

    position: Position
    time: float
    tenant: str = ""
    actor: str = ""


def missing(event: Event, stamp: Stamp) -> NoReturn:
    """
    Stop at an event about a thing that does not exist.

    Raises:
        Corrupt: always.
    """
    msg = (
        f"event {stamp.position} is {type_of(type(event))} about {event.subject!r}, which does not exist at that point"
    )
    raise Corrupt(msg)


def existing(event: Event, stamp: Stamp) -> NoReturn:
    """
    Stop at an event that makes a thing anew which is there.

    Raises:
        Corrupt: always.
    """
    msg = (
        f"event {stamp.position} is {type_of(type(event))} about {event.subject!r}, which exists already at that point"
    )
    raise Corrupt(msg)


def check_legal(
    legal: Mapping[Status, frozenset[Status]], before: Status, after: Status, event: Event, stamp: Stamp
) -> None:
    """
    Stop at a transition that the table does not allow; to become what one is must stand there too.

    Raises:
        Corrupt: *after* is not reachable from *before*.
    """
    if after not in legal[before]:
        msg = (
            f"event {stamp.position} ({type_of(type(event))}) takes {event.subject!r} from {before.value} to "
            f"{after.value}, which is not allowed"
        )
        raise Corrupt(msg)


def check_status(allowed: Collection[Status], status: Status, event: Event, stamp: Stamp) -> None:
    """
    Stop at an event that leaves the status as it is, but does not belong to this one.

    Raises:
        Corrupt: *status* is not among *allowed*.
    """
    if status not in allowed:
        msg = (
            f"event {stamp.position} ({type_of(type(event))}) finds {event.subject!r} {status.value}, "
            f"which is not allowed"
        )
        raise Corrupt(msg)
