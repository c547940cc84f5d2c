"""Patterns of event types: what passes them, and what is refused with what would be right."""

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
    """By its own name, and by its kind."""
    assert EventFilter(event_type).takes(event_type)
    assert EventFilter(f"{event_type.partition('.')[0]}.*").takes(event_type)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        ("task", "'task' is no pattern of events: use 'task.*'"),
        ("task.>", "'task.>' is no pattern"),
        ("task.a.b", "'task.a.b' is no pattern"),
        ("Task.*", "'Task.*' is no pattern"),
        ("", "'' is no pattern"),
        ((), "0 patterns are given: use 1 to 100"),
        (["task.*"] * 101, "101 patterns"),
        (["task.*", 7], "7 is no pattern"),
        ("tsk.*", "'tsk.*' fits no event of this release: the nearest is 'task.*'"),
        ("task.faild", "'task.faild' fits no event of this release: the nearest is 'task.failed'"),
        ("service.heartbeat", "never stands in the journal: signs of life are on"),
    ],
)
def test_what_makes_no_sense_is_refused(kinds: Any, says: str) -> None:
    """Nobody waits for ever for what cannot come."""
    with pytest.raises(Refused) as refused:
        EventFilter(kinds)
    assert refused.value.reason == "bad_pattern"
    assert says in refused.value.message
