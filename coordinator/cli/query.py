"""The commands that query or send one command: task, service, events."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.cli import EXIT_ERROR, EXIT_TIMED_OUT
from coordinator.cli.connection import REASON, TENANT, TRACEPARENT, URL, asking
from coordinator.cli.output import (
    RESOURCE,
    Attribute,
    Moment,
    Number,
    NumberOrName,
    amounts_of,
    moment,
    output_options,
    show,
    show_json,
    show_one,
    shown_scalar,
)
from coordinator.cli.retries import RETRY_FACTS, attempt_facts, retry_of, retry_options
from coordinator.cli.spend import SPEND_FACTS, spend_of, spend_options
from coordinator.client.cancel_tasks import RATE_PER_S, cancel_each
from coordinator.client.paging import found, listed
from coordinator.client.service_list import list_services
from coordinator.commands.explain import ExplainTask, PlanTask, Tier
from coordinator.commands.service import NO_PORT
from coordinator.commands.task import LATEST_S, CancelTask, FindTasks, GetTask, ListTasks, SubmitTask
from coordinator.commands.task_pause import PauseTask, ResumeTask
from coordinator.terminal import clean
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.base import Position
from events.cancel_ladder import Escalation
from events.errors import CoordinationError, NotFound, Refused
from events.nats_address import address_of
from events.service import ServiceStatus
from events.task import Gang, Prefer, TaskStatus
from events.time_limits import TimeLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coordinator.client.client import Client
    from events.task import Payload
    from projections.task import Task

WAIT_MOST_S = 86_400.0
WAIT_PORTION_S = 20.0
SECONDS = "a number of seconds"
ENDED_WITHIN_S = 2.0
"""How long after its grace to wait for the end of a task that is cancelled."""
PAGE = 1000
"""Most items in one answer."""


class _Place(click.ParamType[Position | datetime]):
    """A position in the journal, or a time."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Position | datetime:
        if isinstance(value, Position | datetime):
            return value
        with suppress(ValueError):
            time = datetime.fromisoformat(value)
            return time if time.tzinfo is not None else time.astimezone()
        try:
            return Position.parse(value)
        except Refused as error:
            self.fail(f"{error.message}; or use a time such as '2026-11-23T17:15:00Z'", param, ctx)


LIMIT = Number(0.001, 366 * 86_400, SECONDS)
_WAIT = click.option(
    "--wait", type=Number(0, WAIT_MOST_S, SECONDS), default=0.0, help="Wait up to N seconds for the task to end."
)


def _is_cancelling(found: Task) -> bool:
    return found.cancelling is not None and not found.is_ended


def _cancellation(found: Task) -> str:
    """Return how far a task is that was asked to end."""
    asked = found.cancelling
    if asked is None:
        return ""
    told = "not told yet" if asked.told_at is None else f"told after {asked.told_at - asked.asked_at:.3f} s"
    forced = f", forced ({asked.forced})" if asked.forced else ""
    return f"asked by {asked.by or 'nobody'} {moment(asked.asked_at)}, {told}{forced}, until {moment(asked.until)}"


def _waits_for(found: Task) -> str:
    """Return what a task still waits for."""
    if found.after is None or not found.waiting_for:
        return ""
    several = f"{found.after.join.value} of " if len(found.waiting_for) > 1 else ""
    return f"the {found.after.on.value} of {several}{', '.join(found.waiting_for)}"


def _limits(task: Task) -> str:
    """Return the time limits of a task."""
    limits = {"timeout_s": task.timeout_s}
    if task.time_limits is not None:
        limits |= msgspec.structs.asdict(task.time_limits)
    return ", ".join(f"{name.removesuffix('_s')} {limit:g} s" for name, limit in limits.items() if limit is not None)


def _gang_of(task: Task) -> str:
    """Return the gang of a task."""
    if task.gang is None:
        return ""
    by = "" if task.attempt else f", begins by {moment(task.gang_until)} or ends"
    return f"{task.gang.gang_id}, {task.gang.size} tasks{by}"


