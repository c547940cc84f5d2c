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


class Comparison(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    How a candidate policy decided beside the live one in some turns, each time from the same state.

    Of the `decisions`, starts of tasks whose policy it would be, `differing` would have been others: another task, or
    another worker. `skipped` turns with starts were not compared. `regret_s` is in weighted seconds, see
    `coordinator/placement/shadow.py`; it and the sums over the turns of its square, of its product with the decisions
    and of the square of the decisions say how far it may be from the true one.
    """

    turns: int = 0
    skipped: int = 0
    decisions: int = 0
    differing: int = 0
    regret_s: float = 0.0
    regret_squares: float = 0.0
    regret_by_decisions: float = 0.0
    decision_squares: int = 0


class OtherDecision(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a candidate policy would have decided otherwise in the commit `sequence`.

    The task `task_id` went to `worker_id`, and by the candidate `other_task_id` to `other_worker_id`; '' for none.
    """

    sequence: int
    task_id: str = ""
    worker_id: str = ""
    other_task_id: str = ""
    other_worker_id: str = ""


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


class QueueShadowSet(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    Followers compare what this candidate policy would decide with what is decided; without one, they do so no more.

    It is compared with the policy `against`, the live one. It may be promoted after `min_decisions`, if its regret is
    at most `regret_max` weighted seconds for each decision.
    """

    policy: Policy | None = None
    against: Policy | None = None
    regret_max: float = 0.0
    min_decisions: int = 1000
    reason: str = ""


class QueueShadowReported(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A follower compared the candidate in the commits after `after` up to `upto`; `examples` are at most five."""

    after: int
    upto: int
    compared: Comparison
    examples: tuple[OtherDecision, ...] = ()


class QueuePromoted(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The candidate is the policy of the queue from here on, instead of `before`; nothing is compared with it any more.

    Its regret in all `decisions` was `regret_s` weighted seconds for each, and with 95 % certainty at most
    `regret_high_s`, which was not above `regret_max`.
    """

    policy: Policy
    before: Policy | None = None
    decisions: int
    regret_s: float
    regret_high_s: float
    regret_max: float
    reason: str = ""


class QueueRolledBack(QueueEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The policy of the queue is again what it was before the last promotion, `by_settings` too."""

    policy: Policy | None = None
    by_settings: bool = False
    reason: str = ""


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
