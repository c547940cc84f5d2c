"""
Odd values, for every place where a program hands one in: each must be carried unchanged, or refused with its name.

They are made anew for each use, since some can be used only once. The same for each run: no seed, no clock.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec

Make = Callable[[], Any]


class Color(enum.Enum):
    """Members that are neither text nor numbers."""

    RED = 1


class Size(enum.IntEnum):
    """Members that are numbers."""

    SMALL = 1


class Word(enum.StrEnum):
    """Members that are text."""

    OK = "ok"


class OldWord(str, enum.Enum):  # noqa: UP042  # `str()` of these is not their text
    """Members that are text, and say something else of themselves."""

    OK = "ok"


class OldSize(int, enum.Enum):
    """Members that are numbers, and say something else of themselves."""

    SMALL = 1


class Text(str):
    """Text that says something else of itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Number(int):
    """A number that says something else of itself."""

    def __int__(self) -> int:
        return 7

    def __str__(self) -> str:
        return "7"


class Share(float):
    """A number that says something else of itself."""

    def __float__(self) -> float:
        return 0.75


class Table(dict[str, Any]):
    """A dict of a class of its own."""


class Unshown:
    """Something that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class Unequal:
    """Something that cannot be compared, and has no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: float = 1.0
    inside: Any = None


class Struct(msgspec.Struct):
    """A struct."""

    x: int = 1


Pair = namedtuple("Pair", "a b")  # noqa: PYI024  # as programs still have them


def deep(levels: int, *, of: Callable[[Any], Any] = lambda inside: [inside]) -> Any:
    """Return a value in as many lists."""
    made: Any = 1
    for _ in range(levels):
        made = of(made)
    return made


def endless_list() -> list[Any]:
    """Return a list that holds itself."""
    made: list[Any] = []
    made += [made, made]
    return made


def endless_dict() -> dict[str, Any]:
    """Return a dict that holds itself."""
    made: dict[str, Any] = {}
    made["a"] = made
    return made


def _same(value: Any) -> Make:
    return lambda: value


