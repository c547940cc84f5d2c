"""
List the tasks that failed or timed out, and do them again as new tasks with the same content.

A follower has them, with their payloads; the writer gets only the submission of the new task. Its id follows from the
old one's, so that a repeat makes no second task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.client.pace import paced
from coordinator.client.reads import ask_follower
from coordinator.commands.acting import acting
from coordinator.commands.cluster import GetStats
from coordinator.commands.reads import GetDead, ListDead
from coordinator.commands.requeue import submission_again
from events.errors import Refused
from events.ids import checked
from events.task import TaskSubmitted
from projections.task import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from coordinator.client.client import Client
    from coordinator.commands.reads import DeadLetter

PAGE = 1000
"""Most tasks in one answer."""
RATE_PER_S = 10.0
"""How many tasks a second are requeued, unless more or fewer are asked for."""
REQUEUED_MAX = 10_000
"""How many tasks are requeued at once."""


class Dead(NamedTuple):
    """A task that failed or timed out, and the task that does it again, '' if there is none."""

    task: Task
    requeued_as: str


async def list_dead(client: Client, question: ListDead, most: int) -> list[Dead]:
    """
    Return at most *most* dead tasks that match, newest first, as many pages as that takes.

    What the writer had decided when this was called is in the list.

    Raises:
        Unavailable: no follower answers, or none has got so far.
        Refused: the question is invalid.
    """
    position = (await client.execute(GetStats())).position
    found: list[Dead] = []
    before = question.before
    while len(found) < most:
        asked = msgspec.structs.replace(question, limit=min(PAGE, most - len(found)), before=before, at_least=position)
        page = await ask_follower(client, asked)
        found += [Dead(msgspec.convert(one.task, Task), one.requeued_as) for one in page.items]
        before = page.next
        if before is None:
            break
    return found


async def dead_letter(client: Client, task_id: str) -> DeadLetter:
    """
    Return a dead task with its content and traceback.

    Raises:
        NotFound: there is no such task.
        Refused: it has not failed.
        Unavailable: as `list_dead`.
    """
    position = (await client.execute(GetStats())).position
    return await ask_follower(client, GetDead(id=checked(task_id, "task_id"), at_least=position))


async def requeue(client: Client, task_id: str) -> str:
    """
    Submit a dead task again, for its tenant, and return the id of the new one; of one that was, the id it got then.

    Raises:
        NotFound: there is no such task.
        Refused: it has not failed; its content is not there any more; or the queue is full.
        Unavailable: as `list_dead`, or the writer does not answer: the task may have been submitted.
    """
    letter = await dead_letter(client, task_id)
    if letter.requeued_as:
        return letter.requeued_as
    if letter.submitted is None:
        msg = f"the read model does not have the content of task {task_id!r} any more: submit it anew"
        raise Refused(msg, reason="payload_gone")
    task, submitted = msgspec.convert(letter.task, Task), msgspec.convert(letter.submitted, TaskSubmitted)
    with acting(tenant=task.tenant):
        return await client.execute(submission_again(submitted, has_begun=bool(task.attempt)))


async def requeue_each(
    client: Client, task_ids: Iterable[str], *, rate_per_s: float = RATE_PER_S
) -> AsyncIterator[tuple[str, str]]:
    """
    Requeue tasks, at most *rate_per_s* in a second, and yield each id with that of its new task.

    Raises:
        Refused, NotFound, Unavailable: as `requeue`, at the first task of which it is so.
    """
    async for task_id in paced(task_ids, rate_per_s):
        yield task_id, await requeue(client, task_id)
