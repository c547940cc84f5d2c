"""
Which task goes to which worker: the policies, and the one function that places tasks. Pure.

`schedule` deals ready tasks to waiting claims; it looks at heads of ordered groups (`projections.indexes`) and never at
all tasks. `SchedulingPolicy` offers the same strategies to users over plain lists, and is what they subclass for their
own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from coordinator.commands.task import SchedulingStrategy
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence


class PolicyType(Enum):
    """What a `SchedulingPolicy` goes by; CUSTOM is for subclasses."""

    FIFO = SchedulingStrategy.FIFO.value
    PRIORITY = SchedulingStrategy.PRIORITY.value
    ROUND_ROBIN = SchedulingStrategy.ROUND_ROBIN.value
    LEAST_LOADED = SchedulingStrategy.LEAST_LOADED.value
    WEIGHTED_ROUND_ROBIN = SchedulingStrategy.WEIGHTED_ROUND_ROBIN.value
    CUSTOM = "custom"


class SchedulingPolicy:
    """
    Choose among tasks and workers at hand; subclass it with `PolicyType.CUSTOM` for an algorithm of your own.

    Tasks are objects or mappings with `priority` (a number, or a label that `priority_weights` ranks); workers are ids,
    or objects or mappings with `worker_id` and perhaps `load` (0 to 1) and `weight`. Both lists are taken in the order
    given, oldest first.
    """

    def __init__(self, policy_type: PolicyType = PolicyType.FIFO) -> None:
        if getattr(policy_type, "name", None) not in PolicyType.__members__:
            msg = f"policy_type {policy_type!r} is none: use PolicyType.{', PolicyType.'.join(PolicyType.__members__)}"
            raise Refused(msg, reason="bad_policy")
        self.policy_type = policy_type
        self._priority_weights: dict[str, float] = {"high": 3, "medium": 2, "low": 1}
        self._worker_weights: dict[str, float] = {}
        self._loads: dict[str, float] = {}
        self._served: dict[str, float] = {}

    def configure(self, options: Mapping[str, Any]) -> None:
        """
        Set `priority_weights` (label → rank, higher first) or `worker_weights` (worker id → share).

        Raises:
            Refused: another option, or a weight that is not a number above 0.
        """
        for name, weights in options.items():
            if name not in ("priority_weights", "worker_weights"):
                msg = f"policy option {name!r} is not known: use priority_weights, worker_weights"
                raise Refused(msg, reason="bad_policy")
            if not isinstance(weights, Mapping):
                msg = f"{name} is {weights!r}: use a mapping such as {{'high': 3}}"
                raise Refused(msg, reason="bad_policy")
            for key, weight in weights.items():
                if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                    msg = f"{name}[{key!r}] is {weight!r}: use a finite number above 0"
                    raise Refused(msg, reason="bad_policy")
        self._priority_weights = dict(options.get("priority_weights", self._priority_weights))
        self._worker_weights = dict(options.get("worker_weights", self._worker_weights))

    def select_task(
        self,
        available_tasks: Sequence[Any],
        available_workers: Sequence[Any],
        **kwargs: Any,  # noqa: ARG002  # whatever a subclass of the user's takes
    ) -> Any:
        """Choose the task to run next, None when there is no task or nobody to run it."""
        if not available_tasks or not available_workers:
            return None
        if self.policy_type is PolicyType.PRIORITY:
            return max(available_tasks, key=self._rank)
        return available_tasks[0]

    def select_worker(self, task: Any, available_workers: Sequence[Any]) -> Any:  # noqa: ARG002  # subclasses look at it
        """Choose the worker that gets *task*, None when there is none."""
        if not available_workers:
            return None
        chosen = min(available_workers, key=self._use)
        worker_id = _worker_id(chosen)
        self._served[worker_id] = self._served.get(worker_id, 0.0) + 1.0
        return chosen

    def update_worker_load(self, worker_id: str, load: float) -> None:
        """Note what share of its capacity a worker has in use, 0 to 1."""
        if not 0.0 <= load <= 1.0:
            msg = f"load {load!r} of worker {worker_id!r} is out of range: use 0 to 1"
            raise Refused(msg, reason="bad_number")
        self._loads[worker_id] = load

    def _rank(self, task: Any) -> float:
        priority = _part(task, "priority", 0)
        if isinstance(priority, str):
            return float(self._priority_weights.get(priority, 0.0))
        return float(priority)

    def _use(self, worker: Any) -> float:
        """Say how much a worker has been used, by what the policy goes by; the least used is chosen."""
        worker_id = _worker_id(worker)
        load = self._loads.get(worker_id, float(_part(worker, "load", 0.0)))
        served = self._served.get(worker_id, 0.0)
        match self.policy_type:
            case PolicyType.ROUND_ROBIN:
                return served
            case PolicyType.WEIGHTED_ROUND_ROBIN:
                weight = self._worker_weights.get(worker_id, float(_part(worker, "weight", 1.0)))
                return (served + 1.0) / weight
            case _:
                return load


def _part(thing: Any, name: str, default: Any) -> Any:
    if isinstance(thing, Mapping):
        return thing.get(name, default)
    return getattr(thing, name, default)


def _worker_id(worker: Any) -> str:
    return worker if isinstance(worker, str) else str(_part(worker, "worker_id", ""))
