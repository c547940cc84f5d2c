"""
Filters: conditions on the fields of a thing, a subset of the Common Expression Language (CEL). Pure.

    task_name == "report" && attributes.customer in ["acme", "umbrella"] && !(priority >= 5)

There are the operators `== != < <= > >= in && || !`, also written `and`, `or` and `not`; `has(field)`; the methods
`startsWith`, `endsWith` and `contains` of texts; numbers, texts, lists, `true`, `false` and `null`. What is missing is
`null`. To compare values of other kinds is no error, as it may be in CEL: they are not equal, and neither is before the
other. So a filter that was accepted gives an answer for every thing, today and in every replay.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Test = Callable[[Any], Any]

FILTER_CHARS_MAX = 1000
DEPTH_MAX = 32
LIST_MAX = 100

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?)(?![\w.])
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\.\d+)*)
    | (?P<sign>==|!=|<=|>=|&&|\|\||[<>!()\[\],])
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None}
_WORDS = {"and": "&&", "or": "||", "not": "!", "in": "in"}
_EQUAL: dict[str, Callable[[Any, Any], bool]] = {"==": eq, "!=": ne}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_METHODS: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}


class Fields(NamedTuple):
    """What a filter may name: fields, each with what reads it, and maps whose keys are behind a dot."""

    plain: Mapping[str, Test]
    maps: Mapping[str, Callable[[Any], Mapping[str, Any]]]

    def reader(self, name: str) -> Test | None:
        """Return what reads a field, None if there is none of this name."""
        plain = self.plain.get(name)
        if plain is not None:
            return plain
        first, _, key = name.partition(".")
        of_map = self.maps.get(first)
        if of_map is None or not key:
            return None
        return lambda thing: of_map(thing).get(key)

    def known(self) -> list[str]:
        """Return the names of all fields; for a map, what its keys look like."""
        return [*self.plain, *(f"{name}.…" for name in self.maps)]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parsed(text: str, fields: Fields) -> Callable[[Any], bool]:
    """
    Return what tells whether a thing meets the condition *text*.

    Raises:
        Refused: it is not a condition on these fields; the message says where and why.
    """
    if len(text) > FILTER_CHARS_MAX:
        msg = f"a filter has {len(text)} characters: use at most {FILTER_CHARS_MAX}"
        raise Refused(msg, reason="bad_filter")
    test = _Parser(text, fields).whole()
    return lambda thing: test(thing) is True


class _Parser:
    """Reads one filter by recursive descent."""

    def __init__(self, text: str, fields: Fields) -> None:
        self._text = text
        self._fields = fields
        self._tokens = list(self._split(text))
        self._at = 0
        self._depth = 0

    def whole(self) -> Test:
        if len(self._tokens) == 1:
            raise self._wrong('it is empty: name a field, as in task_name == "report"')
        test = self._either()
        if self._next.kind != "end":
            raise self._wrong(f"{shown(self._next.text)} is not expected here")
        return test

    def _split(self, text: str) -> list[_Token]:
        tokens: list[_Token] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                hint = "use == to compare" if text[at] == "=" else "it is not understood"
                raise self._wrong(f"{shown(text[at])}: {hint}", at)
            kind = str(found.lastgroup)
            word = found[kind]
            if kind == "name" and word in _WORDS:
                kind, word = "sign", _WORDS[word]
            tokens.append(_Token(kind, word, found.start(str(found.lastgroup))))
            at = found.end()
        tokens.append(_Token("end", "the end", len(text)))
        return tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        return token

    def _takes(self, *signs: str) -> str:
        """Take the next token if it is one of these signs; return it, '' if it is another."""
        if self._next.kind == "sign" and self._next.text in signs:
            return self._take().text
        return ""

    def _expect(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._wrong(f"{sign!r} is missing before {shown(self._next.text)}")

    def _wrong(self, why: str, at: int | None = None) -> Refused:
        """Return the error about what is at a place, by default the next token."""
        at = self._next.at if at is None else at
        return Refused(f"filter {shown(self._text)}, character {at + 1}: {why}", reason="bad_filter")

    def _either(self) -> Test:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._wrong(f"it is nested deeper than {DEPTH_MAX}")
        test = self._both()
        while self._takes("||"):
            test = _either(test, self._both())
        self._depth -= 1
        return test

    def _both(self) -> Test:
        test = self._negated()
        while self._takes("&&"):
            test = _both(test, self._negated())
        return test

    def _negated(self) -> Test:
        times = 0
        while self._takes("!"):
            times += 1
        test = self._compared()
        if not times:
            return test
        wanted = times % 2 == 0
        return lambda thing: (test(thing) is True) is wanted

    def _compared(self) -> Test:
        left = self._value()
        if sign := self._takes(*_EQUAL):
            return _equal(_EQUAL[sign], left, self._value())
        if sign := self._takes(*_ORDER):
            return _ordered(_ORDER[sign], left, self._value())
        if self._takes("in"):
            return _within(left, self._list())
        if self._next.text == "!" and self._tokens[self._at + 1].text == "in":
            self._at += 2
            within = _within(left, self._list())
            return lambda thing: not within(thing)
        return left

    def _list(self) -> list[Test]:
        self._expect("[")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
            if len(values) > LIST_MAX:
                raise self._wrong(f"a list has more than {LIST_MAX} values")
        self._expect("]")
        return values

    def _value(self) -> Test:
        token = self._take()
        if token.kind == "number":
            return _Constant(float(token.text) if "." in token.text else int(token.text))
        if token.kind == "text":
            return _Constant(_ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), token.text[1:-1]))
        if token.kind == "name":
            return self._named(token)
        if token.text == "(" and token.kind == "sign":
            inner = self._either()
            self._expect(")")
            return inner
        self._at -= 1
        raise self._wrong(f"a field or a value is expected instead of {shown(token.text)}")

    def _named(self, token: _Token) -> Test:
        if token.text in _LITERALS:
            return _Constant(_LITERALS[token.text])
        if token.text == "has" and self._takes("("):
            of = self._field(self._take())
            self._expect(")")
            return lambda thing: of(thing) is not None
        field, dot, method = token.text.rpartition(".")
        if dot and method in _METHODS and self._takes("("):
            subject, word = self._field(token._replace(text=field)), self._value()
            self._expect(")")
            return _method(_METHODS[method], subject, word)
        return self._field(token)

    def _field(self, token: _Token) -> Test:
        reader = self._fields.reader(token.text) if token.kind == "name" else None
        if reader is not None:
            return reader
        known = self._fields.known()
        near = get_close_matches(token.text, known, n=3)
        meant = f"did you mean {' or '.join(near)}?" if near else f"use {', '.join(known)}"
        raise self._wrong(f"{shown(token.text)} is not a field: {meant}", token.at)


class _Constant:
    """A value that is written in the filter."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, _: Any) -> Any:
        return self.value


