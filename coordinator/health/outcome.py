"""The outcome of a health check as one line of printable text: errors of other code may contain anything."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.commands.service import ReportCheck
from coordinator.commands.validation import shortened

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
        check=url.partition(":")[0].lower(),
        detail=shortened(outcome.detail, detail_chars_max),
        latency_ms=outcome.latency_ms,
        every_s=every_s,
    )
