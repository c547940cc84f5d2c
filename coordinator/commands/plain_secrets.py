"""
Environment variables whose values look like secrets. Pure.

The environment of a container is an event, so a value in it stays in the journal for good, in every backup and read
model. This is a guess from names, for a warning: nothing is refused because of it, and no value is ever quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.container import Secret

_WORDS = frozenset({
    "apikey", "auth", "cred", "credential", "credentials", "creds", "key", "keys", "passphrase", "passwd", "password",
    "passwords", "secret", "secrets", "token", "tokens",
})  # fmt: skip
_ENDS = ("apikey", "accesskey", "passphrase", "password", "secret", "token")
_PLACES = frozenset({"dir", "file", "folder", "id", "name", "path", "ttl", "type"})
"""A last word that says that the value is about a secret and not the secret: `TOKEN_FILE`."""
NAMES_MOST = 10

_word = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+").findall
# Linear in the value, which is a caller's and may be long: it begins with fixed characters, and ends at the next slash.
# They come before the look-behind, which would otherwise be tried at each character: 14 ms for 700 KB.
_has_password = re.compile(r"://(?<=[A-Za-z0-9+.-]://)[^\s/@]+@").search


def plain_secrets(environment: Mapping[str, str | Secret]) -> list[str]:
    """Return the names of variables with a plain value that look like secrets, or have a URL with a login."""
    return [
        name
        for name, value in environment.items()
        if isinstance(value, str) and value and (_is_named_so(name) or _has_password(value))
    ]


def warning_of(environment: Mapping[str, str | Secret]) -> str:
    """Return what to tell the sender of *environment*; '' if nothing looks like a secret."""
    names = plain_secrets(environment)
    if not names:
        return ""
    more = f" and {len(names) - NAMES_MOST} more" if len(names) > NAMES_MOST else ""
    what = f"{', '.join(names[:NAMES_MOST])}{more} in the environment look like secrets with plain values"
    return f'{what}, which stay in the journal: use {{"secret": name}} and a file on the node, and change the values'


def _is_named_so(name: str) -> bool:
    words = [word.lower() for word in _word(name)]
    if not words or words[-1] in _PLACES:
        return False
    return any(word in _WORDS or word.endswith(_ENDS) for word in words)
