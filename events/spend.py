"""What a task may spend at most, what is reserved for an attempt at it, and what that has spent."""

from __future__ import annotations

import msgspec

from events.prices import Price


class Spend(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The most that one attempt at a task may use: tokens of `model`, and `money_micros` besides what these cost.

    `input_tokens` are all that it reads, from a cache or not; `output_tokens` all that it writes, as reasoning or not.
    Money is in micro-units.
    """

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    money_micros: int = 0


class Spent(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Tokens, and money in micro-units."""

    tokens: int = 0
    money_micros: int = 0


class Reservation(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What budgets keep for an attempt until it ends: the most that it may spend.

    `price` is that of its model, in the version `prices` of the table; without it, tokens cost nothing.
    """

    tokens: int = 0
    money_micros: int = 0
    prices: str = ""
    price: Price | None = None
