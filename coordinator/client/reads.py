"""
What may be asked of followers, and how: over NATS, past the writer. See `read_door` for the questions.

Answers come from the read model, which holds all that ever was, and may be behind: it is told up to where it must be.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.task import GetTask
from coordinator.commands.wire import Answer
from events.codec import UNREADABLE
from events.errors import CoordinationError, NotFound, Unavailable, error_of
from projections.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.client.client import Client

READ_TIMEOUT_S = 5.0
ATTEMPT_S = 2.0
WAIT_S = 10.0
"""How long a follower waits to be as far as asked, where the question does not say."""
AGAIN_S = 0.1


async def ask_follower(
    client: Client, verb: str, question: Mapping[str, Any], *, type: Any = Any, timeout_s: float = READ_TIMEOUT_S
) -> Any:
    """
    Ask a follower, again while it is not ready, and give what it answers as *type*.

    Raises:
        Unavailable: no follower answers within *timeout_s*, or none is far enough.
        NotFound: there never was such a thing.
        Refused: the question is none.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    body = msgspec.json.encode(question)
    subject = client.subjects.read(client.source, verb)
    # What a follower took that was killed is answered by nobody: it is asked again once an answer is overdue.
    waits_s = question.get("timeout_s", WAIT_S) if verb == "wait" or "at_least" in question else 0.0
    attempt_most_s = waits_s + ATTEMPT_S
    while True:
        try:
            attempt_s = min(attempt_most_s, deadline - loop.time())
            raw = await client.bus.request(subject, body, timeout_s=max(0.001, attempt_s))
            return _value_of(raw, type)
        except Unavailable as error:
            pause_s = error.retry_after_s or AGAIN_S
            if loop.time() + pause_s >= deadline:
                raise
        await asyncio.sleep(pause_s)


async def find_task(client: Client, task_id: str, *, timeout_s: float = READ_TIMEOUT_S) -> Task:
    """
    Give a task, one that the writer has forgotten too; a follower gets *timeout_s* to answer.

    Raises:
        NotFound: there never was such a task; or the writer has none, and no follower answers for older ones.
    """
    try:
        living: Task = await client.execute(GetTask(task_id=task_id))
    except NotFound as error:
        question = {"kind": "task", "id": task_id, "at_least": str(client.position)}
        try:
            ended: Task = await ask_follower(client, "get", question, type=Task, timeout_s=timeout_s)
        except Unavailable as unanswered:
            msg = f"{error.message}, and no follower answers for older ones: {unanswered.message}"
            raise NotFound(msg) from unanswered
        return ended
    return living


def _value_of(raw: bytes, type: Any) -> Any:
    try:
        answer = msgspec.json.decode(raw, type=Answer)
        if answer.error is not None:
            error = answer.error
            raise error_of(error.code, error.message, reason=error.reason, retry_after_s=error.retry_after_s)
        return None if answer.ok is msgspec.UNSET else msgspec.json.decode(answer.ok, type=type)
    except UNREADABLE as error:
        msg = f"a follower's answer is unreadable ({error}): {raw[:80]!r}"
        raise CoordinationError(msg, reason="bad_answer") from error