def _is_plain(test: Test) -> TypeGuard[_Constant]:
    """Whether it is a text or null that is written in the filter: Python's equality of these is that of filters."""
    return isinstance(test, _Constant) and (test.value is None or isinstance(test.value, str))


def _either(left: Test, right: Test) -> Test:
    return lambda thing: left(thing) is True or right(thing) is True


def _both(left: Test, right: Test) -> Test:
    return lambda thing: left(thing) is True and right(thing) is True


def _kind(value: Any) -> Any:
    """Return what two values must have in common to be compared: numbers of both types are alike, not truth values."""
    kind = type(value)
    return float if kind is int else kind


def _equal(operator: Callable[[Any, Any], bool], left: Test, right: Test) -> Test:
    if _is_plain(right):  # so are most
        value = right.value
        return (lambda thing: left(thing) == value) if operator is eq else (lambda thing: left(thing) != value)

    def test(thing: Any) -> bool:
        one, other = left(thing), right(thing)
        return operator((_kind(one), one), (_kind(other), other))

    return test


def _ordered(operator: Callable[[Any, Any], bool], left: Test, right: Test) -> Test:
    def test(thing: Any) -> bool:
        one, other = left(thing), right(thing)
        kind = _kind(one)
        return kind in (float, str) and kind is _kind(other) and operator(one, other)

    return test


def _within(left: Test, values: Sequence[Test]) -> Test:
    if all(isinstance(value, _Constant) for value in values):
        given = frozenset((_kind(one), one) for one in (value(None) for value in values))
        return lambda thing: (_kind(one := left(thing)), one) in given

    def test(thing: Any) -> bool:
        one = left(thing)
        return any(_kind(one) is _kind(other) and one == other for other in (value(thing) for value in values))

    return test


def _method(method: Callable[[str, str], bool], subject: Test, word: Test) -> Test:
    def test(thing: Any) -> bool:
        one, other = subject(thing), word(thing)
        return isinstance(one, str) and isinstance(other, str) and method(one, other)

    return test
