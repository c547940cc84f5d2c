"""`coordinator budget` and `coordinator prices`: what tasks may spend, and what the tokens of models cost."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from coordinator.cli.connection import REASON, URL, asking, send
from coordinator.cli.output import Moment, moment, output_options, show, show_one
from coordinator.cli.spend import Money, shown_money, whole_micros
from coordinator.client.paging import listed
from coordinator.commands.budget import (
    BudgetKey,
    BudgetView,
    CorrectBudget,
    DefineBudget,
    GetBudget,
    ListBudgets,
    RemoveBudget,
)
from coordinator.commands.prices import GetPrices, SetPrices
from events.budget import BudgetTerms, Stop, Unit
from events.prices import Price
from projections.prices import PriceTable

_PRICE_FIELDS = ("input_micros", "output_micros", "cached_micros", "reasoning_micros")
_LEAST_PRICES = 2


class ModelPrice(click.ParamType[tuple[str, Price]]):
    """`MODEL=INPUT,OUTPUT[,CACHED[,REASONING]]`: money for a million tokens."""

    name = "price"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Price]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # click converts what was converted again
        model, _, given = value.rpartition("=")
        prices = [whole_micros(one) for one in given.split(",")]
        known = {name: micros for name, micros in zip(_PRICE_FIELDS, prices, strict=False) if micros is not None}
        if not model or len(known) != len(prices) or len(known) < _LEAST_PRICES:
            self.fail(f"{value!r} is not MODEL=INPUT,OUTPUT[,CACHED[,REASONING]], such as gpt-5=1.25,10", param, ctx)
        return model, Price(**known)


def shown_amount(amount: int, unit: Unit) -> str:
    """Return an amount as a terminal shows it: tokens, or money with its decimals."""
    return f"{amount:,}" if unit is Unit.TOKENS else shown_money(amount)


def _of(view: BudgetView, amount: int) -> str:
    return shown_amount(amount, view.budget.terms.unit)


_COLUMNS = (
    ("budget", lambda v: v.budget.budget_id),
    ("by", lambda v: v.budget.terms.by),
    ("window", lambda v: v.budget.terms.window),
    ("unit", lambda v: v.budget.terms.unit.value),
    ("cap", lambda v: _of(v, v.budget.terms.cap)),
    ("spent", lambda v: _of(v, v.spent)),
    ("reserved", lambda v: _of(v, v.reserved)),
    ("stop", lambda v: v.budget.terms.stop.value),
)


@click.group()
def budget() -> None:
    """Define, list, correct and remove budgets of tokens and money."""


@budget.command("list")
@URL
@output_options
@click.pass_context
def budget_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the budgets with what all their keys have spent in the window that it is now."""
    found = asking(ctx, url, lambda client: listed(client, ListBudgets(limit=1000)))
    show(found, _COLUMNS, output=output, as_json=as_json)


