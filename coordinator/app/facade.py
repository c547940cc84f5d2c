"""
What all facades share: they open at their first await, on the one app of the event loop, and let go of it when closed.

A facade is thin: it checks the shape of what it is given, builds one command, executes it, and returns a value. It
never decides anything, and keeps nothing that another process would need.
"""

from __future__ import annotations

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
    """Base of the facades; `async with` closes it, and so does `close()`. It opens again when used again."""

    def __init__(self, app: App | None = None) -> None:
        self._given = app
        self._app: App | None = app

    @property
    def given_app(self) -> App | None:
        """The app it was made with; None when it uses the one of the event loop."""
        return self._given

    async def initialize(self) -> None:
        """
        Open the connection now rather than at the first call.

        Raises:
            Unavailable: the coordinator cannot be reached.
        """
        await self.opened()

    async def opened(self) -> App:
        """Give the app, opened if need be; raises `Unavailable`."""
        app = self._app
        if app is not None and (app.is_open or app.failure is not None or app is self._given):
            return app
        # None yet, or one of an event loop that has ended.
        fresh = await acquire_app()
        if self._app is app:
            self._app = fresh
            return fresh
        # Another call on this facade opened it meanwhile.
        await release_app(fresh)
        return await self.opened()

    async def close(self) -> None:
        """Let go of the connection; the last facade to do so ends an embedded coordinator."""
        app, self._app = self._app, self._given
        if app is not None and app is not self._given:
            await release_app(app)

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Execute one command; see `client.Door`."""
        app = self._app
        if app is None or not app.is_open:
            app = await self.opened()
        return await app.execute(command, timeout_s=timeout_s)


def wanted(name: str, value: Any, kind: type | tuple[type, ...], right: str) -> Any:
    """
    Give *value* back when it is of *kind*; a bool is no number here.

    Raises:
        Refused: it is not; names the value and what would be right.
    """
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    msg = f"{name} {shown(value)} is not {right}"
    raise Refused(msg, reason="bad_type")


def text(name: str, value: Any) -> str:
    """Give *value* back when it is text; raises `Refused` else."""
    return str(wanted(name, value, str, "text"))


def texts(name: str, values: Any) -> tuple[str, ...]:
    """Give *values* as a tuple when it is several texts, and not one; raises `Refused` else."""
    several = wanted(name, values, (list, tuple, set, frozenset), "a list of texts")
    return tuple(text(f"{name}: {shown(values)} holds", one) for one in several)


def whole(name: str, value: Any) -> int:
    """Give *value* back when it is a whole number; raises `Refused` else."""
    return int(wanted(name, value, int, "a whole number"))


def number(name: str, value: Any) -> float:
    """Give *value* back when it is a finite number; raises `Refused` else."""
    given = wanted(name, value, (int, float), "a number")
    try:
        if isfinite(given):
            return float(given)
    except OverflowError:
        pass
    raise Refused(f"{name} {shown(value)} is not a finite number", reason="bad_type")


def flag(name: str, value: Any) -> bool:
    """Give *value* back when it is True or False; raises `Refused` else."""
    return bool(wanted(name, value, bool, "True or False"))


def member(name: str, value: Any, of: type[Any]) -> Any:
    """Give the member of the enum *of* that *value* is or names; raises `Refused` else."""
    if isinstance(value, of):
        return value
    try:
        return of(value)
    except ValueError:
        msg = f"{name} {shown(value)} is none of {', '.join(one.value for one in of)}"
        raise Refused(msg, reason="bad_type") from None
