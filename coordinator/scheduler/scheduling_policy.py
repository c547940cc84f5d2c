"""
Scheduling policies for programs that distribute tasks themselves. Pure: no I/O and no clock.

`SchedulingPolicy` offers the coordinator's scheduling strategies over plain lists of tasks and workers. Subclass it for
an algorithm of your own. The coordinator itself places tasks with `deciders.matching.schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from coordinator.commands.arguments import number, text, wanted
from coordinator.commands.task import SchedulingStrategy
from events.errors import Refused, shown

_SLACK = 1e-6
"""Less than any share of a round; a quotient times its divisor may be slightly below a whole number."""

_WEIGHT_LEAST = 1e-6
_WEIGHT_MOST = 1e6


class PolicyType(Enum):
    """The strategy of a `SchedulingPolicy`; CUSTOM is for subclasses."""

    FIFO = SchedulingStrategy.FIFO.value
    PRIORITY = SchedulingStrategy.PRIORITY.value
    ROUND_ROBIN = SchedulingStrategy.ROUND_ROBIN.value
    LEAST_LOADED = SchedulingStrategy.LEAST_LOADED.value
    WEIGHTED_ROUND_ROBIN = SchedulingStrategy.WEIGHTED_ROUND_ROBIN.value
    CUSTOM = "custom"


class SchedulingPolicy:
    """
    Chooses among the given tasks and workers. Subclass it with `PolicyType.CUSTOM` for an algorithm of your own.

    Tasks are objects or mappings with `priority`: a number, or a label that `priority_weights` ranks. Workers are ids,
    or objects or mappings with `worker_id` and optionally `load` (0 to 1) and `weight`. Both lists are ordered, oldest
    first.

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
        self._priority_weights: dict[str, float] = {"high": 3, "medium": 2, "low": 1}
        self._worker_weights: dict[str, float] = {}
        self._loads: dict[str, float] = {}
        self._rounds: dict[str, float] = {}

    def configure(self, options: Mapping[str, Any]) -> None:
        """
        Set `priority_weights` (label → rank, higher first) or `worker_weights` (worker id → share).

        Raises:
            Refused: an option is unknown, or a weight is not a finite number above 0.
        """
        wanted("policy options", options, Mapping, "a mapping such as {'priority_weights': {'high': 3}}")
        given: dict[str, dict[str, float]] = {}
        for name, weights in options.items():
            if name not in ("priority_weights", "worker_weights"):
                msg = f"policy option {shown(name)} is unknown: use priority_weights or worker_weights"
                raise Refused(msg, reason="bad_policy")
            if not isinstance(weights, Mapping):
                msg = f"{name} is {shown(weights)}: use a mapping such as {{'high': 3}}"
                raise Refused(msg, reason="bad_policy")
            given[name] = {
                text(f"{name}: the key", key): _weight(f"{name}[{shown(key)}]", weight)
                for key, weight in weights.items()
            }
        self._priority_weights = given.get("priority_weights", self._priority_weights)
        self._worker_weights = given.get("worker_weights", self._worker_weights)

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

    def _load(self, worker: Any) -> float:
        return self._loads.get(_worker_id(worker), number("load", _part(worker, "load", 0.0)))

    def _weight(self, worker: Any) -> float:
        if self.policy_type is PolicyType.ROUND_ROBIN:
            return 1.0
        return self._worker_weights.get(_worker_id(worker), _weight("weight", _part(worker, "weight", 1.0)))

    def _next_in_turn(self, workers: Sequence[Any]) -> Any:
        """
        Choose like the rotation of `deciders.matching`: each worker gets as many tasks a round as its weight, evenly.

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
