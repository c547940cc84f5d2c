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


class ToCancel(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """
    The attempt at a task under `lease` is to be cancelled; it has `grace_s` more seconds to end by itself.

    A lease of the same name may by now be that of another task: a claim that is repeated leads to the same names.
    """

    task_id: str
    lease: str
    grace_s: float
    reason: str = ""


class LostLeases(msgspec.Struct, omit_defaults=True):
    """
    A notice to a worker: it no longer holds these leases, and its registration `replaced` is not the current one.

    It is to end the attempts in `cancel`, and report what it did with each (`ReportCancel`).
    """

    lost: list[str]
    replaced: str = ""
    cancel: list[ToCancel] = []


class ServiceNotice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The changes of services from `previous` to `position` in the reign `epoch`; `events` is an array."""

    epoch: str
    previous: str
    position: str
    events: msgspec.Raw