_TASK_COLUMNS = (
    ("id", lambda t: t.task_id),
    ("name", lambda t: t.task_name),
    ("status", lambda t: "cancelling" if _is_cancelling(t) else "paused" if t.is_paused else t.status.value),
    ("priority", lambda t: t.priority),
    ("attempt", lambda t: t.attempt),
    ("worker", lambda t: t.worker_id),
    ("submitted", lambda t: moment(t.submitted_at)),
    ("ended", lambda t: moment(t.ended_at)),
)
_TASK_FACTS = (
    *_TASK_COLUMNS,
    ("not before", lambda t: "" if t.attempt else moment(t.not_before)),
    ("type", lambda t: t.task_type),
    ("queue", lambda t: t.queue),
    ("key", lambda t: t.fairness_key),
    ("attributes", lambda t: ", ".join(f"{name}={shown_scalar(value)}" for name, value in t.attributes.items())),
    ("worker filter", lambda t: t.worker_filter),
    ("goes on at build", lambda t: t.build_id),
    ("security rule", lambda t: t.rule),
    ("prefers", lambda t: f"{t.preference}, for {t.prefer.for_s:g} s" if t.preference else ""),
    *SPEND_FACTS,
    ("request", lambda t: t.request),
    ("gang", _gang_of),
    ("tenant", lambda t: t.tenant),
    ("trace", lambda t: t.traceparent),
    ("started", lambda t: moment(t.started_at)),
    ("execution time", lambda t: "" if t.execution_time_s is None else f"{t.execution_time_s:.3f} s"),
    ("limits", _limits),
    ("exceeded", lambda t: t.exceeded or ("timeout_s" if t.status is TaskStatus.TIMEOUT else "")),
    ("failures", lambda t: f"{t.failures} of at most {t.retries_most + 1}" if t.failures else ""),
    ("waits for", _waits_for),
    ("cancellation", _cancellation),
    ("error", lambda t: t.error),
    *RETRY_FACTS,
    ("ended by", lambda t: t.ended_by),
    ("result", lambda t: t.result.data if t.result is not None else ""),
)


@click.group()
def task() -> None:
    """Submit, list and cancel tasks."""


