"""
The house rules that a machine can check; each finding states what to do instead.

It reads files and never imports them. `test_tidy.py` checks the tree with every rule, and every rule with an example
that it must find. `ALLOWED` has the exceptions of each rule and their reasons.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from sys import stdlib_module_names
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OURS = ("events", "projections", "coordinator")
FUNCTION_LINES = 60
FILE_LINES_WARNED = 700
FRAGMENT_LINES = 40
FOLDER_MODULES = 44
LOOSE_MODULES = 14

# The map of ARCHITECTURE.md. A package imports only from floors below its own, never from its own floor or above. Loose
# modules of `coordinator/` are listed by name.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "events",
            "clock",
            "ids",
            "guard",
            "task_groups",
            "atomic_files",
            "terminal",
            "lazy_exports",
            "own_packages",
            "version",
        }
    ),
    frozenset({"projections", "logs", "home", "stop_signals", "own_process", "errors"}),
    frozenset({"commands", "bus", "runtime", "nats_server"}),
    frozenset({"deciders", "journal", "client", "security"}),
    frozenset({"placement"}),
    frozenset({"engine", "node", "worker", "health", "archive", "settings"}),
    frozenset({"doors", "follower", "agent"}),
    frozenset({"leadership", "api"}),
    frozenset({"processes", "backup"}),
    frozenset({"app", "diagnostics"}),
    frozenset({"container", "registry", "scheduler"}),
    frozenset({"demo", "bench"}),
    frozenset({"cli"}),
    frozenset({"coordinator"}),  # the root: a public face that nothing of ours imports
)

# Further limits: who may import what, and which part of it.
ONLY: dict[str, frozenset[str]] = {
    "deciders": frozenset({"commands", "projections", "events"}),
    "placement": frozenset({"commands", "deciders", "projections", "events"}),
}
ONLY_BY: dict[str, frozenset[str]] = {
    "settings": frozenset({"app", "processes", "diagnostics", "cli", "demo", "bench"}),
}
PORTS: dict[tuple[str, str], frozenset[str]] = {
    ("engine", "journal"): frozenset({"coordinator.journal.slots"}),
}

_PURE = tomllib.loads((ROOT / "tools/pure_coverage.toml").read_text())["tool"]["coverage"]["report"]

ALLOWED: dict[str, dict[str, str]] = {
    "nats": {
        "coordinator/bus/connection.py": "the connection that all other code uses",
        "coordinator/bus/nats_client.py": "works around defects of nats-py; only the bus imports it",
        "coordinator/bus/nats_parser.py": "is a part of that client",
        "events/publisher.py": "for other domains, which have no coordinator",
        "events/nats_transport.py": "how both connect",
    },
    "contract": {
        "events/credentials.py": "signs with `cryptography`, imported when needed",
    },
    "second_list": {
        "coordinator/__init__.py": "public names of a package",
        "coordinator/container/__init__.py": "public names of a package",
        "coordinator/registry/__init__.py": "public names of a package",
        "coordinator/scheduler/__init__.py": "public names of a package",
        "coordinator/worker/__init__.py": "public names of a package",
        "coordinator/errors.py": "the public name of the error family, which events define",
    },
    "loose_task": {
        "coordinator/app/app.py": "the app outlives the call that opened it: one task, awaited on close",
        "coordinator/runtime/docker/images.py": "a pull outlives the start that began it, and ends with its runtime",
        "coordinator/own_process/end.py": "a group would wait for what is to be left behind",
    },
    "wall_clock": {
        "coordinator/clock.py": "the clock",
        "coordinator/ids.py": "ids sort by time of creation",
        "events/publisher.py": "adds the time to events of other domains, which have no coordinator",
    },
    "chance": {
        "coordinator/ids.py": "generates ids",
        "coordinator/bench/packing.py": "draws a month from its seed",
        "coordinator/nats_server/server.py": "generates the server's token",
        "coordinator/security/auth_directory.py": "generates keys",
        "events/publisher.py": "generates ids for events of other domains, which have no coordinator",
    },
    "subject": {
        "events/subjects.py": "the only module that builds subjects",
        "coordinator/bus/connection.py": "JetStream's own API",
        "coordinator/bus/streams.py": "JetStream's own API",
        "coordinator/bus/pull_consumer.py": "JetStream's own API",
        "coordinator/bus/jetstream.py": "JetStream's own names",
        "coordinator/security/permissions.py": "patterns of JetStream's own API",
    },
    "function_length": {
        "coordinator/engine/questions.py": "a table: one line for each question",
        "coordinator/scheduler/task_scheduler.py": "what a task may say: two lines for each parameter",
    },
    "fragments": {
        "coordinator/app/leases.py": "the leases of a program outlive its calls; app.py is about opening",
    },
}


class Finding(NamedTuple):
    """One violation of a rule, and what to do about it."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class Imported(NamedTuple):
    """One imported module, or one name from it."""

    line: int
    module: str
    name: str
    at_start: bool
    """True if the import runs when the file is imported: neither in a function nor under TYPE_CHECKING."""
    typing_only: bool

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Source:
    """One text file of the tree."""

    path: str
    text: str

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py")

    @property
    def is_ours(self) -> bool:
        return self.is_python and self.path.startswith(tuple(f"{package}/" for package in OURS))

    @property
    def is_pure(self) -> bool:
        return is_among(self.path, _PURE["include"]) and not is_among(self.path, _PURE["omit"])

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Imported]:
        package = self.module if self.path.endswith("/__init__.py") else self.module.rpartition(".")[0]
        return list(_imports(self.tree, package.split("."), at_start=True, typing_only=False))

    @cached_property
    def origins(self) -> dict[str, str]:
        """Map each imported name to its origin: `{"dt": "datetime.datetime"}`."""
        return {
            (alias.asname or alias.name.partition(".")[0]): (
                f"{node.module}.{alias.name}"
                if isinstance(node, ast.ImportFrom)
                else alias.name
                if alias.asname
                else alias.name.partition(".")[0]
            )
            for node in self.nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }

    def dotted(self, node: ast.AST) -> str:
        """Return the dotted name of an expression with aliases resolved: `time.time`; '' if it is not a name."""
        if isinstance(node, ast.Name):
            return self.origins.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (of := self.dotted(node.value)):
            return f"{of}.{node.attr}"
        return ""

    def uses(self, names: dict[str, str]) -> Iterator[tuple[int, str]]:
        """Yield references to *names* with the mapped message; builtins count only where they are called."""
        called = {id(node.func) for node in self.nodes if isinstance(node, ast.Call)}
        for node in self.nodes:
            if not isinstance(node, ast.Name | ast.Attribute):
                continue
            name = self.dotted(node)
            if name in names and ("." in name or id(node) in called):
                yield node.lineno, f"`{name}`: {names[name]}"


