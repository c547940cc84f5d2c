"""The settings of inboxes: how the stream of each is bounded, and how much of it waits for the writer."""

from __future__ import annotations

from coordinator.settings.sections import DAY_S, Section, number


class InboxSettings(Section):
    """The inboxes of other domains; what bounds a stream is applied when `coordinator inbox add` makes it."""

    max_bytes: int = number(1024**3, 1024**2, 1024**4, "bytes that one inbox keeps; the oldest messages go first")
    max_age_s: float = number(7 * DAY_S, 60.0, 365 * DAY_S, "messages older than this are gone, read or not")
    max_msg_size_bytes: int = number(512 * 1024, 1024, 960 * 1024, "largest message that an inbox takes")
    waiting_max: int = number(4000, 100, 1_000_000, "events read from one inbox that may wait for the writer")
    discover_s: float = number(2.0, 0.05, 3600.0, "between two looks for new inboxes")
