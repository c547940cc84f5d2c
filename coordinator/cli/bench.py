"""
`coordinator bench …`: benchmarks that print JSON. Each starts and stops the processes it needs.

A benchmark is an entry of `BENCHES` and a module `coordinator.bench.<name>`; its `run` takes the options by name.
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
    """An integer option of a benchmark."""

    name: str
    default: int
    least: int
    most: int
    about: str


class Bench(NamedTuple):
    """The help text and the options of a benchmark."""

    about: str
    options: tuple[Count, ...]


BENCHES = {
    "latency": Bench(
        "Measure latency for one caller.\n\nCovers submit, task start, claim, container start and discovery.",
        (
            Count("submits", 1000, 100, 100_000, "Tasks submitted one after the other."),
            Count("tasks", 500, 10, 5000, "Tasks submitted every 20 ms, measured until the handler starts."),
            Count("claims", 500, 10, 100_000, "Tasks claimed one after the other."),
            Count("pending", 100_000, 101, 1_000_000, "Tasks pending during the second measurement of claims."),
            Count("starts", 5, 1, 100, "Containers started one after the other."),
            Count("discoveries", 2000, 100, 1_000_000, "Services discovered one after the other."),
        ),
    ),
    "tasks": Bench(
        "Measure durable task throughput.\n\nTasks are submitted one by one and run by two workers.",
        (
            Count("tasks", 200_000, 100, 100_000_000, "Tasks submitted, 1,000 at a time."),
            Count("repeats", 3, 1, 100, "Number of runs, each in a new cluster."),
            Count("candidates", 0, 0, 1, "1: a candidate policy is compared with the live one meanwhile."),
        ),
    ),
    "rebuild": Bench(
        "Measure rebuilding from the journal, and memory per task.\n\nThe world and the store are built from zero.",
        (
            Count("events", 1_000_000, 1000, 100_000_000, "Events in the journal."),
            Count("repeats", 3, 1, 100, "Number of builds of each."),
            Count("tasks", 100_000, 1000, 10_000_000, "Pending tasks for the memory measurement."),
        ),
    ),
    "packing": Bench(
        "Measure how well a month of mixed tasks is packed.\n\n"
        "In virtual time, without a server: the engine's placement, first fit, best fit, and what none can exceed.",
        (
            Count("tasks", 8000, 100, 1_000_000, "Tasks of the month: together 110 % of what the fleet can do."),
            Count("seed", 1, 0, 1_000_000_000, "Another one gives another month."),
        ),
    ),
    "containers": Bench(
        "Measure how long containers take to run.\n\n"
        "On the runtime of the settings; on Docker in turns with a bare `docker run`.",
        (
            Count("starts", 20, 1, 10_000, "Containers started one after the other."),
            Count("at_once", 20, 1, 200, "Containers started together."),
        ),
    ),
    "discovery": Bench(
        "Measure the time to find a service and to see a change.",
        (
            Count("services", 10_000, 10, 1_000_000, "Services registered, ten for each name."),
            Count("discoveries", 5000, 10, 10_000_000, "Services found, one after the other."),
            Count("changes", 200, 2, 100_000, "Changes to watch for, one after the other."),
        ),
    ),
    "heartbeats": Bench(
        "Measure the cost of heartbeats from many services.\n\nEach service sends one every 10 s.",
        (
            Count("services", 10_000, 10, 1_000_000, "Services that send heartbeats."),
            Count("seconds", 20, 1, 86_400, "Seconds to measure."),
        ),
    ),
}


@click.group()
def bench() -> None:
    """Run benchmarks on this machine; print JSON."""


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
            [f"--{one.name.replace('_', '-')}", one.name],
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
