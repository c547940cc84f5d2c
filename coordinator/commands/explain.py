"""The question why a task is where it is."""

from __future__ import annotations

from enum import Enum

import msgspec

from coordinator.commands.command import Example, Question
from coordinator.commands.examples import TASK_EXPLAINED, TASK_PLANNED
from coordinator.commands.task import SubmitTask
from events.task import TaskStatus


class Tier(Enum):
    """What it takes until a reason no longer holds."""

    NEVER = "never"
    OPERATOR = "operator"
    ITSELF = "itself"


class Blocker(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Something that is in the way: its kind and id, and for how long it has been so, in seconds."""

    kind: str
    id: str
    for_s: float | None = None


class Reason(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Why a task does not run: a stable code, its tier, and a sentence for people.

    `blockers` are at most ten of those that are in the way, the ones first that have been it longest; `change` is the
    smallest change that would end this reason, where one can be named.
    """

    code: str
    tier: Tier
    text: str
    blockers: list[Blocker] = []
    change: str = ""


class WorkerFit(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Whether a worker could take a task now, and if not, what is against it: the code of each rule, and its values."""

    worker_id: str
    fits: bool
    against: dict[str, str] = {}


class Explanation(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Why a task is where it is; times in seconds.

    `reasons` are sorted by tier, what can never be first. `ahead` is how many tasks of its queue come before it by the
    policy in force. `starts_in_s` is when it is likely to start, from the run times of the `estimated_from` last tasks
    of this name, or of any; in four of five cases it starts between `starts_from_s` and `starts_until_s`. So it was in
    `estimates_right` of the last `estimates_scored` cases, 500 at most, since this writer leads. `workers` are at most
    twenty of those that are registered, the fitting ones first; `worker_counts` says of how many each code holds,
    `fits` among them, and `not_looked_at` of workers beyond the first 1,000 that handle its name: then no start is
    estimated. `waited` says for what a task has waited since it was submitted, in seconds by code, the longest
    first: they add up to all time in which none of its attempts ran.
    """

    task_id: str
    status: TaskStatus
    summary: str
    for_s: float
    reasons: list[Reason] = []
    queue: str = "default"
    policy: str = ""
    ahead: int | None = None
    starts_in_s: float | None = None
    starts_from_s: float | None = None
    starts_until_s: float | None = None
    estimated_from: int = 0
    estimates_right: int = 0
    estimates_scored: int = 0
    workers: list[WorkerFit] = []
    worker_counts: dict[str, int] = {}
    waited: dict[str, float] = {}


class ExplainTask(Question[Explanation], frozen=True, kw_only=True, gc=False):
    """Explain why a task waits, who runs it since when, or who ended it and why."""

    KIND, VERB = "task", "explain"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"task_id": "task_4"}, TASK_EXPLAINED)

    task_id: str


class PlanTask(Question[Explanation], frozen=True, kw_only=True, gc=False):
    """
    Tell where a task would go if it were submitted now, as `task.explain` would right after; nothing is submitted.

    It is refused for the reasons that its submit would be refused for, but for those of a source or tenant.
    """

    KIND, VERB = "task", "plan"
    REFUSALS = (SubmitTask.REFUSALS | {"not_found"}) - {"rate_limited"}
    EXAMPLE = Example({"task": {"task_id": "task_9", "task_name": "add"}}, TASK_PLANNED)

    task: SubmitTask
