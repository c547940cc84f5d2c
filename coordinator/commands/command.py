"""
The base of every operation: a value with a subject on the wire, and all that is to know about it.

An operation is declared once, by its class: its name is `<KIND>.<VERB>`, what it does is its docstring, its request are
the fields, its answer is the type parameter (`Command[str]`). Doors, permissions, the client, the command line, the
AsyncAPI document and the reference are made from that. `coordinator.commands.operations` is the table of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, get_args, get_origin

import msgspec

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Told_co = TypeVar("Told_co", covariant=True, default=object)
else:
    from typing import TypeVar

    Told_co = TypeVar("Told_co", covariant=True)

PAGES = "read it page by page, with limit= and with after= the last id of the page before"
"""How to read a list that does not fit into one answer."""


class Example(NamedTuple):
    """A request of an operation and its answer, both as JSON has them; a test sends it to a running coordinator."""

    request: dict[str, Any]
    answer: Any = None


NO_EXAMPLE = Example({})


class Operation(msgspec.Struct, Generic[Told_co], frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What can be asked for, with an answer of the type `Told_co`."""

    KIND: ClassVar[str] = ""
    """The kind of thing that it is about; also a token of the subject."""
    VERB: ClassVar[str] = ""
    """What is done with it, and the last token of the subject; unique for each kind."""
    NAME: ClassVar[str] = ""
    """`<KIND>.<VERB>`; set from these."""
    Answer: ClassVar[Any] = None
    """The type of the answer; set from the type parameter of the base."""
    REFUSALS: ClassVar[frozenset[str]] = frozenset()
    """The reasons that it may be refused with, in addition to `ALWAYS`; a test compares them with the code."""
    ALWAYS: ClassVar[frozenset[str]] = frozenset()
    """The reasons that every operation of this door may be refused with."""
    EXAMPLE: ClassVar[Example] = NO_EXAMPLE
    FOR: ClassVar[frozenset[str]] = frozenset()
    """The roles that may send it, in addition to the administrator's; NATS permissions of a role follow from this."""
    IS_QUESTION: ClassVar[bool] = False
    """Questions only read; no decider runs for them."""
    INSTEAD: ClassVar[str] = ""
    """What to ask instead when the answer does not fit into one message."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.VERB:
            return  # a base of others
        own = vars(cls)
        missing = [
            what
            for what, is_there in (
                ("a KIND", cls.KIND),
                ("a VERB of its own", "VERB" in own),
                ("a docstring, whose first sentence is its summary", own.get("__doc__")),
                (
                    "the type of its answer, as in Command[str]; Command[None] if it has none",
                    _told_by(cls) is not _UNSAID,
                ),
                ("an EXAMPLE, a request and its answer", "EXAMPLE" in own),
            )
            if not is_there
        ]
        if missing:
            msg = f"operation {cls.__name__} is not declared in full; add {'; '.join(missing)}"
            raise TypeError(msg)
        cls.NAME = f"{cls.KIND}.{cls.VERB}"
        cls.Answer = _told_by(cls)


_UNSAID = object()


def _told_by(operation: type[Operation]) -> Any:
    """Return the type argument that the class of an operation gives its base; None for `Command[None]`."""
    for base in vars(operation).get("__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Operation):
            (told,) = get_args(base)
            return None if told is type(None) else told
    return _UNSAID


class Command(Operation[Told_co], Generic[Told_co], frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A command to the writer."""

    ALWAYS = frozenset(
        {
            *("ask_again", "bad_id", "bad_request", "forbidden", "internal", "not_leading", "overloaded"),
            *("too_large", "unavailable", "unknown_command", "wrong_subject"),
        }
    )
    FOR = frozenset({"domain"})
    REMEMBERED: ClassVar[bool] = False
    """Whether repeats are recognised by the command id, because the command creates nothing with an id of its own."""


class Question(Command[Told_co], Generic[Told_co], frozen=True, kw_only=True, gc=False):
    """A command that only reads; it changes nothing."""

    IS_QUESTION = True
    FOR = frozenset({"domain", "monitor"})
