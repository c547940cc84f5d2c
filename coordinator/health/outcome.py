"""What is told of a health check, in one line of printable text: errors of others may hold anything."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.commands.service import ReportCheck

DETAIL_CHARS_MAX = 200


def one_line(text: str) -> str:
    """Give *text* without what is not printable, cut where it is long."""
    return "".join(one if one.isprintable() else "�" for one in text[:DETAIL_CHARS_MAX])


def told(error: BaseException) -> str:
    """Tell an error: its class, and what it says of itself."""
    name = type(error).__name__
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  # an error of the caller's own making may not even say what it is
        said = ""
    return one_line(f"{name}: {said}" if said else name)


class CheckResult(NamedTuple):
    """What one look saw; `latency_ms` counts from resolving the name to the end of the answer."""

    ok: bool
    detail: str
    latency_ms: float


def report_of(service_id: str, url: str, outcome: CheckResult, *, detail_chars_max: int) -> ReportCheck:
    """Make the report of one look at a service."""
    return ReportCheck(
        service_id=service_id,
        ok=outcome.ok,
        check=url.partition(":")[0].lower(),
        detail=outcome.detail[:detail_chars_max],
        latency_ms=outcome.latency_ms,
    )
