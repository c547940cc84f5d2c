"""What processes make of the settings, and that defaults said elsewhere are those of the settings."""

from __future__ import annotations

from coordinator.client.client import ATTEMPT_TIMEOUT_S, CALL_TIMEOUT_S
from coordinator.deciders.rules import Rules
from coordinator.doors.inbox import InboxLimits, inbox_stream
from coordinator.follower.feed import FeedLimits
from coordinator.follower.snapshotter import SnapshotLimits
from coordinator.leadership.lease import FRESH_S, RENEW_S, STOP_S, TTL_S
from coordinator.processes.coordinator import inbox_limits_of, limits_of
from coordinator.processes.follower import feed_limits, snapshot_limits
from coordinator.security.authorization import Quota
from coordinator.settings.model import Settings
from coordinator.settings.sections import InboxSettings, NatsSettings
from coordinator.settings.security import QuotaSettings
from events.subjects import Subjects


def test_each_setting_reaches_the_stream_or_its_reader() -> None:
    """Every key of the section is used, and replicas are those of all streams."""
    inbox = InboxSettings(max_bytes=2_000_000, max_age_s=90, max_msg_size_bytes=2048, discover_s=0.5, waiting_max=777)
    settings = Settings(inbox=inbox, nats=NatsSettings(replicas=3))
    limits = inbox_limits_of(settings)
    config = inbox_stream(Subjects("test"), "execution", limits)
    assert (config["name"], config["subjects"]) == ("TEST_INBOX_EXECUTION", ["test.inbox.execution.*.*"])
    assert (config["max_bytes"], config["max_age"], config["max_msg_size"]) == (2_000_000, 0, 2048)
    assert (config["num_replicas"], config["storage"], config["discard"]) == (3, "file", "new")
    assert limits.kept_s == 90
    assert (limits.discover_s, limits_of(settings).inbox_max) == (0.5, 777)


def test_the_defaults_are_the_same_on_both_sides() -> None:
    """Whoever reads inboxes without settings, as tests do, reads them as the settings would have it."""
    assert inbox_limits_of(Settings()) == InboxLimits()


def test_defaults_that_stand_elsewhere_are_those_of_the_settings() -> None:
    """Bounds of doors, followers, leases and clients stand above the settings, or beside them; they are held equal."""
    settings = Settings()
    assert feed_limits(settings) == FeedLimits()
    assert snapshot_limits(settings) == SnapshotLimits()
    lease = settings.leadership
    assert (lease.ttl_s, lease.renew_s, lease.fresh_s, lease.stop_after_s) == (TTL_S, RENEW_S, FRESH_S, STOP_S)
    assert (settings.client.call_timeout_s, settings.client.attempt_timeout_s) == (CALL_TIMEOUT_S, ATTEMPT_TIMEOUT_S)
    assert settings.agents["task_agent"].agent_type() == Rules().agents["task_agent"]
    limited = QuotaSettings(submits_per_s=1.0)
    assert limited.quota().submit_burst == Quota().submit_burst == limited.submit_burst


def test_every_rule_is_the_setting_of_its_name_in_one_section() -> None:
    """No rule is left out, and none could be taken from two sections."""
    settings = Settings()
    sections = (settings.container, settings.registry, settings.scheduler, settings.node, settings.engine)
    for name in {*Rules.__struct_fields__} - {"agents", "task_rules"}:
        key = {"heartbeat_timeout_s": "heartbeat_timeout", "container_start_timeout_s": "start_timeout_s"}.get(
            name, name
        )
        assert sum(hasattr(section, key) for section in sections) == 1, name
