"""
The only family of errors, distinguished by class and `code`, never by text.

It is in this package because folds and other domains raise and catch it too; `coordinator.errors` re-exports it. The
docstring of each class is its default message.
"""

from __future__ import annotations

from typing import Any, ClassVar

_SHOWN = 80


class CoordinationError(Exception):
    """The coordinator could not carry out the request"""

    code: ClassVar[str] = "error"

    def __init__(
        self, message: str | None = None, *, reason: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message if message is not None else (self.__doc__ or type(self).__name__))
        self.reason = reason if reason is not None else self.code
        self.retry_after_s = retry_after_s
        self.facts: tuple[Any, ...] = ()
        """Events that are recorded although the request is refused."""

    @property
    def message(self) -> str:
        """What was wrong, with the value, and what is allowed."""
        return str(self.args[0])


class Refused(CoordinationError):
    """The request is not allowed; repeating it unchanged will not help"""

    code = "refused"


class Forbidden(Refused):
    """The caller is not permitted to do this; other callers are"""

    code = "forbidden"


class NotFound(CoordinationError):
    """The requested object was not found"""

    code = "not_found"


class StaleLease(CoordinationError):
    """The lease is no longer held: another worker has the task, or the task has ended"""

    code = "stale_lease"


class Unavailable(CoordinationError):
    """The coordinator cannot answer now; the same request may be repeated"""

    code = "unavailable"


class Corrupt(CoordinationError):
    """The journal is damaged or went backwards; nothing may be written until an operator has checked it"""

    code = "corrupt"


ERRORS: dict[str, type[CoordinationError]] = {
    error.code: error for error in (CoordinationError, Refused, Forbidden, NotFound, StaleLease, Unavailable, Corrupt)
}


def shown(value: object) -> str:
    """Return the `repr` of *value* for use in a message, truncated if it is long; it never raises."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"<{type(value).__name__} too large to write>"
    except Exception:  # noqa: BLE001  # nested too deep, or an object of the caller's whose `__repr__` raises
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def error_of(
    code: str, message: str, *, reason: str | None = None, retry_after_s: float | None = None
) -> CoordinationError:
    """Return an error of the class with this *code*; an unknown code returns the base class."""
    return ERRORS.get(code, CoordinationError)(message, reason=reason, retry_after_s=retry_after_s)
