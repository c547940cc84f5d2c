"""`coordinator schema …`: JSON Schema of the events, AsyncAPI of the wire protocol. Neither needs a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from coordinator.cli.connection import load_settings

_FILE = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write to; default: standard output.",
)


@click.group()
def schema() -> None:
    """Print JSON Schema and AsyncAPI documents."""


@schema.command("json")
@_FILE
def json_schema(output: Path | None) -> None:
    """Print the JSON Schema (2020-12) of every event."""
    from events import schema as events

    _write(events.json_schema(), output)


@schema.command("asyncapi")
@_FILE
@click.pass_context
def asyncapi(ctx: click.Context, output: Path | None) -> None:
    """
    Print the AsyncAPI 3.0 document of the NATS protocol.

    Subjects use the namespace of the settings.
    """
    from coordinator.api import asyncapi as wire

    _write(wire.asyncapi(load_settings(ctx, log_level="warning").namespace), output)


def _write(document: dict[str, Any], output: Path | None) -> None:
    text = msgspec.json.format(msgspec.json.encode(document)).decode()
    if output is None:
        click.echo(text)
    else:
        output.write_text(f"{text}\n", encoding="utf-8")
