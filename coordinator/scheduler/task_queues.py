"""Queues of tasks: define, pause and resume them, and say by which policy their tasks are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.app.facade import Facade
from coordinator.client.paging import listed
from coordinator.commands.arguments import number, text, whole
from coordinator.commands.queue import (
    DefineQueue,
    DeleteQueue,
    GetQueue,
    ListQueues,
    PauseQueue,
    ResumeQueue,
    SetPolicy,
)
from coordinator.commands.shadow import PromotePolicy, RollBackPolicy, SetShadow
from coordinator.scheduler.scheduling_policy import SchedulingPolicy
from events.errors import Refused, shown
from events.queue import DEFAULT

if TYPE_CHECKING:
    from coordinator.commands.queue import QueueView
    from events.queue import Policy
    from projections.queue import Queue

PAGE = 100


class TaskQueues(Facade):
    """The queues of the cluster. Where access is restricted, changing them needs the administrator's rights."""

    async def define_queue(self, queue: str, *, weight: float = 1.0) -> Queue:
        """
        Create a queue, or change its weight: its part of the fleet while tasks of other queues wait, too.

        Raises:
            Refused: the name or weight is invalid, or there are too many queues.
        """
        command = DefineQueue(queue_id=text("queue", queue), weight=number("weight", weight))
        defined: Queue = await self.execute(command)
        return defined

    async def set_policy(self, policy: SchedulingPolicy | None, *, queue: str = DEFAULT, reason: str = "") -> Queue:
        """
        Take the tasks of a queue by this policy from now on.

        Args:
            policy: the policy with its options; None for that of the queue `default`.
            queue: the queue; the policy of `default` also says which waiting worker is served first, and other queues
                follow it unless they have their own.
            reason: why, for the journal.

        Raises:
            Refused: the policy is a CUSTOM one, which runs where its program runs, or an option has no meaning here.
            NotFound: the queue does not exist.
        """
        command = SetPolicy(queue_id=text("queue", queue), policy=_live(policy), reason=text("reason", reason))
        changed: Queue = await self.execute(command)
        return changed

    async def set_shadow(
        self,
        policy: SchedulingPolicy | None,
        *,
        queue: str = DEFAULT,
        regret_max: float = 0.0,
        min_decisions: int = 1000,
        reason: str = "",
    ) -> Queue:
        """
        Compare a candidate for the policy of a queue with the live one.

        Args:
            policy: the candidate with its options; None to compare none any more.
            queue: the queue.
            regret_max: the regret above which it is not promoted, in weighted seconds for each decision.
            min_decisions: how many decisions must be compared before it is promoted.
            reason: why, for the journal.

        Raises:
            Refused: the policy is a CUSTOM one, or shares what the live policy does not count, or a bound is invalid.
            NotFound: the queue does not exist.
        """
        command = SetShadow(
            queue_id=text("queue", queue),
            policy=_live(policy),
            regret_max=number("regret_max", regret_max),
            min_decisions=whole("min_decisions", min_decisions),
            reason=text("reason", reason),
        )
        changed: Queue = await self.execute(command)
        return changed

    async def promote_policy(self, queue: str = DEFAULT, reason: str = "") -> Queue:
        """
        Take the tasks of a queue by its candidate from now on.

        Raises:
            Refused: it has no candidate, or the regret of that may be above its bound, or too little was compared.
            NotFound: the queue does not exist.
        """
        promoted: Queue = await self.execute(
            PromotePolicy(queue_id=text("queue", queue), reason=text("reason", reason))
        )
        return promoted

    async def roll_back_policy(self, queue: str = DEFAULT, reason: str = "") -> Queue:
        """
        Take the tasks of a queue again by the policy that it had before the last promotion.

        Raises:
            Refused: its policy was not promoted.
            NotFound: the queue does not exist.
        """
        changed: Queue = await self.execute(
            RollBackPolicy(queue_id=text("queue", queue), reason=text("reason", reason))
        )
        return changed

    async def pause_queue(self, queue: str, reason: str = "") -> Queue:
        """
        Start no more tasks of a queue; those that run go on, and it still takes new ones.

        Raises:
            NotFound: the queue does not exist.
        """
        paused: Queue = await self.execute(PauseQueue(queue_id=text("queue", queue), reason=text("reason", reason)))
        return paused

    async def resume_queue(self, queue: str, reason: str = "") -> Queue:
        """
        Start tasks of a paused queue again.

        Raises:
            NotFound: the queue does not exist.
        """
        resumed: Queue = await self.execute(ResumeQueue(queue_id=text("queue", queue), reason=text("reason", reason)))
        return resumed

    async def delete_queue(self, queue: str, reason: str = "") -> None:
        """
        Delete a queue; one that does not exist is already so.

        Raises:
            Refused: it has tasks that have not ended, or is the queue `default`.
        """
        await self.execute(DeleteQueue(queue_id=text("queue", queue), reason=text("reason", reason)))

    async def get_queue(self, queue: str = DEFAULT) -> QueueView:
        """
        Return a queue with its policy, its tasks, and who shares it.

        Raises:
            NotFound: the queue does not exist.
        """
        found: QueueView = await self.execute(GetQueue(queue_id=text("queue", queue)))
        return found

    async def list_queues(self) -> list[QueueView]:
        """Return all queues by name, without who shares them."""
        found: list[QueueView] = []
        while True:
            after = found[-1].queue.queue_id if found else ""
            page: list[QueueView] = await listed(self, ListQueues(limit=PAGE, after=after))
            found += page
            if len(page) < PAGE:
                return found


def _live(policy: SchedulingPolicy | None) -> Policy | None:
    """Return what the coordinator knows of a policy."""
    if policy is not None and not isinstance(policy, SchedulingPolicy):
        raise Refused(f"policy {shown(policy)} is not a SchedulingPolicy or None", reason="bad_type")
    return None if policy is None else policy.live()
