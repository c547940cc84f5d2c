"""
What every command and question is: a value with a place on the wire.

`KIND` and `VERB` name the RPC subject a command comes in on, `Answer` the type of its answer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """An order or a question."""

    KIND: ClassVar[str] = ""
    VERB: ClassVar[str] = ""
    Answer: ClassVar[Any] = None
    IS_QUESTION: ClassVar[bool] = False
    """Questions are answered from the world as it stands; they are never decided."""
    FOR: ClassVar[frozenset[str]] = frozenset({"domain"})
    """The roles that may send it besides the administrator's: what credentials of a role permit on NATS."""
    REMEMBERED: ClassVar[bool] = False
    """Whether repeats are known by their command id, because the order makes nothing with an id of its own."""


class Question(Command, frozen=True, kw_only=True, gc=False):
    """Something asked; nothing changes by it."""

    IS_QUESTION = True
    FOR = frozenset({"domain", "monitor"})
