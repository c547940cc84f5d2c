"""Scheduling policies of an operator's: a good one, and some that are not."""

from __future__ import annotations

import os
import time
from typing import Any

from coordinator.scheduler import PolicyType, SchedulingPolicy


class Shortest(SchedulingPolicy):
    """The shortest name first, to the worker with the largest id."""

    def __init__(self) -> None:
        super().__init__(PolicyType.CUSTOM)

    def select_task(self, available_tasks: Any, available_workers: Any, **_: Any) -> Any:
        assert available_workers
        return min(available_tasks, key=lambda task: len(task.task_name))

    def select_worker(self, task: Any, available_workers: Any) -> Any:
        assert task.payload is None
        return max(available_workers, key=lambda worker: worker.worker_id)


class OnlyShort(Shortest):
    """No task with a name of more than three characters, ever."""

    def select_task(self, available_tasks: Any, available_workers: Any, **_: Any) -> Any:
        short = [task for task in available_tasks if len(task.task_name) <= 3]
        return super().select_task(short, available_workers) if short else None


class Slow(Shortest):
    """Takes longer than it may."""

    def select_task(self, available_tasks: Any, available_workers: Any, **_: Any) -> Any:
        time.sleep(0.2)
        return super().select_task(available_tasks, available_workers)


class Raising(Shortest):
    """Has a bug."""

    def select_task(self, *_: Any, **__: Any) -> Any:
        raise KeyError("nothing of that name")


class Inventing(Shortest):
    """Selects what was not offered."""

    def select_task(self, *_: Any, **__: Any) -> Any:
        return "task_of_its_own"


class Dying(Shortest):
    """Ends its process."""

    def select_task(self, *_: Any, **__: Any) -> Any:
        os._exit(3)


class NoPolicy:
    """Is none."""
