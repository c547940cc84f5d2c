"""Output for terminals: text without control characters, and whether to use colours."""

from __future__ import annotations

import os
import re
import sys

_BMP = 0xFFFF
_plain = re.compile(r"[ -~]*").fullmatch


def is_fancy() -> bool:
    """Return whether standard output is a terminal that supports more than plain text."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """Escape unprintable characters, such as control characters, so that they do not reach the terminal."""
    if _plain(text):
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def escaped(one: str) -> str:
    """Escape a character as in JSON; those above the first 65,536 become the two surrogates of UTF-16."""
    code = ord(one)
    if code <= _BMP:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