TEXTS: dict[str, Make] = {
    f"text {ascii(one)[:30]}": _same(one)
    for one in (
        *(
            "",
            " ",
            "ok",
            "a b",
            "a.b",
            "*",
            ">",
            "../x",
            "/",
            "~",
            "é",
            "ａ",
            "１２",
            "\u202e",
            "\u2028",
            "\u200b",
            "😀",
        ),
        *(
            "\0",
            "a\0b",
            "\n",
            "a\nb",
            "\t",
            "\x1b[2J",
            "\x7f",
            "\x9b",
            "\ud800",
            "a\udfff",
            "\udc80",
            "\ufeff",
            "\ufffe",
        ),
        *("nan", "NaN", "inf", "-inf", "-1", "0", "1", "1e3", "1_000", "0x10", "99999", "true", "null", "None", "{}"),
        *("10Gi", "5 GB", "1g", "500m", "1.5", "-0", "1e400", "10ms", "'; DROP TABLE tasks; --", "${HOME}", "%s%n"),
        *("localhost", "[::1]", "::1", "1.2.3.4:80", "http://h", "a" * 64, "b" * 65, "c" * 1000, "d" * 70_000),
        *(datetime(2026, 1, 1, tzinfo=UTC).isoformat(), "2026-13-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"),
    )
}
NUMBERS: dict[str, Make] = {
    f"number {ascii(one)[:30]}": _same(one)
    for one in (
        *(
            0,
            1,
            -1,
            2,
            5,
            80,
            1000,
            65_535,
            65_536,
            99_999,
            2**31,
            2**53,
            2**53 + 1,
            2**63,
            -(2**63) - 1,
            2**64,
            10**400,
        ),
        *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-9, 5e-324, 1e9, 1e18, 1.7976931348623157e308),
        *(float("nan"), float("inf"), float("-inf"), True, False),
    )
} | {"number of 5000 digits": lambda: 10**5000}
OTHERS: dict[str, Make] = {
    "None": _same(None),
    "bytes": _same(b"ok"),
    "bytes Latin-1": _same(b"\xe9\xff"),
    "bytearray": lambda: bytearray(b"ok"),
    "memoryview": lambda: memoryview(b"abcdef")[::2],
    "list": list,
    "list of 1": lambda: [1, "a", None],
    "list of text": lambda: ["a", "b"],
    "tuple": _same(("a", 1)),
    "tuple of text": _same(("a",)),
    "pair": _same(Pair("a", "b")),
    "set": lambda: {"a"},
    "set of 1": lambda: {1},
    "frozenset": _same(frozenset({"a"})),
    "dict": dict,
    "dict of text": lambda: {"a": "b"},
    "dict key 1": lambda: {1: "a"},
    "dict keys that collide": lambda: {1: "a", "1": "b"},
    "dict keys True": lambda: {True: "a", "true": "b"},
    "dict key None": lambda: {None: "a", "null": "b"},
    "dict key 1.5": lambda: {1.5: "a"},
    "dict key tuple": lambda: {("a", 1): "a"},
    "dict key bytes": lambda: {b"a": "a"},
    "dict key date": lambda: {date(2026, 1, 1): "a"},
    "dict key surrogate": lambda: {"\ud800": "a"},
    "dict key enum": lambda: {OldWord.OK: "a"},
    "dict of bytes": lambda: {"a": b"\xff"},
    "dict of nan": lambda: {"a": [1.0, {"b": float("nan")}]},
    "dict of surrogate": lambda: {"a": ["\ud800"]},
    "dict of set": lambda: {"a": {1}},
    "dict of tuple": lambda: {"a": ({"b": (1, 2)},)},
    "dict of datetime": lambda: {"a": datetime(2026, 1, 1, tzinfo=UTC)},
    "dict of None": lambda: {"a": None},
    "dict of number": lambda: {"a": 1},
    "ordered dict": lambda: OrderedDict(a="b"),
    "default dict": lambda: defaultdict(str, a="b"),
    "dict of its own class": lambda: Table(a="b"),
    "mapping that is no dict": lambda: MappingProxyType({"a": "b"}),
    "datetime": _same(datetime(2026, 1, 1)),  # noqa: DTZ001
    "datetime UTC": _same(datetime(2026, 1, 1, tzinfo=UTC)),
    "date": _same(date(2026, 1, 1)),
    "timedelta": _same(timedelta(seconds=5)),
    "Decimal": _same(Decimal("1.5")),
    "Decimal nan": _same(Decimal("sNaN")),
    "Fraction": _same(Fraction(1, 3)),
    "complex": _same(1 + 2j),
    "UUID": _same(UUID(int=1)),
    "Path": _same(Path("ok")),
    "enum": _same(Color.RED),
    "enum of numbers": _same(Size.SMALL),
    "enum of old numbers": _same(OldSize.SMALL),
    "enum of text": _same(Word.OK),
    "enum of old text": _same(OldWord.OK),
    "text of its own class": lambda: Text("ok"),
    "number of its own class": lambda: Number(1),
    "float of its own class": lambda: Share(0.5),
    "dataclass": Point,
    "dataclass of bytes": lambda: Point(inside=[b"x"]),
    "struct": Struct,
    "raw": lambda: msgspec.Raw(b"{"),
    "unset": _same(msgspec.UNSET),
    "namespace": lambda: SimpleNamespace(a=1),
    "object": object,
    "class": _same(int),
    "function": _same(len),
    "lambda": _same(lambda: None),
    "generator": lambda: (one for one in "ab"),
    "iterator": lambda: iter(["a"]),
    "range": _same(range(2)),
    "ellipsis": _same(...),
    "exception": lambda: ValueError("\ud800"),
    "unshown": Unshown,
    "unequal": Unequal,
    "list of unshown": lambda: [Unshown()],
    "deep list 100": lambda: deep(100),
    "deep list 5000": lambda: deep(5000),
    "deep dict 5000": lambda: deep(5000, of=lambda inside: {"a": inside}),
    "endless list": endless_list,
    "endless dict": endless_dict,
    "many entries": lambda: {f"k{number}": "v" for number in range(3000)},
    "many items": lambda: ["a"] * 3000,
}
VALUES: dict[str, Make] = TEXTS | NUMBERS | OTHERS


def is_same(given: Any, carried: Any) -> bool:
    """
    Return whether a value was carried as the guide says: equal, or a tuple as a list, a dataclass as a dict.

    What a value says of itself does not count: text is its characters, a number its value.
    """
    if isinstance(given, str):
        return isinstance(carried, str) and str.__eq__(given, carried) is True
    if isinstance(given, bool) or isinstance(carried, bool):
        return given is carried
    if isinstance(given, int | float):
        return (
            isinstance(carried, int | float) and float.__eq__(float(carried), given) is True
            if isinstance(given, float)
            else isinstance(carried, int | float)
            and int.__eq__(given, int(carried)) is True
            and carried == int(carried)
        )
    if isinstance(given, bytes | bytearray | memoryview):
        return isinstance(carried, bytes) and bytes(given) == carried
    if isinstance(given, Mapping):
        return (
            isinstance(carried, Mapping)
            and len(given) == len(carried)
            and all(
                isinstance(key, str) and key in carried and is_same(one, carried[key]) for key, one in given.items()
            )
        )
    if isinstance(given, list | tuple):
        return (
            isinstance(carried, list | tuple)
            and len(given) == len(carried)
            and all(is_same(one, other) for one, other in zip(given, carried, strict=True))
        )
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
        return given == carried or is_same(fields, carried)
    if isinstance(given, msgspec.Struct):
        return bool(given == carried) or is_same(msgspec.structs.asdict(given), carried)
    return given is carried
