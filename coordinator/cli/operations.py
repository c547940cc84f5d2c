"""`coordinator operations`: what can be asked of the coordinator and its followers. It needs no coordinator."""

from __future__ import annotations

import json
import re
import shlex
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.call import known, option_name
from coordinator.cli.output import output_options, show_json
from coordinator.commands import command_type
from coordinator.commands.command import Command
from coordinator.commands.operations import (
    ADMINISTRATOR,
    OPERATIONS,
    always_of,
    answer_of,
    description_of,
    fields_of,
    refusals_of,
    roles_of,
    structs_in,
    summary_of,
)
from events.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Operation
    from coordinator.commands.operations import Field

WIDTH = 80
NEXT_LINE = " \\\n    "


@click.command()
@click.argument("name", metavar="[OPERATION]", required=False)
@output_options
@click.pass_context
def operations(ctx: click.Context, name: str | None, output: str, as_json: bool) -> None:
    """
    List the operations, or describe OPERATION.

    With its fields, answer, reasons of refusal, and an example.
    """
    as_json = as_json or output == "json"
    if name is not None:
        operation = known(name, ctx)
        if as_json:
            show_json(_described(operation))
        else:
            click.echo(page_of(operation), nl=False)
    elif as_json:
        show_json([_described(one) for one in OPERATIONS.values()])
    else:
        click.echo(list_of_all(), nl=False)


def list_of_all() -> str:
    """Return every operation with the beginning of its summary and its roles."""
    formatter = click.HelpFormatter(width=WIDTH)
    formatter.write_text(_ABOUT_LIST)
    formatter.write_paragraph()
    formatter.write_dl([(name, _line_of(one)) for name, one in OPERATIONS.items()])
    return formatter.getvalue()


_ABOUT_LIST = "The roles in brackets may ask for it, and the administrator for all. More: coordinator operations NAME."


def _line_of(operation: type[Operation]) -> str:
    head, more, _ = summary_of(operation).partition(";")
    return f"{head}{'.' if more else ''} [{', '.join(sorted(operation.FOR)) or ADMINISTRATOR}]"


def page_of(operation: type[Operation]) -> str:
    """Return all that there is to say of an operation, in lines of 80 characters; JSON may be longer."""
    formatter = click.HelpFormatter(width=WIDTH)
    formatter.write_text(operation.NAME)
    formatter.write_paragraph()
    for paragraph in description_of(operation).split("\n"):
        formatter.write_text(paragraph)
        formatter.write_paragraph()
    formatter.write_dl([("roles", ", ".join(roles_of(operation))), *_wire(operation)])
    fields = fields_of(operation)
    if fields:
        with formatter.section("Fields"):
            formatter.write_dl([(one.name, field_text(one)) for one in fields])
    with formatter.section("Answer"):
        formatter.write_text(answer_text(operation))
    with formatter.section("Refused as"):
        formatter.write_dl([*refusals_of(operation).items(), ("any", ", ".join(always_of(operation)))])
    with formatter.section("Example"):
        formatter.write_text("")
    request = call_line(operation)
    line = request.replace(NEXT_LINE, f"{NEXT_LINE}  ")
    answer = indent(json_text(operation.EXAMPLE.answer), "  ")
    return f"{formatter.getvalue().rstrip()}\n  $ {line}\n{answer}\n"


def _wire(operation: type[Operation]) -> list[tuple[str, str]]:
    """Return where an operation is sent, in the default namespace, and its type there."""
    subjects = Subjects()
    if not issubclass(operation, Command):
        return [("subject", subjects.read(_SOURCE, operation.VERB).replace(_SOURCE, "<source>"))]
    subject = subjects.rpc(_SOURCE, operation.KIND, operation.VERB).replace(_SOURCE, "<source>")
    return [("subject", subject), ("type", command_type(operation))]


_SOURCE = "SOURCE"
"""Stands for the name of a sender, because a subject is built from valid tokens only."""


def field_text(field: Field) -> str:
    """Return the type of a field with its choices and its default."""
    inside = [", ".join(one.__struct_fields__) for one in structs_in(field.hint)]
    choices = f": {', '.join(field.choices)}" if field.choices else "".join(f" ({names})" for names in inside)
    parts = [f"{field.type}{choices}"]
    if field.is_required:
        parts.append("required")
    elif field.default not in (None, "", {}, [], ()):
        parts.append(f"default {json.dumps(field.default)}")
    return "; ".join(parts)


def answer_text(operation: type[Operation]) -> str:
    """Return the type of an answer, and what the objects in it have."""
    inside = [f"{one.__name__} has {', '.join(one.__struct_fields__)}." for one in structs_in(operation.Answer)]
    return " ".join([f"{answer_of(operation)}.", *inside])


def call_line(operation: type[Operation]) -> str:
    """Return the command line that sends the example."""
    options = [
        shlex.join(words)
        for name, value in operation.EXAMPLE.request.items()
        for words in _words(option_name(name), value)
    ]
    line = " ".join(["coordinator call", operation.NAME, *options])
    return line if len(line) < WIDTH - 4 else NEXT_LINE.join([f"coordinator call {operation.NAME}", *options])


def _words(option: str, value: Any) -> Iterator[list[str]]:
    """Yield an option with its value, each time that it is given."""
    if isinstance(value, bool):
        yield [option if value else f"--no-{option[2:]}"]
    elif isinstance(value, list) and not any(isinstance(one, dict) for one in value):
        for one in value:
            yield from _words(option, one)
    else:
        yield [option, value if isinstance(value, str) else json.dumps(value)]


def json_text(value: Any) -> str:
    """Return JSON with an indent, each position in one line."""
    return _position.sub(r"[\1, \2]", json.dumps(value, indent=2, ensure_ascii=False))


_position = re.compile(r"\[\n +(\d+),\n +(\d+)\n +\]")


def _described(operation: type[Operation]) -> dict[str, Any]:
    fields = [
        {
            "name": one.name,
            "type": one.type,
            "choices": one.choices,
            "required": one.is_required,
            "default": one.default,
        }
        for one in fields_of(operation)
    ]
    return {
        "name": operation.NAME,
        "summary": summary_of(operation),
        "description": description_of(operation),
        "roles": roles_of(operation),
        "is_question": operation.IS_QUESTION,
        **dict(_wire(operation)),
        "fields": fields,
        "answer": answer_of(operation),
        "refusals": refusals_of(operation),
        "always": always_of(operation),
        "example": {"request": operation.EXAMPLE.request, "answer": operation.EXAMPLE.answer},
    }
