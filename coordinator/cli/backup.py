"""`coordinator backup …` and `coordinator archive …`; they print their result as JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.app.locate import find_url
from coordinator.cli.connection import URL, load_settings
from coordinator.cli.output import Number, show_json
from coordinator.stop_signals import unless_stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.bus.connection import Bus
    from coordinator.settings.model import Settings
    from events.subjects import Subjects

DAY_S = 86_400.0

_FOLDER = click.Path(file_okay=False, path_type=Path)
_HELD = click.Path(exists=True, file_okay=False, path_type=Path)
_ARCHIVE = click.option("--archive", type=_HELD, help="Archive with the commits already moved out of the journal.")
_CREDS = click.option(
    "--creds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="NATS credentials that allow purging the journal.",
)


@click.group()
def backup() -> None:
    """Back up and restore the journal."""


@backup.command()
@click.argument("folder", type=_FOLDER)
@URL
@click.pass_context
def create(ctx: click.Context, folder: Path, url: str | None) -> None:
    """
    Write a backup to the new directory FOLDER.

    The cluster keeps running.
    """
    from coordinator.backup import create as backups

    settings = load_settings(ctx, log_level="warning")
    replicas = settings.nats.replicas
    contents = _run(settings, url, lambda bus, subjects: backups.create(bus, subjects, folder, replicas=replicas))
    show_json(
        {
            "folder": str(folder),
            "first": contents.first,
            "last": contents.last,
            "generation": contents.generation,
            "chain": contents.chain,
            "digest": contents.snapshot.digest,
            "files": len(contents.segments) + 2,
        }
    )


@backup.command()
@click.argument("folder", type=_HELD)
@_ARCHIVE
@click.option("--quick", is_flag=True, help="Check hashes and the chain only; do not fold.")
@click.pass_context
def verify(ctx: click.Context, folder: Path, archive: Path | None, quick: bool) -> None:
    """Verify the backup in FOLDER; needs no coordinator."""
    from coordinator.archive.verify import verify_records

    load_settings(ctx, log_level="warning")
    show_json(verify_records(folder, archive=archive, fold=not quick)[1])


@backup.command()
@click.argument("folder", type=_HELD)
@click.option("--nats", "url", metavar="URL", help="Empty NATS to restore into; default: the local store.")
@click.option(
    "--generation", type=click.IntRange(min=1), help="Generation of the restored journal; default: a new one."
)
@click.pass_context
def restore(ctx: click.Context, folder: Path, url: str | None, generation: int | None) -> None:
    """
    Restore the backup in FOLDER into an empty NATS.

    The restored journal has a new generation.
    """
    settings = load_settings(ctx, log_level="warning")
    show_json(_finished(_restore(settings, folder, url, generation)))


async def _restore(settings: Settings, folder: Path, url: str | None, generation: int | None) -> Any:
    from coordinator.archive.verify import verify_records
    from coordinator.backup.restore import restore as restore_backup
    from coordinator.home import Home
    from coordinator.nats_server.server import EmbeddedServer

    contents, _ = await asyncio.to_thread(verify_records, folder, fold=False)

    async def run(bus: Bus, subjects: Subjects) -> Any:
        replicas = settings.nats.replicas
        return await restore_backup(bus, subjects, folder, contents, replicas=replicas, generation=generation)

    if url is not None:
        return await _connected(settings, url, run, role="coordinator")
    home = Home(settings.home_path())
    with home.lock("up"):
        async with EmbeddedServer(home.nats_store) as server:
            return await _connected(settings, server.url, run, role="coordinator")


@backup.command()
@URL
@_ARCHIVE
@click.option("--folder", type=_HELD, help="Parent of the temporary directory; needs about the journal's size.")
@click.pass_context
def drill(ctx: click.Context, url: str | None, archive: Path | None, folder: Path | None) -> int:
    """
    Test a restore and compare it with the live state.

    Backs up, restores into a temporary server, folds the journal and compares. Exits with 0
    if both are the same, else 1.
    """
    from coordinator.backup import drill as drills

    settings = load_settings(ctx, log_level="warning")

    async def run(bus: Bus, subjects: Subjects) -> Any:
        return await drills.drill(bus, subjects, archive=archive, folder=folder, replicas=settings.nats.replicas)

    drilled = _run(settings, url, run)
    show_json(drilled)
    return 0 if drilled.same else 1


@click.group()
def archive() -> None:
    """Move old commits from the journal to files."""


@archive.command("run")
@click.argument("folder", type=_FOLDER)
@click.option("--keep-days", type=Number(0, 36_500, "a number of days"), help="Keep commits of the last N days.")
@click.option("--before", type=click.IntRange(min=1), help="Move commits before this slot.")
@URL
@_CREDS
@click.pass_context
def archive_run(
    ctx: click.Context, folder: Path, keep_days: float | None, before: int | None, url: str | None, creds: Path | None
) -> None:
    """
    Move old commits from the journal to the archive FOLDER.

    They are copied and verified before they are deleted from the journal.
    """
    from coordinator.archive.archive import Archive
    from coordinator.clock import SystemClock

    if (keep_days is None) == (before is None):
        raise click.UsageError("use either --keep-days or --before")
    settings = load_settings(ctx, log_level="warning")
    until = None if keep_days is None else SystemClock().wall() - keep_days * DAY_S

    async def run(bus: Bus, subjects: Subjects) -> Any:
        moving = Archive(bus, subjects, folder, replicas=settings.nats.replicas)
        return await moving.run(before=before, before_s=until)

    show_json(_run(settings, url, run, creds=creds))


@archive.command("verify")
@click.argument("folder", type=_HELD)
@click.pass_context
def archive_verify(ctx: click.Context, folder: Path) -> None:
    """Verify the archive in FOLDER; needs no coordinator."""
    from coordinator.archive.verify import verify_records

    load_settings(ctx, log_level="warning")
    show_json(verify_records(folder, kind="archive")[1])


def _run(
    settings: Settings,
    url: str | None,
    body: Callable[[Bus, Subjects], Awaitable[Any]],
    *,
    creds: Path | None = None,
) -> Any:
    return _finished(_connected(settings, url, body, role="archive", creds=creds))


def _finished(work: Any) -> Any:
    """Run *work* to its end; a stop signal ends it cleanly."""
    done = asyncio.run(unless_stopped(work))
    if done is None:
        raise click.Abort
    return done


async def _connected(
    settings: Settings,
    url: str | None,
    body: Callable[[Bus, Subjects], Awaitable[Any]],
    *,
    role: str,
    creds: Path | None = None,
) -> Any:
    from coordinator.bus.connection import Bus
    from coordinator.processes.credentials import credentials
    from events.subjects import Subjects

    login = credentials(settings, role)
    if creds is not None:
        login["creds"] = str(creds)
    where, timeout_s = url or await find_url(settings), settings.nats.connect_timeout_s
    async with Bus.open(where, name="backup", buffered=False, connect_timeout_s=timeout_s, **login) as bus:
        return await body(bus, Subjects(settings.namespace))
