"""
The findings of `coordinator verify` and `coordinator doctor`: one line per check.

A check that could not be made is `unknown` and says why; it must never be shown as ok.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class State(StrEnum):
    """The result of a check; only `fail` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: its name, its result, what was seen, and what to do about it."""

    check: str
    state: State
    seen: str
    do: str = ""


def ok(check: str, seen: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, state=State.OK, seen=seen)


def warn(check: str, seen: str, do: str) -> Finding:
    """Return a finding of something that works but needs attention."""
    return Finding(check=check, state=State.WARN, seen=seen, do=do)


def fail(check: str, seen: str, do: str) -> Finding:
    """Return a finding of something that is damaged or does not work."""
    return Finding(check=check, state=State.FAIL, seen=seen, do=do)


def unknown(check: str, seen: str, do: str = "") -> Finding:
    """Return a finding of a check that could not be made, and why."""
    return Finding(check=check, state=State.UNKNOWN, seen=seen, do=do)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Return whether any finding is a failure."""
    return any(finding.state is State.FAIL for finding in findings)
