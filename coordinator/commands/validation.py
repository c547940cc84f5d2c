"""Checks of what a caller sent: text, numbers, amounts. Each names the value and what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.errors import Refused

if TYPE_CHECKING:
    from events.resources import Resources


AMOUNT_MAX = 2**53
"""More of anything is nonsense, and sums of it would not stay exact everywhere."""


def check_text(name: str, value: str, most: int, *, least: int = 0) -> str:
    """
    Give *value* back when it is printable text of *least* to *most* characters.

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


def check_number(name: str, value: float, least: float, most: float) -> None:
    """
    Accept a number between *least* and *most*.

    Raises:
        Refused: it is outside, or not a number at all (NaN).
    """
    if not least <= value <= most:
        msg = f"{name} {value!r} is out of range: use {least:g} to {most:g}"
        raise Refused(msg, reason="bad_number")


def check_resources(name: str, resources: Resources) -> None:
    """
    Accept amounts that may be asked for or offered.

    Raises:
        Refused: one of them is below 0, which would free what others hold, or absurdly large.
    """
    for kind, amount in (
        ("cpu_millis", resources.cpu_millis),
        ("memory_bytes", resources.memory_bytes),
        ("gpus", resources.gpus),
    ):
        if not 0 <= amount <= AMOUNT_MAX:
            check_number(f"{name}.{kind}", amount, 0, AMOUNT_MAX)
