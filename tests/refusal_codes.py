"""
The reasons that each operation can be refused with, found in the syntax of the code that answers it.

It begins at the decider and the teller of a command, or at the case of a question, and follows every name that is used
there to the function, the method or the value that it stands for. That is a little more than what can happen, never
less; what is called through a table or an object that has no name in the code is added by `_further`.
"""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from coordinator.commands.command import Command
from coordinator.commands.operations import OPERATIONS
from coordinator.commands.reads import HowFarBehind, ReadQuestion
from coordinator.commands.task import ClaimTasks, SubmitTask
from coordinator.security.authorization import _LIMITS_OF
from events.errors import ERRORS
from tests.tidy import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Operation

PACKAGES = (
    "events",
    "projections",
    "coordinator/commands",
    "coordinator/deciders",
    "coordinator/placement",
    "coordinator/engine",
)
FILES = (
    *("coordinator/follower/read_door.py", "coordinator/follower/dead_letters.py", "coordinator/follower/follower.py"),
    "coordinator/bus/nats_client.py",
    *("coordinator/security/authorization.py", "coordinator/doors/rpc.py"),
)
QUESTIONS = ("coordinator.engine.questions", "ask")
READS = (("coordinator.follower.read_door", "ReadDoor.ask"), ("coordinator.follower.read_door", "ReadDoor._read"))
CLAIMS = ("coordinator.engine.waiting_claims", "SchedulingWorker.add")
OBJECTS = {"store": ("projections.store.sqlite", "SqliteStore")}
"""Objects by the name that they always have in the code, with their class."""

DOORS: dict[type[Operation], tuple[str, ...]] = {
    Command: (
        *("coordinator.doors.rpc", "coordinator.commands.wire", "coordinator.security.authorization", "events.ids"),
        *("coordinator.engine.engine", "coordinator.engine.intake", "coordinator.engine.turn"),
        *("coordinator.engine.waiting_questions", "coordinator.engine.waiting_claims"),
    ),
    ReadQuestion: (
        *("coordinator.follower.read_door", "coordinator.commands.reads", "projections.store.sqlite"),
        *("coordinator.bus.nats_client", "coordinator.follower.follower"),
    ),
}
"""What every operation of a door goes through."""
NOT_TOLD = {
    "refused": "the placeholder for a command that was answered",
    "error": "the client's, of an answer that it cannot read",
    "bad_answer": "as above",
    "bad_subject": "of a reply subject that is no inbox, which gets no answer at all",
    "bad_header": "of messages with headers; an answer has none",
}
"""Reasons in these files that no answer has."""
JOURNAL_READ = frozenset({"bad_answer", "corrupt", "disconnected", "no_responders", "timeout"})
"""Why the journal cannot be read now; it is asked over NATS."""

_CODES = {error.__name__: code for code, error in ERRORS.items()}

Place = tuple[str, str]
"""A module and a name in it: of a function, of a value, or of a method with its class."""


class Module(NamedTuple):
    """What stands in one module: its definitions, and what its names stand for."""

    nodes: dict[str, ast.AST]
    names: dict[str, Place]
    bases: dict[str, list[str]]


def reasons_of(operation: type[Operation]) -> frozenset[str]:
    """Return the reasons that the code answering *operation* gives, without those of its door."""
    found: set[str] = set()
    seen: set[Place] = set(READS)
    waiting = [*beginnings(operation.__name__)]
    while waiting:
        module, node, owner = waiting.pop()
        own = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        for inner in ast.walk(node):
            found |= _codes(inner, module)
            for place in _named(inner, module, owner):
                if isinstance(inner, ast.Name) and inner.id in own:
                    continue  # a variable of the function has this name
                if place not in seen:
                    seen.add(place)
                    target = _module(place[0]).nodes[place[1]]
                    waiting.append((place[0], target, place[1].partition(".")[0]))
    return frozenset(found | _further(operation)) - operation.ALWAYS


def _further(operation: type[Operation]) -> set[str]:
    found = {"quota"} if operation in _LIMITS_OF else set()
    if operation is SubmitTask:
        found.add("rate_limited")
    return found | JOURNAL_READ if operation is HowFarBehind else found


def reasons_of_door(door: type[Operation]) -> frozenset[str]:
    """Return the reasons that the code around every operation of a door gives, and that no operation has as its own."""
    own = {code for one in OPERATIONS.values() if issubclass(one, door) for code in one.REFUSALS}
    found = {code for module in DOORS[door] for node in ast.walk(_tree(module)) for code in _codes(node, module)}
    return frozenset(found - own - set(NOT_TOLD))


