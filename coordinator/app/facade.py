"""
The base of all facades.

A facade opens at its first call, shares the app of the event loop, and releases it when closed. It checks the types
of its arguments by `commands.arguments`, builds one command, executes it and returns a value. It never decides
anything, and keeps no state that another process would need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from coordinator.app.app import acquire_app, release_app
from coordinator.ids import TimeOrderedIds

if TYPE_CHECKING:
    from coordinator.app.app import App
    from coordinator.commands.command import Command

new_id = TimeOrderedIds().new


class Facade:
    """Base class of the facades. `close()` or the end of `async with` closes it; the next call opens it again."""

    def __init__(self, app: App | None = None) -> None:
        self._given = app
        self._app: App | None = app

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
        """
        app = self._app
        if app is not None and (app.is_open or app.failure is not None or app is self._given):
            return app
        # There is no app yet, or it belongs to an event loop that has ended.
        fresh = await acquire_app()
        if self._app is app:
            self._app = fresh
            return fresh
        # A concurrent call on this facade opened the app first.
        await release_app(fresh)
        return await self.opened()

    async def close(self) -> None:
        """Release the connection. Closing the last facade stops an embedded coordinator."""
        app, self._app = self._app, self._given
        if app is not None and app is not self._given:
            await release_app(app)

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Execute one command and return its answer; see `client.Door`."""
        app = self._app
        if app is None or not app.is_open:
            app = await self.opened()
        return await app.execute(command, timeout_s=timeout_s)
