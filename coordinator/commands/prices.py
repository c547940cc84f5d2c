"""The price table: what the tokens of models cost."""

from __future__ import annotations

from coordinator.commands.command import Command, Example, Question
from events.prices import Price
from projections.prices import PriceTable

_PRICES = {"gpt-5-mini": {"input_micros": 250_000, "cached_micros": 25_000, "output_micros": 2_000_000}}
_TABLE = {"version": "2026-11", "models": _PRICES, "set_at": 1795968191.64, "set_by": "operations"}


class SetPrices(Command[PriceTable], frozen=True, kw_only=True, gc=False):
    """
    Replace the price table by this one, under a version that no table before it had.

    Prices are micro-units of money for a million tokens. Attempts are reserved and settled at the prices of the time
    when they began.
    """

    KIND, VERB = "prices", "set"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_number", "bad_text", "id_taken", "too_many"})
    EXAMPLE = Example({"version": "2026-11", "models": _PRICES}, _TABLE)

    version: str
    models: dict[str, Price]
    reason: str = ""


class GetPrices(Question[PriceTable], frozen=True, kw_only=True, gc=False):
    """Get the price table in force; its version is '' if none was ever set."""

    KIND, VERB = "prices", "get"
    EXAMPLE = Example({}, _TABLE)
