"""
The command line: `coordinator …`. A command's module is imported when the command runs, which keeps `--help` fast.

Exit codes: 0 ok · 1 error, or the task failed · 2 usage · 3 not placed · 4 not found · 5 refused or conflict · 6 wait
timed out · 7 not permitted · 8 unavailable · 130 interrupted. A long-running command exits with 0 after a clean
shutdown, also on Ctrl-C.

Data goes to standard output, or nothing if the command failed. Everything else goes to standard error; an error is one
line that states what is allowed. A reader that closes the pipe early, such as `head`, is not an error: 0. A full device
is one: 1. A stream that is closed from the start is as one to the null device, and standard error never changes a code.
Control characters in received data never reach the terminal.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from coordinator.own_process.first import fork_if_first
from coordinator.own_process.streams import prepare_streams
from coordinator.version import __version__
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
_REASONS = {
    **dict.fromkeys(("no_room", "no_runtime", "no_node"), EXIT_NOT_PLACED),
    "bad_credentials": EXIT_NOT_PERMITTED,
}
_COMPLETE = "_COORDINATOR_COMPLETE"
"""Set by the shell when it requests completions."""

_COMMANDS = {
    "up": ("coordinator.cli.run", "up", "Run everything on this machine."),
    "env": ("coordinator.cli.run", "env", "Print the variables that connect a program."),
    "serve": ("coordinator.cli.run", "serve", "Run a coordinator and its follower on your NATS."),
    "follow": ("coordinator.cli.run", "follow", "Run a follower, which keeps the read model."),
    "node": ("coordinator.cli.node", "node", "Run a node agent; show, cordon, drain and remove nodes."),
    "worker": ("coordinator.cli.run", "worker", "Run a worker."),
    "demo": ("coordinator.cli.demo", "demo", "Run a demo cluster with real tasks."),
    "bench": ("coordinator.cli.bench", "bench", "Run benchmarks; print JSON."),
    "task": ("coordinator.cli.query", "task", "Submit, list and cancel tasks."),
    "queue": ("coordinator.cli.queue", "queue", "List, pause and resume queues; set policies."),
    "hold": ("coordinator.cli.hold", "hold", "Keep tasks that meet a filter from the workers."),
    "limit": ("coordinator.cli.limit", "limit", "List, define and delete limits of tasks."),
    "version": ("coordinator.cli.version", "version", "Ramp up, roll back and retire versions of workers."),
    "budget": ("coordinator.cli.budget", "budget", "Define, list, correct and remove budgets of tasks."),
    "agents": ("coordinator.cli.agents", "agents", "Show, compare and replace the catalogue of agents."),
    "prices": ("coordinator.cli.budget", "prices", "Set and show what the tokens of models cost."),
    "pool": ("coordinator.cli.pool", "pool", "Show and define pools of resources; request shares."),
    "dead": ("coordinator.cli.dead", "dead", "List, show and requeue tasks that failed."),
    "service": ("coordinator.cli.query", "service", "List services."),
    "schedule": ("coordinator.cli.schedule", "schedule", "Define schedules of tasks, and show their next runs."),
    "container": ("coordinator.cli.container", "container", "Create, start, stop, show and destroy containers."),
    "inbox": ("coordinator.cli.inbox", "inbox", "Add and list inboxes of other domains."),
    "events": ("coordinator.cli.query", "events", "Print events from the journal."),
    "call": ("coordinator.cli.call", "call", "Call any operation, with its fields as options."),
    "operations": ("coordinator.cli.operations", "operations", "List and describe all operations."),
    "silence": ("coordinator.cli.silence", "silence", "List and accept mass silence."),
    "auth": ("coordinator.cli.auth", "auth", "Create and check NATS users and permissions."),
    "backup": ("coordinator.cli.backup", "backup", "Back up and restore the journal."),
    "archive": ("coordinator.cli.backup", "archive", "Move old commits from the journal to files."),
    "verify": ("coordinator.cli.verify", "verify", "Check the whole journal and what is built from it."),
    "doctor": ("coordinator.cli.verify", "doctor", "Check the installation and report problems."),
    "schema": ("coordinator.cli.schema", "schema", "Print JSON Schema and AsyncAPI documents."),
}


class _Lazy(click.Group):
    """A group that imports a command when it runs."""

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
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, config: str | None, debug: bool) -> None:
    """Coordinate the containers, services and tasks of a fleet of agents."""
    ctx.obj = {"config": config, "debug": debug}


def main() -> None:
    """Run the command line and exit with its code."""
    prepare_streams()
    fork_if_first()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot encode is printed as its number.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if _COMPLETE in os.environ:
        cli.main(prog_name="coordinator", complete_var=_COMPLETE)
    code = run_line(sys.argv[1:])
    if "coordinator.own_process.end" in sys.modules:
        from coordinator.own_process import end

        end.leave(code)
    sys.exit(code)


def run_line(argv: list[str]) -> int:
    """Run one command line and return its exit code."""
    context: click.Context | None = None
    try:
        # Not `cli.main`: it treats a broken pipe as an error and prints usage errors in three lines.
        with cli.make_context("coordinator", list(argv)) as context:
            result: Any = cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return 0
    except Exception as error:  # noqa: BLE001  # every error is printed as one line
        if isinstance(error, UnicodeEncodeError) and (wrong := [word for word in argv if not _is_text(word)]):
            error = click.UsageError(f"{wrong[0]!a} holds bytes that are not UTF-8: use UTF-8")
        if context is not None and context.params.get("debug"):
            _show_trace(error)
        _discard_output()
        _print_error(_message_of(error))
        return _code_of(error)
    return result if isinstance(result, int) else 0


def _is_text(word: str) -> bool:
    """Return whether *word* is text; a byte that could not be decoded is a surrogate."""
    return not any("\ud800" <= one <= "\udfff" for one in word)


def _code_of(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, UnicodeEncodeError):
        return EXIT_USAGE
    if isinstance(error, CoordinationError):
        return _REASONS.get(error.reason, _CODES.get(error.code, EXIT_ERROR))
    return EXIT_ERROR


def _message_of(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "coordinator"
        text = error.format_message()
        return f"{text[:1].lower()}{text[1:].rstrip('.')}; see '{path} --help'"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, CoordinationError):
        return error.message
    if isinstance(error, UnicodeEncodeError):  # arguments and variables may hold any bytes, and so may file names
        return f"{error.object[max(0, error.start - 40) : error.end + 40]!a} holds bytes that are not UTF-8: use UTF-8"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    from coordinator.logs import redact

    return f"internal error: {type(error).__name__}: {redact(str(error))} (use --debug for the traceback)"


def _print_error(message: str) -> None:
    """Print an error as one line; it may contain received data, which is escaped."""
    from coordinator.terminal import clean

    lines = " | ".join(line.strip() for line in message.splitlines() if line.strip())
    click.echo(f"coordinator: {clean(lines)}", err=True)


def _show_trace(error: Exception) -> None:
    import traceback

    from coordinator.logs import redact
    from coordinator.terminal import clean

    for line in "".join(traceback.format_exception(error)).splitlines():
        click.echo(redact(clean(line)), err=True)


def _discard_output() -> None:
    """Discard unwritten output after a broken pipe; otherwise Python reports an error at exit."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
