"""The commands about schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.connection import REASON, TENANT, TRACEPARENT, URL, asking
from coordinator.cli.output import Attribute, Moment, Number, moment, output_options, show, show_json, show_one
from coordinator.cli.query import LIMIT, PAGE, SECONDS, given_payload, time_limits_of
from coordinator.cli.spend import spend_of, spend_options
from coordinator.client.paging import listed
from coordinator.commands.schedule import (
    BackfillSchedule,
    DefineSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    NextRuns,
    PauseSchedule,
    ResumeSchedule,
)
from events.schedule import Catchup, Overlap, TaskContent

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from projections.schedule import Schedule


def _when(schedule: Schedule) -> str:
    timing = schedule.timing
    return f"{timing.cron} {timing.time_zone}" if timing.cron else f"every {timing.every_s} s"


_COLUMNS = (
    ("id", lambda s: s.schedule_id),
    ("task", lambda s: "" if s.task is None else s.task.task_name),
    ("when", _when),
    ("status", lambda s: s.status.value),
    ("next", lambda s: moment(s.next_slot)[:-5] if s.next_slot else ""),
    ("fired", lambda s: s.fired),
)
_FACTS = (
    *_COLUMNS,
    ("last", lambda s: moment(s.last_slot)),
    ("last task", lambda s: s.last_task_id),
    ("waiting", lambda s: len(s.queued) or ""),
    ("jitter", lambda s: f"{s.timing.jitter_s:g} s" if s.timing.jitter_s else ""),
    ("start", lambda s: moment(s.timing.start) if s.timing.start else ""),
    ("end", lambda s: moment(s.timing.end)),
    ("catchup", lambda s: f"all, {s.catchup_most} at most" if s.catchup is Catchup.ALL else s.catchup.value),
    ("overlap", lambda s: s.overlap.value),
    ("defined", lambda s: moment(s.defined_at)),
    ("source", lambda s: s.source),
    ("reason", lambda s: s.reason),
)


@click.group()
def schedule() -> None:
    """Define schedules, which submit a task again and again."""


@schedule.command("define")
@click.argument("schedule_id")
@click.argument("task_name")
@click.option("--cron", default="", help="Minute, hour, day, month, weekday: '30 2 * * MON-FRI'.")
@click.option("--every", type=click.IntRange(1), help="Seconds from one run to the next, instead of --cron.")
@click.option("--zone", default="UTC", show_default=True, help="Time zone of --cron, such as Europe/Berlin.")
@click.option("--jitter", type=Number(0.0, 3600.0, SECONDS), default=0.0, help="Run up to this many seconds later.")
@click.option("--start", type=Moment(), help="No run before this time.")
@click.option("--end", type=Moment(), help="No run after this time.")
@click.option(
    "--catchup",
    type=click.Choice([one.value for one in Catchup]),
    default="last",
    help="Which missed runs to catch up.",
)
@click.option("--catchup-most", type=click.IntRange(1), default=100, help="How many missed runs with --catchup all.")
@click.option(
    "--overlap",
    type=click.Choice([one.value for one in Overlap]),
    default="skip",
    help="What to do while the task before has not ended.",
)
@click.option("--payload", help="JSON passed to the handler.")
@click.option("--priority", type=int, default=0, help="A higher number runs first (strategy PRIORITY).")
@click.option("--queue", default="", help="Queue; by default that named `default`.")
@click.option("--key", default="", help="Whose share of the queue they take of, where keys share it.")
@click.option(
    "--attribute", "attributes", metavar="NAME=VALUE", type=Attribute(), multiple=True,
    help="What filters and limits may know of them. Repeatable.",
)  # fmt: skip
@click.option("--timeout", type=LIMIT, help="Time limit of one attempt in seconds.")
@click.option("--start-within", type=LIMIT, help="Time limit of the wait for a worker in seconds.")
@click.option("--finish-within", type=LIMIT, help="Time limit of all attempts together in seconds.")
@click.option("--heartbeat", type=LIMIT, help="Fail an attempt that reports nothing for this many seconds.")
@click.option("--max-retries", type=int, help="Retries after the first attempt.")
@spend_options
@TENANT
@TRACEPARENT
@URL
@output_options
@click.pass_context
def schedule_define(
    ctx: click.Context,
    /,
    schedule_id: str,
    task_name: str,
    start: datetime | None,
    end: datetime | None,
    url: str | None,
    **options: Any,
) -> None:
    """Create or change the schedule ID, which submits tasks with the handler NAME."""
    command = DefineSchedule(
        schedule_id=schedule_id,
        task=TaskContent(
            task_name=task_name,
            priority=options["priority"],
            timeout_s=options["timeout"],
            max_retries=options["max_retries"],
            payload=given_payload(options["payload"]),
            time_limits=time_limits_of(options),
            queue=options["queue"],
            fairness_key=options["key"],
            attributes=dict(options["attributes"]),
            spend=spend_of(options),
        ),
        cron=options["cron"],
        every_s=options["every"],
        time_zone=options["zone"],
        jitter_s=options["jitter"],
        start=0.0 if start is None else start.timestamp(),
        end=None if end is None else end.timestamp(),
        catchup=Catchup(options["catchup"]),
        catchup_most=options["catchup_most"],
        overlap=Overlap(options["overlap"]),
    )
    acting_for = {"tenant": options["tenant"], "traceparent": options["traceparent"]}
    made = asking(ctx, url, lambda client: client.execute(command), **acting_for)
    show_one(made, _FACTS, output=options["output"], as_json=options["as_json"])


@schedule.command("get")
@click.argument("schedule_id")
@URL
@output_options
@click.pass_context
def schedule_get(ctx: click.Context, schedule_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a schedule."""
    found = asking(ctx, url, lambda client: client.execute(GetSchedule(schedule_id=schedule_id)))
    show_one(found, _FACTS, output=output, as_json=as_json)


