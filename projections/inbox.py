"""The inboxes of other domains: how far each is read, what came of it, and the fold of their events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from events.inbox import InboxGap, InboxRead, InboxRecorded, InboxRefused

if TYPE_CHECKING:
    from projections.stamp import Stamp

    AnyInboxEvent = InboxRecorded | InboxRefused | InboxRead | InboxGap


class Inbox(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    How far the inbox of one domain is read; a new writer continues exactly here.

    Read are the whole messages up to `sequence` and the first `index` events of the next. `read_at` is the time of the
    last read; `missed` counts messages that were gone before they were read.
    """

    domain: str
    stream_created: str = ""
    sequence: int = 0
    index: int = 0
    read_at: float = 0.0
    recorded: int = 0
    refused: int = 0
    missed: int = 0

    @property
    def is_ended(self) -> bool:
        """Always false: if the position were evicted, the whole stream would be read again."""
        return False


def evolve(inbox: Inbox | None, event: AnyInboxEvent, stamp: Stamp) -> Inbox:
    """Fold one event into the inbox it is about."""
    if inbox is None:
        inbox = Inbox(domain=event.domain)
    match event:
        case InboxRecorded():
            return msgspec.structs.replace(inbox, recorded=inbox.recorded + 1)
        case InboxRefused():
            return msgspec.structs.replace(inbox, refused=inbox.refused + 1)
        case InboxRead():
            return msgspec.structs.replace(
                inbox,
                stream_created=event.stream_created,
                sequence=event.sequence,
                index=event.index,
                read_at=stamp.time,
            )
        case InboxGap():
            return msgspec.structs.replace(
                inbox,
                stream_created=event.stream_created,
                sequence=event.to_sequence,
                index=0,
                read_at=stamp.time,
                missed=inbox.missed + event.to_sequence - event.from_sequence + 1,
            )
    assert_never(event)
