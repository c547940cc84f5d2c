"""Money on the command line, and the options that say what a task may spend."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from events.spend import Spend

if TYPE_CHECKING:
    from projections.task import Task

MICROS = 1_000_000
MOST_MONEY = Decimal(2**53) / MICROS


def whole_micros(text: str) -> int | None:
    """Return money as micro-units; None if it is no decimal number, or has more than six decimals."""
    try:
        money = Decimal(text)
    except InvalidOperation:
        return None
    if not money.is_finite() or abs(money) > MOST_MONEY or money * MICROS != int(money * MICROS):
        return None
    return int(money * MICROS)


class Money(click.ParamType[int]):
    """An amount of money as a decimal number, in micro-units."""

    name = "money"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        micros = whole_micros(value)
        if micros is None:
            self.fail(f"{value!r} is no amount of money such as 2.50, with six decimals at most", param, ctx)
        return micros


def shown_money(micros: int) -> str:
    """Return micro-units as a decimal number, with two decimals at least."""
    whole, parts = divmod(abs(micros), MICROS)
    return f"{'-' if micros < 0 else ''}{whole:,}.{f'{parts:06d}'.rstrip('0'):0<2}"


def spend_options(command: Any) -> Any:
    """Add what an attempt may spend."""
    for option in reversed((
        click.option("--model", default="", metavar="MODEL", help="The model whose tokens it uses."),
        click.option("--input-tokens", type=int, default=0, metavar="N", help="It reads at most so many tokens."),
        click.option("--output-tokens", type=int, default=0, metavar="N", help="It writes at most so many tokens."),
        click.option("--money", type=Money(), default=0, help="It costs at most so much besides its tokens."),
    )):  # fmt: skip
        command = option(command)
    return command


def spend_of(options: dict[str, Any]) -> Spend | None:
    """Return what an attempt may spend by the options, None without any."""
    spend = Spend(
        model=options["model"],
        input_tokens=options["input_tokens"],
        output_tokens=options["output_tokens"],
        money_micros=options["money"],
    )
    return None if spend == Spend() else spend


def _may_spend(task: Task) -> str:
    """Return what one attempt may spend."""
    spend = task.spend
    if spend is None:
        return ""
    model = f" of {spend.model}" if spend.model else ""
    money = f", {shown_money(spend.money_micros)} of money besides" if spend.money_micros else ""
    return f"{spend.input_tokens:,} tokens in, {spend.output_tokens:,} out{model}{money}"


def _spent(task: Task) -> str:
    """Return what a task has spent, with the attempt that runs."""
    both = [one for one in (task.total_spent, task.spent) if one is not None]
    if not both:
        return ""
    money = sum(one.money_micros for one in both)
    return f"{sum(one.tokens for one in both):,} tokens" + (f", {shown_money(money)} of money" if money else "")


SPEND_FACTS = (("may spend", _may_spend), ("spent", _spent))