class Rule(NamedTuple):
    """A named rule for the whole tree."""

    name: str
    find: Callable[[list[Source]], Iterator[Finding]]

    def broken(self, sources: list[Source]) -> list[Finding]:
        """Return the violations of the rule that `ALLOWED` does not list."""
        return sorted(found for found in self.find(sources) if not is_among(found.path, ALLOWED.get(self.name, {})))


RULES: list[Rule] = []
_FindIn = Callable[[Source], Iterator[tuple[int, str]]]


def tree() -> list[Source]:
    """Read every text file that is tracked, or untracked and not ignored."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    sources = []
    for path in sorted(set(filter(None, listed.stdout.split("\0")))):
        content = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b"\0"
        if b"\0" not in content:
            sources.append(Source(path, content.decode(errors="replace")))
    return sources


def is_among(path: str, patterns: list[str] | dict[str, str]) -> bool:
    """Return True if one of *patterns* matches the whole path; `*` does not match `/`."""
    parts = path.split("/")
    split = [pattern.split("/") for pattern in patterns]
    return any(len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern)) for pattern in split)


def _per_file(name: str, applies: Callable[[Source], bool]) -> Callable[[_FindIn], _FindIn]:
    """Register a rule that checks one file at a time; *applies* selects the files."""

    def register(find_in: _FindIn) -> _FindIn:
        def find(sources: list[Source]) -> Iterator[Finding]:
            for source in filter(applies, sources):
                yield from (Finding(source.path, line, message) for line, message in find_in(source))

        RULES.append(Rule(name, find))
        return find_in

    return register


def _is_python(source: Source) -> bool:
    return source.is_python


def _is_ours(source: Source) -> bool:
    return source.is_ours


def _is_pure(source: Source) -> bool:
    return source.is_pure


def _imports(node: ast.AST, package: list[str], *, at_start: bool, typing_only: bool) -> Iterator[Imported]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Imported(child.lineno, alias.name, "", at_start, typing_only) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join([*package[: len(package) - child.level + 1], *filter(None, [child.module])])
            module = base if child.level else (child.module or "")
            yield from (Imported(child.lineno, module, alias.name, at_start, typing_only) for alias in child.names)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, package, at_start=False, typing_only=typing_only)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            under = ast.Module(body=child.body, type_ignores=[])
            yield from _imports(under, package, at_start=False, typing_only=True)
            other = ast.Module(body=child.orelse, type_ignores=[])
            yield from _imports(other, package, at_start=at_start, typing_only=typing_only)
        else:
            yield from _imports(child, package, at_start=at_start, typing_only=typing_only)


# ---- sizes and dependence


@_per_file("function_length", _is_ours)
def _function_length(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                what = f"`{node.name}` has {length} lines, the limit is {FUNCTION_LINES}"
                yield node.lineno, f"{what}: keep the branches, move the code inside them into functions"


def _cycles(sources: list[Source]) -> Iterator[Finding]:
    modules = {source.module: source for source in sources if source.is_ours}
    needs: dict[str, dict[str, int]] = {name: {} for name in modules}
    for name, source in modules.items():
        for found in source.imports:
            inner = f"{found.module}.{found.name}"
            target = inner if inner in modules else found.module
            if target in modules and target != name:
                needs[name].setdefault(target, found.line)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        ring = error.args[1][::-1]
        message = f"import cycle {' → '.join(ring)}: move the shared code into a third module"
        yield Finding(modules[ring[0]].path, needs[ring[0]][ring[1]], message)


RULES.append(Rule("cycle", _cycles))


def unit_of(module: str) -> str:
    """Return the name of a module's package in `FLOORS`, or of the loose module; `coordinator` is the root."""
    root, _, rest = module.partition(".")
    return root if root != "coordinator" else (rest.partition(".")[0] or root)


_FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS, 1) for unit in units}


def _targets(source: Source, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield each of our modules that *source* imports, including late and type-only imports."""
    for found in source.imports:
        inner = f"{found.module}.{found.name}"
        if found.root in OURS:
            yield found.line, inner if inner in modules else found.module


def broken_arrows(sources: list[Source]) -> Iterator[Finding]:
    """Yield imports that violate `FLOORS`, `ONLY`, `ONLY_BY` or `PORTS`."""
    modules = {source.module for source in sources if source.is_ours}
    for source in sources:
        here = unit_of(source.module)
        if not source.is_ours or here not in _FLOOR_OF:
            continue
        for line, target in _targets(source, modules):
            there = unit_of(target)
            if there == here:
                continue
            if there not in _FLOOR_OF or _FLOOR_OF[there] >= _FLOOR_OF[here]:
                why = f"floor {_FLOOR_OF[here]} imports {there} on floor {_FLOOR_OF.get(there, '?')}; import lower ones"
            elif there not in ONLY.get(here, {there}):
                why = f"{here} may import only {', '.join(sorted(ONLY[here]))}"
            elif here not in ONLY_BY.get(there, {here}):
                why = f"only {', '.join(sorted(ONLY_BY[there]))} may import {there}: pass the value instead"
            elif target not in PORTS.get((here, there), {target}):
                why = f"of {there}, {here} may import only {', '.join(sorted(PORTS[here, there]))}"
            else:
                continue
            yield Finding(source.path, line, f"{target}: {why}")


def _floors(sources: list[Source]) -> Iterator[Finding]:
    for source in sources:
        is_placed = unit_of(source.module) in _FLOOR_OF
        if source.is_ours and not is_placed:
            yield Finding(source.path, 1, "is in no package of FLOORS: move it into one, or add its package to FLOORS")
    yield from broken_arrows(sources)


RULES.append(Rule("floors", _floors))


@_per_file("contract", _is_ours)
def _contract(source: Source) -> Iterator[tuple[int, str]]:
    for found in source.imports:
        if found.root == "tests":
            yield found.line, f"{source.module} imports {found.module}: product code must not import tests"
        elif source.path.startswith("events/") and found.root not in {*OURS, *stdlib_module_names, "msgspec", "nats"}:
            yield (
                found.line,
                f"events imports {found.module}; it may need only msgspec and the standard library",
            )


# ---- names


@_per_file("private", _is_ours)
def _private(source: Source) -> Iterator[tuple[int, str]]:
    for found in source.imports:
        is_private = found.name.startswith("_") and not found.name.startswith("__")
        if found.root in OURS and is_private:
            yield found.line, f"imports `{found.name}` of {found.module}: give a name that others use a public name"


def _two_words(sources: list[Source]) -> Iterator[Finding]:
    places: dict[str, list[tuple[str, int]]] = {}
    for source in sources:
        for node in source.tree.body if source.is_ours else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append((source.path, node.lineno))
    for name, found in places.items():
        for path, line in found[1:]:
            yield Finding(path, line, f"`{name}` is also defined in {found[0][0]}: one word for one thing")


RULES.append(Rule("two_words", _two_words))


@_per_file("second_list", _is_ours)
def _second_list(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and any(source.dotted(target) == "__all__" for target in node.targets):
            yield node.lineno, "`__all__` is a second list of names: import each from the module that defines it"


# ---- folders


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _prefixes(sources: list[Source]) -> Iterator[Finding]:
    stems: dict[str, list[str]] = {}
    for source in sources:
        if source.is_ours:
            stems.setdefault(_folder(source.path), []).append(Path(source.path).stem)
    for folder, names in stems.items():
        for name in names:
            alike = [other for other in names if other.startswith(f"{name}_")]
            if len(alike) > 1:
                message = f"has the same prefix as {', '.join(alike)}: put them into a package {folder}/{name}/"
                yield Finding(f"{folder}/{name}.py", 1, message)


RULES.append(Rule("prefixes", _prefixes))


def _crowded(sources: list[Source]) -> Iterator[Finding]:
    folders: dict[str, list[str]] = {}
    for source in sources:
        if source.is_ours and not source.path.endswith("/__init__.py"):
            folders.setdefault(_folder(source.path), []).append(source.path)
    for folder, paths in folders.items():
        most = LOOSE_MODULES if folder == "coordinator" else FOLDER_MODULES
        if len(paths) > most:
            message = f"one of {len(paths)} modules in {folder}/, the limit is {most}: split the package"
            yield Finding(paths[-1], 1, message)


RULES.append(Rule("crowded", _crowded))


def _fragments(sources: list[Source]) -> Iterator[Finding]:
    ours = [source for source in sources if source.is_ours]
    modules = {source.module for source in ours}
    importers: dict[str, set[str]] = {}
    for source in ours:
        for _, target in _targets(source, modules):
            importers.setdefault(target, set()).add(source.path)
    for source in ours:
        by = importers.get(source.module, set())
        short = len(source.lines) < FRAGMENT_LINES and not source.path.endswith(("__init__.py", "__main__.py"))
        if short and len(by) == 1 and _folder(*by) == _folder(source.path):
            message = f"has {len(source.lines)} lines and only {', '.join(by)} imports it: move its code there"
            yield Finding(source.path, 1, message)


RULES.append(Rule("fragments", _fragments))


def warnings(sources: list[Source]) -> list[Finding]:
    """Return notes that fail no test but deserve a look: does a long file have one idea?"""
    return [
        Finding(source.path, 1, f"{len(source.lines)} lines: does it have one idea?")
        for source in sources
        if source.is_python and len(source.lines) > FILE_LINES_WARNED
    ]


@_per_file("nats", _is_ours)
def _nats(source: Source) -> Iterator[tuple[int, str]]:
    for found in source.imports:
        if found.root == "nats":
            yield found.line, "imports nats: use `coordinator.bus.connection` or the journal's port"


# ---- purity


_IMPURE_MODULES = {
    "time": "take `now`",
    "random": "decide from the arguments",
    "uuid": "take the id from the command",
    "secrets": "take it from the command",
    "structlog": "return events; the caller may log",
    "logging": "return events; the caller may log",
    "asyncio": "waiting belongs in the shell",
    "threading": "waiting belongs in the shell",
    "subprocess": "starting processes belongs in the shell",
    "socket": "I/O belongs in the shell",
}
_IMPURE_USES = {
    "datetime.datetime.now": "take `now`",
    "datetime.datetime.utcnow": "take `now`",
    "datetime.datetime.today": "take `now`",
    "datetime.date.today": "take `now`",
    "os.urandom": "take it from the command",
    "os.environ": "take it from the settings",
    "os.getenv": "take it from the settings",
    "open": "take the content",
    "print": "return it",
    "input": "take it",
}


@_per_file("impure", _is_pure)
def _impure(source: Source) -> Iterator[tuple[int, str]]:
    for found in source.imports:
        if found.root in _IMPURE_MODULES and not found.typing_only:
            yield found.line, f"`{found.root}` in a pure file: {_IMPURE_MODULES[found.root]}"
    yield from source.uses({name: f"in a pure file: {instead}" for name, instead in _IMPURE_USES.items()})
    # A protocol only declares what the shell does.
    declared = {
        id(inner)
        for node in source.nodes
        if isinstance(node, ast.ClassDef) and any(source.dotted(base).endswith("Protocol") for base in node.bases)
        for inner in node.body
    }
    for node in source.nodes:
        if isinstance(node, ast.AsyncFunctionDef) and id(node) not in declared:
            yield node.lineno, f"`async def {node.name}` in a pure file: decide here, wait in the shell"
        elif isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno, "waits in a pure file: decide here, wait in the shell"


# ---- things with one place


@_per_file("loose_task", _is_ours)
def _loose_task(source: Source) -> Iterator[tuple[int, str]]:
    instead = "such a task is never awaited: use the TaskGroup"
    yield from source.uses({"asyncio.create_task": instead, "asyncio.ensure_future": instead})
    loops = {"asyncio.get_running_loop", "asyncio.get_event_loop", "asyncio.new_event_loop"}
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}:
            called = isinstance(node.value, ast.Call) and source.dotted(node.value.func) in loops
            if called or source.dotted(node.value).endswith("loop"):
                yield node.lineno, f"`loop.{node.attr}`: {instead}"


@_per_file("wall_clock", _is_ours)
def _wall_clock(source: Source) -> Iterator[tuple[int, str]]:
    names = ["time.time", "time.time_ns", "datetime.date.today"]
    names += [f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")]
    yield from source.uses(dict.fromkeys(names, "use `coordinator.clock`, or take `now`"))


@_per_file("chance", _is_ours)
def _chance(source: Source) -> Iterator[tuple[int, str]]:
    for found in source.imports:
        if found.root in {"uuid", "random", "secrets"} and not found.typing_only:
            yield found.line, f"imports {found.root}: use `coordinator.ids`"
    yield from source.uses({"os.urandom": "use `coordinator.ids`"})


_SUBJECT = re.compile(r"\bcoordination\.[a-z*>{]|\.rpc\.|\$(KV|JS|SRV)\b|^(STREAM|CONSUMER|DIRECT)\.[A-Z]")
_SUBJECT_TAIL = re.compile(r"\.((events|inbox|heartbeat|rpc|read|notice|node)\.|(journal|epoch|leader|services)$)")


@_per_file("subject", _is_ours)
def _subject(source: Source) -> Iterator[tuple[int, str]]:
    instead = "builds a subject: use `events.subjects.Subjects`, or `bus.streams` for JetStream's API"
    prose = {id(node.value) for node in source.nodes if isinstance(node, ast.Expr)}  # docstrings
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if _SUBJECT.search(node.value):
                yield node.lineno, instead
        elif isinstance(node, ast.JoinedStr):
            for before, part in pairwise(node.values):
                tail = part.value if isinstance(part, ast.Constant) else ""
                if isinstance(before, ast.FormattedValue) and _SUBJECT_TAIL.match(str(tail)):
                    yield node.lineno, instead


@_per_file("print", _is_ours)
def _print(source: Source) -> Iterator[tuple[int, str]]:
    yield from source.uses({"print": "log with structlog, return it, or `click.echo` it on the command line"})


@_per_file("child_python", _is_ours)
def _child_python(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes:
        if isinstance(node, ast.List | ast.Tuple):
            for before, after in pairwise(node.elts):
                if source.dotted(before) == "sys.executable" and ast.unparse(after) == "'-m'":
                    yield after.lineno, "`python -m` looks for modules in the current folder first: add -P before -m"


# ---- things that hide errors


@_per_file("broad_except", _is_python)
def _broad_except(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare `except`: name the expected exceptions"
            elif _is_everything(source, node.type) and ast.unparse(node.body[-1]) != "raise":
                yield from _unless_reason_is_given(source, node.lineno)
        elif isinstance(node, ast.Call) and source.dotted(node.func) == "contextlib.suppress":
            for _ in filter(partial(_is_everything, source), node.args):
                yield from _unless_reason_is_given(source, node.lineno)


def _is_everything(source: Source, caught: ast.expr) -> bool:
    each = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(source.dotted(one) in {"Exception", "BaseException"} for one in each)


def _unless_reason_is_given(source: Source, line: int) -> Iterator[tuple[int, str]]:
    comment = source.lines[line - 1].partition("#")[2]
    reason = re.sub(r"noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[^]]*\])?", "", comment)
    if not re.search(r"[a-z]{3}", reason):
        yield line, "catches everything: name the expected exceptions, or give the reason on this line"


@_per_file("skip_without_reason", _is_python)
def _skip_without_reason(source: Source) -> Iterator[tuple[int, str]]:
    marks = {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail", "pytest.importorskip"}
    calls = {id(node.func): node for node in source.nodes if isinstance(node, ast.Call)}
    for node in source.nodes:
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        if (name := source.dotted(node)) in marks | {"pytest.skip", "pytest.xfail"}:
            call = calls.get(id(node))
            reasons = [word.value for word in call.keywords if word.arg in {"reason", "msg"}] if call else []
            if call and name in {"pytest.skip", "pytest.xfail", "pytest.mark.skip"}:
                reasons += call.args
            if not any(ast.unparse(reason).strip("'\"") for reason in reasons):
                yield node.lineno, f"`{name}` without a reason: give reason="


@_per_file("unsafe", _is_python)
def _unsafe(source: Source) -> Iterator[tuple[int, str]]:
    for found in source.imports:
        if found.root in {"pickle", "cloudpickle", "dill", "shelve", "marshal"}:
            yield found.line, f"imports {found.root}, which executes its input: use msgspec"
    loads = dict.fromkeys(["yaml.load", "yaml.unsafe_load", "yaml.full_load"], "executes its input: use yaml.safe_load")
    shells = ["os.system", "os.popen", "subprocess.getoutput", "asyncio.create_subprocess_shell"]
    instead = "starts a shell: use an argument list without one"
    yield from source.uses(loads | dict.fromkeys(shells, instead))
    for node in source.nodes:
        if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False":
            yield node.value.lineno, f"`shell=`: {instead}"


# ---- text that must not occur; the patterns are written so that they do not match themselves


_NOT_IN_TEXT = {
    "left_for_later": (
        re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|HA[C]K)\b"),
        "left for later: do it now, or open an issue",
    ),
    "ignore_without_code": (
        re.compile(r"#\s*type:\s*ignor[e](?!\[)"),
        "type error ignored without its code: write ignore[code]",
    ),
    "registry_host": (
        re.compile(
            r"py[p]i\.org|pythonhoste[d]|npm[j]s\.(org|com)|de[b]\.debian|security\.de[b]ian\.org"
            r"|archive\.ub[u]ntu|proxy\.gola[n]g|crate[s]\.io|rubygem[s]\.org|repo\.mave[n]"
        ),
        "names a package registry's host: name the package; the registry is a setting of each machine",
    ),
    "machine_path": (
        re.compile(r"(?<![\w./~})-])/(wor[k]|roo[t]|far[m])(?![\w-])"),
        "a path of one machine: make it relative, or take it from the settings",
    ),
}


def _lines_with(pattern: re.Pattern[str], instead: str) -> Callable[[list[Source]], Iterator[Finding]]:
    def find(sources: list[Source]) -> Iterator[Finding]:
        for source in sources:
            for number, line in enumerate(source.lines, 1):
                if pattern.search(line):
                    yield Finding(source.path, number, instead)

    return find


RULES += [Rule(name, _lines_with(pattern, instead)) for name, (pattern, instead) in _NOT_IN_TEXT.items()]
