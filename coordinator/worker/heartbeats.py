"""
Heartbeats that blocked handlers cannot delay: they have their own thread, event loop and connection.

A lease is lost when its worker sends no heartbeats, and a handler that computes for a minute without `await` blocks
everything on its event loop. So nothing here may run on that loop or wait for it. This thread only watches the loop,
and logs when it is blocked. (Code that holds the interpreter's lock, as some C extensions do, blocks this thread too.)
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from coordinator.bus.connection import CONNECT_TIMEOUT_S
from coordinator.client.client import Client
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from coordinator.bus.connection import Url

    _Connect = Callable[[], AbstractAsyncContextManager[Client]]

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""Seconds between checks of the watched loop, and between attempts to send a heartbeat that could not be sent."""
BLOCKED_S = 1.0
"""A loop that does not answer for longer than this is logged as blocked."""
RECONNECT_S = 1.0
END_TIMEOUT_S = 3.0
_FRAMES_SHOWN = 3


class Heartbeats:
    """
    Calls *beat* every *every_s* seconds from a thread; open it with `Heartbeats.open`.

    `failed` is done, with the error, when the thread cannot continue: the server does not accept its login.
    """

    def __init__(self, beat: Callable[[Client], bool], *, every_s: float) -> None:
        self._beat = beat
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._watched_thread = threading.get_ident()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._stopping = threading.Event()
        self._wake: Callable[[], object] = bool
        self._answered_at = time.monotonic()
        self._reported = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        beat: Callable[[Client], bool],
        *,
        every_s: float,
        url: Url,
        source: str,
        namespace: str,
        name: str,
        creds: str | None = None,
        tls_ca: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> AsyncIterator[Heartbeats]:
        """
        Send heartbeats while the block runs.

        Args:
            beat: called in the thread with its client; sends the heartbeats and returns whether they could be sent. It
                must only read what other threads share with it.
            every_s: seconds between two calls of *beat*.
            url: the NATS server.
            source: see `Client.open`.
            namespace: see `Client.open`.
            name: the worker's id, for the names of the thread and the connection.
            creds: see `Client.open`.
            tls_ca: see `Client.open`.
            connect_timeout_s: see `Client.open`.
        """
        beats = cls(beat, every_s=every_s)

        def connect() -> AbstractAsyncContextManager[Client]:
            return Client.open(
                url,
                source=source,
                namespace=namespace,
                name=f"{name}-beats",
                creds=creds,
                tls_ca=tls_ca,
                connect_timeout_s=connect_timeout_s,
            )

        threading.Thread(target=beats._run, args=(connect,), name=f"{name}-beats", daemon=True).start()
        try:
            yield beats
        finally:
            beats._stopping.set()
            beats._wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await beats._ended.wait()
            if beats.failed.done() and not beats.failed.cancelled():
                beats.failed.exception()  # mark it as retrieved: the worker that waits for it has already raised it

    def at_least_every(self, seconds: float) -> None:
        """Send heartbeats at least every *seconds* from now on."""
        self._every_s = min(self._every_s, seconds)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _run(self, connect: _Connect) -> None:
        error: Exception | None = None
        try:
            asyncio.run(self._stay_connected(connect))
        except Exception as caught:  # noqa: BLE001  # raised in the watched loop
            error = caught
        _call_soon(self._loop, self._end, error)

    async def _stay_connected(self, connect: _Connect) -> None:
        woken = asyncio.Event()
        self._wake = partial(_call_soon, asyncio.get_running_loop(), woken.set)
        while not self._stopping.is_set():
            try:
                async with connect() as client:
                    await self._keep_beating(client, woken)
            except Unavailable as error:
                log.warning("heartbeat_connection_failed", why=error.message)
                await asyncio.sleep(RECONNECT_S)

    async def _keep_beating(self, client: Client, woken: asyncio.Event) -> None:
        sent_at = float("-inf")
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= sent_at + self._every_s and self._beat(client):
                sent_at = now
            self._look(now)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, self._every_s)):
                    await woken.wait()

    def _look(self, now: float) -> None:
        """Ask the watched loop for an answer; if it has been blocked too long, log once where it is."""
        silent_for_s = now - self._answered_at
        if silent_for_s <= BLOCKED_S:
            self._reported = False
        elif not self._reported:
            self._reported = True
            log.warning("loop_blocked", silent_for_s=round(silent_for_s, 2), where=_where(self._watched_thread))
        _call_soon(self._loop, self._answer)

    # --- in the watched loop ------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        self._answered_at = time.monotonic()

    def _end(self, error: Exception | None) -> None:
        self._ended.set()
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *given: object) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call, *given)


def _where(thread: int) -> str:
    """Return the source lines that a thread is executing, innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # documented API in spite of its name
    shown: list[str] = []
    while frame is not None and len(shown) < _FRAMES_SHOWN:
        shown.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        frame = frame.f_back
    return " < ".join(shown)
