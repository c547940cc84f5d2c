"""The worker SDK: executes tasks with the functions of a module."""

from typing import TYPE_CHECKING

from coordinator.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from coordinator.worker.handlers import AttemptCancelled, Context, DoNotRetry, RetryAfter, load_handlers, task
    from coordinator.worker.worker import Worker, run_worker
    from events.task import TaskUsage

__all__ = [
    "AttemptCancelled",
    "Context",
    "DoNotRetry",
    "RetryAfter",
    "TaskUsage",
    "Worker",
    "load_handlers",
    "run_worker",
    "task",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "AttemptCancelled": "coordinator.worker.handlers",
        "Context": "coordinator.worker.handlers",
        "DoNotRetry": "coordinator.worker.handlers",
        "RetryAfter": "coordinator.worker.handlers",
        "TaskUsage": "events.task",
        "Worker": "coordinator.worker.worker",
        "load_handlers": "coordinator.worker.handlers",
        "run_worker": "coordinator.worker.worker",
        "task": "coordinator.worker.handlers",
    },
)
