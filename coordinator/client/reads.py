"""
Ask the followers, over NATS and without the writer. See `read_door` for the questions.

Answers come from the read model. It holds everything that ever existed, and may be out of date: a question can name the
position that the read model must have reached.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from coordinator.commands.reads import Get, ReadQuestion, Wait
from coordinator.commands.task import GetTask
from coordinator.commands.wire import Answer
from events.codec import UNREADABLE
from events.errors import CoordinationError, NotFound, Unavailable, error_of
from projections.task import Task

if TYPE_CHECKING:
    from coordinator.client.client import Client
    from coordinator.commands.command import Question

T = TypeVar("T")
Found = TypeVar("Found")

READ_TIMEOUT_S = 5.0
ATTEMPT_S = 2.0
WAIT_S = 10.0
"""How long a follower waits to reach the position asked for, when the question does not say."""
AGAIN_S = 0.1


async def ask_follower(client: Client, question: ReadQuestion[T], *, timeout_s: float = READ_TIMEOUT_S) -> T:
    """
    Ask a follower, retrying while it is not ready, and return its answer, which has the type that the question says.

    Args:
        client: the connection.
        question: the question; its `at_least` is a position that the read model must have reached.
        timeout_s: seconds until the last attempt.

    Raises:
        Unavailable: no follower answers within *timeout_s*, or none has reached the position.
        NotFound: no such thing ever existed.
        Refused: the question is invalid.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    body = msgspec.json.encode(question)
    subject = client.subjects.read(client.source, question.VERB)
    # A question received by a follower that was then killed is never answered: ask again once the answer is overdue.
    attempt_most_s = _wait_of(question) + ATTEMPT_S
    while True:
        try:
            attempt_s = min(attempt_most_s, deadline - loop.time())
            raw = await client.bus.request(subject, body, timeout_s=max(0.001, attempt_s))
            return _value_of(raw, question)
        except Unavailable as error:
            pause_s = error.retry_after_s or AGAIN_S
            if loop.time() + pause_s >= deadline:
                raise
        await asyncio.sleep(pause_s)


async def find_task(client: Client, task_id: str, *, timeout_s: float = READ_TIMEOUT_S) -> Task:
    """Return a task, from the writer or, if it has evicted it, from a follower; errors as `find`."""
    return await find(client, GetTask(task_id=task_id), "task", task_id, Task, timeout_s)


async def find(
    client: Client,
    question: Question[Any],
    kind: Literal["task", "container"],
    entity_id: str,
    result: type[Found],
    timeout_s: float,
) -> Found:
    """
    Return the answer of the writer to *question* or, if it has no such thing any more, that of a follower.

    Raises:
        NotFound: no such thing ever existed; or the writer does not have it and no follower answers within *timeout_s*.
    """
    try:
        living: Found = await client.execute(question)
    except NotFound as error:
        ended = Get(kind=kind, id=entity_id, at_least=str(client.position))
        try:
            return msgspec.convert(await ask_follower(client, ended, timeout_s=timeout_s), result)
        except Unavailable as unanswered:
            msg = f"{error.message}; no follower answers for older {kind}s: {unanswered.message}"
            raise NotFound(msg) from unanswered
    return living


def _wait_of(question: ReadQuestion[Any]) -> float:
    """Return how long a follower may wait for a position before it answers, in seconds."""
    if isinstance(question, Wait):
        return question.timeout_s
    return WAIT_S if getattr(question, "at_least", None) is not None else 0.0


def _value_of(raw: bytes, question: ReadQuestion[T]) -> T:
    try:
        answer = msgspec.json.decode(raw, type=Answer)
        if answer.error is not None:
            error = answer.error
            raise error_of(error.code, error.message, reason=error.reason, retry_after_s=error.retry_after_s)
        body = b"null" if answer.ok is msgspec.UNSET else answer.ok
        value: T = msgspec.json.decode(body, type=question.Answer)
    except UNREADABLE as error:
        msg = f"a follower's answer is unreadable ({error}): {raw[:80]!r}"
        raise CoordinationError(msg, reason="bad_answer") from error
    return value
