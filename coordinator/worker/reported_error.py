"""
What a worker reports of an error: its text, its types and its traceback, each within the limits of a report.

An exception is the user's: its `__str__` may raise anything, and its text may hold anything.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, NamedTuple

from coordinator.commands.validation import shortened_begin
from coordinator.stop_signals import is_from_signal
from coordinator.worker.handlers import DoNotRetry, RetryAfter
from events.retry import ERROR_TYPE_CHARS_MAX, TRACEBACK_CHARS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

ERROR_CHARS_MAX = 1000


class ReportedError(NamedTuple):
    """
    What a report says of an error.

    `types` are the names of its class and of the bases of that, the nearest first. Of a `RetryAfter` or a `DoNotRetry`
    that was raised `from` another error they are those of the other.
    """

    text: str
    types: tuple[str, ...]
    traceback: str


def reported_error(error: BaseException) -> ReportedError:
    """Return what to report of *error*."""
    cause = error.__cause__
    about = cause if isinstance(error, RetryAfter | DoNotRetry) and cause is not None else error
    types = tuple(_name(one) for one in type(about).__mro__[:-1])
    return ReportedError(error_text(error), types, _traceback(error))


def type_name(error: BaseException) -> str:
    """Return the name of an error's class: `ValueError`, or `package.module.Name`; at most 256 characters."""
    return _name(type(error))


def error_text(error: BaseException) -> str:
    """Return an error as `Type: message`: printable, on one line, and cut to 1000 characters."""
    message = _or(lambda: str(error), "(its message cannot be read)")
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    text = "".join(one if one.isprintable() else " " for one in text[: ERROR_CHARS_MAX + 1])
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[: ERROR_CHARS_MAX - 1]}…"


def _name(one: type) -> str:
    module = getattr(one, "__module__", "builtins")
    name = one.__qualname__ if module == "builtins" else f"{module}.{one.__qualname__}"
    return "".join(char for char in name if char.isprintable())[-ERROR_TYPE_CHARS_MAX:]


def _traceback(error: BaseException) -> str:
    """Return the traceback of *error* and its causes, one that is too long without its beginning; '' without frames."""
    if error.__traceback__ is None:
        return ""
    text = _or(lambda: "".join(traceback.format_exception(error)), "")
    return shortened_begin(text.encode(errors="replace").decode(), TRACEBACK_CHARS_MAX)


def _or(read: Callable[[], str], otherwise: str) -> str:
    """Return what *read* returns, or *otherwise* if the user's exception does not let itself be read."""
    try:
        return read()
    except BaseException as raised:  # the exception is the user's, and may raise anything
        if is_from_signal(raised):
            raise
        return otherwise
