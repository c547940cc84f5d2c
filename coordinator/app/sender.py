"""
The name that a program of this user sends commands under, where no credentials give it one.

It becomes the `actor` of events, so that a journal shared by several users says who did what. The sender chooses it
himself, so it is a statement and no proof: for that, see docs/guide/security.md.
"""

from __future__ import annotations

import os
import pwd
import re

_LENGTH_MAX = 64


def sender(role: str) -> str:
    """Return *role* with the name of the operating system's user, such as `cli-alice`, or his number without a name."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{role}-{user}")[:_LENGTH_MAX]
