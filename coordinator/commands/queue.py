"""Commands and questions about queues and the policies by which their tasks are taken."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import QUEUE, QUEUE_FAIR, QUEUE_PAUSED, QUEUE_ROUTED
from coordinator.commands.shadow import ShadowView
from coordinator.commands.task import SchedulingStrategy
from events.queue import DEFAULT, Policy, Route
from projections.queue import Queue

SHARES_SHOWN = 100
STRATEGIES = (*(one.value for one in SchedulingStrategy), "fair", "custom")
"""By what tasks of a queue can be taken."""


class Sharer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A tenant or key in a queue that is shared: how many of its tasks are ready and run, and what it has used lately.

    `used` is in seconds, tokens or micro-units of money, as the policy says, each half as much after a half-life;
    `share` is its part of what all of them may use, 0 to 1.
    """

    key: str
    weight: float
    share: float
    ready: int = 0
    running: int = 0
    used: float = 0.0


class WaitReason(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Why tasks of a queue wait: the code of the reason, as `task.explain` names it, how many, and for how long one does.

    `holders` are at most ten tasks that are in the way.
    """

    code: str
    tasks: int
    oldest_s: float
    holders: list[str] = []


class MadeWait(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """For how many seconds tasks of the tenant `holder` were in the way of those of `waiter`, over all of these."""

    holder: str
    waiter: str
    seconds: float


class QueueView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A queue, the policy that is in force in it, and its tasks: `ready` wait only for a worker."""

    queue: Queue
    policy: Policy
    pending: int = 0
    ready: int = 0
    running: int = 0
    sharers: list[Sharer] = []
    """Those with tasks that have not ended, at most 100, in the order in which they are served."""
    waits: list[WaitReason] = []
    """Why its pending tasks wait, most of them first; of those that are not ready the first 10,000 are counted."""
    made_wait: list[MadeWait] = []
    """Whose tasks made whose wait, at most 100 pairs, the longest first."""
    shadow: ShadowView | None = None
    """How its candidate policy has done, if it has one."""


class DefineQueue(Command[Queue], frozen=True, kw_only=True, gc=False):
    """
    Create a queue, or change its weight: its part of the fleet while tasks of other queues wait, too.

    The queue `default` exists always: it has the tasks that name none.
    """

    KIND, VERB = "queue", "define"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "too_many"})
    EXAMPLE = Example({"queue_id": "reports", "weight": 2.0}, QUEUE)

    queue_id: str
    weight: float = 1.0


class SetPolicy(Command[Queue], frozen=True, kw_only=True, gc=False):
    """
    Set the policy by which tasks of a queue are taken; without one, it follows that of the queue `default`.

    That of the queue `default` also says which waiting worker is served first. It may be `custom` if the settings name
    such a policy.
    """

    KIND, VERB = "queue", "set_policy"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_policy", "bad_text", "not_found", "too_many"})
    EXAMPLE = Example(
        {
            "policy": {"strategy": "fair", "fair": {"weights": {"acme": 3.0}}},
            "reason": "acme pays more",
        },
        QUEUE_FAIR,
    )

    queue_id: str = DEFAULT
    policy: Policy | None = None
    reason: str = ""


class PauseQueue(Command[Queue], frozen=True, kw_only=True, gc=False):
    """Start no more tasks of a queue; those that run go on, and it still takes new ones."""

    KIND, VERB = "queue", "pause"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"queue_id": "default", "reason": "the model is down"}, QUEUE_PAUSED)

    queue_id: str
    reason: str = ""


class ResumeQueue(Command[Queue], frozen=True, kw_only=True, gc=False):
    """Start tasks of a paused queue again."""

    KIND, VERB = "queue", "resume"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"queue_id": "reports"}, QUEUE)

    queue_id: str
    reason: str = ""


class RouteQueue(Command[Queue], frozen=True, kw_only=True, gc=False):
    """
    Begin the tasks of a queue on certain versions of workers, those that wait already, too; without a route, on any.

    A task stays on the version that it has begun on. So a share is ramped up, or rolled back, by another route. It is
    refused if no worker that is registered has a build id that it names, unless `without_workers` is true.
    """

    KIND, VERB, REMEMBERED = "queue", "route", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_text", "bad_version", "not_found", "unknown_version"})
    EXAMPLE = Example(
        {"queue_id": "reports", "route": {"current": "b1", "ramping": "b2", "percent": 10.0}, "reason": "carefully"},
        QUEUE_ROUTED,
    )

    queue_id: str = DEFAULT
    route: Route | None = None
    without_workers: bool = False
    reason: str = ""


class DeleteQueue(Command[None], frozen=True, kw_only=True, gc=False):
    """Delete a queue that has no task that has not ended; deleting one that does not exist changes nothing."""

    KIND, VERB = "queue", "delete"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "queue_in_use"})
    EXAMPLE = Example({"queue_id": "unused"})

    queue_id: str
    reason: str = ""


class GetQueue(Question[QueueView], frozen=True, kw_only=True, gc=False):
    """Get one queue with its policy, its tasks and who shares it."""

    KIND, VERB = "queue", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"queue_id": "reports"}, {"queue": QUEUE, "policy": {"ageing_s": 60.0}})

    queue_id: str = DEFAULT


class ListQueues(Question[list[QueueView]], frozen=True, kw_only=True, gc=False):
    """List the queues by name, without who shares them. With `after`, the list begins after that name."""

    KIND, VERB = "queue", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"after": "default"}, [{"queue": QUEUE, "policy": {"ageing_s": 60.0}}])

    limit: int = 100
    after: str = ""
