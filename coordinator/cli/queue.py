"""`coordinator queue`: list, define, pause and resume queues, set their policies, and compare candidates."""

from __future__ import annotations

from typing import Any

import click

from coordinator.cli.connection import REASON, URL, asking, send
from coordinator.cli.explain import age
from coordinator.cli.output import Number, moment, output_options, show, show_one
from coordinator.client.paging import listed
from coordinator.commands.queue import (
    STRATEGIES,
    DefineQueue,
    DeleteQueue,
    GetQueue,
    ListQueues,
    PauseQueue,
    QueueView,
    ResumeQueue,
    SetPolicy,
)
from coordinator.commands.shadow import PromotePolicy, RollBackPolicy, SetShadow
from events.errors import Refused
from events.queue import DEFAULT, FairShare, Policy

WEIGHT = Number(1e-6, 1e6, "a number above 0")
_COLUMNS = (
    ("queue", lambda v: v.queue.queue_id),
    ("state", lambda v: "paused" if v.queue.paused_at is not None else "open"),
    ("pending", lambda v: v.pending),
    ("ready", lambda v: v.ready),
    ("running", lambda v: v.running),
    ("weight", lambda v: f"{v.queue.weight:g}"),
    ("policy", lambda v: v.policy.strategy),
)

_SHARERS = (
    ("key", lambda s: s.key or "(none)"),
    ("weight", lambda s: f"{s.weight:g}"),
    ("share", lambda s: f"{s.share:.1%}"),
    ("used", lambda s: f"{s.used:.1f}"),
    ("running", lambda s: s.running),
    ("ready", lambda s: s.ready),
)
_WAITS = (
    ("waits for", lambda w: w.code),
    ("tasks", lambda w: w.tasks),
    ("longest", lambda w: age(w.oldest_s)),
    ("in the way", lambda w: ", ".join(w.holders[:HOLDERS_SHOWN]) + (" …" if w.holders[HOLDERS_SHOWN:] else "")),
)
_MADE_WAIT = (
    ("tenant", lambda m: m.holder or "(none)"),
    ("made wait", lambda m: m.waiter or "(none)"),
    ("for", lambda m: age(m.seconds)),
)
HOLDERS_SHOWN = 3


def _weighted(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g} weighted s for each decision"


_SHADOW = (
    ("queue", lambda v: v.queue.queue_id),
    ("policy", lambda v: v.policy.strategy),
    ("candidate", lambda v: v.queue.shadow.policy.strategy),
    ("since", lambda v: moment(v.queue.shadow.since)),
    ("set by", lambda v: v.queue.shadow.set_by),
    ("reason", lambda v: v.queue.shadow.reason),
    ("turns", lambda v: f"{v.queue.shadow.compared.turns} compared, {v.queue.shadow.compared.skipped} skipped"),
    ("decisions", lambda v: f"{v.queue.shadow.compared.decisions}, at least {v.queue.shadow.min_decisions}"),
    ("divergence", lambda v: f"{v.shadow.divergence:.1%}"),
    ("regret", lambda v: _weighted(v.shadow.regret_s)),
    ("at most", lambda v: _weighted(v.shadow.regret_high_s)),
    ("bound", lambda v: _weighted(v.queue.shadow.regret_max)),
    ("promotion", lambda v: v.shadow.refusal or "possible"),
    ("why not", lambda v: v.shadow.why_not),
)
_EXAMPLES = (
    ("commit", lambda e: e.sequence),
    ("task", lambda e: e.task_id),
    ("worker", lambda e: e.worker_id),
    ("candidate's task", lambda e: e.other_task_id or "(none)"),
    ("its worker", lambda e: e.other_worker_id),
)


class _Pair(click.ParamType[tuple[str, float]]):
    """`NAME=NUMBER`."""

    name = "name=number"

    def __init__(self, number: click.ParamType[Any]) -> None:
        self._number = number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        key, sign, given = str(value).rpartition("=")
        if not sign:
            self.fail(f"{value!r} is not of the form NAME=NUMBER, such as acme=3", param, ctx)
        return key, self._number.convert(given, param, ctx)


@click.group()
def queue() -> None:
    """List, pause and resume queues, and set their policies."""


