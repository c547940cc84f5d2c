"""
The command line: `coordinator …`. Each command's module is imported when that command runs, so that `--help` is quick.

Exit codes: 0 ok · 1 error, or the task failed · 2 usage · 3 not placed · 4 not found · 5 refused or conflict · 6 the
wait timed out · 7 not permitted · 8 unavailable · 130 interrupted. Data goes to standard output, everything else to
standard error.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from events.errors import CoordinationError

EXIT_ERROR = 1
EXIT_NOT_PLACED = 3
EXIT_NOT_FOUND = 4
EXIT_REFUSED = 5
EXIT_TIMED_OUT = 6
EXIT_UNAVAILABLE = 8
EXIT_INTERRUPTED = 130

_CODES = {
    "refused": EXIT_REFUSED,
    "stale_lease": EXIT_REFUSED,
    "not_found": EXIT_NOT_FOUND,
    "unavailable": EXIT_UNAVAILABLE,
}
_REASONS = {"no_room": EXIT_NOT_PLACED}

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
    "events": ("coordinator.cli.query", "events", "Look at what happened."),
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
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(_COMMANDS)}"
            ctx.fail(f"no such command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coordinator", prog_name="coordinator")
@click.option("--config", type=click.Path(dir_okay=False), help="Settings file (YAML).")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@click.pass_context
def cli(ctx: click.Context, config: str | None, debug: bool) -> None:
    """Coordinate a fleet of agents: containers, services, tasks; every change an event."""
    ctx.obj = {"config": config, "debug": debug}


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command line; give its exit code."""
    debug = "--debug" in argv
    try:
        result: Any = cli.main(argv, prog_name="coordinator", standalone_mode=False)
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CoordinationError as error:
        if debug:
            raise
        click.echo(f"coordinator: {_plain(error.message)}", err=True)
        return _REASONS.get(error.reason, _CODES.get(error.code, EXIT_ERROR))
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _plain(text: str) -> str:
    """Leave out what could drive a terminal: messages may hold what somebody sent."""
    return "".join(one if one.isprintable() or one == "\n" else "�" for one in text)
