"""
Events about the inboxes of other domains: facts of theirs, what was refused, and how far each inbox is read.

A command that comes in by an inbox has no event here: its effects are recorded as usual, with the domain as the actor.
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
    An event of another domain, of a type that the coordinator does not define; `data` is its JSON, unchanged.

    `type`, `event_id`, `event_source`, `about` and `event_time` are the CloudEvents type, id, source, subject and time
    that the domain set.
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

    `sequence` is the message of the stream and `index` the event in it; `type` and `event_id` are those of the event,
    as far as they could be read. `digest` is the SHA-256 and `begins` the first bytes of the message, or of one event
    in a batch.
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
    The inbox is read up to here, and everything that follows from it is in this commit or an earlier one.

    Whole messages up to `sequence` are read, and the first `index` events of the next one. `stream_created`
    distinguishes the stream from another one created later under the same name.
    """

    stream_created: str
    sequence: int
    index: int


class InboxGap(InboxEvent, frozen=True, kw_only=True, gc=False):
    """
    Messages `from_sequence` to `to_sequence` were lost before they were read; reading continues after them.

    `why` is `removed` (by age, by size, or by hand), `recreated` (the stream was deleted and created again; how many
    messages were lost with the old one is not known) or `went_backwards` (the stream ends before what is already read).
    """

    stream_created: str
    from_sequence: int
    to_sequence: int
    why: str
