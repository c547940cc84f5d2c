"""Events about queues: the policy by which their tasks are taken, their share of the fleet, and whether they pause."""

from __future__ import annotations

import msgspec

from events.base import Event

DEFAULT = "default"
"""The queue of tasks that name none. It always exists, and queues without a policy of their own follow its policy."""


class FairShare(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    How tenants, or keys that tasks name, share a queue: each gets a part of what is used, in proportion to its weight.

    `by` is `tenant` or `key`; `cost` says what is counted: the `seconds` that attempts ran, or the `tokens` or `money`
    that they report. What was used counts half after `half_life_s` seconds. A weight that is not named is 1.
    """

    by: str = "tenant"
    cost: str = "seconds"
    half_life_s: float = 300.0
    weights: dict[str, float] = {}


class Policy(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    In which order tasks of a queue are taken, and which waiting worker is served first.

    `strategy` is one of `fifo`, `priority`, `round_robin`, `least_loaded`, `weighted_round_robin`, `fair` and `custom`:
    then the class that `custom` names (`module:Class`) chooses among the first tasks by priority. By priority, a task
    that has waited `ageing_s` seconds longer counts as one higher; 0 means that age does not count. `priority_weights`
    are the priorities that the names in `submit_task(priority="high")` stand for; empty means 3, 2 and 1 for `high`,
    `medium` and `low`.
    """

    strategy: str = "fifo"
    ageing_s: float = 0.0
    priority_weights: dict[str, int] = {}
    fair: FairShare | None = None
    custom: str = ""


class Route(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    On which version of workers tasks of a queue begin, by build id; '' are the workers without one.

    That is `ramping` for `percent` of the tasks, those whose ids have a digest below that, and `current` for all
    others. The same task is always on the same side of a share, and a share that grows keeps those that it had.
    """

    current: str
    ramping: str = ""
    percent: float = 0.0


class QueueEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one queue."""

    SUBJECT = "queue_id"

    queue_id: str


class QueueDefined(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The queue was created, or its weight changed.

    While tasks of several queues wait, each queue gets a part of the fleet in proportion to its weight.
    """

    weight: float = 1.0


class QueuePolicySet(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Tasks of this queue are taken by this policy from here on; without one, by that of the queue `default`.

    `by_settings` says that it came from the settings, and not from a command: other settings replace it.
    """

    policy: Policy | None = None
    reason: str = ""
    by_settings: bool = False


class QueuePolicyFailed(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The custom policy gave no answer that could be used: tasks were taken by priority in that turn.

    `why` is `late`, `wrong` or `dead`. `times` counts the failures in a row; after three another policy is set.
    """

    policy: str
    why: str
    detail: str = ""
    times: int = 1


class QueuePaused(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """From here on no task of this queue is started; those that run go on."""

    reason: str = ""


class QueueResumed(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Tasks of this queue are started again."""

    reason: str = ""


class QueueRouted(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    From here on tasks of this queue begin on these versions of workers; without a route, on any.

    It is about all that have not begun, those that wait already, too. Those that have begun stay where they are.
    """

    route: Route | None = None
    reason: str = ""


class QueueBlocked(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The ready tasks of one shape wait for another reason than before, about since the commit time `since`, in seconds.

    A shape is what decides which workers may run a task, and whether it may start now. `cause` is the code of the
    reason, as `task.explain` names it; without one, they wait only for a worker to claim them, or none waits any more.
    `key` is the key of a limit, or of a budget, that has no room. `holders` are at most ten tasks that are in the way,
    `held_by` says how many of them each tenant has. `waiting` is how many tasks of this shape wait, by the ten tenants
    that have most of them; at most 1,000 tasks are counted.
    """

    shape: str
    task_name: str
    since: float
    cause: str = ""
    key: str = ""
    holders: tuple[str, ...] = ()
    held_by: dict[str, int] = {}
    waiting: dict[str, int] = {}


class QueueDeleted(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The queue, which had no task that has not ended, exists no more."""

    reason: str = ""
