"""Checks of input from callers: text, numbers, amounts. Each error has the value and what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.errors import Refused, shown
from events.resources import check_names

if TYPE_CHECKING:
    from events.resources import Resources


AMOUNT_MAX = 2**53
"""A larger amount makes no sense, and sums of such amounts would not be exact everywhere."""


def check_text(name: str, value: str, most: int, *, least: int = 0) -> str:
    """
    Return *value* if it is printable text of *least* to *most* characters.

    Raises:
        Refused: it is too short, too long, or holds control characters.
    """
    if not least <= len(value) <= most:
        msg = f"{name} has {len(value)} characters: use {least} to {most}"
        raise Refused(msg, reason="bad_text")
    if not value.isprintable():
        shown = ascii(value)[:80]
        msg = f"{name} {shown} holds control characters: use printable text"
        raise Refused(msg, reason="bad_text")
    return value


def shortened(text: str, most: int) -> str:
    """Return *text* with at most *most* characters, at least 40; one that is cut says how many it had."""
    if len(text) <= most:
        return text
    mark = f"… ({len(text)} characters)"
    return f"{text[: most - len(mark)]}{mark}"


def shortened_begin(text: str, most: int) -> str:
    """Return the last *most* characters of *text*, at least 40; one that is cut begins with how many it had."""
    if len(text) <= most:
        return text
    mark = f"({len(text)} characters) …"
    return f"{mark}{text[len(mark) - most :]}"


def check_number(name: str, value: float, least: float, most: float) -> None:
    """
    Check that a number is between *least* and *most*.

    Raises:
        Refused: it is out of range, or NaN.
    """
    if not least <= value <= most:
        msg = f"{name} {shown(value)} is out of range: use {least:g} to {most:g}"
        raise Refused(msg, reason="bad_number")


def check_resources(name: str, resources: Resources, *, may_name: bool = False) -> None:
    """
    Check amounts that are requested or offered; only tasks and workers may name others than CPU, memory and GPUs.

    Raises:
        Refused: one of them is below 0, which would free resources that others hold, or above `AMOUNT_MAX`; or it is of
            what may not be named.
    """
    if resources.named:
        if not may_name:
            others = ", ".join(map(shown, resources.named))
            msg = f"{name} has {others}: use cpu, memory and gpu; only tasks and workers may name others"
            raise Refused(msg, reason="bad_resources")
        check_names(resources.named)
    for kind, amount in (
        ("cpu_millis", resources.cpu_millis),
        ("memory_bytes", resources.memory_bytes),
        ("gpus", resources.gpus),
        *resources.named.items(),
    ):
        if not 0 <= amount <= AMOUNT_MAX:
            check_number(f"{name}.{kind}", amount, 0, AMOUNT_MAX)
