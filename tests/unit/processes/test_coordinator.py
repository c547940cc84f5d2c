"""The settings of inboxes reach what they are about."""

from __future__ import annotations

from coordinator.doors.inbox import InboxLimits, inbox_stream
from coordinator.processes.coordinator import inbox_limits_of, limits_of
from coordinator.settings.model import Settings
from coordinator.settings.sections import InboxSettings, NatsSettings
from events.subjects import Subjects


def test_each_setting_reaches_the_stream_or_its_reader() -> None:
    """Every key of the section is used, and replicas are those of all streams."""
    inbox = InboxSettings(max_bytes=2_000_000, max_age_s=90, max_msg_size_bytes=2048, discover_s=0.5, waiting_max=777)
    settings = Settings(inbox=inbox, nats=NatsSettings(replicas=3))
    limits = inbox_limits_of(settings)
    config = inbox_stream(Subjects("test"), "execution", limits)
    assert (config["name"], config["subjects"]) == ("TEST_INBOX_EXECUTION", ["test.inbox.execution.*.*"])
    assert (config["max_bytes"], config["max_age"], config["max_msg_size"]) == (2_000_000, 90 * 10**9, 2048)
    assert (config["num_replicas"], config["storage"], config["discard"]) == (3, "file", "old")
    assert (limits.discover_s, limits_of(settings).inbox_max) == (0.5, 777)


def test_the_defaults_are_the_same_on_both_sides() -> None:
    """Whoever reads inboxes without settings, as tests do, reads them as the settings would have it."""
    assert inbox_limits_of(Settings()) == InboxLimits()
