"""What a terminal can show: plain text of anything, and whether colours are wanted."""

from __future__ import annotations

import os
import re
import sys

_BMP = 0xFFFF
_plain = re.compile(r"[ -~]*").fullmatch


def is_fancy() -> bool:
    """Say whether standard output is a terminal that may be given more than plain text."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """Show what does not print, such as control characters, instead of sending it to the terminal."""
    if _plain(text):
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def escaped(one: str) -> str:
    """Write a character as JSON may: above the first 65,536 as the two halves that UTF-16 makes of it."""
    code = ord(one)
    if code <= _BMP:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