def beginnings(name: str) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield the code that answers the operation of this class name: module, syntax, and the class around it."""
    for module in _modules():
        if module.startswith("coordinator.deciders."):
            for table in ("DECIDERS", "TELLERS"):
                value = _module(module).nodes.get(table)
                if isinstance(value, ast.Dict):
                    for key, answers in zip(value.keys, value.values, strict=True):
                        if isinstance(key, ast.Name) and key.id == name:
                            yield module, answers, ""
    for module, function in (QUESTIONS, *READS):
        for node in ast.walk(_module(module).nodes[function]):
            if isinstance(node, ast.match_case) and name in _classes(node.pattern):
                yield from ((module, one, function.partition(".")[0]) for one in node.body)
    if name == ClaimTasks.__name__:
        module, method = CLAIMS
        yield module, _module(module).nodes[method], method.partition(".")[0]


def _classes(pattern: ast.pattern) -> set[str]:
    return {
        one.cls.id for one in ast.walk(pattern) if isinstance(one, ast.MatchClass) and isinstance(one.cls, ast.Name)
    }


def _codes(node: ast.AST, module: str) -> set[str]:
    """Return the reasons of the error that *node* makes, if it makes one."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _CODES:
        return set()
    for one in node.keywords:
        if one.arg == "reason":
            return _texts(one.value, module)
    return {_CODES[node.func.id]}


def _texts(value: ast.expr, module: str) -> set[str]:
    if isinstance(value, ast.Constant):
        return {str(value.value)}
    if isinstance(value, ast.Name) and value.id in _module(module).names:
        place = _module(module).names[value.id]
        constant = _module(place[0]).nodes[place[1]]
        return {str(constant.value)} if isinstance(constant, ast.Constant) else set()
    return set()


def _named(node: ast.AST, module: str, owner: str) -> Iterator[Place]:
    """Yield what a name in the code stands for."""
    names = _module(module).names
    if isinstance(node, ast.Name) and node.id in names and names[node.id][1]:
        yield names[node.id]
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return
    whose = node.value.id
    of_class = (module, owner) if whose in ("self", "cls") else OBJECTS.get(whose, names.get(whose))
    if of_class is None:
        return
    if of_class[1]:
        yield from _method(of_class, node.attr)
    elif node.attr in _module(of_class[0]).nodes:
        yield of_class[0], node.attr


def _method(of_class: Place, name: str) -> Iterator[Place]:
    """Yield the place of a method, in a class or the nearest of its bases."""
    module, class_name = of_class
    if f"{class_name}.{name}" in _module(module).nodes:
        yield module, f"{class_name}.{name}"
        return
    for base in _module(module).bases.get(class_name, ()):
        if base in _module(module).names:
            yield from _method(_module(module).names[base], name)


@cache
def _modules() -> dict[str, str]:
    """Return the files that are looked at, by module."""
    files = [str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {one.removesuffix(".py").removesuffix("/__init__").replace("/", "."): one for one in (*files, *FILES)}


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse((ROOT / _modules()[name]).read_text(encoding="utf-8"))


@cache
def _module(name: str) -> Module:
    tree = _tree(name)
    nodes: dict[str, ast.AST] = {}
    names: dict[str, Place] = {}
    bases: dict[str, list[str]] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes[node.name] = node
        elif isinstance(node, ast.ClassDef):
            nodes |= {
                f"{node.name}.{one.name}": one
                for one in node.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            bases[node.name] = [one.id for one in node.bases if isinstance(one, ast.Name)]
            nodes[node.name] = ast.Pass()  # to name a class runs nothing of it
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            nodes |= {one.id: node.value for one in targets if isinstance(one, ast.Name)}
    names |= {one: (name, one) for one in nodes if "." not in one}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in _packages():
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                known = alias.asname or alias.name
                if below in _modules():
                    names[known] = (below, "")
                elif node.module in _modules() and node.module != name:
                    names[known] = (node.module, alias.name)
    return Module(nodes, {known: place for known, place in names.items() if _is_there(place, name, nodes)}, bases)


def _is_there(place: Place, own: str, nodes: dict[str, ast.AST]) -> bool:
    return not place[1] or place[1] in (nodes if place[0] == own else _module(place[0]).nodes)


@cache
def _packages() -> frozenset[str]:
    return frozenset({*_modules(), *(one.rpartition(".")[0] for one in _modules())})


def all_reasons() -> dict[str, frozenset[str]]:
    """Return the reasons of every operation by its name."""
    return {name: reasons_of(operation) for name, operation in OPERATIONS.items()}
