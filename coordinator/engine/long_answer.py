"""
Long answers: the list that a question asks for is encoded in slices, one a turn, so that it holds no turn up.

What the list shows is chosen when the question is asked, and things are never changed in place: the answer is as of the
position of that moment, and says so. One list is in the making at a time; the questions after it wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.commands.cluster import ListInboxes
from coordinator.commands.container import ListContainers
from coordinator.commands.node import ListNodes
from coordinator.commands.schedule import ListSchedules
from coordinator.commands.service import FindServices
from coordinator.commands.task import ListTasks
from coordinator.commands.wire import AsOf, DoesNotFit, ListInTheMaking, ask_again, too_large
from coordinator.commands.worker import ListWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordinator.commands.command import Command
    from coordinator.engine.budget import Budget
    from coordinator.engine.intake import Asked, Room
    from events.errors import CoordinationError

_IN_SLICES: frozenset[type[Any]] = frozenset(
    {FindServices, ListContainers, ListInboxes, ListNodes, ListSchedules, ListTasks, ListWorkers}
)
"""The questions whose lists do not look at the world any more once they are chosen."""


class LongAnswer:
    """The answer to a question for a list, for a caller in another process; *position* is the last committed one."""

    def __init__(self, asked: Asked, items: Iterator[Any], position: str) -> None:
        assert asked.room is not None
        self.asked = asked
        self._room: Room = asked.room
        self._most = self._room.left()
        self._list = ListInTheMaking(items, self._most)
        self._position = position
        self._is_begun = False

    def go_on(self, budget: Budget, is_time_up: Callable[[], bool]) -> Any:
        """
        Go on until the list is complete, and return it encoded; return None when the time is up.

        Raises:
            Refused, Unavailable: it does not fit into a message of its own, or into one with other answers.
        """
        try:
            made = self._list.go_on(is_time_up if type(self.asked.command) in _IN_SLICES else _never)
        except DoesNotFit as short:
            budget.note_bytes(self._most)
            raise no_room(self.asked.command, self._room, self._most, short.items) from None
        if made is None:
            self._is_begun = True
            return None
        budget.note_bytes(len(memoryview(made)))
        return AsOf(made, self._position) if self._is_begun else made


def no_room(question: Command, room: Room, most: int, items: int = 0) -> CoordinationError:
    """Return the error of an answer that has more than *most* bytes; *items* of its list have room."""
    return ask_again() if most < room.alone() else too_large(question, most, items)


def _never() -> bool:
    return False
