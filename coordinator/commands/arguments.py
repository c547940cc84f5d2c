"""
Type checks of what a program hands in: the arguments of facades, workers and handlers.

Each returns the plain value. An object of a subclass of `str`, `int` or `float` counts as what it is, not as what it
says of itself: `str()` of a member of a `(str, Enum)` is its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from events.errors import Refused, shown
from events.retry import RetryPolicy
from events.spend import Spend

if TYPE_CHECKING:
    from events.task import Scalar

WHOLE_MAX = 2**63 - 1


def wanted(name: str, value: Any, kind: type | tuple[type, ...], right: str) -> Any:
    """
    Return *value* if it is an instance of *kind*. A bool is not accepted as a number.

    Args:
        name: the argument's name, for the error message.
        value: the argument.
        kind: the accepted types.
        right: what is accepted, for the error message, such as "a whole number".

    Raises:
        Refused: *value* has another type.
    """
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    msg = f"{name} {shown(value)} is not {right}"
    raise Refused(msg, reason="bad_type")


def scalars(name: str, value: Any) -> dict[str, Scalar]:
    """Return *value* as a dict if it maps names to texts, numbers and truth values; raise `Refused` if not."""
    given: dict[str, Scalar] = {}
    for key, one in wanted(name, value, Mapping, 'a mapping such as {"customer": "acme"}').items():
        inner = f"{name}[{shown(key)}]"
        text(f"{name}: a name", key)
        if isinstance(one, bool):
            given[key] = one
        elif isinstance(one, str):
            given[key] = text(inner, one)
        elif isinstance(one, int):
            given[key] = whole(inner, one)
        else:
            given[key] = number(inner, wanted(inner, one, float, "a text, a number, True or False"))
    return given


def text(name: str, value: Any) -> str:
    """Return *value* if it is a string that can be written in UTF-8; raise `Refused` if not."""
    if type(value) is str and value.isascii():
        return value
    given: str = wanted(name, value, str, "text")
    if type(given) is not str:  # what an object of such a class says of itself may be something else
        given = str.__str__(given)
    if not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:
            msg = f"{name} {shown(given)} holds half a surrogate pair, which is no text: use characters"
            raise Refused(msg, reason="bad_text") from None
    return given


def texts(name: str, values: Any) -> tuple[str, ...]:
    """Return a list, tuple or set of strings as a tuple; raise `Refused` for anything else, also for one string."""
    several = wanted(name, values, (list, tuple, set, frozenset), "a list of texts")
    return tuple(text(f"{name}: {shown(values)} holds", one) for one in several)


def whole(name: str, value: Any) -> int:
    """Return *value* if it is an int of 64 bits; raise `Refused` if not."""
    if type(value) is int and -WHOLE_MAX <= value <= WHOLE_MAX:
        return value
    given = int.__index__(wanted(name, value, int, "a whole number"))
    if not -WHOLE_MAX <= given <= WHOLE_MAX:
        raise Refused(f"{name} {shown(value)} has more than 64 bits: use a smaller number", reason="bad_number")
    return given


def number(name: str, value: Any) -> float:
    """Return *value* as a float if it is a finite number that a float holds exactly; raise `Refused` if not."""
    given = wanted(name, value, (int, float), "a number")
    try:
        made = float.__float__(given) if isinstance(given, float) else int.__float__(given)
    except OverflowError:
        made = nan
    if not isfinite(made):
        raise Refused(f"{name} {shown(value)} is not a finite number", reason="bad_type")
    if isinstance(given, int) and made != given:
        raise Refused(f"{name} {shown(value)} has more digits than a float holds: use fewer", reason="bad_type")
    return made


def moment(name: str, value: Any) -> float:
    """Return a datetime as seconds since 1970; raise `Refused` if it has no zone, or is no datetime."""
    given: datetime = wanted(name, value, datetime, "a datetime with a zone, such as datetime.now(UTC)")
    if given.utcoffset() is None:
        msg = f"{name} {given.isoformat()!r} has no zone: use an aware datetime, such as one of datetime.now(UTC)"
        raise Refused(msg, reason="bad_time")
    return given.timestamp()


def flag(name: str, value: Any) -> bool:
    """Return *value* if it is True or False; raise `Refused` if not."""
    return bool(wanted(name, value, bool, "True or False"))


def member(name: str, value: Any, of: type[Any]) -> Any:
    """
    Return the member of the enum *of* that is *value* or has that value; raise `Refused` if there is none.

    A member of another enum stands for its value: programs may hold a copy of the enum of the requirements.
    """
    if isinstance(value, of):
        return value
    try:
        return of(value.value if isinstance(value, Enum) else value)
    except Exception:  # noqa: BLE001  # no member has this value, or its class does not let it be compared
        msg = f"{name} {shown(value)} is not one of {', '.join(one.value for one in of)}"
        raise Refused(msg, reason="bad_type") from None


def spending(name: str, value: Any) -> Spend | None:
    """Return *value* if it is a `Spend` with values of the right types, or None; raise `Refused` if not."""
    if value is None:
        return None
    given: Spend = wanted(name, value, Spend, 'a Spend, such as Spend(model="m", input_tokens=8000)')
    return Spend(
        model=text(f"{name}.model", given.model),
        input_tokens=whole(f"{name}.input_tokens", given.input_tokens),
        output_tokens=whole(f"{name}.output_tokens", given.output_tokens),
        money_micros=whole(f"{name}.money_micros", given.money_micros),
    )


def retry_policy(name: str, value: Any) -> RetryPolicy:
    """Return *value* if it is a `RetryPolicy` with values of the right types; raise `Refused` if not."""
    given: RetryPolicy = wanted(name, value, RetryPolicy, "a RetryPolicy")
    return RetryPolicy(
        backoff=text(f"{name}.backoff", given.backoff),
        first_s=None if given.first_s is None else number(f"{name}.first_s", given.first_s),
        most_s=None if given.most_s is None else number(f"{name}.most_s", given.most_s),
        factor=number(f"{name}.factor", given.factor),
        jitter=number(f"{name}.jitter", given.jitter),
        non_retryable=texts(f"{name}.non_retryable", given.non_retryable),
        when_exhausted=text(f"{name}.when_exhausted", given.when_exhausted),
    )
