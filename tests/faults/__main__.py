"""
Break the system and see whether it keeps its promises; everything is real.

    python -m tests.faults                     every scenario, each as a line of JSON
    python -m tests.faults kills --tasks 500   one of them, with options of its own: `kills --help`

Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.logs import configure
from tests.faults import damage, kills

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Scenario(NamedTuple):
    """One way to break it: `options` are keywords of `run` and their defaults, `is_kept` judges what it gives."""

    run: Callable[..., Coroutine[Any, Any, dict[str, Any]]]
    is_kept: Callable[[dict[str, Any]], bool]
    options: dict[str, int]


SCENARIOS = {
    "kills": Scenario(kills.run, kills.is_kept, {"tasks": 500}),
    "damage": Scenario(damage.run, damage.is_kept, {"count": 30, "seed": 1}),
}


def main() -> int:
    """Run what was asked for, and say what came of it."""
    names = [sys.argv[1]] if sys.argv[1:] and sys.argv[1] in SCENARIOS else list(SCENARIOS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(names) > 1:
        parser.add_argument("scenario", nargs="?", choices=names)
        options: dict[str, int] = {}
    else:
        parser.add_argument("scenario", choices=names)
        options = SCENARIOS[names[0]].options
    for option, default in options.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--log", default="error", help="level of what is logged")
    given = vars(parser.parse_args())
    configure(given["log"])
    broken = 0
    for name in names:
        scenario = SCENARIOS[name]
        chosen = {option: given.get(option, default) for option, default in scenario.options.items()}
        result = asyncio.run(scenario.run(**chosen))
        is_kept = scenario.is_kept(result)
        broken += not is_kept
        print(msgspec.json.encode({"scenario": name, "kept": is_kept, **result}).decode(), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
