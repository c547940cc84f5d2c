"""The open requests of one connection: each has its own reply subject and ends exactly once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.bus.subscription import Message
from events.errors import Forbidden, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NO_RESPONDERS = 503


class Requests:
    """Assigns answers on the subjects below *inbox* to the requests that wait for them."""

    def __init__(self, inbox: str) -> None:
        self.subject = f"{inbox}.*"
        """The subject of all answers."""
        self._inbox = inbox
        self._waiting: dict[bytes, tuple[str, asyncio.Future[Message]]] = {}
        self._count = 0

    async def ask(self, subject: str, send: Callable[[str], Awaitable[None]], timeout_s: float) -> Message:
        """
        Call *send* with a reply subject, and return the answer sent to it.

        Raises:
            Unavailable: nobody listens on *subject*, or no answer came; the request may have been received.
        """
        self._count += 1
        token = b"%d" % self._count
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[token] = subject, waiting
        try:
            await send(f"{self._inbox}.{self._count}")
            async with asyncio.timeout(timeout_s):
                answer = await waiting
        except TimeoutError:
            msg = f"no answer on {subject} within {timeout_s} s; it may have been received: retry with the same ids"
            raise Unavailable(msg, reason="timeout") from None
        finally:
            self._waiting.pop(token, None)
        if answer.status == NO_RESPONDERS:
            msg = f"nobody listens on {subject}: check that its server runs, and that the name is right"
            raise Unavailable(msg, reason="no_responders")
        return answer

    def answered(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Handle a message on a subject below the inbox."""
        found = self._waiting.get(subject[len(self._inbox) + 1 :])
        if found is not None and not found[1].done():
            found[1].set_result(Message(subject.decode(), reply.decode(), data, headers or b""))

    def fail(self, why: str) -> None:
        """Fail all requests, because no answer can come any more."""
        for _, waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable(f"{why} before the answer came", reason="disconnected"))

    def forbid(self, subject: str, user: str) -> None:
        """Fail the requests on *subject*, on which the server does not let *user* publish: no answer will come."""
        for asked, waiting in self._waiting.values():
            if asked.lower() == subject and not waiting.done():
                msg = f"the credentials of {user or 'this connection'} do not allow {asked}: use those of another user"
                waiting.set_exception(Forbidden(msg, reason="not_permitted"))
