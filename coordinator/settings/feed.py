"""The sections `feed` and `follower` of the settings; nothing is read here, see `settings`."""

from __future__ import annotations

from typing import Literal

from coordinator.settings.sections import DAY_S, Location, Section, number, plain


class FeedSettings(Section):
    """The feed: every event singly, on a stream that others subscribe to."""

    mode: Literal["publish", "none"] = plain("publish", "whether followers keep the feed")
    max_age_s: float = number(DAY_S, 60.0, 365 * DAY_S, "events leave the feed after so long")
    max_bytes: int = number(2 * 1024**3, 1024 * 1024, 2**50, "above this size the oldest events leave the feed")
    window_events: int = number(1000, 1, 2000, "events sent together, for one acknowledgement")
    ack_timeout_s: float = number(10.0, 0.1, 300.0, "how long such a window may wait for its acknowledgement")
    stand_by_s: float = number(2.0, 0.05, 3600.0, "about how often a follower beside the one that feeds looks at it")


class FollowerSettings(Section):
    """The read process: what follows the journal and decides nothing."""

    archive: Location | None = plain(None, "directory of the archive, for what has left the journal")
    snapshot_events: int = number(100_000, 0, 10**9, "a snapshot is written each so many events; 0 writes none")
    snapshot_pause_s: float = number(30.0, 0.0, DAY_S, "seconds at least between two snapshots")
    snapshots_kept: int = number(3, 1, 50, "snapshots kept; older ones are removed")
    niceness: int = number(5, 0, 19, "how far it stands back when the processors are busy; what it lags it catches up")
    creds: Location | None = plain(None, "file of credentials, instead of those of nats")
