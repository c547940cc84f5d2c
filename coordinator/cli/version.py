"""`coordinator version`: on which versions of workers tasks begin, and which run no more tasks."""

from __future__ import annotations

import click

from coordinator.cli.connection import REASON, URL, asking, send
from coordinator.cli.output import Number, moment, output_options, show
from coordinator.client.paging import listed
from coordinator.commands.queue import RouteQueue
from coordinator.commands.version import ListVersions, ReinstateVersion, RetireVersion, VersionView
from events.queue import DEFAULT, Route

_WITHOUT = click.option("--without-workers", is_flag=True, help="Accept build ids that no registered worker has.")


@click.group()
def version() -> None:
    """List, ramp up, roll back and retire versions of workers."""


@version.command("list")
@URL
@output_options
@click.pass_context
def version_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the versions with their workers and tasks."""
    found = asking(ctx, url, lambda client: listed(client, ListVersions(limit=1000)))
    columns = (
        ("build", lambda v: v.build_id or "(none)"),
        ("workers", lambda v: v.workers),
        ("heard", lambda v: v.heard),
        ("running", lambda v: v.running),
        ("pending", lambda v: v.pending),
        ("begin here", _share),
        ("retired", lambda v: "" if v.retired is None else moment(v.retired.retired_at)),
        ("go on at", lambda v: "" if v.retired is None else v.retired.move_to or "(as new ones)"),
    )
    show(found, columns, output=output, as_json=as_json)


def _share(view: VersionView) -> str:
    """Return in words which tasks begin on a version."""
    ramping = [f"{percent:g} % of {queue_id}" for queue_id, percent in view.ramping_in.items()]
    return ", ".join([*view.current_in, *ramping])


@version.command("route")
@click.argument("queue_id", metavar="QUEUE", default=DEFAULT)
@click.option("--current", metavar="BUILD", help="Where tasks begin; '' for the workers without a build id.")
@click.option("--ramping", metavar="BUILD", default="", help="Where a share of them begins.")
@click.option("--percent", type=Number(0, 100, "a number of per cent"), default=0.0, help="That share.")
@click.option("--any", "is_any", is_flag=True, help="Begin on any version again.")
@_WITHOUT
@REASON
@URL
@click.pass_context
def version_route(
    ctx: click.Context,
    /,
    queue_id: str,
    current: str | None,
    ramping: str,
    percent: float,
    is_any: bool,
    without_workers: bool,
    reason: str,
    url: str | None,
) -> None:
    """
    Begin the tasks of QUEUE, by default `default`, on these versions of workers.

    Give all of it each time: without --ramping there is no share, which rolls a ramp back.
    """
    if is_any is (current is not None) or (is_any and ramping):
        raise click.UsageError("give --current BUILD, and what a share begins on as --ramping; or --any alone")
    route = None if current is None else Route(current=current, ramping=ramping, percent=percent)
    send(ctx, url, RouteQueue(queue_id=queue_id, route=route, without_workers=without_workers, reason=reason))


@version.command("retire")
@click.argument("build_id", metavar="BUILD")
@click.option("--move-to", metavar="BUILD", default="", help="Where tasks go on that began on it; else as new ones.")
@_WITHOUT
@REASON
@URL
@click.pass_context
def version_retire(
    ctx: click.Context, build_id: str, move_to: str, without_workers: bool, reason: str, url: str | None
) -> None:
    """Start no more tasks on a version, and move those that began on it."""
    send(ctx, url, RetireVersion(build_id=build_id, move_to=move_to, without_workers=without_workers, reason=reason))


@version.command("reinstate")
@click.argument("build_id", metavar="BUILD")
@REASON
@URL
@click.pass_context
def version_reinstate(ctx: click.Context, build_id: str, reason: str, url: str | None) -> None:
    """Let a retired version have tasks again."""
    send(ctx, url, ReinstateVersion(build_id=build_id, reason=reason))
