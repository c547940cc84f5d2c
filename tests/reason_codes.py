"""The reason codes that the code gives, found in its syntax; used by the test of the table in `events/reasons.py`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests.tidy import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("events", "projections", "coordinator")
POSITIONAL = {"failed_attempt": 3, "starting": 3, "failed": 1}
"""Functions that pass a reason on by position, with that position."""


def reason_codes() -> dict[str, str]:
    """Return every text that the code gives as a reason or compares one with, and where."""
    trees = {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    constants = {
        name: text
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for name, text in _assigned(node)
        if name.isupper()
    }
    return {
        text: f"{name}:{value.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        for value in _given(node)
        for text in _texts(value, constants)
        if text
    }


def _assigned(node: ast.Assign) -> Iterator[tuple[str, str]]:
    """Yield the texts of an assignment, of one name or of several."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
            yield name, text
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            for one, value in zip(names, values, strict=True):
                if isinstance(one, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield one.id, value.value
        case _:
            return


def _given(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions of *node* that are reasons."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
            return  # what a log line says is free
        case ast.Call():
            yield from (one.value for one in node.keywords if one.arg == "reason")
            at = POSITIONAL.get(node.func.id) if isinstance(node.func, ast.Name) else None
            if at is not None and len(node.args) > at:
                yield node.args[at]
        case ast.Compare(left=ast.Attribute(attr="reason")):
            yield from node.comparators
        case ast.Assign(targets=[ast.Name(id="reason")], value=value):
            yield value
        case _:
            return


def _texts(value: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in constants:
            yield constants[name]
        case ast.IfExp():
            yield from _texts(value.body, constants)
            yield from _texts(value.orelse, constants)
        case ast.BoolOp():
            for one in value.values:
                yield from _texts(one, constants)
        case ast.Tuple() | ast.Set() | ast.List():
            for one in value.elts:
                yield from _texts(one, constants)
        case _:
            return