_TASK_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--payload", help="JSON passed to the handler."),
    click.option("--type", "task_type", default="", help="Task type."),
    click.option(
        "--priority",
        type=NumberOrName(),
        default=0,
        show_default=True,
        help="A number, or a name such as high; higher runs first, by the policies priority and fair.",
    ),
    click.option("--queue", default="", help="Queue; by default that named `default`."),
    click.option("--key", default="", help="Whose share of the queue it takes of, where keys share it."),
    click.option(
        "--attribute",
        "attributes",
        metavar="NAME=VALUE",
        type=Attribute(),
        multiple=True,
        help="What filters and limits may know of it. Repeatable.",
    ),
    click.option("--timeout", type=LIMIT, help="Time limit of one attempt in seconds."),
    click.option("--start-within", type=LIMIT, help="Time limit of the wait for a worker in seconds."),
    click.option("--finish-within", type=LIMIT, help="Time limit of all attempts together in seconds."),
    click.option("--heartbeat", type=LIMIT, help="Fail an attempt that reports nothing for this many seconds."),
    click.option("--max-retries", type=int, help="Retries after the first attempt."),
    retry_options,
    click.option("--cpu", help="CPU request, such as 500m."),
    click.option("--memory", help="Memory request, such as 2Gi."),
    click.option("--gpu", metavar="COUNT", help="GPUs it needs."),
    RESOURCE,
    click.option(
        "--worker-filter", metavar="FILTER", default="", help="Which workers may run it: 'labels.zone == \"eu\"'."
    ),
    click.option("--prefer", metavar="FILTER", default="", help="Wait for such a worker first, if there is one."),
    click.option("--sticky-to", metavar="ID", default="", help="Wait first for the worker that ran this task."),
    click.option("--prefer-for", type=Number(0.0, 3600.0, SECONDS), default=5.0, help="How long to wait for it (5 s)."),
    click.option("--any-version", is_flag=True, help="Go on at workers of any version, wherever it began."),
    click.option("--request", metavar="ID", default="", help="Begin with the share of this request of pool tasks."),
    click.option("--gang", metavar="ID", default="", help="Begin with the other tasks of this gang, or not at all."),
    click.option("--gang-size", metavar="COUNT", type=int, help="How many tasks the gang has."),
    click.option("--gang-deadline", type=LIMIT, default=600.0, help="When it ends if the gang has not begun (600 s)."),
    click.option("--delay", type=Number(0.0, LATEST_S, SECONDS), help="Start this many seconds from now."),
    click.option("--not-before", type=Moment(), help="Start at this time at the earliest: 2026-11-23T17:15:00+01:00."),
    click.option("--id", "task_id", metavar="ID", help="Task id. A second submit with the same id has no effect."),
    click.option("--after", metavar="ID", multiple=True, help="Begin after this task has ended. Repeatable."),
    click.option(
        "--on",
        type=click.Choice([one.value for one in AfterOn]),
        default="success",
        show_default=True,
        help="How the tasks of --after must end.",
    ),
    click.option(
        "--join",
        type=click.Choice([one.value for one in AfterJoin]),
        default="all",
        show_default=True,
        help="How many of them must.",
    ),
    click.option(
        "--otherwise",
        type=click.Choice([one.value for one in Otherwise]),
        default="cancel",
        show_default=True,
        help="What happens if they cannot any more.",
    ),
    spend_options,
    TENANT,
    TRACEPARENT,
)
"""What a task may say, in the order of the help."""


def task_options(function: Any) -> Any:
    """Add the options of a task to a command."""
    for option in reversed(_TASK_OPTIONS):
        function = option(function)
    return function


@task.command("submit")
@click.argument("name")
@task_options
@click.option("--plan", is_flag=True, help="Tell where it would go, and submit nothing.")
@_WAIT
@URL
@output_options
@click.pass_context
def task_submit(ctx: click.Context, /, name: str, wait: float, url: str | None, **options: Any) -> int:
    """Submit a task with the handler NAME and print its id."""
    command = _submit_command(name, options)
    if options["plan"]:
        _show_plan(ctx, url, command, options)
        return 0

    async def submit(client: Client) -> Task | str:
        task_id: str = await client.execute(command)
        await _tell_if_never(client, task_id)
        return await _ended(client, task_id, wait) if wait else task_id

    made = asking(ctx, url, submit, tenant=options["tenant"], traceparent=options["traceparent"])
    if isinstance(made, str):
        if options["as_json"] or options["output"] == "json":
            show_json({"task_id": made})
        else:
            click.echo(made)
        return 0
    show_one(made, (*_TASK_FACTS, *attempt_facts(made)), output=options["output"], as_json=options["as_json"])
    return _outcome(made)


@task.command("plan")
@click.argument("name")
@task_options
@URL
@output_options
@click.pass_context
def task_plan(ctx: click.Context, /, name: str, url: str | None, **options: Any) -> None:
    """Tell where a task with the handler NAME would go, and submit nothing."""
    _show_plan(ctx, url, _submit_command(name, options), options)


def _show_plan(ctx: click.Context, url: str | None, command: SubmitTask, options: Mapping[str, Any]) -> None:
    from coordinator.cli.explain import show_explanation

    question = PlanTask(task=command)
    traced = {"tenant": options["tenant"], "traceparent": options["traceparent"]}
    found = asking(ctx, url, lambda client: client.execute(question), **traced)
    show_explanation(found, output=options["output"], as_json=options["as_json"])


