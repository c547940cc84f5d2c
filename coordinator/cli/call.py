"""
`coordinator call OPERATION`: every operation of the coordinator and of its followers, with an option for each field.

The options are made from the class of the operation when it is called. What is given is checked as the door checks it,
before anything is sent.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from math import isfinite, nan
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import click
import msgspec
from click.core import ParameterSource

from coordinator.cli.connection import TENANT, TRACEPARENT, URL, asking
from coordinator.cli.output import NumberOrName, moment, output_options, show, show_json, show_one
from coordinator.commands import command_type
from coordinator.commands.command import Command
from coordinator.commands.operations import (
    OPERATIONS,
    choices_of,
    description_of,
    fields_of,
    operation_of,
    roles_of,
    structs_in,
    summary_of,
)
from coordinator.commands.reads import ReadQuestion, decode_question
from coordinator.commands.wire import decode_command
from coordinator.terminal import clean
from events.codec import UNREADABLE
from events.errors import NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coordinator.client.client import Client
    from coordinator.commands.command import Operation
    from coordinator.commands.operations import Field

COLUMNS_MOST = 8
"""Columns of a table; `-o json` has all fields."""


class _Json(click.ParamType[Any]):
    """A value in JSON, such as an object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            if isinstance(value, str):
                msgspec.json.decode(value)  # Python's own reader accepts NaN
                return json.loads(value, object_pairs_hook=_no_key_twice)
        except (*UNREADABLE, ValueError) as error:
            right = "quote it, as in '{\"key\": 1}'"
            return self.fail(f"{value[:80]!r} is not valid JSON ({error}): {right}", param, ctx)
        return value


