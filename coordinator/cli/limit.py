"""`coordinator limit`: list, define and delete limits."""

from __future__ import annotations

from typing import Any

import click

from coordinator.cli.connection import REASON, URL, asking, send
from coordinator.cli.output import Number, moment, output_options, show, show_one
from coordinator.client.paging import listed
from coordinator.commands.limit import DefineLimit, DeleteLimit, GetLimit, LimitView, ListLimits
from events.limit import Terms, WhenBusy

_SECONDS = Number(0, 366 * 86_400, "a number of seconds")
_COLUMNS = (
    ("limit", lambda v: v.limit.limit_id),
    ("by", lambda v: v.limit.terms.by),
    ("allows", lambda v: _allowed(v.limit.terms)),
    ("when busy", lambda v: v.limit.terms.when_busy.value),
    ("running", lambda v: v.running),
    ("pending", lambda v: v.pending),
)


def _allowed(terms: Terms) -> str:
    """Return in words what each key may have."""
    parts = (
        (terms.running, f"{terms.running} running"),
        (terms.starts, f"{terms.starts} per {terms.per_s:g} s"),
        (terms.pending, f"{terms.pending} pending"),
        (terms.cooldown_s, f"{terms.cooldown_s:g} s cooldown"),
        (terms.debounce_s, f"{terms.debounce_s:g} s debounce"),
        (terms.retries_only, "retries only"),
    )
    return ", ".join(words for is_said, words in parts if is_said)


@click.group()
def limit() -> None:
    """List, define and delete limits of what runs, starts and waits."""


@limit.command("list")
@URL
@output_options
@click.pass_context
def limit_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the limits with how many tasks they limit now."""
    found = asking(ctx, url, lambda client: listed(client, ListLimits(limit=1000)))
    show(found, _COLUMNS, output=output, as_json=as_json)


@limit.command("get")
@click.argument("limit_id", metavar="NAME")
@URL
@output_options
@click.pass_context
def limit_get(ctx: click.Context, limit_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a limit and its busiest keys."""
    found: LimitView = asking(ctx, url, lambda client: client.execute(GetLimit(limit_id=limit_id)))
    facts = (
        *_COLUMNS,
        ("where", lambda v: v.limit.terms.where),
        ("parent", lambda v: v.limit.terms.parent),
        ("debounce", lambda v: f"{v.limit.terms.debounce_most_s:g} s at most" if v.limit.terms.debounce_most_s else ""),
        ("defined", lambda v: moment(v.limit.defined_at)),
        ("defined by", lambda v: v.limit.defined_by),
        ("reason", lambda v: v.limit.reason),
    )
    show_one(found, facts, output=output, as_json=as_json)
    if found.keys and not as_json and output == "table":
        click.echo()
        columns = (
            ("key", lambda k: k.value or "(all)"),
            ("running", lambda k: k.running),
            ("pending", lambda k: k.pending),
            ("may start", lambda k: "any" if k.may_start is None else k.may_start),
            ("opens in", lambda k: "" if k.opens_in_s is None else f"{k.opens_in_s:.1f} s"),
        )
        show(found.keys, columns, output=output, as_json=as_json)


@limit.command("define")
@click.argument("limit_id", metavar="NAME")
@click.option(
    "--by",
    default="all",
    show_default=True,
    help="What tasks of a key share: all, tenant, queue, task_name, fairness_key or attributes.NAME.",
)
@click.option("--where", default="", metavar="FILTER", help="Limit only tasks that meet this filter.")
@click.option("--running", type=int, metavar="N", help="So many tasks of a key may run.")
@click.option("--starts", type=int, metavar="N", help="So many attempts may begin in any --per seconds.")
@click.option("--per", type=_SECONDS, default=0.0, help="Seconds for --starts.")
@click.option("--pending", type=int, metavar="N", help="So many tasks of a key may be pending.")
@click.option("--cooldown", type=_SECONDS, default=0.0, help="Seconds without a start after the end of a task.")
@click.option("--debounce", type=_SECONDS, default=0.0, help="Seconds that a task waits for one to take its place.")
@click.option("--debounce-most", type=_SECONDS, default=0.0, help="How long that may go on, in seconds.")
@click.option("--when-busy", type=click.Choice([one.value for one in WhenBusy]), default="queue", show_default=True,
              help="What becomes of a task that is submitted while its key is busy.")  # fmt: skip
@click.option("--parent", default="", metavar="NAME", help="A limit whose amounts these may not exceed.")
@click.option("--retries-only", is_flag=True, help="Limit only attempts after a failed one: a retry budget.")
@REASON
@URL
@click.pass_context
def limit_define(ctx: click.Context, /, limit_id: str, reason: str, url: str | None, **options: Any) -> None:
    """Create a limit, or replace its terms."""
    terms = Terms(
        by=options["by"],
        where=options["where"],
        running=options["running"],
        starts=options["starts"],
        per_s=options["per"],
        pending=options["pending"],
        cooldown_s=options["cooldown"],
        debounce_s=options["debounce"],
        debounce_most_s=options["debounce_most"],
        when_busy=WhenBusy(options["when_busy"]),
        parent=options["parent"],
        retries_only=options["retries_only"],
    )
    send(ctx, url, DefineLimit(limit_id=limit_id, terms=terms, reason=reason))


@limit.command("delete")
@click.argument("limit_id", metavar="NAME")
@REASON
@URL
@click.pass_context
def limit_delete(ctx: click.Context, limit_id: str, reason: str, url: str | None) -> None:
    """Delete a limit."""
    send(ctx, url, DeleteLimit(limit_id=limit_id, reason=reason))
