"""`coordinator bench …`: measurements as JSON, each starting what it needs and stopping it."""

from __future__ import annotations

import asyncio

import click
import msgspec

from coordinator.cli.connection import load_settings


@click.group()
def bench() -> None:
    """Measure this machine; prints JSON."""


@bench.command("latency")
@click.option("--submits", type=click.IntRange(100, 100_000), default=1000, show_default=True)
@click.option("--starts", type=click.IntRange(1, 100), default=5, show_default=True)
@click.pass_context
def latency(ctx: click.Context, submits: int, starts: int) -> None:
    """Measure submit, container start, agent health and discovery, one caller at a time."""
    from coordinator import bench as measure

    load_settings(ctx, log_level="warning")
    click.echo(msgspec.json.encode(asyncio.run(measure.latency(submits=submits, starts=starts))))