async def _tell_if_never(client: Client, task_id: str) -> None:
    """Say on stderr why no worker that is known today can run a task, if none can."""
    with suppress(CoordinationError):  # the task is submitted, whatever becomes of this question
        found = await client.execute(ExplainTask(task_id=task_id))
        for reason in found.reasons:
            if reason.tier is Tier.NEVER:
                click.echo(f"note: {clean(reason.text)}; to change it: {clean(reason.change)}", err=True)


def _submit_command(name: str, options: dict[str, Any]) -> SubmitTask:
    from coordinator.ids import TimeOrderedIds
    from events.resources import Resources

    return SubmitTask(
        task_id=TimeOrderedIds().new("task") if options["task_id"] is None else options["task_id"],
        task_name=name,
        task_type=options["task_type"],
        priority=options["priority"],
        timeout_s=options["timeout"],
        max_retries=options["max_retries"],
        resources=Resources.parse(amounts_of(options)),
        payload=given_payload(options["payload"]),
        queue=options["queue"],
        fairness_key=options["key"],
        attributes=dict(options["attributes"]),
        worker_filter=options["worker_filter"],
        prefer=_prefer(options),
        pin_version=not options["any_version"],
        request=options["request"],
        gang=_gang(options),
        retry=retry_of(options),
        after=_after(options),
        not_before=None if options["not_before"] is None else options["not_before"].timestamp(),
        delay_s=options["delay"],
        time_limits=time_limits_of(options),
        spend=spend_of(options),
    )


def _prefer(options: dict[str, Any]) -> Prefer | None:
    if not options["prefer"] and not options["sticky_to"]:
        return None
    return Prefer(filter=options["prefer"], sticky_to=options["sticky_to"], for_s=options["prefer_for"])


def _gang(options: dict[str, Any]) -> Gang | None:
    if not options["gang"]:
        return None
    if options["gang_size"] is None:
        raise click.UsageError(f"--gang {options['gang']} needs --gang-size: how many tasks begin together")
    return Gang(gang_id=options["gang"], size=options["gang_size"], deadline_s=options["gang_deadline"])


def _after(options: dict[str, Any]) -> After | None:
    if not options["after"]:
        return None
    return After(
        tasks=options["after"],
        on=AfterOn(options["on"]),
        join=AfterJoin(options["join"]),
        otherwise=Otherwise(options["otherwise"]),
    )


def given_payload(given: str | None) -> Payload | None:
    """Return the payload of an option, None without it; raise a usage error if it is no JSON."""
    from coordinator.commands.payloads import payload_of

    if given is None:
        return None
    try:
        value = msgspec.json.decode(given)
        json.loads(given, object_pairs_hook=_no_key_twice)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        msg = f"--payload is not valid JSON ({error}); quote text: --payload '\"text\"'"
        raise click.UsageError(msg) from error
    return payload_of(value, "--payload")


def time_limits_of(options: dict[str, Any]) -> TimeLimits | None:
    """Return the time limits that options give, None for none."""
    given = {f"{name}_s": options[name] for name in ("start_within", "finish_within", "heartbeat")}
    return TimeLimits(**given) if any(one is not None for one in given.values()) else None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> None:
    """Refuse what a parser would take the last one of, in silence."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has the key {twice!r} twice")


async def _ended(client: Client, task_id: str, wait_s: float) -> Task:
    """Wait for the end of a task, in several requests: the coordinator limits the wait of one."""
    import asyncio

    from coordinator.client.reads import find_task

    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        left_s = max(0.0, deadline - loop.time())
        try:
            found: Task = await client.execute(GetTask(task_id=task_id, wait_s=min(left_s, WAIT_PORTION_S)))
        except NotFound:
            return await find_task(client, task_id)
        if found.is_ended or loop.time() >= deadline:
            return found


def _outcome(found: Task) -> int:
    if not found.is_ended:
        click.echo(f"task has not ended yet; its status is {found.status.value}", err=True)
        return EXIT_TIMED_OUT
    return 0 if found.status is TaskStatus.COMPLETED else EXIT_ERROR


@task.command("get")
@click.argument("task_id")
@_WAIT
@URL
@output_options
@click.pass_context
def task_get(ctx: click.Context, task_id: str, wait: float, url: str | None, output: str, as_json: bool) -> int:
    """Show a task, including one that ended long ago."""
    from coordinator.client.reads import find_task

    found: Task = asking(ctx, url, lambda client: _ended(client, task_id, wait) if wait else find_task(client, task_id))
    show_one(found, (*_TASK_FACTS, *attempt_facts(found)), output=output, as_json=as_json)
    return _outcome(found) if wait else 0


@task.command("explain")
@click.argument("task_id")
@URL
@output_options
@click.pass_context
def task_explain(ctx: click.Context, task_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Explain why a task waits, who runs it, or who ended it and why."""
    from coordinator.cli.explain import show_explanation

    found = asking(ctx, url, lambda client: client.execute(ExplainTask(task_id=task_id)))
    show_explanation(found, output=output, as_json=as_json)


