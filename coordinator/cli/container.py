"""`coordinator container`: create, start, stop, pause, resume, restart and destroy containers, and look at them."""

from __future__ import annotations

import textwrap
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli import EXIT_ERROR, EXIT_TIMED_OUT
from coordinator.cli.connection import REASON, TENANT, TRACEPARENT, URL, asking, load_settings
from coordinator.cli.container_steps import RESTART, next_steps
from coordinator.cli.output import RESOURCE, amounts_of, moment, output_options, show, show_json, show_one
from coordinator.client.containers import find_container, until_not
from coordinator.client.nodes import ask_node
from coordinator.client.paging import listed
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    GetContainer,
    ListContainers,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.node import NodeQuestion
from coordinator.terminal import clean
from events.container import ContainerStatus, Secret
from events.errors import CoordinationError
from events.resources import NONE
from projections.ledger import amounts_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.cli.container_steps import Step
    from coordinator.client.client import Client
    from coordinator.commands.command import Command
    from events.container import RestartPolicy
    from projections.container import Container

PAGE = 1000
"""Most items in one answer."""
WIDTH = 80
LAST_WORDS = 8
"""So many lines of a failed container are shown."""

_S = ContainerStatus
_LIVING = (_S.STARTING, _S.STOPPING, _S.RUNNING, _S.PAUSED)
_COLUMNS = (
    ("id", lambda c: c.container_id),
    ("agent", lambda c: c.agent_id),
    ("type", lambda c: c.agent_type),
    ("status", lambda c: c.status.value),
    ("node", lambda c: c.node_id),
    ("pid", lambda c: c.pid or ""),
    ("restarts", lambda c: c.restarts or ""),
    ("since", lambda c: moment(c.started_at)),
    ("why", lambda c: c.reason),
)


def _last_exit(found: Container) -> str:
    """Return how a container last ended without being told to."""
    last = found.last_exit
    if last is None:
        return ""
    code = "" if last.exit_code is None else f", exit code {last.exit_code}"
    return f"{last.cause}{code}: {last.reason or 'no reason is known'}; generation {last.generation}, {moment(last.at)}"


def _next_start(found: Container) -> str:
    """Return when a failed container starts again."""
    if found.status is not _S.ERROR:
        return ""
    return moment(found.restart_at) if found.restart_at is not None else "none: it was given up"


def policy_text(policy: RestartPolicy) -> str:
    """Return what ends the restarts of a container, '' if nothing does."""
    if policy.attempts is None:
        return ""
    then = "waits for the rest of it" if policy.mode == "delay" else "is given up"
    many = f"{policy.attempts} failure{'s' * (policy.attempts != 1)}"
    return f"after {many} within {policy.interval_s:g} s it {then}"


def _policy(found: Container) -> str:
    """Return what ends the restarts of a container, and how many of these failures there were."""
    text = policy_text(found.restart)
    return f"{text}; {found.recent_failures} since {moment(found.counted_from)}" if found.counted_from else text


_FACTS = (
    *_COLUMNS[:4],
    ("desired", lambda c: c.desired.value),
    ("why", lambda c: c.reason),
    ("node", lambda c: c.node_id),
    ("generation", lambda c: c.generation),
    ("restarts", lambda c: c.restarts),
    ("starts", lambda c: f"{c.starts}, of which {c.failures} failed"),
    ("last exit", _last_exit),
    ("next start", _next_start),
    ("restart policy", _policy),
    ("moves", lambda c: "" if c.moves else "never"),
    ("nodes", lambda c: c.node_filter),
    ("created", lambda c: moment(c.created_at)),
    ("running since", lambda c: moment(c.started_at) if c.status in {_S.RUNNING, _S.PAUSED} else ""),
    ("destroyed", lambda c: moment(c.ended_at)),
    ("pid", lambda c: c.pid or ""),
    ("resources", lambda c: amounts_text(c.resources)),
    ("limits", lambda c: amounts_text(c.limits) if c.limits != NONE else ""),
    ("image", lambda c: c.image),
    ("command", lambda c: " ".join(c.command)),
    ("environment", lambda c: ", ".join(c.environment)),
    ("session", lambda c: c.session_id),
    ("cut off", lambda c: c.when_cut_off),
    ("tenant", lambda c: c.tenant),
    ("trace", lambda c: c.traceparent),
    ("created by", lambda c: c.source),
)
_USAGE = (
    ("cpu", lambda u: f"{u['cpu_seconds']:.3f} s"),
    ("memory", lambda u: f"{u['memory_bytes']} bytes"),
    ("processes", lambda u: u["pids"]),
    ("received", lambda u: _bytes(u["network_rx_bytes"])),
    ("sent", lambda u: _bytes(u["network_tx_bytes"])),
)


