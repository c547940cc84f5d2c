"""The commands for mass silence: `silence list`, `silence accept`."""

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
    """One kind with mass silence, and how many of it are silent."""

    kind: str
    silent: int


_COLUMNS = (("kind", lambda one: one.kind), ("silent", lambda one: one.silent))


@click.group()
def silence() -> None:
    """
    List and accept mass silence.

    When many services, workers or nodes fall silent at once, the coordinator assumes
    a network problem and treats none as lost until you accept the silence.
    """


@silence.command("list")
@URL
@output_options
@click.pass_context
def silence_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """
    List the kinds with mass silence.

    Nothing of a listed kind is treated as lost.
    """
    show(asking(ctx, url, _listed), _COLUMNS, output=output, as_json=as_json)


async def _listed(client: Client) -> list[ListedSilence]:
    stats = await client.execute(GetStats())
    return [ListedSilence(kind=kind, silent=silent) for kind, silent in sorted(stats.mass_silence.items())]


@silence.command("accept")
@click.argument("kind", type=click.Choice([kind.value for kind in Watched]))
@click.option("--reason", default="", help="Reason, kept in the journal with the sender.")
@URL
@click.pass_context
def silence_accept(ctx: click.Context, kind: str, reason: str, url: str | None) -> None:
    """Treat all silent members of KIND as lost now."""

    async def accept(client: Client) -> None:
        await client.execute(AcceptSilence(kind=Watched(kind), reason=reason))

    asking(ctx, url, accept)
    click.echo(f"silent {kind}s are now treated as lost")
