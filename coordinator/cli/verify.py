"""`coordinator verify` and `coordinator doctor`: is the journal what was written, and all else as it must be."""

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
_HOME = click.option("--home", type=_FOLDER, help="State directory to look at; by default this user's.")
_COLUMNS = (
    ("check", lambda f: f.check),
    ("state", lambda f: f.state.value),
    ("seen", lambda f: f.seen),
    ("do", lambda f: f.do),
)


@click.command()
@URL_OPTION
@_HOME
@click.option("--archive", type=_FOLDER, help="The archive, for what has left the journal.")
@click.option("--folder", type=_FOLDER, help="Where to make two copies of the read model; by default as TMPDIR says.")
@click.option("--accept", is_flag=True, help="Begin a new generation with the journal as it is; what is lost stays so.")
@output_options
@click.pass_context
def verify(
    ctx: click.Context,
    url: str | None,
    home: Path | None,
    archive: Path | None,
    folder: Path | None,
    accept: bool,
    output: str,
    as_json: bool,
) -> int:
    """
    Read the whole journal and hold everything that follows it against it; 0 when all is sound.

    Without a NATS to connect to, and with nothing running, the store of the state directory is served meanwhile.
    """
    settings = load_settings(ctx, log_level="error")
    # What belongs to a NATS somewhere else is not in the directory of this user, unless one says so.
    directory = home if home is not None else None if url else settings.home_path()
    if accept:
        show_json({"generation": _finished(_accept(settings, url, directory, archive))})
        return 0
    files = _files(directory, archive, folder)
    return _show_report(_finished(_verify(settings, url, directory, files)), output=output, as_json=as_json)


@click.command()
@URL_OPTION
@_HOME
@click.option("--monitor", default="", help="The server's monitoring, http://host:port; asked about fsync and room.")
@output_options
@click.pass_context
def doctor(ctx: click.Context, url: str | None, home: Path | None, monitor: str, output: str, as_json: bool) -> int:
    """Look whether everything is as it must be, and say what to do; 0 when nothing fails."""
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


async def _verify(settings: Settings, url: str | None, home: Path | None, files: Files) -> Report:
    from coordinator.bus.connection import Bus
    from coordinator.diagnostics.verify import verify
    from coordinator.security.credentials import credentials
    from events.subjects import Subjects

    async with (
        _served(settings, url, home) as where,
        Bus.open(where, name="verify", buffered=False, **credentials(settings)) as bus,
    ):
        return await verify(bus, Subjects(settings.namespace), files)


async def _accept(settings: Settings, url: str | None, home: Path | None, archive: Path | None) -> int:
    from coordinator.bus.connection import Bus
    from coordinator.diagnostics.verify import accept
    from coordinator.security.credentials import credentials
    from events.subjects import Subjects

    async with (
        _served(settings, url, home) as where,
        Bus.open(where, name="verify", buffered=False, **credentials(settings, "coordinator")) as bus,
    ):
        return await accept(bus, Subjects(settings.namespace), archive=archive, replicas=settings.nats.replicas)


@asynccontextmanager
async def _served(settings: Settings, url: str | None, directory: Path | None) -> AsyncIterator[str]:
    """Give the URL of the journal's NATS, which is run here when nothing else does and its store is here."""
    from coordinator.home import Home
    from coordinator.nats_server.server import EmbeddedServer

    if url or directory is None:
        yield url or find_url(settings)
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
        yield settings.nats.url or find_url(settings)


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
        do = "start 'coordinator up', or say where it is with --nats"
        return [fail("NATS", error.message, do if isinstance(error, Unavailable) else "see what it says")]


def _finished(work: Coroutine[Any, Any, _Value]) -> _Value:
    """Run *work* to its end; a signal ends it in good order."""
    done = asyncio.run(unless_stopped(work))
    if done is None:
        raise click.Abort
    return done


def _show_report(report: Report, *, output: str, as_json: bool) -> int:
    from coordinator.diagnostics.findings import has_failed

    if as_json or output == "json":
        show_json(report)
    else:
        show(report.findings, _COLUMNS, output=output, as_json=as_json)
        figures: dict[str, Any] = msgspec.structs.asdict(report.figures)
        click.echo(", ".join(f"{name} {value}" for name, value in figures.items()), err=True)
    return 1 if has_failed(report.findings) else 0
