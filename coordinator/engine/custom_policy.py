"""
The policy `custom`: before a turn, a process of the operator's is asked which ready task goes to which waiting worker.

Its choice is recorded with the turn, together with the digest of its source: it is shown as recorded, and not derived
again. If it is late, wrong or dead, tasks are taken by priority in that turn; after three times in a row it is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from coordinator.engine.policy_child import OfferedWorker, PolicyChild, PolicyFailed
from events.queue import DEFAULT, QueuePolicyFailed, QueuePolicySet
from projections.queue import policy_of

if TYPE_CHECKING:
    import asyncio

    from coordinator.deciders.rules import Rules
    from coordinator.engine.waiting_claims import SchedulingWorker
    from events.base import Event
    from projections.world import World

log = structlog.get_logger(__name__)

FAILURES = 3
DETAIL_CHARS = 300


class Choice(NamedTuple):
    """What a policy chose: the tasks of each claim, and the digest of the policy's source."""

    of_claim: dict[str, tuple[str, ...]]
    digest: str


NOT_ASKED = Choice({}, "later")
"""The claims that follow the policy wait until it has chosen."""


class CustomPolicy:
    """Asks the policy of the settings while it is the live one."""

    def __init__(self, world: World, scheduling: SchedulingWorker, rules: Rules) -> None:
        self._world = world
        self._scheduling = scheduling
        self._window = rules.policy_window
        self._child = PolicyChild(rules.custom_policy, deadline_s=rules.policy_deadline_s)
        self._failures = 0
        self._arrivals = 0
        self._events: list[Event] = []
        self._tasks: asyncio.TaskGroup | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Let its process be started in this group."""
        self._tasks = tasks

    @property
    def is_live(self) -> bool:
        """Whether tasks are taken by it."""
        return policy_of(self._world.queues, "").strategy == "custom"

    @property
    def has_arrivals(self) -> bool:
        """Whether claims have come since it was asked."""
        return self._arrivals != self._scheduling.arrivals

    def may_choose(self, heard_now: float) -> bool:
        """Whether there is something to choose from, and it can be asked."""
        return self.is_live and self._child.is_ready and self._scheduling.offer(heard_now, 1) is not None

    def terms(self, choice: Choice | None) -> dict[str, Any]:
        """Return what a turn has to know of a choice: see `CoordinatorTurn.chosen`."""
        if choice is None or not self.is_live or not self._child.is_ready:
            return {}
        return {"chosen": choice.of_claim, "chosen_by": choice.digest}

    async def choose(self, heard_now: float) -> Choice | None:
        """Return its choice for the next turn; `NOT_ASKED` if there was nothing to choose from, None if it failed."""
        if not self.is_live:
            return NOT_ASKED
        try:
            self._child.check()
            if not self._child.is_ready:
                assert self._tasks is not None
                self._child.start(self._tasks)
                return NOT_ASKED
            self._arrivals = self._scheduling.arrivals
            offered = self._scheduling.offer(heard_now, self._window)
            if offered is None:
                return NOT_ASKED
            tasks, workers = offered
            picks = await self._child.choose(tasks, workers)
            choice = Choice(self._by_claim(picks, {task.task_id for task in tasks}, workers), self._child.digest)
        except PolicyFailed as failed:
            if self._note(failed):
                await self._child.stop()  # it may hang: a new one begins if the policy is set again
            return None
        self._failures = 0
        return choice

    def take_events(self) -> list[Event]:
        """Return what has to be recorded of failures, once."""
        events, self._events = self._events, []
        return events

    async def stop(self) -> None:
        """End its process."""
        await self._child.stop()

    def _by_claim(
        self, picks: list[tuple[str, str]], tasks: set[str], workers: list[OfferedWorker]
    ) -> dict[str, tuple[str, ...]]:
        wanted = {worker.worker_id for worker in workers}
        found: dict[str, list[str]] = {}
        for task_id, worker_id in picks:
            if task_id not in tasks or worker_id not in wanted:
                msg = f"it chose task {task_id[:80]!r} for worker {worker_id[:80]!r}, which were not both offered"
                raise PolicyFailed("wrong", msg)
            tasks.discard(task_id)
            found.setdefault(worker_id, []).append(task_id)
        return self._scheduling.dealt(found)

    def _note(self, failed: PolicyFailed) -> bool:
        """Note a failure, and turn the policy off after some in a row; return whether it is off now."""
        self._failures += 1
        policy = policy_of(self._world.queues, "")
        log.warning("policy_failed", policy=policy.custom, why=failed.why, detail=failed.detail, times=self._failures)
        detail = failed.detail[:DETAIL_CHARS]
        self._events.append(
            QueuePolicyFailed(
                queue_id=DEFAULT, policy=policy.custom, why=failed.why, detail=detail, times=self._failures
            )
        )
        is_off = self._failures >= FAILURES
        if is_off:
            self._failures = 0
            instead = msgspec.structs.replace(policy, strategy="priority", custom="")
            reason = f"{policy.custom} failed {FAILURES} times in a row: {failed.why}"
            self._events.append(QueuePolicySet(queue_id=DEFAULT, policy=instead, reason=reason))
        return is_off
