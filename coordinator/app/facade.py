"""
The base of all facades, and the type checks of their arguments.

A facade opens at its first call, shares the app of the event loop, and releases it when closed. One facade may be used
in several loops, at once in several threads, and in forked children. It checks the types of its arguments, builds one
command, executes it and returns a value. It never decides anything, and keeps no state that another process would need.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from coordinator.app.app import acquire_app, release_app
from coordinator.ids import TimeOrderedIds
from events.errors import Refused, shown

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


def wanted(name: str, value: Any, kind: type | tuple[type, ...], right: str) -> Any:
    """
    Return *value* if it is an instance of *kind*. A bool is not accepted as a number.

    Args:
        name: the argument's name, for the error message.
        value: the argument.
        kind: the accepted types.
        right: what is accepted, for the error message, such as "a whole number".

    Raises:
        Refused: *value* has another type.
    """
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    msg = f"{name} {shown(value)} is not {right}"
    raise Refused(msg, reason="bad_type")


def text(name: str, value: Any) -> str:
    """Return *value* if it is a string; raise `Refused` if not."""
    return str(wanted(name, value, str, "text"))


def texts(name: str, values: Any) -> tuple[str, ...]:
    """Return a list, tuple or set of strings as a tuple; raise `Refused` for anything else, also for one string."""
    several = wanted(name, values, (list, tuple, set, frozenset), "a list of texts")
    return tuple(text(f"{name}: {shown(values)} holds", one) for one in several)


def whole(name: str, value: Any) -> int:
    """Return *value* if it is an int; raise `Refused` if not."""
    return int(wanted(name, value, int, "a whole number"))


def number(name: str, value: Any) -> float:
    """Return *value* as a float if it is a finite number; raise `Refused` if not."""
    given = wanted(name, value, (int, float), "a number")
    try:
        if isfinite(given):
            return float(given)
    except OverflowError:
        pass
    raise Refused(f"{name} {shown(value)} is not a finite number", reason="bad_type")


def flag(name: str, value: Any) -> bool:
    """Return *value* if it is True or False; raise `Refused` if not."""
    return bool(wanted(name, value, bool, "True or False"))


def member(name: str, value: Any, of: type[Any]) -> Any:
    """
    Return the member of the enum *of* that is *value* or has that value; raise `Refused` if there is none.

    A member of another enum stands for its value: programs may hold a copy of the enum of the requirements.
    """
    if isinstance(value, of):
        return value
    try:
        return of(value.value if isinstance(value, Enum) else value)
    except ValueError:
        msg = f"{name} {shown(value)} is not one of {', '.join(one.value for one in of)}"
        raise Refused(msg, reason="bad_type") from None
