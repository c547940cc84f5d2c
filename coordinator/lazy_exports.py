"""Lets a package export names and import their modules only on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def lazy_exports(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package, from its exported names and the modules that define them."""

    def get(name: str) -> Any:
        if name not in names:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module(names[name]), name)

    return get
