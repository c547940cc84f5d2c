"""
The one family of errors, told apart by class and `code`, never by text.

It lives beside the events because folds and other domains raise and catch it too; `coordinator.errors` re-exports it.
Each class's docstring is its default message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from events.base import Event

_SHOWN = 80


class CoordinationError(Exception):
    """The coordinator could not do what was asked"""

    code: ClassVar[str] = "error"

    def __init__(
        self, message: str | None = None, *, reason: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message if message is not None else (self.__doc__ or type(self).__name__))
        self.reason = reason if reason is not None else self.code
        self.retry_after_s = retry_after_s
        self.facts: tuple[Event, ...] = ()
        """Events that are on record although the request was refused."""

    @property
    def message(self) -> str:
        """What was wrong, with the value, and what would be right."""
        return str(self.args[0])


class Refused(CoordinationError):
    """The request is not allowed; repeating it unchanged will not help"""

    code = "refused"


class Forbidden(Refused):
    """Whoever asks may not do this; others may"""

    code = "forbidden"


class NotFound(CoordinationError):
    """There is no such thing"""

    code = "not_found"


class StaleLease(CoordinationError):
    """The lease is no longer held: the task was given to someone else or has ended"""

    code = "stale_lease"


class Unavailable(CoordinationError):
    """The coordinator cannot answer now; the same request may be repeated"""

    code = "unavailable"


class Corrupt(CoordinationError):
    """The journal is damaged or went backwards; nothing may be written until someone has looked"""

    code = "corrupt"


ERRORS: dict[str, type[CoordinationError]] = {
    error.code: error for error in (CoordinationError, Refused, Forbidden, NotFound, StaleLease, Unavailable, Corrupt)
}


def shown(value: object) -> str:
    """Write *value* into a message: its `repr`, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"<{type(value).__name__} too large to write>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def error_of(
    code: str, message: str, *, reason: str | None = None, retry_after_s: float | None = None
) -> CoordinationError:
    """Make the error that *code* names; an unknown code gives the family's base class."""
    return ERRORS.get(code, CoordinationError)(message, reason=reason, retry_after_s=retry_after_s)
