"""What is told of a health check, in one line of printable text: errors of others may hold anything."""

from __future__ import annotations

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