@queue.command("list")
@URL
@output_options
@click.pass_context
def queue_list(ctx: click.Context, url: str | None, output: str, as_json: bool) -> None:
    """List the queues with their tasks and policies."""
    found = asking(ctx, url, lambda client: listed(client, ListQueues(limit=1000)))
    show(found, _COLUMNS, output=output, as_json=as_json)


@queue.command("get")
@click.argument("queue_id", metavar="[NAME]", default=DEFAULT)
@URL
@output_options
@click.pass_context
def queue_get(ctx: click.Context, queue_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a queue, its policy, who shares it, and why its tasks wait."""
    found: QueueView = asking(ctx, url, lambda client: client.execute(GetQueue(queue_id=queue_id)))
    facts = (
        *_COLUMNS,
        ("age", lambda v: f"{v.policy.ageing_s:g} s count as one priority" if v.policy.ageing_s else ""),
        ("priorities", lambda v: ", ".join(f"{one} = {rank}" for one, rank in v.policy.priority_weights.items())),
        ("shared by", lambda v: "" if v.policy.fair is None else v.policy.fair.by),
        ("cost", lambda v: "" if v.policy.fair is None else v.policy.fair.cost),
        ("half-life", lambda v: "" if v.policy.fair is None else f"{v.policy.fair.half_life_s:g} s"),
        ("candidate", lambda v: "" if v.queue.shadow is None else v.queue.shadow.policy.strategy),
        ("promoted", lambda v: "" if v.queue.promoted is None else moment(v.queue.promoted.at)),
        ("paused", lambda v: moment(v.queue.paused_at)),
        ("paused by", lambda v: v.queue.paused_by),
        ("reason", lambda v: v.queue.reason),
    )
    show_one(found, facts, output=output, as_json=as_json)
    for rows, columns in ((found.sharers, _SHARERS), (found.waits, _WAITS), (found.made_wait, _MADE_WAIT)):
        if rows and not as_json and output == "table":
            click.echo()
            show(rows, columns, output=output, as_json=as_json)


@queue.command("define")
@click.argument("queue_id", metavar="NAME")
@click.option("--weight", type=WEIGHT, default=1.0, show_default=True, help="Part of the fleet beside other queues.")
@URL
@click.pass_context
def queue_define(ctx: click.Context, queue_id: str, weight: float, url: str | None) -> None:
    """Create a queue, or change its weight."""
    send(ctx, url, DefineQueue(queue_id=queue_id, weight=weight))


@queue.command("pause")
@click.argument("queue_id", metavar="NAME")
@REASON
@URL
@click.pass_context
def queue_pause(ctx: click.Context, queue_id: str, reason: str, url: str | None) -> None:
    """Start no more tasks of a queue; what runs goes on."""
    send(ctx, url, PauseQueue(queue_id=queue_id, reason=reason))


@queue.command("resume")
@click.argument("queue_id", metavar="NAME")
@REASON
@URL
@click.pass_context
def queue_resume(ctx: click.Context, queue_id: str, reason: str, url: str | None) -> None:
    """Start tasks of a paused queue again."""
    send(ctx, url, ResumeQueue(queue_id=queue_id, reason=reason))


@queue.command("delete")
@click.argument("queue_id", metavar="NAME")
@REASON
@URL
@click.pass_context
def queue_delete(ctx: click.Context, queue_id: str, reason: str, url: str | None) -> None:
    """Delete a queue without tasks that have not ended."""
    send(ctx, url, DeleteQueue(queue_id=queue_id, reason=reason))


_QUEUE = click.option("--queue", "name", default=DEFAULT, show_default=True, help="The queue; others follow `default`.")


def _policy_options(command: Any) -> Any:
    """Add the options that a policy has."""
    for option in reversed(_POLICY_OPTIONS):
        command = option(command)
    return command


_POLICY_OPTIONS = (
    click.option(
        "--ageing",
        type=Number(0, 366 * 86_400, "a number of seconds"),
        default=60.0,
        show_default=True,
        help="Seconds of waiting that count as one priority; 0: age does not count.",
    ),
    click.option(
        "--priority",
        "ranks",
        type=_Pair(click.INT),
        multiple=True,
        metavar="NAME=N",
        help="A name of a priority, such as urgent=9. Repeatable.",
    ),
    click.option("--by", type=click.Choice(["tenant", "key"]), help="fair: who shares the queue.  [default: tenant]"),
    click.option(
        "--cost", type=click.Choice(["seconds", "tokens", "money"]), help="fair: what is counted.  [default: seconds]"
    ),
    click.option(
        "--half-life",
        type=Number(1, 366 * 86_400, "a number of seconds"),
        help="fair: seconds after which use counts half.  [default: 300]",
    ),
    click.option(
        "--weight",
        "weights",
        type=_Pair(WEIGHT),
        multiple=True,
        metavar="NAME=N",
        help="fair: the part of a tenant or key, such as acme=3. Repeatable.",
    ),
)


def _policy(strategy: str, options: dict[str, Any]) -> Policy:
    """Return the policy that the options describe."""
    given = {
        field: options[option]
        for field, option in (("by", "by"), ("cost", "cost"), ("half_life_s", "half_life"))
        if options[option] is not None
    }
    if options["weights"]:
        given["weights"] = dict(options["weights"])
    if given and strategy != "fair":
        raise click.UsageError("--by, --cost, --half-life and --weight belong to the strategy fair")
    return Policy(
        strategy=strategy,
        ageing_s=options["ageing"],
        priority_weights=dict(options["ranks"]),
        fair=FairShare(**given) if strategy == "fair" else None,
    )


@queue.command("policy")
@click.argument("strategy", metavar="STRATEGY", type=click.Choice([*STRATEGIES, "inherit"]))
@_QUEUE
@_policy_options
@REASON
@URL
@click.pass_context
def queue_policy(ctx: click.Context, /, strategy: str, name: str, reason: str, url: str | None, **options: Any) -> None:
    """
    Take the tasks of a queue by another policy from now on.

    `inherit` is that of the queue `default`.
    """
    policy = _policy(strategy, options)
    send(ctx, url, SetPolicy(queue_id=name, policy=None if strategy == "inherit" else policy, reason=reason))


@queue.command("shadow")
@click.argument("strategy", metavar="[STRATEGY]", required=False, type=click.Choice([*STRATEGIES, "none"]))
@_QUEUE
@_policy_options
@click.option(
    "--regret-max",
    type=Number(-1e9, 1e9, "a number of weighted seconds"),
    default=0.0,
    show_default=True,
    help="Weighted seconds for each decision above which it is not promoted.",
)
@click.option(
    "--min-decisions",
    type=click.IntRange(1, 10**9),
    default=1000,
    show_default=True,
    help="Decisions that must be compared before it is promoted.",
)
@REASON
@URL
@output_options
@click.pass_context
def queue_shadow(
    ctx: click.Context,
    /,
    strategy: str | None,
    name: str,
    reason: str,
    url: str | None,
    output: str,
    as_json: bool,
    **options: Any,
) -> None:
    """
    Compare a candidate policy with the live one, or show how it does.

    Without STRATEGY it shows how the candidate of the queue does; `none` removes it.
    """
    if strategy is not None:
        policy = None if strategy == "none" else _policy(strategy, options)
        bounds = {"regret_max": options["regret_max"], "min_decisions": options["min_decisions"]}
        send(ctx, url, SetShadow(queue_id=name, policy=policy, reason=reason, **bounds))
        return
    found: QueueView = asking(ctx, url, lambda client: client.execute(GetQueue(queue_id=name)))
    shadow = found.queue.shadow
    if shadow is None:
        msg = f"queue {name!r} has no candidate policy: coordinator queue shadow STRATEGY sets one"
        raise Refused(msg, reason="no_shadow")
    show_one(found, _SHADOW, output=output, as_json=as_json)
    if shadow.examples and not as_json and output == "table":
        click.echo()
        show(list(shadow.examples), _EXAMPLES, output=output, as_json=as_json)


@queue.command("promote")
@click.argument("queue_id", metavar="[NAME]", default=DEFAULT)
@REASON
@URL
@click.pass_context
def queue_promote(ctx: click.Context, queue_id: str, reason: str, url: str | None) -> None:
    """Make the candidate the policy of a queue; refused while its regret may be above its bound."""
    send(ctx, url, PromotePolicy(queue_id=queue_id, reason=reason))


@queue.command("rollback")
@click.argument("queue_id", metavar="[NAME]", default=DEFAULT)
@REASON
@URL
@click.pass_context
def queue_rollback(ctx: click.Context, queue_id: str, reason: str, url: str | None) -> None:
    """Set the policy again that a queue had before the last promotion."""
    send(ctx, url, RollBackPolicy(queue_id=queue_id, reason=reason))
