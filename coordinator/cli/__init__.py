"""
The command line: `coordinator …`. Each command's module is imported when that command runs, so that `--help` is quick.

Exit codes: 0 ok · 1 error, or the task failed · 2 usage · 3 not placed · 4 not found · 5 refused or conflict · 6 the
wait timed out · 7 not permitted · 8 unavailable · 130 interrupted. What runs until it is stopped ends with 0 when it
was stopped in good order, by Ctrl-C too.

Data goes to standard output, and there is none where it failed; everything else goes to standard error, an error as one
line that says what would be right. A reader that has seen enough, as `head` has, is no error. Nothing that somebody
sent may drive the terminal.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from coordinator import __version__
from events.errors import CoordinationError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_NOT_PLACED = 3
EXIT_NOT_FOUND = 4
EXIT_REFUSED = 5
EXIT_TIMED_OUT = 6
EXIT_NOT_PERMITTED = 7
EXIT_UNAVAILABLE = 8
EXIT_INTERRUPTED = 130

_CODES = {
    "refused": EXIT_REFUSED,
    "forbidden": EXIT_NOT_PERMITTED,
    "stale_lease": EXIT_REFUSED,
    "not_found": EXIT_NOT_FOUND,
    "unavailable": EXIT_UNAVAILABLE,
}
_REASONS = {"no_room": EXIT_NOT_PLACED, "bad_credentials": EXIT_NOT_PERMITTED}
_COMPLETE = "_COORDINATOR_COMPLETE"
"""Set by the shell that asks for completions."""

_COMMANDS = {
    "up": ("coordinator.cli.run", "up", "Run everything on this machine."),
    "serve": ("coordinator.cli.run", "serve", "Run a coordinator and its follower against your NATS."),
    "follow": ("coordinator.cli.run", "follow", "Run a follower: the read model."),
    "node": ("coordinator.cli.run", "node", "Run a node agent."),
    "worker": ("coordinator.cli.run", "worker", "Run a worker."),
    "demo": ("coordinator.cli.demo", "demo", "Show it all at work: real tasks in real processes."),
    "bench": ("coordinator.cli.bench", "bench", "Measure this machine; prints JSON."),
    "task": ("coordinator.cli.query", "task", "Submit, look at and cancel tasks."),
    "service": ("coordinator.cli.query", "service", "Look at services."),
    "container": ("coordinator.cli.query", "container", "Look at containers and their logs."),
    "inbox": ("coordinator.cli.inbox", "inbox", "Let other domains publish into the coordinator."),
    "events": ("coordinator.cli.query", "events", "Look at what happened."),
    "silence": ("coordinator.cli.silence", "silence", "Look at what fell silent all at once."),
    "auth": ("coordinator.cli.auth", "auth", "Make and check the users of your NATS."),
    "backup": ("coordinator.cli.backup", "backup", "Back the journal up, restore it, and try that out."),
    "archive": ("coordinator.cli.backup", "archive", "Move old commits out of the journal, into files."),
    "verify": ("coordinator.cli.verify", "verify", "Read the whole journal and say whether it is sound."),
    "doctor": ("coordinator.cli.verify", "doctor", "Look whether everything is as it must be."),
    "schema": ("coordinator.cli.schema", "schema", "Print the events and the wire as JSON Schema and AsyncAPI."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=_COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="coordinator")
@click.option("--config", type=click.Path(dir_okay=False), help="Settings file (YAML).")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@click.pass_context
def cli(ctx: click.Context, config: str | None, debug: bool) -> None:
    """Coordinate a fleet of agents: containers, services, tasks; every change an event."""
    ctx.obj = {"config": config, "debug": debug}


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no such character gets its number.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if _COMPLETE in os.environ:
        cli.main(prog_name="coordinator", complete_var=_COMPLETE)
    sys.exit(run_line(sys.argv[1:]))


def run_line(argv: list[str]) -> int:
    """Run one command line; give its exit code."""
    context: click.Context | None = None
    try:
        # Not by `cli.main`, which takes a broken pipe for an error and tells usage errors in three lines.
        with cli.make_context("coordinator", list(argv)) as context:
            result: Any = cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _let_go_of_output()
        return 0
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends here: told in one line
        if context is not None and context.params.get("debug"):
            _show_trace(error)
        _let_go_of_output()
        _say(_told(error))
        return _code_of(error)
    return result if isinstance(result, int) else 0


def _code_of(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, CoordinationError):
        return _REASONS.get(error.reason, _CODES.get(error.code, EXIT_ERROR))
    return EXIT_ERROR


def _told(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "coordinator"
        said = error.format_message()
        return f"{said[:1].lower()}{said[1:].rstrip('.')}; see '{path} --help'"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, CoordinationError):
        return error.message
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    from coordinator.logs import redact

    return f"failed by a defect of its own: {type(error).__name__}: {redact(str(error))} (--debug shows where)"


def _say(message: str) -> None:
    """Tell an error in one line; it may hold what somebody sent."""
    from coordinator.terminal import clean

    lines = " | ".join(line.strip() for line in message.splitlines() if line.strip())
    click.echo(f"coordinator: {clean(lines)}", err=True)


def _show_trace(error: Exception) -> None:
    import traceback

    from coordinator.logs import redact
    from coordinator.terminal import clean

    for line in "".join(traceback.format_exception(error)).splitlines():
        click.echo(redact(clean(line)), err=True)


def _let_go_of_output() -> None:
    """Drop what was not written and cannot be, or Python would complain about it at the end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
