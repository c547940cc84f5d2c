"""Which tasks may join a gang, and by when it has to begin. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from coordinator.commands.validation import check_number
from coordinator.deciders.time_limits import LEAST_S, MOST_S
from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from coordinator.deciders.rules import Rules
    from events.task import Gang, TaskSubmitted
    from projections.world import World

SIZE_MOST = 100
"""More tasks than this do not begin in one commit."""


def check_gang(gang: Gang, rules: Rules) -> None:
    """
    Accept the gang of a task.

    Raises:
        Refused: its size or its time is out of range, or more than may run at once.
    """
    checked(gang.gang_id, "gang.gang_id")
    check_number("gang.size", gang.size, 2, SIZE_MOST)
    check_number("gang.deadline_s", gang.deadline_s, LEAST_S, MOST_S)
    if gang.size > rules.max_concurrent_tasks:
        msg = (
            f"gang {gang.gang_id!r} has {gang.size} tasks, and at most {rules.max_concurrent_tasks} may run at once: "
            "use a smaller size, or raise scheduler.max_concurrent_tasks"
        )
        raise Refused(msg, reason="bad_number")


def joined(world: World, event: TaskSubmitted, gang: Gang, tenant: str, now: float) -> TaskSubmitted:
    """
    Return the event of a task that joins its gang, with the time by which that has to begin.

    Raises:
        Refused: the gang has all of its tasks, or some of them run or wait for a retry; or it has other terms.
    """
    members = world.indexes.gangs.of.get(f"{tenant}/{gang.gang_id}")
    if members is None:
        return replace(event, gang_until=now + gang.deadline_s)
    if members.begun:
        msg = (
            f"gang {gang.gang_id!r} has begun, and {members.begun} of its tasks have not ended: "
            "use another gang_id, or submit the task without a gang"
        )
        raise Refused(msg, reason="gang_begun")
    first = next(iter(members.pending.values()))
    assert first.gang is not None, "it is in a gang"
    if first.gang != gang:
        msg = (
            f"gang {gang.gang_id!r} has size {first.gang.size} and deadline_s {first.gang.deadline_s:g} by task "
            f"{first.task_id!r}, not size {gang.size} and deadline_s {gang.deadline_s:g}: use the same for all of its "
            "tasks, or another gang_id"
        )
        raise Refused(msg, reason="gang_differs")
    if len(members.pending) >= gang.size:
        msg = f"gang {gang.gang_id!r} has all of its {gang.size} tasks: use another gang_id"
        raise Refused(msg, reason="gang_full")
    return replace(event, gang_until=members.until)
