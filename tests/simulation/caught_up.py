"""
What schedules do after a long stop, from their events: as many missed slots as they want, and none while another runs.

It knows schedules by interval only, as those of the simulation are, and never asks the code that it checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from coordinator.deciders.schedule import MISSED_AFTER_S
from events.schedule import Catchup, ScheduleDefined, ScheduleDeleted, ScheduleFired, ScheduleQueued, ScheduleSkipped

if TYPE_CHECKING:
    from collections.abc import Container

    from events.schedule import ScheduleEvent


class CaughtUp:
    """The slots of one schedule that came late."""

    def __init__(self) -> None:
        self._wanted = self._every_s = 0
        self._jitter_s = 0.0
        self._queued: set[int] = set()
        self._last_task_id = ""
        self._commit, self._late = 0, 0
        """In the last commit, how many slots were fired or began to wait that were missed."""
        self._counted = 0

    def take(self, event: ScheduleEvent, time: float, sequence: int, ended: Container[str]) -> str:
        """Take an event, and return what is wrong with it; *ended* has the tasks that have ended."""
        match event:
            case ScheduleDefined():
                wanted = {Catchup.NONE: 0, Catchup.LAST: 1, Catchup.ALL: event.catchup_most}
                self._wanted, self._every_s = wanted[event.catchup], event.timing.every_s or 1
                self._jitter_s = event.timing.jitter_s
            case ScheduleFired(is_backfill=False):
                before, self._last_task_id = self._last_task_id, event.task_id
                if before and before not in ended:
                    return f"{event} at {time}, while {before} had not ended"
                if event.slot not in self._queued:
                    return self._occurs(event, event.slot, time, sequence)
                self._queued.discard(event.slot)
            case ScheduleQueued():
                self._queued.add(event.slot)
                return self._occurs(event, event.slot, time, sequence)
            case ScheduleDeleted():
                self._last_task_id = ""  # one that is defined with this id later knows nothing of it
            case ScheduleSkipped(reason="missed"):
                return self._missed(event, time)
            case _:
                pass
        return ""

    def take_count(self) -> int:
        """Return how many missed slots were caught up, or given up, since this was asked last."""
        counted, self._counted = self._counted, 0
        return counted

    def _fires_at(self, schedule_id: str, slot: int) -> float:
        return slot + self._jitter_s * (crc32(f"{schedule_id}/{slot}".encode()) / 2**32)

    def _occurs(self, event: ScheduleEvent, slot: int, time: float, sequence: int) -> str:
        if time - self._fires_at(event.schedule_id, slot) <= MISSED_AFTER_S:
            return ""
        self._counted += 1
        self._commit, self._late = sequence, self._late + 1 if sequence == self._commit else 1
        if self._late <= self._wanted:
            return ""
        return f"{event} at {time} is the {self._late}. slot that was missed, and {self._wanted} are wanted"

    def _missed(self, event: ScheduleSkipped, time: float) -> str:
        """Return what is wrong with what is left: as many as are wanted, those of the last minute among them."""
        self._counted += 1
        slot, late, due = event.next_slot or 0, 0, 0
        while slot and (at := self._fires_at(event.schedule_id, slot)) <= time:
            late, due, slot = late + (time - at > MISSED_AFTER_S), due + 1, slot + self._every_s
        if late == max(0, self._wanted - (due - late)):
            return ""
        return f"{event} at {time} leaves {late} slots that were missed, of {due}, and {self._wanted} are wanted"
