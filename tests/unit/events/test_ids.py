"""The check of identifiers accepts nothing that has a meaning in NATS, a path, a label or SQL."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import Refused, shown
from events.ids import PATTERN, checked

ALLOWED = string.ascii_letters + string.digits + "_-"


class Loud(str):
    """A string that is more than a string."""

    __slots__ = ()


HOSTILE: list[object] = [
    # wildcards, separators and what else means something in a subject
    "*", ">", ".", "a.b", "a.*", "a.>", ".a", "a.", "..", "*.*", "$JS", "$JS.API.>", "a b", " ", " a", "a ",
    "\t", "a\tb",
    # ends of lines, NUL and other controls
    "a\n", "\na", "\n", "\r", "a\r\n", "a\r\nPUB x 0", "\0", "a\0", "\0a", "a\x1b[31m", "\x07", "\x7f", "\x85",
    "\u2028",
    "\u2029", "\ufeff", "a\u200b", "\u202ea", "\u00ad",
    # paths, shells, URLs, SQL, markup, formats
    "/", "a/b", "../a", "..\\a", "\\", "~", "a~", "C:", "a:b", "a;b", "a|b", "a&b", "$a", "$(a)", "`a`", "a'b",
    'a"b', "a,b",
    "a=b", "a+b", "a%2e", "%", "a@b", "#", "!", "?", "a?b", "(a)", "[a]", "{a}", "{}", "{0}", "%s", "<a>", "^",
    "a' OR 1=1",
    "http://a",
    # letters and digits that are not ASCII
    "é", "ä", "ß", "Ａ", "а", "Ω", "ı", "İ", "ſ", "\u212a", "١", "१", "１", "²", "½", "𝟘", "一", "ｰ", "－", "‐",
    "–", "‿", "＿", "🙂",
    "a🙂", "\ud800", "e\u0301",
    # lengths
    "", "a" * 65, "a" * 1000, "a" * 100_000, "-" * 65, "é" * 64, "a" * 64 + "\n",
    # no strings at all
    None, True, False, 0, 1, -1, 3.5, float("nan"), 10**5000, b"a", bytearray(b"a"), ["a"], ("a",), {"a": 1},
    {"a"}, object(),
    str, Loud("a"),
]  # fmt: skip

GOOD = ["a", "A", "0", "_", "-", "--", "__init__", "task_01J", "a-b_c", "-rf", "a" * 64, "0" * 64, ALLOWED]


def test_the_corpus_is_large() -> None:
    """More than a hundred ways to be wrong."""
    assert len({shown(value) for value in HOSTILE}) > 100


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_identifier_is_refused_by_name(value: object) -> None:
    """The error names the field, shows the value in printable form, and says what is allowed."""
    with pytest.raises(Refused) as refused:
        checked(value, "task_id")
    message = refused.value.message
    assert refused.value.reason == "bad_id"
    assert message.startswith("task_id ")
    assert message.endswith("is not an identifier: use 1 to 64 of A-Z a-z 0-9 _ -")
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize("value", GOOD)
def test_a_good_identifier_is_given_back(value: str) -> None:
    """What passes is the same string."""
    assert checked(value) is value


def test_a_long_value_is_cut_and_its_length_told() -> None:
    """A message does not grow with the input."""
    with pytest.raises(Refused, match=r"^id 'a{79}… \(102 characters\) is not"):
        checked("a" * 100)


@given(st.text(max_size=80))
def test_exactly_what_the_pattern_says_passes(value: str) -> None:
    """An identifier is 1 to 64 of 64 characters, by counting them."""
    right = 1 <= len(value) <= 64 and all(character in ALLOWED for character in value)
    assert passes(value) == right


@given(st.text(alphabet=ALLOWED, min_size=1, max_size=64))
def test_every_text_of_those_characters_passes(value: str) -> None:
    """None of them is left out."""
    assert passes(value)


@given(st.text(alphabet=ALLOWED, max_size=30), st.characters(exclude_characters=ALLOWED), st.text(ALLOWED, max_size=30))
def test_one_other_character_anywhere_is_enough(before: str, other: str, after: str) -> None:
    """Wherever it stands."""
    assert not passes(before + other + after)


def test_the_pattern_is_the_one_the_contract_names() -> None:
    """Other languages check ids by it."""
    assert PATTERN == "^[A-Za-z0-9_-]{1,64}$"


def passes(value: object) -> bool:
    try:
        return checked(value) == value
    except Refused:
        return False
