"""
Inject faults into a real system and check that it keeps its promises.

    python -m tests.faults                     run every scenario, one line of JSON each
    python -m tests.faults kills --seconds 60   run one scenario with its options: `kills --help`

Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.logs import configure
from tests.faults import (
    container_ends,
    damage,
    handover,
    kills,
    outage,
    powercut,
    repeats,
    replicas,
    replicas_takeover,
    returned_agent,
    steady,
    stopped_writer,
    takeover,
    twins,
)
from tests.faults.strangers import scenario as strangers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Scenario(NamedTuple):
    """One scenario: `options` are keywords of `run` and their defaults, `is_kept` checks its result."""

    run: Callable[..., Coroutine[Any, Any, dict[str, Any]]]
    is_kept: Callable[[dict[str, Any]], bool]
    options: dict[str, int]


SCENARIOS = {
    "kills": Scenario(
        kills.run,
        kills.is_kept,
        {
            "tasks": 5000,
            "coordinators": 30,
            "workers": 30,
            "servers": 10,
            "followers": 10,
            "nodes": 10,
            "seconds": 240,
            "lease_s": 10,
            "seed": 1,
        },
    ),
    "takeover": Scenario(takeover.run, takeover.is_kept, {"times": 20, "at_once": 5, "seed": 1}),
    "stopped_writer": Scenario(
        stopped_writer.run,
        stopped_writer.is_kept,
        {"times": 20, "stopped_s": 60, "lease_s": 12, "at_once": 10, "seed": 1},
    ),
    "woken_writer": Scenario(
        stopped_writer.run,
        stopped_writer.is_kept,
        {"times": 60, "stopped_s": 0, "lease_s": 4, "at_once": 6, "seed": 1},
    ),
    "handover": Scenario(handover.run, handover.is_kept, {"times": 20, "count": 3}),
    "steady": Scenario(
        steady.run, steady.is_kept, {"minutes": 30, "every_s": 30, "calls_each_s": 40, "restart": 1, "seed": 1}
    ),
    "returned_agent": Scenario(returned_agent.run, returned_agent.is_kept, {"times": 10, "node_lease_s": 3}),
    "twins": Scenario(twins.run, twins.is_kept, {"times": 200, "nodes": 10, "containers": 30, "lease_s": 3, "seed": 1}),
    "repeats": Scenario(repeats.run, repeats.is_kept, {"tasks": 20_000, "kills": 3, "seed": 1}),
    "container_ends": Scenario(container_ends.run, container_ends.is_kept, {"times": 5}),
    "outage": Scenario(outage.run, outage.is_kept, {"containers": 3, "seconds": 18, "lease_s": 15}),
    "damage": Scenario(damage.run, damage.is_kept, {"count": 30, "seed": 1}),
    "powercut": Scenario(powercut.run, powercut.is_kept, {"cuts": 20, "acknowledged": 2000, "control": 3}),
    "replicas": Scenario(replicas.run, replicas.is_kept, {"kills": 5, "freezes": 2, "losses": 2}),
    "strangers": Scenario(strangers.run, strangers.is_kept, {"seconds": 10, "per_s": 2000, "only": 0}),
    "takeover_r3": Scenario(replicas_takeover.run, replicas_takeover.is_kept, {"takeovers": 20}),
}


def main() -> int:
    """Run what the arguments request, and print the results."""
    names = [sys.argv[1]] if sys.argv[1:] and sys.argv[1] in SCENARIOS else list(SCENARIOS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(names) > 1:
        parser.add_argument("scenario", nargs="?", choices=names)
        options: dict[str, int] = {}
    else:
        parser.add_argument("scenario", choices=names)
        options = SCENARIOS[names[0]].options
    for option, default in options.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--log", default="error", help="log level")
    given = vars(parser.parse_args())
    configure(given["log"])
    # Clean up processes and mounts also when this process is terminated.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broken = 0
    for name in names:
        scenario = SCENARIOS[name]
        chosen = {option: given.get(option, default) for option, default in scenario.options.items()}
        try:
            result = asyncio.run(scenario.run(**chosen))
            is_kept = scenario.is_kept(result)
        except Exception as error:  # noqa: BLE001  # the others still run
            traceback.print_exc()
            result, is_kept = {"error": f"{type(error).__name__}: {error}"[-2000:]}, False
        broken += not is_kept
        print(msgspec.json.encode({"scenario": name, "kept": is_kept, **result}).decode(), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
