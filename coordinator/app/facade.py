"""
The base of all facades.

A facade opens at its first call, shares the app of the event loop, and releases it when closed. One facade may be used
in several loops, at once in several threads, and in forked children. It checks the types of its arguments by
`commands.arguments`, builds one command, executes it and returns a value. It never decides anything, and keeps no state
that another process would need.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from coordinator.app.app import acquire_app, release_app
from coordinator.ids import TimeOrderedIds
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.app.app import App
    from coordinator.commands.command import Command

new_id = TimeOrderedIds().new


class Facade:
    """Base class of the facades. `close()` or the end of `async with` closes it; the next call opens it again."""

    def __init__(self, app: App | None = None) -> None:
        self._given = app
        self._app: App | None = app
        """The app that was used last."""
        self._apps: dict[asyncio.AbstractEventLoop, App] = {}

    @property
    def given_app(self) -> App | None:
        """The app passed to the constructor; None if the facade uses the app of the event loop."""
        return self._given

    async def initialize(self) -> None:
        """
        Open the connection now instead of at the first call.

        Raises:
            Unavailable: the coordinator cannot be reached.
        """
        await self.opened()

    async def opened(self) -> App:
        """
        Return the app, opening it if needed.

        Raises:
            Unavailable: the coordinator cannot be reached.
            Refused: the facade was given an app of another event loop, or the loop is that of a process that this one
                was forked from.
        """
        loop = asyncio.get_running_loop()
        if self._given is not None:
            if self._given.loop is not loop:
                msg = (
                    f"this {type(self).__name__} was given an app that belongs to another event loop: use it in that"
                    " loop, or make one without `app`"
                )
                raise Refused(msg, reason="other_loop")
            return self._given
        app = self._apps.get(loop)
        if app is not None and (app.is_open or app.failure is not None):
            self._app = app
            return app
        # There is no app yet, or it was closed.
        fresh = await acquire_app()
        if self._apps.get(loop) is app:
            self._forget_ended()
            self._app = self._apps[loop] = fresh
            return fresh
        # A concurrent call on this facade opened the app first.
        await release_app(fresh)
        return await self.opened()

    def _forget_ended(self) -> None:
        """Forget the apps of loops that have ended; an app keeps its loop alive."""
        for loop, app in list(self._apps.items()):
            if loop.is_closed() or (not app.is_open and app.failure is None):
                self._apps.pop(loop, None)

    async def close(self) -> None:
        """Release the connection of this event loop. Closing the last facade stops an embedded coordinator."""
        app = self._apps.pop(asyncio.get_running_loop(), None)
        if app is not None:
            if self._app is app:
                self._app = None
            await release_app(app)

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Execute one command and return its answer; see `client.Door`."""
        app = self._app
        if app is None or not app.is_open or app.loop is not asyncio.get_running_loop():
            app = await self.opened()
        return await app.execute(command, timeout_s=timeout_s)
