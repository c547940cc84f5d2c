"""The commands for NATS users and permissions: `auth init`, `auth add`, `auth list`, `auth check`."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.cli.connection import load_settings
from coordinator.cli.output import output_options, show
from events.errors import CoordinationError, Refused
from events.nats_address import servers_of

if TYPE_CHECKING:
    from coordinator.security.auth_directory import AuthDirectory
    from coordinator.settings.model import Settings

CHECK_TIMEOUT_S = 30.0

_FOLDER = click.Path(file_okay=False, path_type=Path)
_DIRECTORY = click.option("--dir", "folder", type=_FOLDER, help="Directory made by 'auth init'; default: nats.auth.")


class ListedUser(msgspec.Struct, frozen=True, kw_only=True):
    """One user: its public key on the server, and its credentials file if it is on this machine."""

    user: str
    role: str
    public: str
    file: str | None


_COLUMNS = (
    ("user", lambda u: u.user),
    ("role", lambda u: u.role),
    ("public nkey", lambda u: u.public),
    ("credentials", lambda u: u.file or "not here"),
)


def _listen(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        servers_of(f"nats://{'host' if value.startswith(':') else ''}{value}")
    except Refused:
        is_address = False
    else:
        is_address = "@" not in value and "," not in value
    if not is_address:
        raise click.BadParameter(f"{value!r} is not an address to listen on: use host:port, or [address]:port for IPv6")
    return value


def _hosts(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from coordinator.deciders.service import check_host

    for value in values:
        try:
            check_host("--host", value.removeprefix("*."))
        except Refused as refused:
            raise click.BadParameter(refused.message) from None
    return values


@click.group()
def auth() -> None:
    """Create and check NATS users and permissions."""


@auth.command("init")
@click.argument("folder", type=_FOLDER)
@click.option("--domain", "domains", multiple=True, help="Domain that gets an inbox and may read. Repeatable.")
@click.option("--worker", "workers", multiple=True, help="Worker id. Repeatable.")
@click.option("--node", "nodes", multiple=True, help="Node id; includes a user for its containers. Repeatable.")
@click.option(
    "--listen",
    default="127.0.0.1:4222",
    show_default=True,
    callback=_listen,
    help="Address the server listens on; [::1]:4222 for IPv6.",
)
@click.option("--store", type=_FOLDER, help="Data directory of the server; default: FOLDER/jetstream.")
@click.option("--tls", is_flag=True, help="Create a CA and a server certificate.")
@click.option(
    "--host", "hosts", multiple=True, callback=_hosts, help="Host name or address in the certificate. Repeatable."
)
@click.pass_context
def auth_init(
    ctx: click.Context,
    folder: Path,
    domains: tuple[str, ...],
    workers: tuple[str, ...],
    nodes: tuple[str, ...],
    listen: str,
    store: Path | None,
    tls: bool,
    hosts: tuple[str, ...],
) -> None:
    """
    Create keys, users and a nats-server configuration in FOLDER.

    Existing files are kept.
    """
    from coordinator.clock import SystemClock
    from coordinator.security.auth_directory import AuthDirectory
    from coordinator.security.permissions import user_of

    settings = load_settings(ctx, log_level="warning")
    directory = AuthDirectory(folder.absolute())
    named = [("domain", domains), ("worker", workers), ("node", nodes), ("agents", nodes)]
    users = [user_of(role, name) for role, names in named for name in names]
    directory.prepare(settings.namespace, listen=listen, store=(store or folder / "jetstream").absolute())
    for user in users:
        directory.add(user)
    if tls:
        now = dt.datetime.fromtimestamp(SystemClock().wall(), dt.UTC)
        directory.make_certificates(hosts, now)
    scheme = "tls" if directory.authority.exists() else "nats"
    click.echo(f"nats-server -c {directory.path / 'nats.conf'}")
    click.echo(
        f"created {directory.path}: set nats.auth to this directory and nats.url to {scheme}://{listen}; "
        f"on other machines, copy one file of creds/ per process and set nats.creds to it",
        err=True,
    )


@auth.command("add")
@click.argument("role")
@click.argument("name")
@_DIRECTORY
@click.pass_context
def auth_add(ctx: click.Context, role: str, name: str, folder: Path | None) -> None:
    """
    Add a user and print the path of its credentials file.

    ROLE is one of domain, worker, node, agents, monitor, admin.
    """
    from coordinator.security.permissions import user_of

    directory = _directory(load_settings(ctx, log_level="warning"), folder)
    user = user_of(role, name)
    if directory.add(user):
        click.echo("reload the server to activate the user: nats-server --signal reload", err=True)
    click.echo(str(directory.credentials(user)))


@auth.command("list")
@_DIRECTORY
@output_options
@click.pass_context
def auth_list(ctx: click.Context, folder: Path | None, output: str, as_json: bool) -> None:
    """List users and their credentials files."""
    directory = _directory(load_settings(ctx, log_level="warning"), folder)
    files = [(one, directory.credentials(one.user)) for one in directory.known()]
    listed = [
        ListedUser(user=one.user.token, role=one.role, public=one.public, file=str(file) if file.exists() else None)
        for one, file in files
    ]
    show(listed, _COLUMNS, output=output, as_json=as_json)


@auth.command("check")
@_DIRECTORY
@click.option("--url", help="Also log in to this NATS as each user with local credentials.")
@click.pass_context
def auth_check(ctx: click.Context, folder: Path | None, url: str | None) -> None:
    """Check key permissions, key pairs and the server configuration."""
    settings = load_settings(ctx, log_level="warning")
    directory = _directory(settings, folder)
    found = directory.check()
    for trouble in found:
        click.echo(f"{trouble.what}: {trouble.remedy}")
    refused = _refused_by_server(directory)
    if refused:
        click.echo(f"nats-server rejects {directory.path / 'nats.conf'}: {refused}")
    failed = asyncio.run(_log_in(directory, url, settings.nats.connect_timeout_s)) if url else []
    for line in failed:
        click.echo(line)
    if found or refused or failed:
        raise Refused(f"{directory.path} has problems, listed above", reason="not_in_order")
    click.echo(f"{directory.path} is valid: {len(directory.known())} users", err=True)


def _directory(settings: Settings, folder: Path | None) -> AuthDirectory:
    from coordinator.security.auth_directory import AuthDirectory

    path = folder if folder is not None else settings.nats.auth
    if path is None:
        raise Refused("no directory given: use --dir or set nats.auth", reason="no_directory")
    return AuthDirectory(path.absolute())


def _refused_by_server(directory: AuthDirectory) -> str:
    """Let nats-server check its configuration; return its error output, or '' if it accepts the file."""
    from coordinator.nats_server.find import find_server

    command: list[Any] = [find_server(), "-t", "-c", directory.path / "nats.conf"]
    done = subprocess.run(command, capture_output=True, timeout=CHECK_TIMEOUT_S, check=False)
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()[-500:]


async def _log_in(directory: AuthDirectory, url: str, timeout_s: float) -> list[str]:
    from coordinator.bus.connection import Bus

    failed = []
    trusted = directory.authority_or_none()
    for known in directory.known():
        file = directory.credentials(known.user)
        if not file.exists():
            continue
        try:
            async with Bus.open(
                url,
                name="auth-check",
                creds=str(file),
                tls_ca=str(trusted) if trusted else None,
                connect_timeout_s=timeout_s,
            ):
                pass
        except CoordinationError as error:
            failed.append(f"user {known.user.token} cannot log in: {error.message}")
    return failed
