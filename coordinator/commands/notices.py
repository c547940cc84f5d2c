"""What a coordinator tells unasked, on core NATS: who leads, which leases are lost, what became of services."""

from __future__ import annotations

import msgspec

NOTICE_EVERY_S = 1.0
"""Between two notices of services, also when nothing became of them."""


class Announcement(msgspec.Struct, frozen=True):
    """What a new writer says of itself."""

    epoch: str


class LostLeases(msgspec.Struct):
    """A notice: these leases are not the worker's any more."""

    lost: list[str]


class ServiceNotice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of services from `previous` to `position` in the reign `epoch`; `events` is an array."""

    epoch: str
    previous: str
    position: str
    events: msgspec.Raw
