"""`coordinator verify` checks the journal and what is built from it; `coordinator doctor` checks the installation."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from coordinator.app.locate import find_url
from coordinator.cli.connection import connected, load_settings
from coordinator.cli.output import output_options, show, show_json
from coordinator.cli.run import URL_OPTION
from coordinator.stop_signals import unless_stopped
from events.errors import CoordinationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from coordinator.diagnostics.findings import Finding
    from coordinator.diagnostics.verify import Files, Report
    from coordinator.home import Home
    from coordinator.settings.model import Settings

_Value = TypeVar("_Value")
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_HOME = click.option("--home", type=_FOLDER, help="State directory; default: that of this user.")
_COLUMNS = (
    ("check", lambda f: f.check),
    ("state", lambda f: f.state.value),
    ("seen", lambda f: f.seen),
    ("do", lambda f: f.do),
)
_PLACEMENTS = (
    ("attempt", lambda d: d.attempt),
    ("position", lambda d: d.position),
    ("worker", lambda d: d.worker_id),
    ("policy", lambda d: d.policy),
    ("ahead", lambda d: d.ahead),
    ("ready", lambda d: d.ready),
    ("claims", lambda d: d.claims),
    ("workers", lambda d: d.workers),
    ("derived again", lambda d: d.derived),
)


@click.command()
@URL_OPTION
@_HOME
@click.option("--archive", type=_FOLDER, help="Archive with the commits already moved out of the journal.")
@click.option("--folder", type=_FOLDER, help="Directory for two temporary copies of the read model; default: TMPDIR.")
@click.option(
    "--task", "task_id", default="", help="A task of which is told how each attempt was placed, and among what."
)
@click.option(
    "--accept", is_flag=True, help="Accept the journal as it is: begin a new generation. Lost commits stay lost."
)
@output_options
@click.pass_context
def verify(
    ctx: click.Context,
    url: str | None,
    home: Path | None,
    archive: Path | None,
    folder: Path | None,
    task_id: str,
    accept: bool,
    output: str,
    as_json: bool,
) -> int:
    """
    Check the whole journal, and compare the read model, the feed and the snapshots with it.

    Exits with 0 if no check fails. If no NATS is given and none is running, a temporary
    nats-server serves the store in the state directory.
    """
    settings = load_settings(ctx, log_level="error")
    # The state of a NATS elsewhere is not in this user's directory, unless --home names it.
    directory = home if home is not None else None if url else settings.home_path()
    if accept:
        show_json({"generation": _finished(_accept(settings, url, directory, archive))})
        return 0
    files = _files(directory, archive, folder)
    report = _finished(_verify(settings, url, directory, files, task_id))
    return _show_report(report, task_id=task_id, output=output, as_json=as_json)


@click.command()
@URL_OPTION
@_HOME
@click.option(
    "--monitor", default="", help="Monitoring URL of nats-server, http://host:port; used to check fsync and free space."
)
@output_options
@click.pass_context
def doctor(ctx: click.Context, url: str | None, home: Path | None, monitor: str, output: str, as_json: bool) -> int:
    """
    Check the installation and print what to do about each problem.

    Exits with 0 if no check fails.
    """
    from coordinator.diagnostics.doctor import look_here
    from coordinator.diagnostics.findings import has_failed

    settings = load_settings(ctx, log_level="error")
    directory = home if home is not None else settings.home_path()
    findings = asyncio.run(_doctor(settings, url, monitor, directory)) + look_here(directory, settings)
    show(findings, _COLUMNS, output=output, as_json=as_json)
    return 1 if has_failed(findings) else 0


def _files(home: Path | None, archive: Path | None, folder: Path | None) -> Files:
    from coordinator.diagnostics.verify import Files
    from coordinator.home import Home
    from coordinator.journal.high_water import FILE

    if home is None:
        return Files(archive=archive, folder=folder)
    return Files(store=Home(home).state_db, mark=home / FILE, archive=archive, folder=folder)


async def _verify(settings: Settings, url: str | None, home: Path | None, files: Files, task_id: str) -> Report:
    from coordinator.bus.connection import Bus
    from coordinator.diagnostics.verify import verify
    from coordinator.processes.credentials import credentials
    from events.subjects import Subjects

    timeout_s = settings.nats.connect_timeout_s
    async with (
        _served(settings, url, home) as where,
        Bus.open(where, name="verify", buffered=False, connect_timeout_s=timeout_s, **credentials(settings)) as bus,
    ):
        return await verify(bus, Subjects(settings.namespace), files, task_id=task_id)


async def _accept(settings: Settings, url: str | None, home: Path | None, archive: Path | None) -> int:
    from coordinator.bus.connection import Bus
    from coordinator.diagnostics.verify import accept
    from coordinator.processes.credentials import credentials
    from events.subjects import Subjects

    login = credentials(settings, "coordinator")
    timeout_s = settings.nats.connect_timeout_s
    async with (
        _served(settings, url, home) as where,
        Bus.open(where, name="verify", buffered=False, connect_timeout_s=timeout_s, **login) as bus,
    ):
        return await accept(bus, Subjects(settings.namespace), archive=archive, replicas=settings.nats.replicas)


@asynccontextmanager
async def _served(settings: Settings, url: str | None, directory: Path | None) -> AsyncIterator[str]:
    """Yield the URL of the journal's NATS; start a nats-server if its store is here and none is running."""
    from coordinator.home import Home
    from coordinator.nats_server.server import EmbeddedServer

    if url or directory is None:
        yield url or await find_url(settings)
        return
    home = Home(directory)
    running = home.read_running()
    if running is not None:
        yield running.url
    elif _has_store(home):
        with home.lock("up"):
            async with EmbeddedServer(home.nats_store) as server:
                yield server.url
    else:
        yield settings.nats.url or await find_url(settings)


def _has_store(home: Home) -> bool:
    return home.nats_store.is_dir()


async def _doctor(settings: Settings, url: str | None, monitor: str, home: Path) -> list[Finding]:
    from coordinator.diagnostics.doctor import look
    from coordinator.diagnostics.findings import fail
    from coordinator.home import Home
    from coordinator.nats_server.server import monitor_of

    try:
        async with connected(settings, url) as client:
            if not monitor and not url:
                monitor = monitor_of(Home(home).nats_store)
            return await look(client, settings, monitor=monitor)
    except CoordinationError as error:
        do = "start 'coordinator up', or give its URL with --nats"
        return [fail("NATS", error.message, do if isinstance(error, Unavailable) else "see the error")]


def _finished(work: Coroutine[Any, Any, _Value]) -> _Value:
    """Run *work* to its end; a stop signal ends it cleanly."""
    done = asyncio.run(unless_stopped(work))
    if done is None:
        raise click.Abort
    return done


def _show_report(report: Report, *, task_id: str, output: str, as_json: bool) -> int:
    from coordinator.diagnostics.findings import has_failed

    if as_json or output == "json":
        show_json(report)
    else:
        show(report.findings, _COLUMNS, output=output, as_json=as_json)
        figures: dict[str, Any] = msgspec.structs.asdict(report.figures)
        click.echo(", ".join(f"{name} {value}" for name, value in figures.items()), err=True)
        if task_id:
            click.echo()
            show(report.placements, _PLACEMENTS, output=output, as_json=as_json)
    return 1 if has_failed(report.findings) else 0
