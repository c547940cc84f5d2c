"""The task handlers of the demo; they analyse files of Python's standard library."""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path
from typing import Any

from coordinator.worker import task


@task("analyse_module")
def analyse_module(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the number of lines and definitions of a Python file, and its hash."""
    source = Path(payload["path"]).read_bytes()
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        "module": payload["module"],
        "bytes": len(source),
        "lines": source.count(b"\n"),
        "definitions": sum(isinstance(node, definitions) for node in ast.walk(ast.parse(source))),
        "digest": sha256(source).hexdigest(),
    }
