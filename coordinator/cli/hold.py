"""`coordinator hold`: keep tasks that meet a filter from the workers, and let them go again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coordinator.cli.connection import REASON, URL, asking
from coordinator.cli.output import Number, moment, output_options, show, show_one
from coordinator.client.paging import listed
from coordinator.commands.hold import HOLD_S_MAX, GetHold, HoldTasks, LiftHold, ListHolds
from coordinator.ids import TimeOrderedIds

if TYPE_CHECKING:
    from coordinator.cli.output import Column

_COLUMNS: tuple[Column, ...] = (
    ("hold", lambda v: v.hold.hold_id),
    ("tasks", lambda v: v.tasks),
    ("where", lambda v: v.hold.where),
    ("queue", lambda v: v.hold.queue),
    ("placed", lambda v: moment(v.hold.placed_at)),
    ("by", lambda v: v.hold.placed_by),
    ("expires", lambda v: moment(v.hold.expires_at)),
    ("reason", lambda v: v.hold.reason),
)


@click.group()
def hold() -> None:
    """Keep tasks that meet a filter from the workers, and let them go again."""


@hold.command("place")
@click.option("--where", required=True, metavar="FILTER", help="Tasks that meet this: 'task_name == \"report\"'.")
@click.option("--queue", default="", metavar="NAME", help="Only tasks of this queue.")
@click.option(
    "--for", "for_s", type=Number(0.001, HOLD_S_MAX, "a number of seconds"), help="Seconds after which it ends."
)
@click.option("--id", "hold_id", metavar="ID", help="Id of the hold; by default a new one.")
@REASON
@URL
@click.pass_context
def hold_place(
    ctx: click.Context, where: str, queue: str, for_s: float | None, hold_id: str | None, reason: str, url: str | None
) -> None:
    """
    Give no pending task that meets a filter to a worker, and print the id of the hold.

    It is about tasks that are submitted later, too. What runs goes on.
    """
    made = TimeOrderedIds().new("hold") if hold_id is None else hold_id
    command = HoldTasks(hold_id=made, where=where, queue=queue, reason=reason, for_s=for_s)
    click.echo(asking(ctx, url, lambda client: client.execute(command)))


@hold.command("lift")
@click.argument("hold_id", metavar="ID")
@REASON
@URL
@click.pass_context
def hold_lift(ctx: click.Context, hold_id: str, reason: str, url: str | None) -> None:
    """Lift a hold: its tasks are given to workers again."""
    asking(ctx, url, lambda client: client.execute(LiftHold(hold_id=hold_id, reason=reason)))


@hold.command("list")
@URL
@output_options
@click.pass_context
def hold_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the holds in force, and how many tasks each keeps."""
    show(asking(ctx, url, lambda client: listed(client, ListHolds())), _COLUMNS, output=output, as_json=as_json)


@hold.command("get")
@click.argument("hold_id", metavar="ID")
@URL
@output_options
@click.pass_context
def hold_get(ctx: click.Context, hold_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a hold, and how many tasks it keeps."""
    found = asking(ctx, url, lambda client: client.execute(GetHold(hold_id=hold_id)))
    show_one(found, _COLUMNS, output=output, as_json=as_json)
