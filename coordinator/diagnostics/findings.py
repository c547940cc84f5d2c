"""
What `coordinator verify` and `coordinator doctor` found, one line for each thing they looked at.

A line that could not be looked at is `unknown` and says why; it must never be shown as well.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class State(StrEnum):
    """How it stands with one thing; `fail` alone makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, how it stands, what was seen, and what to do about it."""

    check: str
    state: State
    seen: str
    do: str = ""


def ok(check: str, seen: str) -> Finding:
    """Say that it is well."""
    return Finding(check=check, state=State.OK, seen=seen)


def warn(check: str, seen: str, do: str) -> Finding:
    """Say that it works, and could be better."""
    return Finding(check=check, state=State.WARN, seen=seen, do=do)


def fail(check: str, seen: str, do: str) -> Finding:
    """Say that it is damaged, or will not work."""
    return Finding(check=check, state=State.FAIL, seen=seen, do=do)


def unknown(check: str, seen: str, do: str = "") -> Finding:
    """Say why it could not be looked at."""
    return Finding(check=check, state=State.UNKNOWN, seen=seen, do=do)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Say whether anything is damaged, or will not work."""
    return any(finding.state is State.FAIL for finding in findings)
