"""The handlers of the demo: real work on real files, the standard library of the Python that runs it."""

from __future__ import annotations

import ast
from hashlib import sha256
from pathlib import Path
from typing import Any

from coordinator.worker import task


@task("analyse_module")
def analyse_module(payload: dict[str, Any]) -> dict[str, Any]:
    """Read one Python file and say how many lines and definitions it has, and what it hashes to."""
    source = Path(payload["path"]).read_bytes()
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        "module": payload["module"],
        "bytes": len(source),
        "lines": source.count(b"\n"),
        "definitions": sum(isinstance(node, definitions) for node in ast.walk(ast.parse(source))),
        "digest": sha256(source).hexdigest(),
    }
