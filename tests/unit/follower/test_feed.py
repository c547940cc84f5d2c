"""The feed's settings, and the configuration of its stream."""

from __future__ import annotations

import pytest

from coordinator.follower.feed import FeedLimits, feed_stream
from coordinator.processes.follower import feed_limits
from coordinator.settings.model import Settings
from events.subjects import Subjects


def test_every_setting_of_the_feed_has_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key of the settings section reaches the feed's limits."""
    given = {"MAX_AGE_S": "120", "MAX_BYTES": "2000000", "WINDOW_EVENTS": "7", "ACK_TIMEOUT_S": "3", "STAND_BY_S": "9"}
    for key, value in given.items():
        monkeypatch.setenv(f"COORDINATOR_FEED__{key}", value)
    limits = feed_limits(Settings())
    assert limits is not None
    assert (limits.max_age_s, limits.max_bytes, limits.stand_by_s) == (120, 2_000_000, 9)
    assert (limits.chain.window_messages, limits.chain.ack_timeout_s) == (7, 3)
    monkeypatch.setenv("COORDINATOR_FEED__MODE", "none")
    assert feed_limits(Settings()) is None


def test_the_defaults_are_those_of_the_settings() -> None:
    """Without settings, the feed has the same limits as the default settings."""
    assert feed_limits(Settings()) == FeedLimits()


def test_nobody_can_remove_or_replace_what_was_fed_by_publishing() -> None:
    """The stream is bounded by age and size, and has no option that a publisher could misuse."""
    config = feed_stream(Subjects(), FeedLimits())
    assert (config["max_age"], config["max_bytes"], config["discard"]) == (86_400 * 10**9, 2 * 1024**3, "old")
    assert config["persist_mode"] == "async"
    assert not any(key.startswith("allow_") and key != "allow_direct" for key in config)
    assert "persist_mode" not in feed_stream(Subjects(), FeedLimits(replicas=3))
