"""
The price table, and what tokens cost by it: whole micro-units of money, rounded up for each attempt. Pure.

What is reserved for an attempt is never less than what it costs within its bounds: each token counts at its dearest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.budget import Unit
from events.prices import Price, PricesSet
from events.spend import Reservation, Spend, Spent

if TYPE_CHECKING:
    from events.task import TaskUsage
    from projections.stamp import Stamp

PER_MILLION = 1_000_000


class PriceTable(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The prices in force, by model; `set_at` is a commit time in seconds. Without a version none were ever set."""

    version: str = ""
    models: dict[str, Price] = {}
    set_at: float = 0.0
    set_by: str = ""
    reason: str = ""


NO_PRICES = PriceTable()


def table_of(event: PricesSet, stamp: Stamp) -> PriceTable:
    """Return the table that is in force from *event* on."""
    return PriceTable(
        version=event.version, models=event.models, set_at=stamp.time, set_by=stamp.actor, reason=event.reason
    )


def reservation_for(spend: Spend, prices: PriceTable) -> Reservation:
    """Return the most that an attempt may spend, at the prices in force."""
    tokens, price = spend.input_tokens + spend.output_tokens, prices.models.get(spend.model)
    if price is None:
        return Reservation(tokens=tokens, money_micros=spend.money_micros)
    dearest_in = max(price.input_micros, price.cached_micros or 0)
    dearest_out = max(price.output_micros, price.reasoning_micros or 0)
    millionths = spend.input_tokens * dearest_in + spend.output_tokens * dearest_out
    return Reservation(
        tokens=tokens,
        money_micros=_whole(millionths) + spend.money_micros,
        prices=prices.version,
        price=price,
    )


def cost_of(usage: TaskUsage, price: Price | None) -> Spent:
    """Return what an attempt spent: its tokens, and the money that they cost with what else was reported."""
    if price is None:
        return Spent(tokens=usage.tokens, money_micros=usage.money_micros)
    cached = price.input_micros if price.cached_micros is None else price.cached_micros
    reasoning = price.output_micros if price.reasoning_micros is None else price.reasoning_micros
    millionths = (
        usage.input_tokens * price.input_micros
        + usage.cached_tokens * cached
        + usage.output_tokens * price.output_micros
        + usage.reasoning_tokens * reasoning
    )
    return Spent(tokens=usage.tokens, money_micros=_whole(millionths) + usage.money_micros)


def _whole(millionths: int) -> int:
    """Return micro-units, rounded up."""
    return -(-millionths // PER_MILLION)


def of_unit(amounts: Spent | Reservation, unit: Unit) -> int:
    """Return tokens or money."""
    return amounts.tokens if unit is Unit.TOKENS else amounts.money_micros


def need_of(spend: Spend, unit: Unit, prices: PriceTable) -> int | None:
    """Return the most that an attempt spends in a unit; None if its model has no price."""
    if unit is Unit.MONEY and spend.model and spend.model not in prices.models:
        return None
    return of_unit(reservation_for(spend, prices), unit)
