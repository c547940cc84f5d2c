"""Patterns of event types: what they match, and which are refused with a suggestion."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.app.subscribe import TYPES, EventFilter
from events.errors import Refused


@pytest.mark.parametrize(
    ("kinds", "takes", "leaves"),
    [
        ("*", ("task.failed", "moon.landed"), ()),
        ("task.*", ("task.failed", "task.of_a_later_release"), ("taskforce.failed", "service.registered")),
        ("task.failed", ("task.failed",), ("task.failed_again", "task.completed")),
        (["task.failed", "service.*"], ("task.failed", "service.registered"), ("task.completed", "node.lost")),
        (("*", "task.failed"), ("node.lost",), ()),
    ],
)
def test_what_passes(kinds: Any, takes: tuple[str, ...], leaves: tuple[str, ...]) -> None:
    """A pattern takes its own types, also those of a later release, and no other."""
    wanted = EventFilter(kinds)
    assert all(map(wanted.takes, takes))
    assert not any(map(wanted.takes, leaves))


@pytest.mark.parametrize("event_type", sorted(TYPES))
def test_every_type_of_the_journal_can_be_asked_for(event_type: str) -> None:
    """Every event type can be selected by its own name and by its kind."""
    assert EventFilter(event_type).takes(event_type)
    assert EventFilter(f"{event_type.partition('.')[0]}.*").takes(event_type)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        ("task", "'task' is not an event pattern: use 'task.*'"),
        ("task.>", "'task.>' is not an event pattern"),
        ("task.a.b", "'task.a.b' is not an event pattern"),
        ("Task.*", "'Task.*' is not an event pattern"),
        ("", "'' is not an event pattern"),
        ((), "0 patterns given: use 1 to 100"),
        (["task.*"] * 101, "101 patterns"),
        (["task.*", 7], "7 is not an event pattern"),
        ("tsk.*", "'tsk.*' matches no event type of this release: the nearest is 'task.*'"),
        ("task.faild", "'task.faild' matches no event type of this release: the nearest is 'task.failed'"),
        ("service.heartbeat", "is not in the journal: heartbeats are on"),
    ],
)
def test_what_makes_no_sense_is_refused(kinds: Any, says: str) -> None:
    """A pattern that can never match is refused with the reason, instead of waiting forever."""
    with pytest.raises(Refused) as refused:
        EventFilter(kinds)
    assert refused.value.reason == "bad_pattern"
    assert says in refused.value.message
