"""What a coordinator publishes on core NATS without a request: who leads, lost leases, changes of services."""

from __future__ import annotations

import msgspec

NOTICE_EVERY_S = 1.0
"""Time between two notices of services; one is sent even if nothing changed."""


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The announcement of a new writer, or that the writer of `epoch` is reached again, for the `opened`-th time.

    With `trouble`, that nobody can lead now, and why: while that lasts it is repeated every `NOTICE_EVERY_S`, with the
    last epoch that was seen.
    """

    epoch: str
    trouble: str = ""
    opened: int = 1


class LostLeases(msgspec.Struct, omit_defaults=True):
    """A notice: the worker no longer holds these leases, and its registration `replaced` is not the current one."""

    lost: list[str]
    replaced: str = ""


class ServiceNotice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The changes of services from `previous` to `position` in the reign `epoch`; `events` is an array."""

    epoch: str
    previous: str
    position: str
    events: msgspec.Raw
