"""
Answers questions about the containers of a node, on `….node.<id>.<verb>`: logs, usage and follow.

Who follows a log asks again and again from a position on, so that the node keeps nothing for it; a question waits here
for new lines.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.commands.node import FollowedLogs, FollowQuestion, NodeQuestion
from coordinator.commands.validation import check_number
from coordinator.ids import TimeOrderedIds
from coordinator.runtime.launch_checks import check_position
from coordinator.runtime.protocol import LOG_START, start_of
from coordinator.task_groups import task_group
from events.codec import UNREADABLE
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked
from events.subjects import may_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus.subscription import Message
    from coordinator.client.client import Client
    from coordinator.runtime.protocol import Runtime


KEPT = 4
"""Logs of which the lines that had no room in an answer are kept, until they are asked for; each has 16 MiB at most."""
ANSWER_BYTES = 256
"""Bytes of an answer beside its value."""
CHAR_BYTES = 6
"""A character takes at most this many bytes as JSON."""

FOLLOWERS = 64
"""Questions that wait for log lines at the same time; one more is answered at once."""
QUESTIONS_MOST = 256
"""Questions about followed logs under way; one more is refused."""
WAIT_MOST_S = 60.0
PART_BYTES = 128 * 1024
"""Log lines in an answer to who follows them."""
OPEN_S = 0.5
"""Who follows a log asks again within this time."""
READ_OUT_S = 2.0
"""How long the removal of a container waits for those that follow its log."""
_POLL_S = 0.05

log = structlog.get_logger(__name__)
_ids = TimeOrderedIds()


@asynccontextmanager
async def answering(client: Client, runtime: Runtime, node_id: str) -> AsyncIterator[Answers]:
    """Answer questions about the containers of *node_id* while the block runs."""
    async with task_group() as tasks:
        answers = Answers(client, runtime, node_id, tasks)
        # First the newest verb: an agent that does not answer it, but another one, is of an earlier release.
        subscriptions = [
            await client.bus.subscribe(client.subjects.node(node_id, "follow"), answers.begin_follow),
            *[
                await client.bus.subscribe(client.subjects.node(node_id, verb), partial(answers.answer, question))
                for verb, question in (("logs", answers.logs), ("usage", answers.usage))
            ],
        ]
        try:
            yield answers
        finally:
            for subscription in subscriptions:
                await subscription.unsubscribe()
            answers.end_follows()


class Answers:
    """The answers of one node."""

    def __init__(self, client: Client, runtime: Runtime, node_id: str, tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._runtime = runtime
        self._node_id = node_id
        self._tasks = tasks
        self._older: dict[str, list[str]] = {}
        self._follows: set[asyncio.Task[None]] = set()
        self._waiting: dict[tuple[str, str], int] = {}
        self._answered: dict[tuple[str, str], float] = {}
        """When who follows a log got a part that is not its end, the newest last."""

    async def answer(self, question: Any, message: Message, asked: type[Any] = NodeQuestion) -> None:
        """Answer a message."""
        body = await self._answer_of(question, message.data, asked)
        if may_answer(message.reply):
            self._send(message.reply, body)

    def begin_follow(self, message: Message) -> None:
        """Answer a question about a followed log in a task of its own, since it may wait."""
        if len(self._follows) < QUESTIONS_MOST:
            task = self._tasks.create_task(self._answer_follow(message))
            self._follows.add(task)
            task.add_done_callback(self._follows.discard)
        elif may_answer(message.reply):
            why = f"node {self._node_id} answers {QUESTIONS_MOST} questions about logs already: ask again later"
            self._send(message.reply, {"error": {"code": Unavailable.code, "message": why}})

    def end_follows(self) -> None:
        """Leave the questions that wait unanswered: the next agent answers them when they are asked again."""
        for task in self._follows:
            task.cancel()

    async def _answer_follow(self, message: Message) -> None:
        try:
            await self.answer(self.follow, message, FollowQuestion)
        except Exception as error:  # noqa: BLE001  # of one question: the agent goes on
            log.warning("question_not_answered", node_id=self._node_id, why=str(error))

    async def _answer_of(self, question: Any, asked: bytes, kind: type[Any]) -> dict[str, Any]:
        try:
            decoded = msgspec.json.decode(asked, type=kind)
        except UNREADABLE as error:
            return {"error": {"code": "refused", "message": f"the question cannot be decoded: {error}"[:300]}}
        try:
            return await question(decoded)  # type: ignore[no-any-return]  # one of `logs`, `usage` and `follow`
        except CoordinationError as error:
            return {"error": {"code": error.code, "message": error.message}}
        except Exception as error:  # whoever asks must hear of it, instead of nothing until the time-out
            log.exception("question_crashed", node_id=self._node_id)
            why = f"node {self._node_id} failed to answer: {type(error).__name__}: {error}"
            return {"error": {"code": "unavailable", "message": why[:300]}}

    def _send(self, reply: str, body: dict[str, Any]) -> None:
        try:
            self._client.bus.send(reply, msgspec.json.encode(body))
        except Refused as error:
            told = {"code": error.code, "message": f"the answer does not fit into one message: {error.message}"}
            self._client.bus.send(reply, msgspec.json.encode({"error": told}))

    async def logs(self, asked: NodeQuestion) -> dict[str, Any]:
        if asked.older:
            lines = self._older.pop(checked(asked.older, "older"), None)
            if lines is None:
                raise Unavailable("the older lines of this answer are not kept any more: ask again from the newest on")
        else:
            lines = await self._runtime.logs(*await self._newest(asked), asked.lines)
        return self._newest_that_fit(lines)

    def _newest_that_fit(self, lines: list[str]) -> dict[str, Any]:
        """Return the last lines that fit into a message, and what to ask with for those before them."""
        left = self._client.bus.max_payload_bytes - ANSWER_BYTES
        fitting: list[msgspec.Raw] = []
        for line in reversed(lines):
            part = msgspec.json.encode(line)
            if len(part) > left and not fitting:
                part = _cut(line, left)
            if len(part) > left:
                break
            left -= len(part) + 1
            fitting.append(msgspec.Raw(part))
        answer: dict[str, Any] = {"ok": fitting[::-1]}
        if rest := lines[: len(lines) - len(fitting)]:
            while len(self._older) >= KEPT:
                del self._older[next(iter(self._older))]
            answer["older"] = _ids.new("lines")
            self._older[answer["older"]] = rest
        return answer

    async def usage(self, asked: NodeQuestion) -> dict[str, Any]:
        return {"ok": await self._runtime.usage(*await self._newest(asked))}

    async def follow(self, asked: FollowQuestion) -> dict[str, Any]:
        """Return the lines after a position, of this generation or of the next one that is there."""
        check_number("wait_s", asked.wait_s, 0.0, WAIT_MOST_S)
        key, position = await self._place(asked)
        wait_s = asked.wait_s if sum(self._waiting.values()) < FOLLOWERS else 0.0
        bytes_most = min(PART_BYTES, (self._client.bus.max_payload_bytes - ANSWER_BYTES) // CHAR_BYTES)
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            part = await self._runtime.logs_after(
                *key, position, lines=asked.lines, bytes_most=bytes_most, wait_s=wait_s
            )
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
        following = ""
        if part.is_end:
            following = min((one for one in await self._generations(key[0], key[1])), key=start_of, default="")
        else:
            self._note_open(key)
        return {
            "ok": FollowedLogs(
                generation=key[1],
                position=part.position,
                lines=part.lines,
                is_cut=part.is_cut,
                is_end=part.is_end,
                next=following,
            )
        }

    async def read_out(self, container_id: str, generation: str) -> None:
        """Wait, but not for long, until who follows this log has got its last lines: it is about to be removed."""
        key = container_id, generation
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_OUT_S
        while loop.time() < until and (  # noqa: ASYNC110  # mostly until a time has passed
            key in self._waiting or loop.time() < self._answered.get(key, -OPEN_S) + OPEN_S
        ):
            await asyncio.sleep(_POLL_S)

    def _note_open(self, key: tuple[str, str]) -> None:
        self._answered.pop(key, None)
        while len(self._answered) >= QUESTIONS_MOST:
            del self._answered[next(iter(self._answered))]
        self._answered[key] = asyncio.get_running_loop().time()

    async def _place(self, asked: FollowQuestion) -> tuple[tuple[str, str], str]:
        """Return the container, its generation and the position that a question is about."""
        checked(asked.container_id, "container_id")
        if not asked.generation:
            newest = await self._newest(NodeQuestion(container_id=asked.container_id))
            return newest, asked.position
        check_position(asked.generation, "generation")
        later = await self._generations(asked.container_id, asked.generation, itself=True)
        if not later:
            msg = f"container {asked.container_id!r} has no generation from {asked.generation} on at this node"
            raise NotFound(msg)
        first = min(later, key=start_of)
        return (asked.container_id, first), asked.position if first == asked.generation else LOG_START

    async def _generations(self, container_id: str, after: str, *, itself: bool = False) -> list[str]:
        """Return the generations of a container that are here and later than one."""
        found = [one.generation for one in await self._runtime.list() if one.container_id == container_id]
        return [one for one in found if start_of(one) > start_of(after) or (itself and one == after)]

    async def _newest(self, asked: NodeQuestion) -> tuple[str, str]:
        """Return the requested generation of the container, its newest one, or the one before the requested one."""
        checked(asked.container_id, "container_id")
        found = [one for one in await self._runtime.list() if one.container_id == asked.container_id]
        if asked.generation and not asked.previous:
            found = [one for one in found if one.generation == asked.generation]
        if not found:
            msg = f"container {asked.container_id!r} not found on node {self._node_id}: never started, or removed"
            raise NotFound(msg)
        if asked.previous:  # the current one may have left nothing, if it did not start
            current = start_of(asked.generation)
            found = [one for one in found if start_of(one.generation) < current]
        if not found:
            msg = f"container {asked.container_id!r} has no earlier generation on node {self._node_id}: it started once"
            raise NotFound(msg)
        newest = max(found, key=lambda one: start_of(one.generation))
        return newest.container_id, newest.generation


def _cut(line: str, most: int) -> bytes:
    """Return the beginning of a line as JSON of at most *most* bytes, with a mark that says how long it is."""
    mark = f"… ({len(line)} characters)"
    chars = (most - len(mark) - 8) // CHAR_BYTES
    return msgspec.json.encode(f"{line[:chars]}{mark}")
