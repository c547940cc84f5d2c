"""
How results are printed: as a table for people, as JSON for programs.

Unprintable characters are escaped, so that received data cannot control the terminal; in JSON the escape has the same
meaning. Colours are used on terminals only, and not if NO_COLOR is set.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.terminal import clean, escaped, is_fancy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from events.task import Scalar

    Column = tuple[str, Callable[[Any], object]]


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `-o table|json` and `--json`."""
    command = click.option("--json", "as_json", is_flag=True, help="Same as -o json.")(command)
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Output format.",
    )(command)


def show(rows: Sequence[Any], columns: Sequence[Column], *, output: str, as_json: bool) -> None:
    """Print *rows* as a table, or as a JSON array with all fields."""
    if as_json or output == "json":
        show_json(rows)
        return
    cells = [[clean(str(value(row))) for _, value in columns] for row in rows]
    heads = [name.upper() for name, _ in columns]
    if is_fancy():
        _rich_table(heads, cells)
        return
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for line in (heads, *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_one(thing: Any, facts: Sequence[Column], *, output: str, as_json: bool) -> None:
    """Print one thing: a line for each fact that has a value, or a JSON object."""
    if as_json or output == "json":
        show_json(thing)
        return
    values = [(name, value(thing)) for name, value in facts]
    lines = [(name, clean(str(value))) for name, value in values if value not in (None, "", ())]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{name.ljust(width)}  {text}")


def show_json(thing: Any) -> None:
    """Print *thing* as indented JSON."""
    click.echo(clean_json(msgspec.json.format(msgspec.json.encode(thing)).decode()))


def clean_json(text: str) -> str:
    """Escape unprintable characters of JSON text, except line breaks; its meaning stays the same."""
    return "".join(one if one.isprintable() or one == "\n" else escaped(one) for one in text)


class Number(click.ParamType[float]):
    """A number from *least* to *most*; not NaN, which would be lost on the way."""

    name = "number"

    def __init__(self, least: float, most: float, what: str) -> None:
        self._least = least
        self._most = most
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:
            self.fail(f"{value!r} is not {self._what} from {self._least:g} to {self._most:.10g}", param, ctx)
        return number


class Attribute(click.ParamType[tuple[str, "Scalar"]]):
    """`NAME=VALUE`: a value that JSON reads as a text, a number, true or false is one; any other is a text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Scalar]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # click converts what was converted again
        name, sign, given = value.partition("=")
        if not sign:
            self.fail(f"{value!r} is not NAME=VALUE, such as customer=acme", param, ctx)
        try:
            read = json.loads(given)
        except ValueError:
            return name, given
        return name, read if isinstance(read, (str, int, float)) else given


def shown_scalar(value: Scalar) -> str:
    """Return an attribute's value as a terminal shows it: as `Attribute` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


RESOURCE = click.option(
    "--resource", "named", metavar="NAME=AMOUNT", type=Attribute(), multiple=True,
    help="An amount of anything else, such as licences=2. Repeatable.",
)  # fmt: skip


def amounts_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources that options give."""
    given = {name: options[name] for name in ("cpu", "memory", "gpu") if options.get(name) is not None}
    return given | dict(options["named"])


class Moment(click.ParamType[datetime]):
    """A time of ISO 8601; one without a zone is a local time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as '2026-11-23T17:15:00+01:00'", param, ctx)
        return time if time.tzinfo is not None else time.astimezone()


def moment(seconds: float | None) -> str:
    """Format a time in UTC; return '' for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _rich_table(heads: list[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        # Wide cells are cut, except the id, which users copy.
        table.add_column(head, no_wrap=True, min_width=max(len(line[0]) for line in cells or [[head]]) * (number == 0))
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


class NumberOrName(click.ParamType[int | str]):
    """A whole number, or a name that stands for one."""

    name = "number or name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:  # noqa: ARG002
        try:
            return int(value)
        except ValueError:
            return str(value)
