"""Answers questions about the containers of a node, on `….node.<id>.<verb>`: logs and usage."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.commands.node import NodeQuestion
from coordinator.ids import TimeOrderedIds
from coordinator.runtime.protocol import start_of
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

log = structlog.get_logger(__name__)
_ids = TimeOrderedIds()


@asynccontextmanager
async def answering(client: Client, runtime: Runtime, node_id: str) -> AsyncIterator[None]:
    """Answer questions about the containers of *node_id* while the block runs."""
    answers = _Answers(client, runtime, node_id)
    subscriptions = [
        await client.bus.subscribe(client.subjects.node(node_id, verb), partial(answers.answer, question))
        for verb, question in (("logs", answers.logs), ("usage", answers.usage))
    ]
    try:
        yield
    finally:
        for subscription in subscriptions:
            await subscription.unsubscribe()


class _Answers:
    def __init__(self, client: Client, runtime: Runtime, node_id: str) -> None:
        self._client = client
        self._runtime = runtime
        self._node_id = node_id
        self._older: dict[str, list[str]] = {}

    async def answer(self, question: Any, message: Message) -> None:
        body = await self._answer_of(question, message.data)
        if may_answer(message.reply):
            self._send(message.reply, body)

    async def _answer_of(self, question: Any, asked: bytes) -> dict[str, Any]:
        try:
            decoded = msgspec.json.decode(asked, type=NodeQuestion)
        except UNREADABLE as error:
            return {"error": {"code": "refused", "message": f"the question cannot be decoded: {error}"[:300]}}
        try:
            return await question(decoded)  # type: ignore[no-any-return]  # one of `logs` and `usage`
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
