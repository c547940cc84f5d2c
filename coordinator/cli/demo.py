"""`coordinator demo`."""

from __future__ import annotations

import asyncio

import click

from coordinator.cli import EXIT_ERROR, EXIT_INTERRUPTED
from coordinator.cli.connection import load_settings
from coordinator.demo.play import play
from coordinator.demo.show import say
from coordinator.stop_signals import unless_stopped


@click.command()
@click.option(
    "--tasks", "most", type=click.IntRange(1, 5000), default=600, show_default=True, help="Maximum number of tasks."
)
@click.pass_context
def demo(ctx: click.Context, most: int) -> int:
    """Run a temporary cluster with real tasks in real processes, then remove it."""
    settings = load_settings(ctx, log_level="warning")
    ended = asyncio.run(unless_stopped(play(settings, most)))
    if ended is None:
        say("interrupted; stopped and removed the cluster")
        return EXIT_INTERRUPTED
    return 0 if ended else EXIT_ERROR
