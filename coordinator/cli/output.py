"""
How results are shown: a table for people, JSON for programs.

What somebody sent can never drive the terminal: what does not print is escaped, in JSON too, where an escape means the
same. Colours and lines are for terminals alone, and not where NO_COLOR is set.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.terminal import clean, escaped, is_fancy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Column = tuple[str, Callable[[Any], object]]


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `-o table|json` and `--json`."""
    command = click.option("--json", "as_json", is_flag=True, help="The same as -o json.")(command)
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Form of output.",
    )(command)


def show(rows: Sequence[Any], columns: Sequence[Column], *, output: str, as_json: bool) -> None:
    """Print many things: a table, or a JSON array of all they hold."""
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
    """Print one thing: a line for each fact that is there, or a JSON object."""
    if as_json or output == "json":
        show_json(thing)
        return
    said = [(name, value(thing)) for name, value in facts]
    lines = [(name, clean(str(value))) for name, value in said if value not in (None, "", ())]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{name.ljust(width)}  {text}")


def show_json(thing: Any) -> None:
    """Print anything as JSON over several lines."""
    click.echo(clean_json(msgspec.json.format(msgspec.json.encode(thing)).decode()))


def clean_json(text: str) -> str:
    """Escape what does not print in JSON, which then still means the same; line breaks between values stay."""
    return "".join(one if one.isprintable() or one == "\n" else escaped(one) for one in text)


def moment(seconds: float | None) -> str:
    """Write a time in UTC, empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _rich_table(heads: list[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        # What is too wide is cut, but never the id, which one wants to copy.
        table.add_column(head, no_wrap=True, min_width=max(len(line[0]) for line in cells or [[head]]) * (number == 0))
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)
