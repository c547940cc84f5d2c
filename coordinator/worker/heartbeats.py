"""
Heartbeats that nothing in the process can starve: a thread of its own, with a loop and a connection of its own.

A lease is lost when its worker is not heard, and a handler that computes for a minute without `await` would silence
everything that shares its loop. So nothing here may run on that loop or wait for it; it is only watched, and a log line
says when it stands still. (What keeps the interpreter's lock, as some C extensions do, silences this thread too.)
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

from coordinator.client.client import Client
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    _Connect = Callable[[], AbstractAsyncContextManager[Client]]

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""How often the watched loop is looked at, and a beat that could not leave is tried again."""
BLOCKED_S = 1.0
"""A loop that took longer than this to answer is reported."""
RECONNECT_S = 1.0
END_TIMEOUT_S = 3.0
_FRAMES_SHOWN = 3


class Heartbeats:
    """
    Calls *beat* every *every_s* seconds from a thread; open it with `Heartbeats.open`.

    `failed` is done, with the error, when the thread cannot go on: the server does not accept its login.
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
        url: str,
        source: str,
        namespace: str,
        name: str,
        creds: str | None = None,
        tls_ca: str | None = None,
    ) -> AsyncIterator[Heartbeats]:
        """Beat while the block runs; *beat* says whether it could send, and shares nothing but what it reads."""
        beats = cls(beat, every_s=every_s)

        def connect() -> AbstractAsyncContextManager[Client]:
            return Client.open(
                url, source=source, namespace=namespace, name=f"{name}-beats", creds=creds, tls_ca=tls_ca
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
                beats.failed.exception()  # whoever waited for it has it; nobody else need be told

    def at_least_every(self, seconds: float) -> None:
        """Beat more often from now on, if need be."""
        self._every_s = min(self._every_s, seconds)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _run(self, connect: _Connect) -> None:
        error: Exception | None = None
        try:
            asyncio.run(self._stay_connected(connect))
        except Exception as caught:  # noqa: BLE001  # it is raised in the watched loop
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
                log.warning("heartbeats_cannot_connect", why=error.message)
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
        """Ask the watched loop for a sign, and say once when it gave none for too long: what is it doing?"""
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
    with suppress(RuntimeError):  # that loop is closed: there is nobody left to tell
        loop.call_soon_threadsafe(call, *given)


def _where(thread: int) -> str:
    """Name the lines that a thread is at, the innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # documented, in spite of its name
    shown: list[str] = []
    while frame is not None and len(shown) < _FRAMES_SHOWN:
        shown.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        frame = frame.f_back
    return " < ".join(shown)
