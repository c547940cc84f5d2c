"""What a task waits for: the tasks before it, how they must end, and what happens if that cannot be any more."""

from __future__ import annotations

from enum import Enum

import msgspec


class AfterOn(Enum):
    """How a task before another must end for that one to begin."""

    SUCCESS = "success"
    """As completed."""
    END = "end"
    """In any way."""


class AfterJoin(Enum):
    """How many of the tasks before another must end so."""

    ALL = "all"
    ANY = "any"


class Otherwise(Enum):
    """What becomes of a task when those before it cannot end as it waits for any more."""

    CANCEL = "cancel"
    RUN = "run"


class After(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A task begins after these `tasks`, 1 to 64 ids: after all of them, or any, ended with success, or in any way."""

    tasks: tuple[str, ...]
    on: AfterOn = AfterOn.SUCCESS
    join: AfterJoin = AfterJoin.ALL
    otherwise: Otherwise = Otherwise.CANCEL
