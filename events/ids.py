"""
The only check of identifiers.

A text that has not passed it must not become part of a subject, a path, a label or SQL: NATS accepts `*` and `>` in a
published subject literally and then matches them as wildcards elsewhere.
"""

from __future__ import annotations

import re

from events.errors import Refused, shown

DEFAULT_TENANT = "default"
"""The tenant of a command that names none."""
PATTERN = "^[A-Za-z0-9_-]{1,64}$"

_is_id = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


def checked(value: object, name: str = "id") -> str:
    """
    Return *value* if it is a valid identifier.

    Raises:
        Refused: it is not a string of 1 to 64 letters, digits, `_` or `-`.
    """
    if type(value) is str and _is_id(value):
        return value
    msg = f"{name} {shown(value)} is not an identifier: use 1 to 64 of A-Z a-z 0-9 _ -"
    raise Refused(msg, reason="bad_id")