@schedule.command("list")
@click.option("--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, help="Maximum schedules.")
@URL
@output_options
@click.pass_context
def schedule_list(ctx: click.Context, limit: int, url: str | None, output: str, as_json: bool) -> None:
    """List schedules, newest first."""
    found = asking(ctx, url, lambda client: listed(client, ListSchedules(limit=limit)))
    show(found, _COLUMNS, output=output, as_json=as_json)


@schedule.command("next")
@click.argument("schedule_id")
@click.option("-n", "--count", type=click.IntRange(1, 100), default=5, show_default=True, help="How many runs.")
@URL
@output_options
@click.pass_context
def schedule_next(
    ctx: click.Context, schedule_id: str, count: int, url: str | None, output: str, as_json: bool
) -> None:
    """Show the next runs of a schedule, in its time zone and in UTC."""
    columns = (
        ("run", lambda run: run.local),
        ("zone", lambda run: run.zone),
        ("dst", lambda run: "yes" if run.is_dst else "no"),
        ("fired at", lambda run: moment(run.fires_at)),
    )
    runs = asking(ctx, url, lambda client: client.execute(NextRuns(schedule_id=schedule_id, count=count)))
    show(runs, columns, output=output, as_json=as_json)


@schedule.command("backfill")
@click.argument("schedule_id")
@click.option("--since", type=Moment(), required=True, help="The first slot is not before this time.")
@click.option("--until", type=Moment(), required=True, help="The last slot is not after this time.")
@URL
@output_options
@click.pass_context
def schedule_backfill(
    ctx: click.Context, schedule_id: str, since: datetime, until: datetime, url: str | None, output: str, as_json: bool
) -> None:
    """Submit the tasks of slots that have passed, and print the ids of all tasks in that time."""
    command = BackfillSchedule(schedule_id=schedule_id, since=since.timestamp(), until=until.timestamp())
    ids: list[str] = asking(ctx, url, lambda client: client.execute(command))
    if as_json or output == "json":
        show_json(ids)
        return
    for one in ids:
        click.echo(one)


def _changes(name: str, command: Callable[..., Any], about: str, *, has_reason: bool = True) -> None:
    """Add the command that changes a schedule in this way."""

    @schedule.command(name, help=about)
    @click.argument("schedule_id")
    @TENANT
    @TRACEPARENT
    @URL
    @click.pass_context
    def change(ctx: click.Context, /, schedule_id: str, url: str | None, **options: Any) -> None:
        acting_for = {"tenant": options["tenant"], "traceparent": options["traceparent"]}
        reason = {"reason": options["reason"]} if has_reason else {}
        asking(ctx, url, lambda client: client.execute(command(schedule_id=schedule_id, **reason)), **acting_for)

    if has_reason:
        REASON(change)


_changes("pause", PauseSchedule, "Pause a schedule: it fires nothing until it is resumed.")
_changes("resume", ResumeSchedule, "Resume a schedule with the first run from now on.", has_reason=False)
_changes("delete", DeleteSchedule, "Delete a schedule; tasks that it submitted stay.")
