"""Tasks: submit them, give them to workers by policy, report their outcome; and allocate resources for them."""

from typing import TYPE_CHECKING

from coordinator.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from coordinator.commands.explain import Explanation, Tier
    from coordinator.commands.task import SchedulingStrategy
    from coordinator.scheduler.resource_allocator import ResourceAllocator
    from coordinator.scheduler.schedules import ScheduleInfo, Schedules
    from coordinator.scheduler.scheduling_policy import PolicyType, SchedulingPolicy
    from coordinator.scheduler.task_budgets import TaskBudgets
    from coordinator.scheduler.task_holds import TaskHolds
    from coordinator.scheduler.task_limits import TaskLimits
    from coordinator.scheduler.task_queues import TaskQueues
    from coordinator.scheduler.task_scheduler import TaskInfo, TaskScheduler
    from coordinator.scheduler.task_versions import TaskVersions
    from events.after import After
    from events.budget import Stop, Unit
    from events.limit import WhenBusy
    from events.prices import Price
    from events.retry import RetryPolicy
    from events.schedule import Catchup, Overlap, ScheduleStatus
    from events.spend import Spend
    from events.task import Gang, Prefer, TaskStatus, TaskUsage

__all__ = [
    "After",
    "Catchup",
    "Explanation",
    "Gang",
    "Overlap",
    "PolicyType",
    "Prefer",
    "Price",
    "ResourceAllocator",
    "RetryPolicy",
    "ScheduleInfo",
    "ScheduleStatus",
    "Schedules",
    "SchedulingPolicy",
    "SchedulingStrategy",
    "Spend",
    "Stop",
    "TaskBudgets",
    "TaskHolds",
    "TaskInfo",
    "TaskLimits",
    "TaskQueues",
    "TaskScheduler",
    "TaskStatus",
    "TaskUsage",
    "TaskVersions",
    "Tier",
    "Unit",
    "WhenBusy",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "After": "events.after",
        "Catchup": "events.schedule",
        "Explanation": "coordinator.commands.explain",
        "Gang": "events.task",
        "Overlap": "events.schedule",
        "PolicyType": "coordinator.scheduler.scheduling_policy",
        "Prefer": "events.task",
        "Price": "events.prices",
        "ResourceAllocator": "coordinator.scheduler.resource_allocator",
        "RetryPolicy": "events.retry",
        "ScheduleInfo": "coordinator.scheduler.schedules",
        "ScheduleStatus": "events.schedule",
        "Schedules": "coordinator.scheduler.schedules",
        "SchedulingPolicy": "coordinator.scheduler.scheduling_policy",
        "SchedulingStrategy": "coordinator.commands.task",
        "Spend": "events.spend",
        "Stop": "events.budget",
        "TaskBudgets": "coordinator.scheduler.task_budgets",
        "TaskHolds": "coordinator.scheduler.task_holds",
        "TaskInfo": "coordinator.scheduler.task_scheduler",
        "TaskLimits": "coordinator.scheduler.task_limits",
        "TaskQueues": "coordinator.scheduler.task_queues",
        "TaskScheduler": "coordinator.scheduler.task_scheduler",
        "TaskStatus": "events.task",
        "TaskUsage": "events.task",
        "TaskVersions": "coordinator.scheduler.task_versions",
        "Tier": "coordinator.commands.explain",
        "Unit": "events.budget",
        "WhenBusy": "events.limit",
    },
)
