"""
Scheduling policies: what the coordinator runs, and the same over plain lists. Pure: no I/O and no clock.

`TaskQueues.set_policy` makes a `SchedulingPolicy` the live one; the coordinator places tasks by it with `schedule` of
`placement/matching.py`. `select_task` and `select_worker` choose from lists alike. Subclass it for an algorithm of your
own: `TaskScheduler(policy=…)` claims what it selects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from coordinator.commands.arguments import number, text, wanted
from coordinator.commands.task import SchedulingStrategy
from coordinator.deciders.queue import USUAL_LABELS, checked_policy
from events.errors import Refused, shown
from events.queue import FairShare, Policy

_SLACK = 1e-6
"""Less than any share of a round; a quotient times its divisor may be slightly below a whole number."""

USUAL_AGEING_S = 60.0
_OPTIONS = ("priority_weights", "priority_ageing_s", "worker_weights", "by", "cost", "half_life_s", "weights")
_WEIGHT_LEAST = 1e-6
_WEIGHT_MOST = 1e6


class PolicyType(Enum):
    """The strategy of a `SchedulingPolicy`; FAIR is by tenant or key, CUSTOM is for subclasses."""

    FIFO = SchedulingStrategy.FIFO.value
    PRIORITY = SchedulingStrategy.PRIORITY.value
    ROUND_ROBIN = SchedulingStrategy.ROUND_ROBIN.value
    LEAST_LOADED = SchedulingStrategy.LEAST_LOADED.value
    WEIGHTED_ROUND_ROBIN = SchedulingStrategy.WEIGHTED_ROUND_ROBIN.value
    FAIR = "fair"
    CUSTOM = "custom"


class SchedulingPolicy:
    """
    Chooses among the given tasks and workers. Subclass it with `PolicyType.CUSTOM` for an algorithm of your own.

    Tasks are objects or mappings with `priority`: a number, or a label that `priority_weights` ranks; for FAIR with
    `tenant` or `fairness_key`. Workers are ids, or objects or mappings with `worker_id` and optionally `load` (0 to 1)
    and `weight`. Both lists are ordered, oldest first.

    Args:
        policy_type: the strategy.

    Raises:
        Refused: *policy_type* is not a `PolicyType`.
    """

    def __init__(self, policy_type: PolicyType = PolicyType.FIFO) -> None:
        if getattr(policy_type, "name", None) not in PolicyType.__members__:
            allowed = ", PolicyType.".join(PolicyType.__members__)
            msg = f"policy_type {shown(policy_type)} is not a policy type: use PolicyType.{allowed}"
            raise Refused(msg, reason="bad_policy")
        self.policy_type = PolicyType[policy_type.name]
        self._priority_weights: dict[str, float] = dict(USUAL_LABELS)
        self._ageing_s = USUAL_AGEING_S
        self._fair = FairShare()
        self._given: dict[str, float] = {}
        """For each tenant or key, how many tasks it was given in proportion to its weight."""
        self._worker_weights: dict[str, float] = {}
        self._loads: dict[str, float] = {}
        self._rounds: dict[str, float] = {}

    def configure(self, options: Mapping[str, Any]) -> None:
        """
        Set options; those that are not named stay.

        - `priority_weights`: label → rank, higher first;
        - `priority_ageing_s`: seconds of waiting that count as one priority, 60 by default; 0 if age does not count;
        - `worker_weights`: worker id → share, for WEIGHTED_ROUND_ROBIN over lists;
        - `by` (`tenant` or `key`), `cost` (`seconds`, `tokens` or `money`), `half_life_s`, and `weights` (tenant or key
          → part), for FAIR.

        Raises:
            Refused: an option is unknown, or its value is not valid.
        """
        wanted("policy options", options, Mapping, "a mapping such as {'priority_weights': {'high': 3}}")
        given: dict[str, Any] = {}
        for name, value in options.items():
            if name not in _OPTIONS:
                raise Refused(f"policy option {shown(name)} is unknown: use {', '.join(_OPTIONS)}", reason="bad_policy")
            if name.endswith("weights"):
                given[name] = _weights(name, value)
            elif name in ("by", "cost"):
                given[name] = text(name, value)
            else:
                given[name] = number(name, value)
        fair = {name: value for name, value in given.items() if name in FairShare.__struct_fields__}
        changed = msgspec.structs.replace(self._fair, **fair)
        ageing_s = given.get("priority_ageing_s", self._ageing_s)
        checked_policy(Policy(strategy="fair", ageing_s=ageing_s, fair=changed))
        self._fair, self._ageing_s = changed, ageing_s
        self._priority_weights = given.get("priority_weights", self._priority_weights)
        self._worker_weights = given.get("worker_weights", self._worker_weights)

    def live(self) -> Policy:
        """
        Return the policy as the coordinator runs it.

        Raises:
            Refused: it is a CUSTOM one, or an option that only programs can follow is set.
        """
        if self.policy_type is PolicyType.CUSTOM:
            msg = "a CUSTOM policy runs in the program that has it: pass it to TaskScheduler(policy=…)"
            raise Refused(msg, reason="bad_policy")
        if self._worker_weights:
            msg = "worker_weights are for lists of workers: in the cluster a worker has as much weight as slots"
            raise Refused(msg, reason="bad_policy")
        ranks = {label: int(rank) for label, rank in self._priority_weights.items()}
        if ranks != self._priority_weights:
            msg = f"priority_weights {shown(self._priority_weights)}: the coordinator ranks by whole numbers: use such"
            raise Refused(msg, reason="bad_policy")
        return checked_policy(
            Policy(
                strategy=self.policy_type.value,
                ageing_s=self._ageing_s,
                priority_weights={} if ranks == USUAL_LABELS else ranks,
                fair=self._fair if self.policy_type is PolicyType.FAIR else None,
            )
        )

    def select_task(
        self,
        available_tasks: Sequence[Any],
        available_workers: Sequence[Any],
        **kwargs: Any,  # noqa: ARG002  # for the options of subclasses
    ) -> Any:
        """Return the task to run next; None if there are no tasks or no workers."""
        if not _several("available_tasks", available_tasks) or not _several("available_workers", available_workers):
            return None
        if self.policy_type is PolicyType.PRIORITY:
            return max(available_tasks, key=self._rank)
        if self.policy_type is PolicyType.FAIR:
            return self._next_share(available_tasks)
        return available_tasks[0]

    def select_worker(self, task: Any, available_workers: Sequence[Any]) -> Any:  # noqa: ARG002  # for subclasses
        """Return the worker that gets *task*; None if there are no workers."""
        if not _several("available_workers", available_workers):
            return None
        if self.policy_type in (PolicyType.ROUND_ROBIN, PolicyType.WEIGHTED_ROUND_ROBIN):
            return self._next_in_turn(available_workers)
        return min(available_workers, key=self._load)

    def update_worker_load(self, worker_id: str, load: float) -> None:
        """
        Set the load of a worker: the share of its capacity in use, 0 to 1.

        Raises:
            Refused: the load is out of range.
        """
        worker, given = text("worker_id", worker_id), number("load", load)
        if not 0.0 <= given <= 1.0:
            msg = f"load {shown(load)} of worker {worker!r} is out of range: use 0 to 1"
            raise Refused(msg, reason="bad_number")
        self._loads[worker] = given

    def _rank(self, task: Any) -> float:
        priority = _part(task, "priority", 0)
        if isinstance(priority, str):
            return float(self._priority_weights.get(priority, 0.0))
        return number("priority", priority)

    def _next_share(self, tasks: Sequence[Any]) -> Any:
        """Choose the first task by priority of whoever was given least in proportion to its weight."""
        name = "tenant" if self._fair.by == "tenant" else "fairness_key"
        keys = dict.fromkeys(text(name, _part(task, name, "")) for task in tasks)
        least = min(keys, key=lambda key: self._given.get(key, 0.0))
        self._given[least] = self._given.get(least, 0.0) + 1.0 / self._fair.weights.get(least, 1.0)
        return max((task for task in tasks if _part(task, name, "") == least), key=self._rank)

    def _load(self, worker: Any) -> float:
        return self._loads.get(_worker_id(worker), number("load", _part(worker, "load", 0.0)))

    def _weight(self, worker: Any) -> float:
        if self.policy_type is PolicyType.ROUND_ROBIN:
            return 1.0
        return self._worker_weights.get(_worker_id(worker), _weight("weight", _part(worker, "weight", 1.0)))

    def _next_in_turn(self, workers: Sequence[Any]) -> Any:
        """
        Choose like the rotation of `placement.matching`: each worker gets as many tasks a round as its weight, evenly.

        The worker whose turn ends first is chosen, among those whose turn has begun by the mean of all. A worker that
        is new, or was not there, begins in the round of the one that was chosen last.
        """
        begin = max(self._rounds.values(), default=0.0)
        taken, weights = [], []
        for worker in workers:
            weight, rounds = self._weight(worker), self._rounds.get(_worker_id(worker))
            mine = 0 if rounds is None else round(rounds * weight) + 1
            weights.append(weight)
            taken.append(max(mine, math.floor(begin * weight + _SLACK)))
        mean = sum(taken) / sum(weights) + _SLACK
        due = [at for at in range(len(workers)) if taken[at] / weights[at] <= mean]
        chosen = min(due, key=lambda at: (taken[at] + 1) / weights[at])
        self._rounds[_worker_id(workers[chosen])] = taken[chosen] / weights[chosen]
        return workers[chosen]


def _part(thing: Any, name: str, default: Any) -> Any:
    if isinstance(thing, Mapping):
        return thing.get(name, default)
    return getattr(thing, name, default)


def _several(name: str, values: Any) -> Any:
    """Return a sequence that is no text, or None."""
    if values is None or (isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray)):
        return values
    raise Refused(f"{name} {shown(values)} is not a list", reason="bad_type")


def _weights(name: str, weights: Any) -> dict[str, float]:
    if not isinstance(weights, Mapping):
        msg = f"{name} is {shown(weights)}: use a mapping such as {{'high': 3}}"
        raise Refused(msg, reason="bad_policy")
    return {text(f"{name}: the key", key): _weight(f"{name}[{shown(key)}]", weight) for key, weight in weights.items()}


def _weight(name: str, value: Any) -> float:
    try:
        weight = number(name, value)
    except Refused:
        weight = 0.0
    if not _WEIGHT_LEAST <= weight <= _WEIGHT_MOST:
        msg = f"{name} is {shown(value)}: use a finite number above 0, from {_WEIGHT_LEAST:g} to {_WEIGHT_MOST:g}"
        raise Refused(msg, reason="bad_policy")
    return weight


def _worker_id(worker: Any) -> str:
    worker_id = worker if isinstance(worker, str) else _part(worker, "worker_id", None)
    if not isinstance(worker_id, str):
        msg = f"available_workers has {shown(worker)}, whose worker_id is not text: use ids, or objects with one"
        raise Refused(msg, reason="bad_type")
    return text("worker_id", worker_id)