@task.command("list")
@click.option("--status", type=click.Choice([status.value for status in TaskStatus]), help="Filter by status.")
@click.option("--paused", is_flag=True, help="Only paused tasks.")
@click.option("--where", metavar="FILTER", help="Only tasks that meet this, such as 'attributes.customer == \"acme\"'.")
@click.option("--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, help="Maximum tasks.")
@URL
@output_options
@click.pass_context
def task_list(
    ctx: click.Context, /, status: str | None, where: str | None, limit: int, url: str | None, *, paused: bool,
    **shown: Any,
) -> None:  # fmt: skip
    """List active and recently ended tasks, newest first."""
    chosen = TaskStatus(status) if status else None

    async def find(client: Client) -> list[Task]:
        if where is None:
            return await listed(client, ListTasks(status=chosen, limit=limit, paused=paused))
        return await found(client, FindTasks(where=where, status=chosen, limit=limit, paused=paused))

    show(asking(ctx, url, find), _TASK_COLUMNS, **shown)


@task.command("pause")
@click.argument("task_id")
@REASON
@URL
@click.pass_context
def task_pause(ctx: click.Context, task_id: str, reason: str, url: str | None) -> None:
    """Pause a pending task: no worker gets it until it is resumed."""
    asking(ctx, url, lambda client: client.execute(PauseTask(task_id=task_id, reason=reason)))


@task.command("resume")
@click.argument("task_id")
@click.option("--payload", help="JSON passed to the handler instead of its own.")
@click.option("--more-retries", type=click.IntRange(0, 1000), default=0, help="Retries in addition to those it had.")
@click.option("--move-to", metavar="BUILD", help="Go on at workers of this version; '' for any.")
@REASON
@URL
@click.pass_context
def task_resume(ctx: click.Context, /, task_id: str, url: str | None, **options: Any) -> None:
    """Resume a paused task."""
    command = ResumeTask(
        task_id=task_id,
        payload=given_payload(options["payload"]),
        more_retries=options["more_retries"],
        reason=options["reason"],
        move_to=options["move_to"],
    )
    asking(ctx, url, lambda client: client.execute(command))


@task.command("cancel")
@click.argument("task_id", required=False)
@click.option("--where", metavar="FILTER", help="Instead of a task: all that meet this; print their ids.")
@click.option("--rate", type=Number(0.001, 1000, "a number"), default=RATE_PER_S, show_default=True,
              help="With --where: tasks per second.")  # fmt: skip
@REASON
@click.option(
    "--grace", type=Number(0, WAIT_MOST_S, SECONDS), help="Seconds that a running task has to end; 0 ends it at once."
)
@click.option("--escalate", is_flag=True, help="Stop the container of its worker if it does not end in time.")
@click.option("--no-wait", is_flag=True, help="Do not wait until a running task has ended.")
@TENANT
@TRACEPARENT
@URL
@click.pass_context
def task_cancel(
    ctx: click.Context, /, task_id: str | None, reason: str, grace: float | None, url: str | None, **options: Any
) -> int:
    """
    Cancel a task; a running one is told, has some seconds to end, and is then forced to.

    With --where, all tasks that meet a filter; running ones are not waited for.
    """
    if (task_id is None) is (options["where"] is None):
        raise click.UsageError("give either the id of a task, or --where")
    escalate = Escalation.CONTAINER if options["escalate"] else Escalation.ATTEMPT
    command = CancelTask(task_id=task_id or "", reason=reason, grace_s=grace, escalate=escalate)
    told = {"tenant": options["tenant"], "traceparent": options["traceparent"]}
    if task_id is None:
        asking(ctx, url, lambda client: _cancel_each(client, options["where"], command, options["rate"]), **told)
        return 0

    async def cancel(client: Client) -> TaskStatus:
        status: TaskStatus = await client.execute(command)
        if status is not TaskStatus.RUNNING or options["no_wait"]:
            return status
        # The coordinator knows how long it may take: it is asked until the task has ended.
        return (await _ended(client, task_id, WAIT_MOST_S if grace is None else grace + ENDED_WITHIN_S)).status

    status = asking(ctx, url, cancel, **told)
    if status is TaskStatus.CANCELLED or options["no_wait"]:
        return 0
    click.echo(f"task was not cancelled; its status is {status.value}", err=True)
    return EXIT_TIMED_OUT if status is TaskStatus.RUNNING else EXIT_ERROR


async def _cancel_each(client: Client, where: str, command: CancelTask, rate: float) -> None:
    async for task_id, _ in cancel_each(client, where, command, rate_per_s=rate):
        click.echo(task_id)


@click.group()
def service() -> None:
    """List services."""


@service.command("list")
@click.option("--name", default="", help="Filter by name.")
@click.option("--status", type=click.Choice([status.value for status in ServiceStatus]), help="Filter by status.")
@URL
@output_options
@click.pass_context
def service_list(
    ctx: click.Context, name: str, status: str | None, url: str | None, output: str, as_json: bool
) -> None:
    """List registered services."""
    columns = (
        ("id", lambda v: v.service.service_id),
        ("name", lambda v: v.service.service_name),
        ("type", lambda v: v.service.service_type),
        ("address", lambda v: address_of(v.service.host, v.service.port) if v.service.port != NO_PORT else ""),
        ("status", lambda v: v.service.status.value),
        ("why", lambda v: v.not_checked or v.service.health_rule),
        ("load", lambda v: "" if v.reported is None else f"{v.reported.load:.2f}"),
        ("heard", lambda v: "" if v.reported is None else f"{v.reported.heard_s_ago:.0f} s ago"),
    )

    chosen = ServiceStatus(status) if status else None
    found = asking(ctx, url, lambda client: list_services(client, service_name=name, status=chosen))
    show(found, columns, output=output, as_json=as_json)


@click.group()
def events() -> None:
    """Print events from the journal."""


@events.command("tail")
@click.option(
    "-n", "--last", type=click.IntRange(0, 100_000), default=10, show_default=True, help="Number of past events."
)
@click.option("--since", type=_Place(), help="Start at a position or time: 1042.0, 2026-11-23T17:15Z.")
@click.option(
    "--kind", "kinds", metavar="PATTERN", multiple=True, help="Filter by type: task.*, task.failed. Repeatable."
)
@click.option("--type", "prefix", metavar="PREFIX", default="", help="Filter by type prefix, such as task.")
@click.option("--follow/--no-follow", "-f/ ", default=True, show_default=True, help="Wait for new events.")
@URL
@output_options
@click.pass_context
def events_tail(ctx: click.Context, /, url: str | None, **options: Any) -> None:
    """Print the last events, then new ones as they are committed."""
    from coordinator.cli.tail import tail

    asking(ctx, url, lambda client: tail(client, **options))
