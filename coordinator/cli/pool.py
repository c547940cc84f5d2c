"""`coordinator pool`: pools of resources, the shares that requests hold of them, and the requests that wait."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import click
import msgspec

from coordinator.cli.connection import URL, asking, send
from coordinator.cli.output import Attribute, Number, amounts_of, moment, output_options, show, show_json, show_one
from coordinator.commands.pool import AllocatePool, DefinePool, GetPool, MoveShare, ReleasePool
from events.pool import Placing
from events.resources import NONE, Resources
from projections.ledger import amounts_text, held_in, waits_of
from projections.moves import planned
from projections.pool import Pool

_AMOUNTS = (
    click.option("--cpu", help="Cores, such as 500m."),
    click.option("--memory", help="Memory, such as 2Gi."),
    click.option("--gpu", metavar="COUNT", help="GPUs."),
)
_SECONDS = Number(0.0, 30 * 86_400.0, "a number of seconds")


def _amounts(command: Any) -> Any:
    for option in reversed(_AMOUNTS):
        command = option(command)
    return command


def _parsed(texts: tuple[tuple[str, Any], ...]) -> dict[str, Resources]:
    """Return resources by name, of `NAME=cpu:4,memory:8Gi`."""
    found: dict[str, Resources] = {}
    for name, given in texts:
        pairs = (one.partition(":") for one in str(given).split(","))
        found[name] = Resources.parse({kind: amount for kind, _, amount in pairs})
    return found


@click.group()
def pool() -> None:
    """Show and define pools of resources; request, move and release shares."""


@pool.command("get")
@click.argument("pool_id", metavar="POOL")
@URL
@output_options
@click.pass_context
def pool_get(ctx: click.Context, pool_id: str, url: str | None, output: str, as_json: bool) -> None:
    """Show a pool, its shares, and why each request waits."""
    found: Pool = asking(ctx, url, lambda client: client.execute(GetPool(pool_id=pool_id)))
    if as_json or output == "json":
        show_json({"pool": found, "waits": list(waits_of(found))})
        return
    facts = (
        ("pool", lambda p: p.pool_id),
        ("capacity", lambda p: amounts_text(p.capacity)),
        ("held", lambda p: amounts_text(p.held)),
        ("placing", lambda p: p.placing.value if p.parts else ""),
        ("quotas", lambda p: "; ".join(f"{whose}: {amounts_text(most)}" for whose, most in p.quotas.items())),
    )
    show_one(found, facts, output=output, as_json=False)
    _show_rows(found, output)


def _show_rows(found: Pool, output: str) -> None:
    held = held_in(found.allocations.values())
    parts = (
        ("part", lambda part: part),
        ("capacity", lambda part: amounts_text(found.parts[part])),
        ("held", lambda part: amounts_text(held.get(f"part:{part}", NONE))),
    )
    shares = (
        ("request", lambda one: one.request_id),
        ("holds", lambda one: amounts_text(one.resources)),
        ("priority", lambda one: one.priority),
        ("part", lambda one: one.part),
        ("owner", lambda one: one.owner),
        ("since", lambda one: moment(one.allocated_at)),
    )
    waits = (
        ("place", lambda one: one.place),
        ("request", lambda one: one.request_id),
        ("priority", lambda one: found.waiting[one.request_id].priority),
        ("times out", lambda one: moment(one.until) or "never"),
        ("waits because", lambda one: one.text),
        ("held by", lambda one: ", ".join(one.held_by)),
    )
    for rows, columns in (
        (list(found.parts), parts),
        (list(found.allocations.values()), shares),
        (list(waits_of(found)), waits),
    ):
        if rows:
            click.echo()
            show(rows, columns, output=output, as_json=False)


@pool.command("define")
@click.argument("pool_id", metavar="POOL")
@_amounts
@click.option(
    "--part", "parts", metavar="NAME=AMOUNTS", type=Attribute(), multiple=True,
    help="A part, such as node_1=cpu:8,memory:16Gi; together they are the capacity. Repeatable.",
)  # fmt: skip
@click.option(
    "--placing",
    type=click.Choice([one.value for one in Placing]),
    default="pack",
    show_default=True,
    help="To which part a share goes: to the fullest that has room, or to the emptiest.",
)
@click.option(
    "--quota", "quotas", metavar="WHOSE=AMOUNTS", type=Attribute(), multiple=True,
    help="The most that one may hold: tenant:acme=gpu:1, source:NAME=…, or tenant:*=… for each. Repeatable.",
)  # fmt: skip
@URL
@click.pass_context
def pool_define(ctx: click.Context, /, pool_id: str, url: str | None, **options: Any) -> None:
    """Create a pool, or change what it has and allows; shares that are held stay."""
    parts = _parsed(options["parts"])
    given = {name: options[name] for name in ("cpu", "memory", "gpu") if options[name] is not None}
    capacity = Resources.parse(given) if given or not parts else reduce(add, parts.values(), NONE)
    command = DefinePool(
        pool_id=pool_id,
        capacity=capacity,
        parts=parts,
        placing=Placing(options["placing"]),
        quotas=_parsed(options["quotas"]),
    )
    send(ctx, url, command)


@pool.command("request")
@click.argument("pool_id", metavar="POOL")
@click.argument("request_id", metavar="REQUEST")
@_amounts
@click.option("--priority", type=int, default=0, help="The higher one is granted first.")
@click.option("--wait", type=_SECONDS, default=0.0, help="Keep the request waiting for so many seconds.")
@click.option("--preempt", is_flag=True, help="Take shares of lower priorities if it does not fit.")
@click.option("--owner", metavar="KIND:ID", default="", help="What the share ends with, such as worker:worker_1.")
@click.option("--movable", is_flag=True, help="Allow the share to be put into another part.")
@URL
@click.pass_context
def pool_request(ctx: click.Context, /, pool_id: str, request_id: str, url: str | None, **options: Any) -> None:
    """Request a share; print whether it is granted, waits, or does not fit."""
    command = AllocatePool(
        pool_id=pool_id,
        request_id=request_id,
        resources=Resources.parse(amounts_of({**options, "named": ()})),
        priority=options["priority"],
        wait_s=options["wait"],
        preempts=options["preempt"],
        owner=options["owner"],
        movable=options["movable"],
    )
    granted = asking(ctx, url, lambda client: client.execute(command))
    if granted:
        click.echo("granted")
        return
    found: Pool = asking(ctx, url, lambda client: client.execute(GetPool(pool_id=pool_id)))
    wait = next((one for one in waits_of(found) if one.request_id == request_id), None)
    click.echo("does not fit" if wait is None else f"waits as number {wait.place}: {wait.text}")


@pool.command("release")
@click.argument("pool_id", metavar="POOL")
@click.argument("request_id", metavar="REQUEST")
@URL
@click.pass_context
def pool_release(ctx: click.Context, pool_id: str, request_id: str, url: str | None) -> None:
    """Release the share of a request, or withdraw a request that waits."""
    command = ReleasePool(pool_id=pool_id, request_id=request_id)
    released = asking(ctx, url, lambda client: client.execute(command))
    click.echo("released" if released else f"request {request_id} has no share")


@pool.command("optimize")
@click.argument("pool_id", metavar="POOL")
@click.option("--apply", is_flag=True, help="Make the moves; without it they are only shown.")
@URL
@output_options
@click.pass_context
def pool_optimize(ctx: click.Context, pool_id: str, apply: bool, url: str | None, output: str, as_json: bool) -> None:
    """Show which movable shares to put into other parts of a pool, what each gains and costs."""

    async def body(client: Any) -> list[Any]:
        moves = planned(await client.execute(GetPool(pool_id=pool_id)))
        for move in moves if apply else ():
            await client.execute(MoveShare(pool_id=pool_id, request_id=move.request_id, part=move.to_part))
        return moves

    moves = asking(ctx, url, body)
    columns = (
        ("request", lambda m: m.request_id),
        ("from", lambda m: m.from_part),
        ("to", lambda m: m.to_part),
        ("gain", lambda m: f"{m.gain:.1%}"),
        ("cost", lambda m: f"{m.cost:.1%}"),
        ("why", lambda m: m.why),
    )
    if as_json or output == "json":
        show_json([{**msgspec.structs.asdict(move), "applied": apply} for move in moves])
    elif moves:
        show(moves, columns, output=output, as_json=False)
    else:
        click.echo("no move gains more than it costs")
