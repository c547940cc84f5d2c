"""The commands for tasks that failed or timed out: `dead list`, `dead show`, `dead requeue`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.cli.connection import URL, asking
from coordinator.cli.output import Number, moment, output_options, show, show_json, show_one
from coordinator.cli.retries import attempt_facts
from coordinator.client.dead_letters import RATE_PER_S, REQUEUED_MAX, dead_letter, list_dead, requeue_each
from coordinator.commands.reads import ListDead
from coordinator.terminal import clean
from projections.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.cli.output import Column
    from coordinator.client.client import Client
    from coordinator.client.dead_letters import Dead

ERROR_CHARS = 60
"""How much of an error a line of the list has."""


class _Time(click.ParamType[float]):
    """A time, in seconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            time = datetime.fromisoformat(value)
            return (time if time.tzinfo is not None else time.astimezone()).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time: use one such as '2026-11-23T17:15:00Z'", param, ctx)


_FILTERS = (
    click.option("--name", help="Filter by task name."),
    click.option("--tenant", metavar="ID", help="Filter by tenant."),
    click.option("--error-type", metavar="TYPE", help="Filter by error type: package.module.Name, or Name."),
    click.option("--since", type=_Time(), help="Only tasks that ended at or after a time: 2026-11-23T17:15Z."),
)

_COLUMNS: tuple[Column, ...] = (
    ("id", lambda d: d.task.task_id),
    ("name", lambda d: d.task.task_name),
    ("status", lambda d: d.task.status.value),
    ("ended", lambda d: moment(d.task.ended_at)),
    ("requeued as", lambda d: d.requeued_as),
    ("error type", lambda d: d.task.error_type),
    ("error", lambda d: d.task.error[:ERROR_CHARS]),
)


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _question(given: dict[str, Any]) -> ListDead:
    names = ("name", "tenant", "error_type", "since")
    return ListDead(**{name: given[name] for name in names if given[name] is not None})


@click.group()
def dead() -> None:
    """
    List, show and requeue tasks that failed or timed out.

    They are in the read model, however long ago they ended.
    """


@dead.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1, REQUEUED_MAX), default=100, show_default=True, help="Maximum tasks.")
@URL
@output_options
@click.pass_context
def dead_list(ctx: click.Context, /, url: str | None, limit: int, output: str, *, as_json: bool, **given: Any) -> None:
    """List tasks that failed or timed out, newest first."""
    found: list[Dead] = asking(ctx, url, lambda client: list_dead(client, _question(given), limit))
    if as_json or output == "json":
        show_json([{"task": one.task, "requeued_as": one.requeued_as} for one in found])
    else:
        show(found, _COLUMNS, output=output, as_json=as_json)


@dead.command("show")
@click.argument("task_id")
@URL
@output_options
@click.pass_context
def dead_show(ctx: click.Context, task_id: str, url: str | None, output: str, *, as_json: bool) -> None:
    """Show a task that failed: its payload, the error of every attempt, the last traceback."""
    letter = asking(ctx, url, lambda client: dead_letter(client, task_id))
    if as_json or output == "json":
        show_json(letter)
        return
    task = msgspec.convert(letter.task, Task)
    payload = (letter.submitted or {}).get("payload") or {}
    facts: tuple[Column, ...] = (
        ("id", lambda t: t.task_id),
        ("name", lambda t: t.task_name),
        ("status", lambda t: t.status.value),
        ("tenant", lambda t: t.tenant),
        ("submitted", lambda t: moment(t.submitted_at)),
        ("ended", lambda t: moment(t.ended_at)),
        ("error", lambda t: t.error),
        ("error type", lambda t: t.error_type),
        ("requeued from", lambda t: t.requeued_from),
        ("requeued as", lambda _: letter.requeued_as),
        ("payload", lambda _: payload.get("data", "")),
        *attempt_facts(task),
    )
    show_one(task, facts, output=output, as_json=as_json)
    for line in letter.traceback.splitlines():
        click.echo(clean(line))


@dead.command("requeue")
@click.argument("task_ids", nargs=-1)
@_filters
@click.option("--all", "every", is_flag=True, help="All tasks that failed or timed out.")
@click.option(
    "--limit", type=click.IntRange(1, REQUEUED_MAX), default=REQUEUED_MAX, show_default=True, help="Maximum tasks."
)
@click.option(
    "--rate", type=Number(0.001, 1000, "a number"), default=RATE_PER_S, show_default=True, help="Tasks per second."
)
@URL
@click.pass_context
def dead_requeue(
    ctx: click.Context, /, task_ids: tuple[str, ...], url: str | None, limit: int, rate: float, *, every: bool,
    **given: Any,
) -> None:  # fmt: skip
    """
    Submit tasks that failed again, as new tasks with the same content.

    Those with the given ids, or those that match, oldest first, without those that
    were requeued before. Prints the id of each new task.
    """
    asked = any(value is not None for value in given.values())
    if bool(task_ids) + asked + every != 1:
        raise click.UsageError(
            "give either the ids of tasks, or filters (--name, --tenant, --error-type, --since), or --all"
        )

    async def requeue_all(client: Client) -> None:
        ids = list(task_ids)
        if not ids:
            dead_tasks = await list_dead(client, _question(given), limit)
            ids = [one.task.task_id for one in reversed(dead_tasks) if not one.requeued_as]
        async for _, made in requeue_each(client, ids, rate_per_s=rate):
            click.echo(made)

    asking(ctx, url, requeue_all)