class _Number(click.ParamType[float]):
    """A number that JSON has."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = nan
        return number if isfinite(number) else self.fail(f"{value!r} is not a finite number", param, ctx)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


class _Operations(click.Group):
    """A group with a command for each operation, made when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(OPERATIONS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's
        return command_of(OPERATIONS[cmd_name]) if cmd_name in OPERATIONS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-"):
            known(args[0], ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        with formatter.section("Operations"):
            formatter.write_dl([(name, summary_of(one)) for name, one in OPERATIONS.items()])


def known(name: str, ctx: click.Context) -> type[Operation]:
    """Return the operation of this name; a usage error with the nearest names if there is none."""
    try:
        return operation_of(name)
    except NotFound as error:
        raise click.UsageError(error.message, ctx) from error


@click.group(cls=_Operations, subcommand_metavar="OPERATION [JSON] [OPTIONS]")
def call() -> None:
    """
    Call an operation: `coordinator call task.get --task-id ID`.

    A request is one JSON object, or its fields are options; options take precedence. `coordinator operations`
    describes each operation.
    """


def command_of(operation: type[Operation]) -> click.Command:
    """Return the command that calls an operation."""
    fields = fields_of(operation)

    def run(ctx: click.Context, /, url: str | None, **options: Any) -> None:
        request = _asked(operation, _request(fields, options, _given(ctx)))
        tenant, traceparent = options.get("tenant"), options.get("traceparent")
        answer = asking(ctx, url, lambda client: _answer(client, request), tenant=tenant, traceparent=traceparent)
        _show(answer, output=options["output"], as_json=options["as_json"])

    body: Callable[..., Any] = click.pass_context(run)
    options = [output_options, URL, *_acting_options(operation), *map(_option, reversed(fields))]
    for add in (*options, click.argument("json", metavar="[JSON]", required=False)):
        body = add(body)
    about = description_of(operation).replace("\n", "\n\n")
    roles = f"For {', '.join(roles_of(operation))}. More: `coordinator operations {operation.NAME}`."
    return click.command(operation.NAME, help=f"{about}\n\n{roles}")(body)


def _acting_options(operation: type[Operation]) -> tuple[Callable[..., Any], ...]:
    """Return the options that say for whom a command is; a question to a follower is for nobody."""
    if not issubclass(operation, Command):
        return ()
    return (TRACEPARENT, TENANT)


def _option(field: Field) -> Callable[..., Any]:
    """Return the option of a field; one that is not given is left out of the request."""
    kind = _plain(field.hint)
    more: dict[str, Any] = {"default": None, "help": _help(field, kind)}
    name = option_name(field.name)
    if kind is bool:
        return click.option(f"{name}/--no-{name[2:]}", f"field_{field.name}", **more)
    several = get_origin(kind) in (tuple, list)
    given = _plain(get_args(kind)[0]) if several else kind
    choices = choices_of(given)
    if choices:
        more["type"] = click.Choice(choices)
    else:
        more["type"] = {str: click.STRING, int: click.INT, float: _Number(), int | str: NumberOrName()}.get(
            given, _Json()
        )
    is_list = several and not isinstance(more["type"], _Json)
    return click.option(name, f"field_{field.name}", multiple=is_list, **(more | ({"default": ()} if is_list else {})))


def option_name(field: str) -> str:
    """Return the name of a field's option."""
    return f"--{field.replace('_', '-')}"


def _plain(hint: Any) -> Any:
    """Return the type of a field without null; an object if it is one of several."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [one for one in get_args(hint) if one is not NoneType]
        return kinds[0] if len(kinds) == 1 else hint if hint == int | str else dict
    return hint


def _help(field: Field, kind: Any) -> str:
    parts = [f"{one.__name__} has {', '.join(one.__struct_fields__)}." for one in structs_in(kind)]
    if field.is_required:
        parts.append("[required]")
    elif field.default not in (None, "", {}, [], ()):
        parts.append(f"[default: {_shown(field.default)}]")
    if get_origin(kind) in (tuple, list) and not parts:
        parts.append("May be repeated.")
    return " ".join(parts)


def _given(ctx: click.Context) -> set[str]:
    """Return the names of the parameters that were given: one that says null is not the same as none."""
    return {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _request(fields: tuple[Field, ...], options: dict[str, Any], were_given: set[str]) -> dict[str, Any]:
    """Return the request that was given, as JSON and as options."""
    body = options["json"]
    if body == "-":
        body = sys.stdin.read()
    request = _Json().convert(body, None, None) if body else {}
    if not isinstance(request, dict):
        raise click.UsageError(f"the request is {_shown(request)[:80]}: give one JSON object, such as '{{\"key\": 1}}'")
    for field in fields:
        if f"field_{field.name}" in were_given:
            request[field.name] = options[f"field_{field.name}"]
    missing = [option_name(one.name) for one in fields if one.is_required and one.name not in request]
    if missing:
        raise click.UsageError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return request


def _asked(operation: type[Operation], request: dict[str, Any]) -> Operation[Any]:
    """Return the operation with these fields, checked as its door checks them."""
    try:
        body = msgspec.json.encode(request)
        if issubclass(operation, ReadQuestion):
            return decode_question(operation.VERB, body)
        assert issubclass(operation, Command)
        return decode_command(command_type(operation), body)
    except Refused as error:
        raise click.UsageError(error.message) from error
    except (OverflowError, RecursionError) as error:
        raise click.UsageError(f"the request cannot be written as JSON: {error}") from error


async def _answer(client: Client, operation: Operation[Any]) -> Any:
    if isinstance(operation, Command):
        return await client.execute(operation)
    from coordinator.client.reads import ask_follower

    assert isinstance(operation, ReadQuestion)
    return await ask_follower(client, operation)


# --- answers ----------------------------------------------------------------------------------------------------------


def _show(answer: Any, *, output: str, as_json: bool) -> None:
    """Print an answer: as JSON, or for people in lines and tables."""
    if as_json or output == "json":
        show_json(answer)
        return
    plain = json.loads(msgspec.json.encode(answer))
    if plain is None:
        return
    if isinstance(plain, dict):
        tables = {name: value for name, value in plain.items() if _is_table(value)}
        facts = {name: value for name, value in plain.items() if name not in tables}
        if facts:
            show_one(facts, [(name, partial(_cell, name)) for name in facts], **_AS_TEXT)
        for name, rows in tables.items():
            click.echo(f"\n{name}")
            _show_rows(rows)
    elif _is_table(plain):
        _show_rows(plain)
    else:
        click.echo(clean(plain) if isinstance(plain, str) else clean(_shown(plain)))


_AS_TEXT: dict[str, Any] = {"output": "table", "as_json": False}


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _show_rows(rows: list[dict[str, Any]]) -> None:
    flat = [dict(_flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))[:COLUMNS_MOST]
    show(flat, [(name, partial(_cell, name)) for name in names], **_AS_TEXT)


def _flat(row: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of an object and of those in it, without lists."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif not isinstance(value, list):
            yield before + name, value


def _cell(name: str, row: dict[str, Any]) -> str:
    """Return a value of a row for a line or a cell; a time is shown as one."""
    value = row.get(name)
    if isinstance(value, float) and (name == "at" or name.endswith("_at")):
        return moment(value)
    return "" if value is None else value if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
