"""
Which events somebody wants, by patterns of their types; only types are looked at, never what events hold.

    task.*          every event about tasks        (NATS writes it coordination.events.task.>)
    task.failed     one type of event
    *               everything
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from events.codec import EVENTS, HEARTBEATS
from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

ALL = "*"
PATTERNS_MAX = 100
TYPES = frozenset(EVENTS) - HEARTBEATS
"""What stands in the journal as far as this release knows."""

_is_pattern = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*|\*)").fullmatch


class EventFilter:
    """
    What passes any of *kinds*, one pattern or several; unknown types of a known kind pass `kind.*`.

    Raises:
        Refused: a pattern is malformed, or no event of this release could ever pass it.
    """

    def __init__(self, kinds: str | Iterable[str] = ALL) -> None:
        patterns = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not 0 < len(patterns) <= PATTERNS_MAX:
            msg = f"{len(patterns)} patterns are given: use 1 to {PATTERNS_MAX}, such as 'task.*', or '*' for all"
            raise Refused(msg, reason="bad_pattern")
        for pattern in patterns:
            _check(pattern)
        self.takes_all = ALL in patterns
        self._types = frozenset(patterns)
        self._kinds = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(".*"))

    def takes(self, event_type: str) -> bool:
        """Say whether an event of this type is wanted."""
        return self.takes_all or event_type in self._types or event_type.startswith(self._kinds)


def _check(pattern: object) -> None:
    if pattern == ALL or (isinstance(pattern, str) and pattern in TYPES):
        return
    match = _is_pattern(pattern) if isinstance(pattern, str) else None
    if match is None:
        msg = f"{shown(pattern)} is no pattern of events: use 'task.*', 'task.failed', or '*' for all"
        raise Refused(msg, reason="bad_pattern")
    if match[0] in HEARTBEATS:
        msg = f"{shown(pattern)} never stands in the journal: signs of life are on the subjects ….heartbeat.<kind>.<id>"
        raise Refused(msg, reason="bad_pattern")
    families = {f"{event_type.partition('.')[0]}.*" for event_type in TYPES}
    if match[0] not in families:
        nearest = get_close_matches(match[0], sorted(TYPES | families), n=1, cutoff=0.0)[0]
        msg = f"{shown(pattern)} fits no event of this release: the nearest is '{nearest}'"
        raise Refused(msg, reason="bad_pattern")
