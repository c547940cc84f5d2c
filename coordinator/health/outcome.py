"""
The outcome of a health check as one line of printable text: errors of other code may contain anything.

An error of the process that checks is no outcome: it is told as `could_not_check`, and says nothing about the service.
"""

from __future__ import annotations

import errno
import ssl
from typing import TYPE_CHECKING, NamedTuple

from coordinator.commands.service import ReportCheck, ReportNotChecked
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

DETAIL_CHARS_MAX = 200

_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}
)
_NO_THREAD = "can't start new thread"


def one_line(text: str) -> str:
    """Return *text* with unprintable characters replaced by `�`, cut to 200 characters."""
    return "".join(one if one.isprintable() else "�" for one in text[:DETAIL_CHARS_MAX])


def told(error: BaseException) -> str:
    """Return an error as one line: its class and its message."""
    name = type(error).__name__
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  # `__str__` of a user's exception may raise
        message = ""
    return one_line(f"{name}: {message}" if message else name)


def could_not_check(why: str) -> Unavailable:
    """Return the error of a check that could not be made, which is no failure of the service."""
    return Unavailable(f"could not check: {why}", reason="could_not_check")


def is_shortage(error: BaseException) -> bool:
    """Return whether *error*, or one that caused it, is a lack of descriptors, memory or threads in this process."""
    return any(_is_shortage(one) for one in _causes(error))


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES and not isinstance(error, ssl.SSLError)  # which has numbers of its own
    # Python has no class of its own for the lack of threads.
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error) == _NO_THREAD)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


class CheckResult(NamedTuple):
    """The result of one probe. `latency_ms` is measured from resolving the name to the end of the answer."""

    ok: bool
    detail: str
    latency_ms: float


def report_of(
    service_id: str, url: str, outcome: CheckResult, *, detail_chars_max: int, every_s: float | None = None
) -> ReportCheck:
    """Return the command that reports the result of one probe, which is repeated *every_s* seconds if at all."""
    return ReportCheck(
        service_id=service_id,
        ok=outcome.ok,
        check=kind_of(url),
        detail=outcome.detail[:detail_chars_max],
        latency_ms=outcome.latency_ms,
        every_s=every_s,
    )


def not_checked_report_of(service_id: str, check: str, why: str, *, detail_chars_max: int) -> ReportNotChecked:
    """Return the command that reports that a check could not be made, and why."""
    return ReportNotChecked(service_id=service_id, check=check, detail=one_line(why)[:detail_chars_max])


def kind_of(url: str) -> str:
    """Return the kind of check that a URL asks for: its scheme."""
    return url.partition(":")[0].lower()
