"""`coordinator agents`: the catalogue of agents, shown, compared with a settings file, and replaced by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from coordinator.cli.connection import REASON, URL, asking, load_settings
from coordinator.cli.container import policy_text
from coordinator.cli.output import moment, output_options, show, show_one
from coordinator.commands.agents import ApplyAgents, GetAgents
from coordinator.deciders.agents import no_agent
from events.resources import NONE
from projections.agents import changes, digest_of
from projections.ledger import amounts_text

if TYPE_CHECKING:
    from coordinator.cli.output import Column
    from coordinator.client.client import Client
    from events.agents import AgentType
    from projections.agents import Catalogue

FILE = click.argument(
    "file", metavar="[FILE]", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


class _Row(msgspec.Struct, frozen=True):
    """An agent type with its name."""

    agent_type: str
    agent: AgentType


_COLUMNS: tuple[Column, ...] = (
    ("type", lambda v: v.agent_type),
    ("image", lambda v: v.agent.image),
    ("command", lambda v: " ".join(v.agent.command)),
)


@click.group()
def agents() -> None:
    """Show, compare and replace the catalogue of agents."""


@agents.command("list")
@URL
@output_options
@click.pass_context
def agents_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the agent types that containers may have."""
    found = _in_force(ctx, url)
    rows = [_Row(name, found.agents[name]) for name in sorted(found.agents)]
    show(rows, _COLUMNS, output=output, as_json=as_json)


@agents.command("get")
@click.argument("agent_type", metavar="TYPE")
@URL
@output_options
@click.pass_context
def agents_get(ctx: click.Context, agent_type: str, url: str | None, output: str, as_json: bool) -> None:
    """Show one agent type, and when and by whom the catalogue was changed last."""
    found = _in_force(ctx, url)
    agent = found.agents.get(agent_type)
    if agent is None:
        raise no_agent(agent_type, found.agents)
    facts: tuple[Column, ...] = (
        *_COLUMNS,
        ("limits", lambda v: amounts_text(v.agent.limits) if v.agent.limits != NONE else ""),
        ("nodes", lambda v: v.agent.node_filter),
        ("moves", lambda v: "" if v.agent.moves else "never"),
        ("restart policy", lambda v: policy_text(v.agent.restart)),
        ("when cut off", lambda v: v.agent.when_cut_off),
        ("stop grace", lambda v: f"{v.agent.stop_grace_s:g} s"),
        ("catalogue", lambda _: found.digest[:12] or "the leader's settings"),
        ("changed", lambda _: moment(found.changed_at) if found.digest else ""),
        ("changed by", lambda _: found.changed_by),
        ("reason", lambda _: found.reason),
    )
    show_one(_Row(agent_type, agent), facts, output=output, as_json=as_json)


@agents.command("diff")
@FILE
@URL
@click.pass_context
def agents_diff(ctx: click.Context, file: Path | None, url: str | None) -> None:
    """
    Tell how the agents of a settings file differ from the catalogue in force.

    Without FILE, the settings that this command has read. Exit code 1 if they differ.
    """
    if _tell(_in_force(ctx, url), _wanted(ctx, file)):
        ctx.exit(1)


@agents.command("apply")
@FILE
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@REASON
@URL
@click.pass_context
def agents_apply(ctx: click.Context, file: Path | None, dry_run: bool, reason: str, url: str | None) -> None:
    """
    Replace the catalogue by the agents of a settings file, and tell what changes.

    It is in force for containers that are created from then on; those that exist keep what they were created with.
    Without FILE, the settings that this command has read.
    """
    wanted = _wanted(ctx, file)

    async def apply(client: Client) -> None:
        found = await client.execute(GetAgents())
        differs = _tell(found, wanted)
        if not dry_run and (differs or not found.digest):
            was = found.digest or digest_of(found.agents)
            applied = await client.execute(ApplyAgents(agents=wanted, reason=reason, digest_was=was))
            click.echo(f"the catalogue is now {applied.digest[:12]}")

    asking(ctx, url, apply)


def _in_force(ctx: click.Context, url: str | None) -> Catalogue:
    found: Catalogue = asking(ctx, url, lambda client: client.execute(GetAgents()))
    return found


def _wanted(ctx: click.Context, file: Path | None) -> dict[str, AgentType]:
    from coordinator.settings.load import load

    settings: Any = load_settings(ctx, log_level="warning") if file is None else load(file)
    return {name: agent.agent_type() for name, agent in settings.agents.items()}


def _tell(found: Catalogue, wanted: dict[str, AgentType]) -> bool:
    """Print a line for each type that differs, and return whether there is one."""
    differ = changes(found.agents, wanted)
    for name, how in differ.items():
        click.echo(f"{_MARKS[how]} {name}{_fields(found.agents[name], wanted[name]) if how == 'changed' else ''}")
    if not differ:
        click.echo("no difference")
    return bool(differ)


def _fields(before: AgentType, after: AgentType) -> str:
    names = [name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    return f": {', '.join(names)}"
