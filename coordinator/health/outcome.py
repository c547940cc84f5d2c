"""
The outcome of a health check as one line of printable text: errors of other code may contain anything.

An error of the process that checks is no outcome: it is told as `could_not_check`, and says nothing about the service.
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.commands.service import ReportCheck, ReportNotChecked
from coordinator.commands.validation import shortened
from events.errors import Unavailable

DETAIL_CHARS_MAX = 200


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
        detail=shortened(outcome.detail, detail_chars_max),
        latency_ms=outcome.latency_ms,
        every_s=every_s,
    )


def not_checked_report_of(service_id: str, check: str, why: str, *, detail_chars_max: int) -> ReportNotChecked:
    """Return the command that reports that a check could not be made, and why."""
    return ReportNotChecked(service_id=service_id, check=check, detail=one_line(why)[:detail_chars_max])


def kind_of(url: str) -> str:
    """Return the kind of check that a URL asks for: its scheme."""
    return url.partition(":")[0].lower()
