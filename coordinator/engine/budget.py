"""
How much time and how many bytes questions may take, so that no number of them holds up commands.

Each turn has a `Budget`; what it has nothing left for waits for the next turn. Discovery may be answered between turns
while its `Share` of the time lasts. At least one question of each turn is answered, whatever it takes; a long list that
cannot be made in that time goes on in the turns that follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.clock import Clock

TURN_S = 0.002
TURN_BYTES = 1024 * 1024
DISCOVERY_SHARE = 0.2
"""Of the time of this process."""
DISCOVERY_S = 0.003
"""What discovery may take at once, after a pause."""


class Budget:
    """What the questions of one turn may still take."""

    def __init__(self, clock: Clock) -> None:
        self.now = clock.heard
        self._left_s = TURN_S
        self._left_bytes = TURN_BYTES

    def refill(self) -> None:
        """Begin a turn."""
        self._left_s, self._left_bytes = TURN_S, TURN_BYTES

    @property
    def is_spent(self) -> bool:
        """Whether the next question has to wait for the next turn."""
        return self._left_s <= 0 or self._left_bytes <= 0

    @property
    def ends_at(self) -> float:
        """When the time of this turn is up, if the next question begins now."""
        return self.now() + self._left_s

    def note_bytes(self, size: int) -> None:
        """Take *size* bytes."""
        self._left_bytes -= size

    def note_time(self, seconds: float) -> None:
        """Take *seconds*."""
        self._left_s -= seconds


class Share:
    """A share of the time of this process: `DISCOVERY_S` at once, and then as much as comes back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left_s = DISCOVERY_S
        self._filled_at = clock.heard()

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left now."""
        now = self._clock.heard()
        self._left_s = min(DISCOVERY_S, self._left_s + DISCOVERY_SHARE * (now - self._filled_at))
        self._filled_at = now
        return self._left_s <= 0

    def note_time(self, seconds: float) -> None:
        """Take *seconds*."""
        self._left_s -= seconds
