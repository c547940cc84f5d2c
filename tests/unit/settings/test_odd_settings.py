"""Odd values for every setting, in the environment and in the file: each is kept as given, or refused by its name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from coordinator.settings.load import load
from coordinator.settings.model import KNOWN_KEYS
from events.errors import Refused
from tests.oddities import NUMBERS, TEXTS

KEYS = [key.replace("<name>", "n1") for key in KNOWN_KEYS]
YAML = (
    *(".nan", ".inf", "-.inf", "0o17", "0x1F", "1_000", "1:30", "yes", "off", "~", "2026-01-01", "017"),
    *("!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!python/object:os.system {}", "!!str 5", "!!float 5", "-0.0"),
    *("{a: 1, a: 2}", "{1: a, '1': b}", "{true: a}", "{null: a}", "{[a]: b}", "? {a: b} : c", "&a [*a]", "[a, 1]"),
    *('"\\0"', '"\\ud800"', '"\\x1b[2J"', "[[[[[[]]]]]]", "<<: {a: b}", "1e400", "5 s", "5s", "10Gi", "9" * 400),
)  # fmt: skip
VALUES = (*YAML, *(yaml.safe_dump(make()).removesuffix("...\n").strip() for make in list(NUMBERS.values())[:-1]))
"""As they are written in the file."""


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the entries that users name what they cannot do without."""
    monkeypatch.setenv("COORDINATOR_AGENTS__N1__COMMAND", "program")
    monkeypatch.delenv("COORDINATOR_HOME")


def loaded(key: str) -> Any:
    found: Any = load()
    for part in key.split("."):
        if isinstance(found, dict) and part not in found:
            return None
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def is_kept(given: Any, found: Any) -> bool:
    """Return whether a value is kept: as a number of that value, a path to that file, or as the same text."""
    if given in ("", None) or isinstance(found, tuple):
        return True  # it is not set, or a list of its words
    if isinstance(found, int | float) and not isinstance(found, bool):
        return not isinstance(given, bool) and math.isfinite(found) and float(given) == found
    if isinstance(found, Path):
        return found == Path(given).expanduser().absolute()
    return isinstance(found, str) and found in (given, str(given).lower())


@pytest.mark.parametrize("key", KEYS)
def test_odd_values_in_the_environment(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable sets what it says, or the error names it."""
    name = f"COORDINATOR_{key.replace('.', '__').upper()}"
    wrong: dict[str, str] = {}
    for label, make in TEXTS.items():
        try:
            monkeypatch.setenv(name, make())
        except ValueError:  # no variable can hold it
            continue
        try:
            found = loaded(key)
        except Refused as error:
            if name not in error.message and key not in error.message and key.rpartition(".")[0] not in error.message:
                wrong[label] = error.message[:300]
        except Exception as error:  # noqa: BLE001  # it is what is looked for
            wrong[label] = f"{type(error).__name__}: {error}"[:300]
        else:
            if not is_kept(make(), found):
                wrong[label] = f"changed to {found!r}"[:300]
    assert wrong == {}


@pytest.mark.parametrize("key", KEYS)
def test_odd_values_in_the_file(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the file sets what it says, or the error names it."""
    file = tmp_path / "odd.yaml"
    monkeypatch.setenv("COORDINATOR_CONFIG", str(file))
    wrong: dict[str, str] = {}
    for value in VALUES:
        indented = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(key.split(".")))[:-1]
        file.write_text(f"{indented} {value}\n", encoding="utf-8", errors="surrogatepass")
        try:
            found = loaded(key)
        except Refused as error:
            if (
                key not in error.message
                and key.rpartition(".")[0] not in error.message
                and str(file) not in error.message
            ):
                wrong[value[:40]] = error.message[:300]
        except Exception as error:  # noqa: BLE001  # it is what is looked for
            wrong[value[:40]] = f"{type(error).__name__}: {error}"[:300]
        else:
            if not is_kept(yaml.safe_load(value), found):
                wrong[value[:40]] = f"changed to {found!r}"
    assert wrong == {}


def test_there_are_thousands() -> None:
    """The corpus is that of every setting and every value."""
    assert len(KEYS) * (len(TEXTS) + len(VALUES)) > 10_000
