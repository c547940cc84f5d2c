"""The commands about mass silence: `silence list`, `silence accept`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from coordinator.cli.connection import URL, asking
from coordinator.cli.output import output_options, show
from coordinator.commands.cluster import AcceptSilence, GetStats
from events.coordinator import Watched

if TYPE_CHECKING:
    from coordinator.client.client import Client


class ListedSilence(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of which too many are silent to be given up, and how many those are."""

    kind: str
    silent: int


_COLUMNS = (("kind", lambda one: one.kind), ("silent", lambda one: one.silent))


@click.group()
def silence() -> None:
    """Look at what fell silent all at once, and say that it is gone."""


@silence.command("list")
@URL
@output_options
@click.pass_context
def silence_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the kinds of which none is given up, because too many fell silent at once."""
    show(asking(ctx, url, _listed), _COLUMNS, output=output, as_json=as_json)


async def _listed(client: Client) -> list[ListedSilence]:
    stats = await client.execute(GetStats())
    return [ListedSilence(kind=kind, silent=silent) for kind, silent in sorted(stats.mass_silence.items())]


@silence.command("accept")
@click.argument("kind", type=click.Choice([kind.value for kind in Watched]))
@click.option("--reason", default="", help="Kept in the journal with who said so.")
@URL
@click.pass_context
def silence_accept(ctx: click.Context, kind: str, reason: str, url: str | None) -> None:
    """Say that the silent of KIND are gone: they are given up now."""

    async def accept(client: Client) -> None:
        await client.execute(AcceptSilence(kind=Watched(kind), reason=reason))

    asking(ctx, url, accept)
    click.echo(f"the silent {kind}s are given up")