class _Variable(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`, both of them text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # click converts what was converted again
        name, sign, given = value.partition("=")
        if not sign:
            self.fail(f"{value!r} is not NAME=VALUE, such as ENV=production", param, ctx)
        return name, given


_NO_WAIT = click.option("--no-wait", is_flag=True, help="Do not wait until it has happened on the node.")
_FORCE = click.option("--force", is_flag=True, help="Kill it at once.")


@click.group()
def container() -> None:
    """Create, start, stop and destroy containers; look at them and their logs."""


@container.command("create")
@click.argument("agent_type", metavar="TYPE")
@click.option("--id", "container_id", metavar="ID", help="Id of the container; by default a new one.")
@click.option("--agent", "agent_id", metavar="ID", help="Agent that runs in it; default: the id of the container.")
@click.option("--cpu", help="Cores it holds, such as 500m.")
@click.option("--memory", help="Memory it holds, such as 2Gi.")
@click.option("--gpu", metavar="COUNT", help="GPUs it holds.")
@RESOURCE
@click.option(
    "--env", "variables", metavar="NAME=VALUE", type=_Variable(), multiple=True,
    help="A variable of its environment; it is recorded. Repeatable.",
)  # fmt: skip
@click.option(
    "--secret", "secrets", metavar="NAME=SECRET", type=_Variable(), multiple=True,
    help="A variable whose value is this secret of the node; only its name is recorded. Repeatable.",
)  # fmt: skip
@click.option("--session", metavar="ID", default="", help="Session it serves.")
@TENANT
@TRACEPARENT
@URL
@output_options
@click.pass_context
def container_create(ctx: click.Context, /, agent_type: str, url: str | None, **options: Any) -> None:
    """
    Place a container on a node; print its id.

    TYPE is an agent type of the catalogue. It is not started yet.
    """
    from coordinator.ids import TimeOrderedIds
    from events.resources import Resources

    container_id = options["container_id"]
    if container_id is None:
        container_id = TimeOrderedIds().new("container")
    command = CreateContainer(
        container_id=container_id,
        agent_id=container_id if options["agent_id"] is None else options["agent_id"],
        agent_type=agent_type,
        resources=Resources.parse(amounts_of(options)),
        environment=dict(options["variables"]) | {name: Secret(secret=one) for name, one in options["secrets"]},
        session_id=options["session"],
    )
    told = {"tenant": options["tenant"], "traceparent": options["traceparent"]}
    made = asking(ctx, url, lambda client: client.execute(command), **told)
    if options["as_json"] or options["output"] == "json":
        show_json({"container_id": made})
    else:
        click.echo(made)


def _changed(
    ctx: click.Context,
    url: str | None,
    command: Command[Container],
    *,
    unless: tuple[ContainerStatus, ...],
    wanted: frozenset[ContainerStatus],
    no_wait: bool,
    **shown: Any,
) -> int:
    """Send a command to one container, wait while its status is one of *unless*, and print what became of it."""
    container_id: str = command.container_id  # type: ignore[attr-defined]  # all of these have it
    patience_s = load_settings(ctx, log_level="warning").container.default_timeout

    async def change(client: Client) -> Container:
        told = await client.execute(command)
        return told if no_wait else await until_not(client, container_id, unless, patience_s)

    found: Container = asking(ctx, url, change)
    return _outcome(found, wanted=None if no_wait else wanted, unless=unless, patience_s=patience_s, **shown)


def _outcome(
    found: Container,
    *,
    wanted: frozenset[ContainerStatus] | None,
    unless: tuple[ContainerStatus, ...],
    patience_s: float,
    output: str,
    as_json: bool,
) -> int:
    """Print the status of a container and return the exit code; any status is right if none is wanted."""
    status = found.status
    is_right = wanted is None or status in wanted
    if as_json or output == "json":
        show_json(found)
    elif is_right:
        click.echo(status.value)
    if is_right:
        return 0
    late = status in unless
    when = f" after {patience_s:g} s" if late else ""
    why = f": {clean(found.reason)}" if found.reason and not late else ""
    see = f"; see 'coordinator container show {found.container_id}'"
    click.echo(f"container {found.container_id} is {status.value}{when}{why}{see}", err=True)
    return EXIT_TIMED_OUT if late else EXIT_ERROR


def _verb(name: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add a command that changes one container."""

    def add(function: Any) -> Any:
        for option in reversed((click.argument("container_id", metavar="ID"), *options, _NO_WAIT, URL, output_options)):
            function = option(function)
        return container.command(name)(click.pass_context(function))

    return add


@_verb("start")
def container_start(ctx: click.Context, /, container_id: str, url: str | None, **options: Any) -> int:
    """Start a container and wait until it runs."""
    command = StartContainer(container_id=container_id)
    return _changed(ctx, url, command, unless=(_S.STARTING,), wanted=frozenset({_S.RUNNING}), **options)


@_verb("stop", _FORCE, REASON)
def container_stop(
    ctx: click.Context, /, container_id: str, url: str | None, reason: str, *, force: bool, **options: Any
) -> int:
    """
    Stop a container and wait until it has stopped.

    It gets SIGTERM, and SIGKILL after its grace.
    """
    command = StopContainer(container_id=container_id, force=force, reason=reason or "requested")
    wanted = frozenset({_S.STOPPED, _S.CREATED, _S.DESTROYED})
    return _changed(ctx, url, command, unless=_LIVING, wanted=wanted, **options)


@_verb("pause")
def container_pause(ctx: click.Context, /, container_id: str, url: str | None, **options: Any) -> int:
    """Freeze a running container; it keeps its memory."""
    command = PauseContainer(container_id=container_id)
    return _changed(ctx, url, command, unless=(_S.RUNNING,), wanted=frozenset({_S.PAUSED}), **options)


@_verb("resume")
def container_resume(ctx: click.Context, /, container_id: str, url: str | None, **options: Any) -> int:
    """Let a paused container go on."""
    command = ResumeContainer(container_id=container_id)
    return _changed(ctx, url, command, unless=(_S.PAUSED,), wanted=frozenset({_S.RUNNING}), **options)


@_verb("restart", _FORCE)
def container_restart(
    ctx: click.Context, /, container_id: str, url: str | None, *, force: bool, no_wait: bool, **shown: Any
) -> int:
    """
    Stop a container and start it again.

    With --no-wait it still waits for the stop. A restart that is interrupted in between leaves the container stopped,
    with the reason 'restart'; start it then.
    """
    patience_s = load_settings(ctx, log_level="warning").container.default_timeout

    async def restart(client: Client) -> Container:
        await client.execute(StopContainer(container_id=container_id, force=force, reason=RESTART))
        try:
            found = await until_not(client, container_id, _LIVING, patience_s)
            if found.status in _LIVING:
                return found
            found = await client.execute(StartContainer(container_id=container_id))
        except BaseException:
            click.echo(f"note: it may stay stopped: see 'coordinator container show {clean(container_id)}'", err=True)
            raise
        return found if no_wait else await until_not(client, container_id, (_S.STARTING,), patience_s)

    found: Container = asking(ctx, url, restart)
    wanted = frozenset({_S.RUNNING, _S.STARTING} if no_wait else {_S.RUNNING})
    return _outcome(found, wanted=wanted, unless=_LIVING, patience_s=patience_s, **shown)


@_verb("destroy", _FORCE)
def container_destroy(ctx: click.Context, /, container_id: str, url: str | None, *, force: bool, **options: Any) -> int:
    """
    Stop and remove a container.

    Its output and files are removed, its sessions closed.
    """
    command = DestroyContainer(container_id=container_id, force=force)
    unless = tuple(status for status in _S if status is not _S.DESTROYED)
    return _changed(ctx, url, command, unless=unless, wanted=frozenset({_S.DESTROYED}), **options)


@container.command("list")
@click.option("--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, help="Maximum containers.")
@URL
@output_options
@click.pass_context
def container_list(ctx: click.Context, limit: int, url: str | None, output: str, as_json: bool) -> None:
    """List containers, newest first."""
    found = asking(ctx, url, lambda client: listed(client, ListContainers(limit=limit)))
    show(found, _COLUMNS, output=output, as_json=as_json)


@container.command("show")
@click.argument("container_id", metavar="ID")
@URL
@output_options
@click.pass_context
def container_show(ctx: click.Context, container_id: str, url: str | None, output: str, as_json: bool) -> None:
    """
    Show a container and what to do about it.

    That is how it last ended, and what each step would lose.
    """

    async def look(client: Client) -> tuple[Container, list[str]]:
        found = await find_container(client, container_id)
        return found, await _last_words(client, found)

    found, last_words = asking(ctx, url, look)
    steps = next_steps(found)
    if as_json or output == "json":
        show_json({"container": found, "last_words": last_words, "next": steps})
        return
    show_one(found, _FACTS, output=output, as_json=False)
    if last_words:
        click.echo("\nwrote before it failed:")
        for line in last_words:
            click.echo(f"  {clean(line)[: WIDTH - 2]}")
    _show_steps(steps)


async def _last_words(client: Client, found: Container) -> list[str]:
    """Return the last lines that a failed container wrote; none if it runs, or its node does not tell."""
    if found.status is not _S.ERROR or found.last_exit is None:
        return []
    question = NodeQuestion(container_id=found.container_id, generation=found.last_exit.generation, lines=LAST_WORDS)
    try:
        lines: list[str] = await ask_node(client, found.node_id, "logs", question)
    except CoordinationError:
        return []
    return lines


def _show_steps(steps: list[Step]) -> None:
    if steps:
        click.echo("\nwhat to do:")
    for step in steps:
        click.echo(f"  {clean(step.run)}")
        loses = f"; loses {step.loses}" if step.loses else "; loses nothing"
        for line in textwrap.wrap(clean(step.does + loses), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6):
            click.echo(line)


@container.command("usage")
@click.argument("container_id", metavar="ID")
@URL
@output_options
@click.pass_context
def container_usage(ctx: click.Context, container_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Measure a running container on its node."""

    async def usage(client: Client) -> dict[str, Any]:
        found: Container = await client.execute(GetContainer(container_id=container_id))
        measured: dict[str, Any] = await ask_node(
            client, found.node_id, "usage", NodeQuestion(container_id=container_id)
        )
        return measured

    show_one(asking(ctx, url, usage), _USAGE, output=output, as_json=as_json)


@container.command("logs")
@click.argument("container_id", metavar="ID")
@click.option("-n", "--lines", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Number of lines.")
@click.option("-p", "--previous", is_flag=True, help="What it wrote before its last start.")
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come, until it is destroyed.")
@URL
@click.pass_context
def container_logs(
    ctx: click.Context, container_id: str, lines: int, url: str | None, *, previous: bool, follow: bool
) -> None:
    """
    Print the last log lines of a container, since its last start.

    With --follow also those of later starts, on whichever node, until it is destroyed or on Ctrl-C. What is missing is
    told on standard error.
    """
    if follow and previous:
        raise click.UsageError("use either --follow or --previous: what it wrote before its last start has ended")

    async def logs(client: Client) -> list[str]:
        found: Container = await client.execute(GetContainer(container_id=container_id))
        generation = found.generation if previous else ""
        question = NodeQuestion(container_id=container_id, generation=generation, lines=lines, previous=previous)
        written: list[str] = await ask_node(client, found.node_id, "logs", question)
        return written

    if follow:
        with suppress(KeyboardInterrupt):  # it is how this ends
            asking(ctx, url, lambda client: _follow(client, container_id, lines))
        return
    for line in asking(ctx, url, logs):
        click.echo(clean(line))


async def _follow(client: Client, container_id: str, lines: int) -> None:
    from coordinator.cli.tail import while_read
    from coordinator.client.follow_logs import follow_logs

    async with while_read(), aclosing(follow_logs(client, container_id, lines)) as found:
        async for line in found:
            click.echo(f"note: {clean(line.text)}" if line.is_note else clean(line.text), err=line.is_note)


def _bytes(count: int | None) -> str:
    return "" if count is None else f"{count} bytes"
