"""Logs which tasks no worker could run, as soon as that is so, and when it is over; what it says is in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from projections.blockage import MOST_BLOCKAGES, name_in

if TYPE_CHECKING:
    from events.queue import QueueBlocked
    from projections.world import World

log = structlog.get_logger(__name__)

UNFIT = frozenset({"no_worker", "no_handler", "no_match", "not_permitted", "too_large", "version_without_workers"})
"""The causes that last until somebody starts another worker."""
LINES_MOST, LINES_S = 20, 60.0
"""So many lines are logged in so many seconds; the others are counted in the next one."""


class UnfitTasks:
    """
    What was logged of the shapes whose tasks no worker could run.

    A new writer takes those of the one before for logged: each is told once, however often the leader changes.
    """

    def __init__(self, world: World) -> None:
        self._causes = {name: one.cause for name, one in world.blockages.items() if one.cause in UNFIT}
        self._since = 0.0
        self._lines = self._left_out = 0

    def note(self, event: QueueBlocked, heard_now: float) -> None:
        """Log a change of why the tasks of a shape wait, if none could run them before it, or can after it."""
        name = name_in(event.queue_id, event.shape)
        before = self._causes.get(name)
        if event.cause in UNFIT:
            self._causes[name] = event.cause
            if len(self._causes) > MOST_BLOCKAGES:
                del self._causes[next(iter(self._causes))]
            if before != event.cause and self._may_log(heard_now):
                waiting = sum(event.waiting.values())
                log.warning("tasks_cannot_run", cause=event.cause, waiting=waiting, **self._about(event))
        elif before is not None:
            del self._causes[name]
            if self._may_log(heard_now):
                log.info("tasks_cannot_run_over", cause=before, **self._about(event))

    def _about(self, event: QueueBlocked) -> dict[str, str | int]:
        left_out, self._left_out = self._left_out, 0
        about: dict[str, str | int] = {"queue": event.queue_id, "task_name": event.task_name}
        return about | {"left_out": left_out} if left_out else about

    def _may_log(self, heard_now: float) -> bool:
        if heard_now - self._since >= LINES_S:
            self._since, self._lines = heard_now, 0
        self._lines += 1
        is_most = self._lines > LINES_MOST
        self._left_out += is_most
        return not is_most
