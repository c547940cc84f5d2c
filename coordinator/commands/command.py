"""
The base of every command and question: a value with a subject on the wire.

`KIND` and `VERB` are tokens of the RPC subject of a command; `Answer` is the type of its answer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

PAGES = "read it page by page, with limit= and with after= the last id of the page before"
"""How to read a list that does not fit into one answer."""


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A command or a question."""

    KIND: ClassVar[str] = ""
    VERB: ClassVar[str] = ""
    Answer: ClassVar[Any] = None
    IS_QUESTION: ClassVar[bool] = False
    """Questions are answered from the current world; no decider runs for them."""
    FOR: ClassVar[frozenset[str]] = frozenset({"domain"})
    """The roles that may send it, in addition to the administrator's; NATS permissions of a role follow from this."""
    REMEMBERED: ClassVar[bool] = False
    """Whether repeats are recognised by the command id, because the command creates nothing with an id of its own."""
    INSTEAD: ClassVar[str] = ""
    """What to ask instead when the answer does not fit into one message."""


class Question(Command, frozen=True, kw_only=True, gc=False):
    """A command that only reads; it changes nothing."""

    IS_QUESTION = True
    FOR = frozenset({"domain", "monitor"})