@budget.command("get")
@click.argument("budget_id", metavar="NAME")
@URL
@output_options
@click.pass_context
def budget_get(ctx: click.Context, budget_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a budget and the keys that used most of it."""
    found: BudgetView = asking(ctx, url, lambda client: client.execute(GetBudget(budget_id=budget_id)))
    terms = found.budget.terms
    facts = (
        *_COLUMNS,
        ("where", lambda v: v.budget.terms.where),
        ("floor", lambda _: f"{_of(found, terms.floor)} for {terms.floor_for}" if terms.floor else ""),
        ("window began", lambda v: moment(v.window_start)),
        ("window ends", lambda v: moment(v.window_end)),
        ("defined", lambda v: moment(v.budget.defined_at)),
        ("defined by", lambda v: v.budget.defined_by),
        ("reason", lambda v: v.budget.reason),
    )
    show_one(found, facts, output=output, as_json=as_json)
    if found.keys and not as_json and output == "table":
        click.echo()
        show(found.keys, _key_columns(terms), output=output, as_json=as_json)


def _key_columns(terms: BudgetTerms) -> tuple[Any, ...]:
    def of(name: str) -> Any:
        return lambda key: shown_amount(getattr(key, name), terms.unit)

    def key_name(key: BudgetKey) -> str:
        return key.value or "(all)"

    floor = (("left of floor", of("left_of_floor")),) if terms.floor else ()
    return (
        ("key", key_name),
        *((name, of(name)) for name in ("spent", "reserved", "left")),
        *floor,
        *((name, of(name)) for name in ("overrun", "corrected")),
        ("running", lambda key: key.running),
        ("pending", lambda key: key.pending),
    )


@budget.command("define")
@click.argument("budget_id", metavar="NAME")
@click.option("--tokens", type=int, metavar="N", help="So many tokens may be spent in a window.")
@click.option("--money", type=Money(), help="So much money may be spent in a window.")
@click.option(
    "--by",
    default="all",
    show_default=True,
    help="What tasks of a key share: all, tenant, source, program, queue, task_name, fairness_key or attributes.NAME.",
)
@click.option("--where", default="", metavar="FILTER", help="Charge only tasks that meet this filter.")
@click.option("--window", default="1d", show_default=True, help="month, none, or a length such as 5h or 1d.")
@click.option("--floor", metavar="AMOUNT", help="So much of it is kept for the tasks of --floor-for.")
@click.option("--floor-for", default="", metavar="FILTER", help="Such as 'priority >= 8'.")
@click.option("--stop", type=click.Choice([one.value for one in Stop]), default="no_new", show_default=True,
              help="What becomes of what runs when there is not enough for it any more.")  # fmt: skip
@REASON
@URL
@click.pass_context
def budget_define(ctx: click.Context, /, budget_id: str, reason: str, url: str | None, **options: Any) -> None:
    """Create a budget, or replace its terms."""
    tokens, money = options["tokens"], options["money"]
    if (tokens is None) is (money is None):
        raise click.UsageError("give either --tokens or --money: how much may be spent in a window")
    unit = Unit.MONEY if tokens is None else Unit.TOKENS
    terms = BudgetTerms(
        cap=money if tokens is None else tokens,
        unit=unit,
        by=options["by"],
        where=options["where"],
        window=options["window"],
        floor=_amount("--floor", options["floor"], unit),
        floor_for=options["floor_for"],
        stop=Stop(options["stop"]),
    )
    send(ctx, url, DefineBudget(budget_id=budget_id, terms=terms, reason=reason))


def _amount(option: str, given: str | None, unit: Unit) -> int:
    """Return the amount of an option; raise a usage error if it is none of this unit."""
    if given is None:
        return 0
    if unit is Unit.MONEY:
        micros = whole_micros(given)
        if micros is None:
            raise click.UsageError(f"{option} {given!r} is no amount of money such as 2.50")
        return micros
    try:
        return int(given)
    except ValueError:
        raise click.UsageError(f"{option} {given!r} is no whole number of tokens") from None


@budget.command("correct")
@click.argument("budget_id", metavar="NAME")
@click.option("--key", default="", metavar="VALUE", help="What its tasks have in common; '' for a budget of all.")
@click.option("--tokens", type=int, metavar="N", help="So many more tokens were spent; below 0: fewer.")
@click.option("--money", type=Money(), help="So much more money was spent; below 0: less.")
@click.option("--at", type=Moment(), help="A time in the window that it counts in; by default now.")
@click.option("--of-floor", is_flag=True, help="Tasks spent it for which the floor is kept.")
@REASON
@URL
@click.pass_context
def budget_correct(ctx: click.Context, /, budget_id: str, reason: str, url: str | None, **options: Any) -> None:
    """Say that more or less was spent than was reported, as by a bill that came late."""
    tokens, money, at = options["tokens"], options["money"], options["at"]
    if (tokens is None) is (money is None):
        raise click.UsageError("give either --tokens or --money: how much more was spent")
    view: BudgetView = asking(ctx, url, lambda client: client.execute(GetBudget(budget_id=budget_id)))
    unit = Unit.MONEY if tokens is None else Unit.TOKENS
    if view.budget.terms.unit is not unit:
        raise click.UsageError(f"the budget {budget_id} counts {view.budget.terms.unit.value}, not {unit.value}")
    command = CorrectBudget(
        budget_id=budget_id,
        key=options["key"],
        amount=money if tokens is None else tokens,
        at=None if at is None else at.timestamp(),
        of_floor=options["of_floor"],
        reason=reason,
    )
    send(ctx, url, command)


@budget.command("remove")
@click.argument("budget_id", metavar="NAME")
@REASON
@URL
@click.pass_context
def budget_remove(ctx: click.Context, budget_id: str, reason: str, url: str | None) -> None:
    """Remove a budget and what is known of it."""
    send(ctx, url, RemoveBudget(budget_id=budget_id, reason=reason))


@click.group()
def prices() -> None:
    """Set and show what the tokens of models cost."""


@prices.command("set")
@click.argument("version", metavar="VERSION")
@click.option(
    "--price", "given", type=ModelPrice(), multiple=True, metavar="MODEL=INPUT,OUTPUT[,CACHED[,REASONING]]",
    help="Money for a million tokens. Repeatable.",
)  # fmt: skip
@click.option("--add", is_flag=True, help="Keep the prices of other models that are in force.")
@REASON
@URL
@click.pass_context
def prices_set(
    ctx: click.Context, version: str, given: tuple[tuple[str, Price], ...], add: bool, reason: str, url: str | None
) -> None:
    """Replace the price table, under a new VERSION."""
    known: dict[str, Price] = {}
    if add:
        table: PriceTable = asking(ctx, url, lambda client: client.execute(GetPrices()))
        known = table.models
    send(ctx, url, SetPrices(version=version, models={**known, **dict(given)}, reason=reason))


class _Row(msgspec.Struct, frozen=True):
    """The price of a model."""

    model: str
    price: Price


@prices.command("get")
@URL
@output_options
@click.pass_context
def prices_get(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """Show the price table in force: money for a million tokens."""
    table: PriceTable = asking(ctx, url, lambda client: client.execute(GetPrices()))
    facts = (
        ("version", lambda t: t.version or "none is set"),
        ("set", lambda t: moment(t.set_at) if t.version else ""),
        ("set by", lambda t: t.set_by),
        ("reason", lambda t: t.reason),
    )
    show_one(table, facts, output=output, as_json=as_json)
    if table.models and not as_json and output == "table":
        click.echo()
        columns = (("model", lambda row: row.model), *((name, _price_column(name)) for name in _PRICE_FIELDS))
        rows = [_Row(model, table.models[model]) for model in sorted(table.models)]
        show(rows, [(name.removesuffix("_micros"), of) for name, of in columns], output=output, as_json=as_json)


def _price_column(name: str) -> Any:
    def of(row: _Row) -> str:
        micros = getattr(row.price, name)
        return "" if micros is None else shown_money(micros)

    return of
