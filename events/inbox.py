"""
What came in from other domains: facts of theirs, kept beside ours, what was refused, and how far it is read.

Orders that came in this way are not told here: what they led to is recorded as ever, with the domain as the actor.
"""

from __future__ import annotations

import msgspec

from events.base import Event


class InboxEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about the inbox of one domain."""

    SUBJECT = "domain"

    domain: str


class InboxRecorded(InboxEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A fact of another domain, of a type that is not ours; `data` is its JSON as it came.

    `type`, `event_id`, `event_source`, `about` and `event_time` are the CloudEvents type, id, source, subject and time
    that the domain gave it.
    """

    type: str
    event_id: str
    data: msgspec.Raw
    event_source: str = ""
    about: str = ""
    event_time: str = ""


class InboxRefused(InboxEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Something in the inbox could not be read or was not allowed; it changed nothing.

    `sequence` and `index` say which message of the stream and which event in it, `type` and `event_id` what it called
    itself as far as that could be read; `digest` is the SHA-256 of what came, and `begins` shows its first bytes: of
    the message, or of one event in a batch.
    """

    sequence: int
    index: int
    reason: str
    message: str
    type: str = ""
    event_id: str = ""
    digest: str = ""
    begins: str = ""


class InboxRead(InboxEvent, frozen=True, kw_only=True, gc=False):
    """
    The inbox is read so far, and all that follows from it stands in this commit or before.

    Whole messages up to `sequence`, and of the one after it the first `index` events. `stream_created` tells the stream
    from another that was created later under its name.
    """

    stream_created: str
    sequence: int
    index: int


class InboxGap(InboxEvent, frozen=True, kw_only=True, gc=False):
    """
    Messages were gone before they were read: those from `from_sequence` to `to_sequence`; reading goes on behind them.

    `why` is `removed` (by age, by size, or by hand), `recreated` (the stream is another one now; how many were lost
    with the last one is not known) or `went_backwards` (the stream ends before what was read already).
    """

    stream_created: str
    from_sequence: int
    to_sequence: int
    why: str
