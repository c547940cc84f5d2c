"""Settings have an effect: something reads each key, or it is told that nothing does."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from coordinator.deciders.rules import Limits, Rules
from coordinator.processes.coordinator import _KEYS, log_without_effect
from coordinator.settings.effects import REMOVED, UNREAD, without_effect
from coordinator.settings.fields import is_mapping, section_of
from coordinator.settings.load import load
from coordinator.settings.model import KNOWN_KEYS, Settings
from events.errors import Refused
from tests.unit.settings.test_load import REQUIRED, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[3] / "coordinator"
SETTINGS = ROOT / "settings"
IMPLICIT = {*Rules.__struct_fields__, *_KEYS.values(), *Limits.__struct_fields__}
"""Keys that `rules_of` and `limits_of` take by the names of their structs; their own tests show that each arrives."""
RULED = {"container", "registry", "scheduler", "node", "engine"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@cache
def trees(*, of_settings: bool) -> tuple[ast.Module, ...]:
    """Return the parsed code of the settings, or all other code."""
    files = [file for file in ROOT.rglob("*.py") if file.is_relative_to(SETTINGS) is of_settings]
    return tuple(ast.parse(file.read_text("utf-8")) for file in files if file.name != "effects.py")


def last_name(node: ast.expr) -> str:
    """Return the last word of `a.b.c`; '' of anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def reads(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (section, key) of each `….section.key`, and of each `name.key` where `name = ….section`."""
    names = {
        target.id: last_name(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target, value in _pairs(node)
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            section = last_name(node.value)
            yield section, node.attr
            yield names.get(section, ""), node.attr


def _pairs(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value


@cache
def read_elsewhere() -> frozenset[tuple[str, str]]:
    functions = (
        node
        for tree in trees(of_settings=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return frozenset(found for function in functions for found in reads(function))


@cache
def read_by_methods() -> dict[str, set[str]]:
    """Return by class of settings what those of its methods read that code elsewhere calls."""
    called = {
        node.func.attr
        for tree in trees(of_settings=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return {
        kind.name: {
            key
            for method in kind.body
            if isinstance(method, ast.FunctionDef) and method.name in called
            for owner, key in reads(method)
            if owner == "self"
        }
        for tree in trees(of_settings=True)
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
    }


def unread(model: type[BaseModel], section: str = "", before: str = "") -> Iterator[str]:
    """Yield each key of *model* that no code outside the settings reads."""
    own = {key for kind in model.__mro__ for key in read_by_methods().get(kind.__name__, ())}
    for name, field in model.model_fields.items():
        inner = section_of(field)
        is_read = name in own or (section or "settings", name) in read_elsewhere()
        if not is_read and not (section in RULED and name in IMPLICIT):
            yield f"{before}{name}"
        elif inner is not None and inner.__name__ != "Amounts":
            yield from unread(inner, name, f"{before}{name}.{'<name>.' if is_mapping(field) else ''}")


def test_each_setting_is_read_or_is_listed_with_the_reason() -> None:
    """No key is only validated; one that nothing reads yet is in `UNREAD`, and one that is read is not."""
    assert set(unread(Settings)) == set(UNREAD)


def test_no_key_is_both_known_and_removed() -> None:
    """A removed key is not known."""
    assert not REMOVED.keys() & KNOWN_KEYS.keys()


@pytest.mark.parametrize("key", REMOVED)
def test_a_removed_key_says_what_to_use(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file as in the environment, the error names the key, its place and what is right."""
    section, _, name = key.partition(".")
    with pytest.raises(Refused) as caught:
        load(written(f"{section}: {{{name}: 5}}"))
    assert caught.value.message == f"{key} is not a setting any more (some.yaml line 1): {REMOVED[key]}"
    variable = f"COORDINATOR_{section}__{name}".upper()
    monkeypatch.setenv(variable, "5")
    with pytest.raises(Refused) as caught:
        load(written(""))
    assert caught.value.message == f"{key} is not a setting any more (${variable}): {REMOVED[key]}"


def test_what_is_set_without_effect_is_told() -> None:
    """Only keys that are set are mentioned, each with its name and a reason."""
    assert list(without_effect(load())) == []
    assert [key for key, _ in without_effect(load(written(REQUIRED)))] == [
        "container.health_check_interval",
        "registry.cleanup_interval",
        "scheduler.task_timeout_check_interval",
    ]
    assert not list(without_effect(load(written("registry: {cleanup_interval: 0.2}"))))


def test_it_is_logged_once_when_a_coordinator_starts() -> None:
    """One line for each, with the key and the reason."""
    with structlog.testing.capture_logs() as logs:
        log_without_effect(load(written("container: {health_check_interval: 5}")))
    key = "container.health_check_interval"
    assert logs == [{"event": "setting_without_effect", "key": key, "why": UNREAD[key], "log_level": "warning"}]
