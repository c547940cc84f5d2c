"""
`coordinator bench …`: measurements as JSON, each starting what it needs and stopping it.

A benchmark is a row of `BENCHES` and a module `coordinator.bench.<name>`, whose `run` takes the options by name.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from coordinator.cli.connection import load_settings
from coordinator.stop_signals import unless_stopped

if TYPE_CHECKING:
    from collections.abc import Callable


class Count(NamedTuple):
    """A whole number that a benchmark takes."""

    name: str
    default: int
    least: int
    most: int
    about: str


class Bench(NamedTuple):
    """What a benchmark says of itself, and what it takes."""

    about: str
    options: tuple[Count, ...]


BENCHES = {
    "latency": Bench(
        "Measure what one caller waits for: submit, start of a task, claim, container start, discovery.",
        (
            Count("submits", 1000, 100, 100_000, "tasks submitted one after the other"),
            Count("tasks", 500, 10, 5000, "tasks submitted each 20 ms, until their handlers start"),
            Count("claims", 500, 10, 100_000, "tasks claimed one after the other"),
            Count("pending", 100_000, 101, 1_000_000, "tasks that wait while claims are measured again"),
            Count("starts", 5, 1, 100, "containers started one after the other"),
            Count("discoveries", 2000, 100, 1_000_000, "services discovered one after the other"),
        ),
    ),
    "tasks": Bench(
        "Measure how many tasks go through, submitted one by one and run by two workers, all of it durable.",
        (
            Count("tasks", 200_000, 100, 100_000_000, "tasks submitted, 1,000 at once"),
            Count("repeats", 3, 1, 100, "times, each in a cluster of its own"),
        ),
    ),
    "rebuild": Bench(
        "Measure how long world and store take to build from the journal, and what a pending task takes of memory.",
        (
            Count("events", 1_000_000, 1000, 100_000_000, "events in the journal"),
            Count("repeats", 3, 1, 100, "times that each is built"),
            Count("tasks", 100_000, 1000, 10_000_000, "pending tasks whose memory is measured"),
        ),
    ),
    "discovery": Bench(
        "Measure how long it takes to find a service among many, and to see a change.",
        (
            Count("services", 10_000, 10, 1_000_000, "services registered, ten of a name"),
            Count("discoveries", 5000, 10, 10_000_000, "services found, one after the other"),
            Count("changes", 200, 2, 100_000, "changes watched for, one after the other"),
        ),
    ),
    "heartbeats": Bench(
        "Measure what it costs to hear many services, each beating every 10 s.",
        (
            Count("services", 10_000, 10, 1_000_000, "services that beat"),
            Count("seconds", 20, 1, 86_400, "how long to look on"),
        ),
    ),
}


@click.group()
def bench() -> None:
    """Measure this machine; prints JSON."""


def _command(name: str, described: Bench) -> click.Command:
    def measure(**options: int) -> None:
        ctx = click.get_current_context()
        load_settings(ctx, log_level="warning")
        run: Callable[..., Any] = import_module(f"coordinator.bench.{name}").run
        figures = asyncio.run(unless_stopped(run(**options)))
        if figures is None:
            raise click.Abort
        click.echo(msgspec.json.encode(figures))

    options: list[click.Parameter] = [
        click.Option(
            [f"--{one.name}"],
            type=click.IntRange(one.least, one.most),
            default=one.default,
            show_default=True,
            help=one.about,
        )
        for one in described.options
    ]
    return click.Command(name, callback=measure, params=options, help=described.about)


for _name, _bench in BENCHES.items():
    bench.add_command(_command(_name, _bench))
