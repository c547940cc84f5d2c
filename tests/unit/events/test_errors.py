"""One family of errors, distinguished by code."""

from __future__ import annotations

import pytest

from events.errors import (
    ERRORS,
    CoordinationError,
    Corrupt,
    NotFound,
    Refused,
    StaleLease,
    Unavailable,
    error_of,
    shown,
)


@pytest.mark.parametrize("error", [CoordinationError, Refused, NotFound, StaleLease, Unavailable, Corrupt])
def test_an_error_travels_as_its_code_and_message(error: type[CoordinationError]) -> None:
    """What one side raises, the other raises again."""
    again = error_of(error.code, "m", reason="r", retry_after_s=1.5)
    assert type(again) is error
    assert (again.message, again.reason, again.retry_after_s, again.facts) == ("m", "r", 1.5, ())
    assert str(again) == "m"
    assert ERRORS[error.code] is error


def test_codes_are_one_each() -> None:
    """No two errors share a code."""
    assert {code: error.code for code, error in ERRORS.items()} == {code: code for code in ERRORS}
    assert set(ERRORS) == {"error", "refused", "forbidden", "not_found", "stale_lease", "unavailable", "corrupt"}


def test_a_code_of_another_release_gives_the_base_of_the_family() -> None:
    """A client that does not know the code still raises one of the family."""
    assert type(error_of("on_fire", "m")) is CoordinationError


@pytest.mark.parametrize("error", ERRORS.values())
def test_the_docstring_is_the_message_by_default(error: type[CoordinationError]) -> None:
    """Without a message an error has that of its class; without a reason, its code."""
    raised = error()
    assert raised.message == error.__doc__
    assert raised.message
    assert (raised.reason, raised.retry_after_s) == (error.code, None)


def test_an_error_without_docstring_says_its_name() -> None:
    """Python drops docstrings under `-OO`; an error must say something even then."""

    class Bare(Refused):
        pass

    Bare.__doc__ = None
    assert Bare().message == "Bare"


def test_an_empty_message_is_kept() -> None:
    """Only a missing message is replaced, not an empty one."""
    assert Refused("").message == ""


def test_a_shown_value_is_short_and_printable() -> None:
    """A message does not grow with the value and contains no control characters."""
    assert shown("a") == "'a'"
    assert shown("x" * 78) == repr("x" * 78)
    assert shown("x" * 79) == f"'{'x' * 79}… (81 characters)"
    assert shown("\x1b[31m") == "'\\x1b[31m'"
    assert shown(10**5000) == "<int too large to write>"
