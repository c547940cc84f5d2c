"""Events about prices: what the tokens of models cost, by version."""

from __future__ import annotations

import msgspec

from events.base import Event


class Price(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a million tokens of a model cost, in micro-units of money: 2.50 for a million is 2,500,000.

    Without `cached_micros`, tokens read from a cache cost as much as others; without `reasoning_micros`, tokens written
    as reasoning do.
    """

    input_micros: int
    output_micros: int
    cached_micros: int | None = None
    reasoning_micros: int | None = None


class PricesSet(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """From here on attempts begin at the prices of this table; those that run already are settled at theirs."""

    SUBJECT = "version"

    version: str
    models: dict[str, Price] = {}
    reason: str = ""
