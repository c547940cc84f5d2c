"""
The tree follows the house rules of `tidy.py`, and each rule can fail.

Examples contain `·`, which is removed before use, so that the rules do not find them in this file.
"""

from __future__ import annotations

import pytest

from tests.tidy import (
    ALLOWED,
    FILE_LINES_WARNED,
    FLOORS,
    FOLDER_MODULES,
    FRAGMENT_LINES,
    FUNCTION_LINES,
    LOOSE_MODULES,
    RULES,
    Rule,
    Source,
    is_among,
    tree,
    unit_of,
    warnings,
)

_BY_NAME = {rule.name: rule for rule in RULES}
_LONG = "\n".join(["def long() -> None:", *["    x = 1"] * FUNCTION_LINES])

# rule, {path: what stands there}: each must be caught.
CAUGHT: list[tuple[str, dict[str, str]]] = [
    ("function_length", {"coordinator/engine.py": _LONG}),
    (
        "function_length",
        {"coordinator/engine.py": "class A:\n" + _LONG.replace("\n", "\n    ").replace("def", "    def")},
    ),
    ("cycle", {"events/a.py": "from events import b", "events/b.py": "import events.a"}),
    (
        "cycle",
        {
            "events/a.py": "from events.b import x",
            "events/b.py": "try:\n    from events.a import y\nfinally:\n    pass",
        },
    ),
    (
        "cycle",
        {"events/a.py": "from . import b", "events/b.py": "from .c import x", "events/c.py": "from events.a import y"},
    ),
    ("cycle", {"events/__init__.py": "from events.a import x", "events/a.py": "from events import y"}),
    ("cycle", {"events/a.py": "from events import b", "events/b.py": "def f():\n    import events.a"}),
    ("cycle", {"events/a.py": "import events.b", "events/b.py": "if TYPE_CHECKING:\n    from events.a import x"}),
    ("floors", {"coordinator/cli/run.py": "from coordinator import __version__"}),
    ("floors", {"events/task.py": "from projections.task import Task"}),
    ("floors", {"projections/task.py": "def f():\n    import coordinator.engine"}),
    ("floors", {"projections/task.py": "if TYPE_CHECKING:\n    from coordinator.engine.turn import Turn"}),
    ("floors", {"coordinator/engine/turn.py": "from coordinator.doors import rpc"}),
    ("floors", {"coordinator/engine/turn.py": "import coordinator.node.launch"}),
    ("floors", {"coordinator/ids.py": "from coordinator.clock import Clock"}),
    ("floors", {"coordinator/surprise.py": "x = 1"}),
    ("floors", {"coordinator/deciders/task.py": "from coordinator.logs import bind"}),
    ("floors", {"coordinator/doors/rpc.py": "def f():\n    from coordinator.settings.model import Settings"}),
    (
        "floors",
        {"coordinator/engine/turn.py": "from coordinator.journal.stream import x", "coordinator/journal/stream.py": ""},
    ),
    ("contract", {"events/task.py": "import structlog"}),
    ("contract", {"coordinator/engine/turn.py": "from tests.tidy import RULES"}),
    ("private", {"coordinator/doors/rpc.py": "from coordinator.doors.dropped import _SHOWN"}),
    ("private", {"events/a.py": "from . import _b"}),
    ("two_words", {"events/a.py": "class Place: ...", "coordinator/doors/b.py": "class Place: ..."}),
    ("second_list", {"coordinator/doors/__init__.py": "__all__ = ['rpc']"}),
    ("second_list", {"events/task.py": "__all__ = []"}),
    ("prefixes", dict.fromkeys(("events/task.py", "events/task_a.py", "events/task_b.py"), "x = 1")),
    ("crowded", {f"coordinator/doors/a{n}.py": "x = 1" for n in range(FOLDER_MODULES + 1)}),
    ("crowded", {f"coordinator/a{n}.py": "x = 1" for n in range(LOOSE_MODULES + 1)}),
    (
        "fragments",
        {"coordinator/doors/rpc.py": "from coordinator.doors.bit import x", "coordinator/doors/bit.py": "x = 1"},
    ),
    ("nats", {"coordinator/engine.py": "import nats"}),
    ("nats", {"events/codec.py": "from nats.aio.client import Client"}),
    ("nats", {"coordinator/cli/task.py": "def f():\n    import nats.js"}),
    ("impure", {"projections/task.py": "import time"}),
    ("impure", {"coordinator/deciders/task.py": "from uuid import uuid4"}),
    ("impure", {"coordinator/deciders/due.py": "import structlog"}),
    ("impure", {"coordinator/scheduler/scheduling_policy.py": "import random"}),
    ("impure", {"events/base.py": "from datetime import datetime as d\nx = d.now()"}),
    ("impure", {"events/base.py": "import datetime\nx = datetime.date.today"}),
    ("impure", {"events/base.py": "import os\nx = os.urandom(8)"}),
    ("impure", {"events/base.py": "x = open('y')"}),
    ("impure", {"events/base.py": "async def f(): ..."}),
    ("impure", {"events/base.py": "class Port(Protocol):\n    async def f(self):\n        async with x: ..."}),
    ("loose_task", {"coordinator/engine.py": "import asyncio\nasyncio.create_task(x)"}),
    ("loose_task", {"coordinator/engine.py": "from asyncio import ensure_future as later\nlater(x)"}),
    ("loose_task", {"coordinator/engine.py": "self._loop.create_task(x)"}),
    ("loose_task", {"coordinator/engine.py": "import asyncio\nasyncio.get_running_loop().create_task(x)"}),
    ("wall_clock", {"coordinator/engine.py": "import time\nx = time.time()"}),
    ("wall_clock", {"coordinator/engine.py": "from time import time\nf(clock=time)\ng(time())"}),
    ("wall_clock", {"coordinator/engine.py": "import datetime as dt\nx = dt.datetime.now(dt.UTC)"}),
    ("chance", {"coordinator/engine.py": "import uuid"}),
    ("chance", {"coordinator/journal_nats.py": "from random import choice"}),
    ("chance", {"coordinator/engine.py": "import os\nx = os.urandom(8)"}),
    ("subject", {"coordinator/doors.py": "x = 'coordination.journal'"}),
    ("subject", {"coordinator/doors.py": "x = f'{namespace}.rpc.{source}.task.submit'"}),
    ("subject", {"coordinator/doors.py": "x = f'{namespace}.heartbeat.{kind}'"}),
    ("subject", {"coordinator/doors.py": "x = f'{namespace}.epoch'"}),
    ("subject", {"coordinator/doors.py": "x = '$JS.API.>'"}),
    ("subject", {"coordinator/doors/inbox.py": "x = f'STREAM.INFO.{name}'"}),
    ("print", {"coordinator/engine.py": "print('x')"}),
    ("child_python", {"coordinator/up.py": "import sys\nx = [sys.executable, '-m', 'coordinator.cli']"}),
    ("child_python", {"coordinator/up.py": "from sys import executable\nf((executable, '-m', y))"}),
    ("broad_except", {"coordinator/engine.py": "try: x\nexcept: y"}),
    ("broad_except", {"coordinator/engine.py": "try: x\nexcept Exception: y"}),
    ("broad_except", {"coordinator/engine.py": "try: x\nexcept (ValueError, BaseException) as e: y  # noqa: BLE001"}),
    ("broad_except", {"tests/unit/test_x.py": "from contextlib import suppress\nwith suppress(Exception): y"}),
    ("skip_without_reason", {"tests/test_x.py": "import pytest\npytest.s·kip()"}),
    ("skip_without_reason", {"tests/test_x.py": "import pytest\n@pytest.mark.x·fail\ndef test(): ..."}),
    ("skip_without_reason", {"tests/test_x.py": "import pytest\n@pytest.mark.s·kipif(x)\ndef test(): ..."}),
    ("skip_without_reason", {"tests/test_x.py": "from pytest import mark\n@mark.s·kip(reason='')\ndef test(): ..."}),
    ("unsafe", {"coordinator/settings.py": "import yaml\nyaml.load(x)"}),
    ("unsafe", {"tests/test_x.py": "from pickle import loads"}),
    ("unsafe", {"coordinator/node.py": "from os import system\nsystem('ls')"}),
    ("unsafe", {"coordinator/node.py": "import subprocess\nsubprocess.run('ls', shell=True)"}),
    ("left_for_later", {"coordinator/node.py": "x = 1  # TO·DO: more"}),
    ("left_for_later", {"README.md": "FIX·ME"}),
    ("left_for_later", {"Makefile": "# HA·CK"}),
    ("ignore_without_code", {"coordinator/node.py": "x = y  # type: igno·re"}),
    ("ignore_without_code", {"tests/test_x.py": "x = y  #type:igno·re # why"}),
    ("registry_host", {"README.md": "see https://py·pi.org/project/x"}),
    ("registry_host", {"requirements.lock": "--index-url https://files.pythonho·sted.org"}),
    ("registry_host", {"Dockerfile": "RUN echo deb http://de·b.debian.org/debian"}),
    ("machine_path", {"docs/adr/0001.md": "cd /wo·rk/main"}),
    ("machine_path", {"coordinator/node.py": "x = '/ro·ot/.cache'"}),
    ("machine_path", {"Makefile": "X := /fa·rm"}),
]

# What looks alike and is right.
PASSED: list[tuple[str, dict[str, str]]] = [
    ("function_length", {"coordinator/engine.py": _LONG.removesuffix("\n    x = 1")}),
    ("function_length", {"tests/unit/test_x.py": _LONG + _LONG}),
    (
        "cycle",
        {"events/__init__.py": "from events.a import x", "events/a.py": "from events.b import y", "events/b.py": ""},
    ),
    ("floors", {"coordinator/engine/turn.py": "import projections.world, structlog, coordinator.deciders.due"}),
    (
        "floors",
        {"coordinator/engine/turn.py": "from coordinator.version import __version__\nimport coordinator.journal.slots"},
    ),
    ("floors", {"coordinator/app/app.py": "from coordinator.settings.model import Settings"}),
    ("floors", {"coordinator/engine/turn.py": "from coordinator.engine import intake"}),
    ("contract", {"events/publisher.py": "import nats, msgspec, json\nfrom events import ids\nfrom . import codec"}),
    ("private", {"coordinator/doors/rpc.py": "from coordinator import __version__\nfrom x import _y"}),
    ("two_words", {"events/a.py": "class _Place: ...", "coordinator/b.py": "class _Place: ...\nclass Place: ..."}),
    ("second_list", {"coordinator/worker/__init__.py": "__all__ = ['task']", "tests/x.py": "__all__ = []"}),
    ("prefixes", dict.fromkeys(("events/task.py", "events/task_a.py", "projections/task_b.py"), "")),
    ("crowded", {f"coordinator/doors/a{n}.py": "" for n in range(FOLDER_MODULES)}),
    (
        "fragments",
        {
            "coordinator/doors/rpc.py": "from coordinator.doors.bit import x\nfrom coordinator.doors.long import y",
            "coordinator/doors/inbox.py": "from coordinator.doors.bit import x",
            "coordinator/doors/bit.py": "x = 1",
            "coordinator/doors/long.py": "y = 1\n" * FRAGMENT_LINES,
        },
    ),
    (
        "nats",
        {
            "coordinator/bus/connection.py": "import nats",
            "events/publisher.py": "import nats",
            "tests/x.py": "import nats",
        },
    ),
    (
        "impure",
        {
            "projections/store/sqlite.py": "import time\nasync def f(): await x",
            "coordinator/engine.py": "import asyncio",
        },
    ),
    ("impure", {"projections/source.py": "class Port(Protocol):\n    async def read(self) -> int: ..."}),
    (
        "impure",
        {"events/base.py": "from datetime import datetime\nx = datetime.fromisoformat(y)\nwith Bus.open(x): ..."},
    ),
    ("loose_task", {"coordinator/engine.py": "group.create_task(x)\nself._tasks.create_task(x)"}),
    (
        "wall_clock",
        {"coordinator/clock.py": "import time\ntime.time()", "coordinator/x.py": "import time\ntime.monotonic()"},
    ),
    ("chance", {"coordinator/ids.py": "import uuid, secrets", "tests/simulation/x.py": "import random"}),
    (
        "subject",
        {"events/subjects.py": "x = f'{self.namespace}.epoch'", "tests/unit/x.py": "x = 'coordination.journal'"},
    ),
    (
        "subject",
        {"coordinator/x.py": "'''Answers `coordination.rpc.*.*.*`.'''\nx = 'on the coordination. It'\ny = f'{a}.json'"},
    ),
    ("print", {"coordinator/x.py": "a.print(1)", "tests/x.py": "print(1)"}),
    (
        "child_python",
        {
            "coordinator/up.py": "import sys\nx = [sys.executable, '-P', '-m', 'coordinator.cli']",
            "coordinator/rules.py": "x = ('python', '-m', 'coordinator.agent')",
            "tests/x.py": "import sys\nx = [sys.executable, '-m', 'coordinator.cli']",
        },
    ),
    (
        "broad_except",
        {"coordinator/x.py": "try: x\nexcept Exception:  # noqa: BLE001 a handler may raise anything\n  y"},
    ),
    ("broad_except", {"coordinator/x.py": "try: x\nexcept (OSError, ValueError): y"}),
    (
        "skip_without_reason",
        {"tests/x.py": "import pytest\npytest.s·kip('no engine')\npytest.mark.s·kipif(x, reason='y')"},
    ),
    (
        "unsafe",
        {"coordinator/x.py": "import yaml\nyaml.safe_load(x)\nrun(['ls'], shell=False)\nmsgspec.yaml.decode(x)"},
    ),
    ("left_for_later", {"x.sh": "mktemp x.XXXX·XX"}),
    ("ignore_without_code", {"coordinator/x.py": "x = y  # type: igno·re[arg-type]"}),
    ("registry_host", {"README.md": "https://docs.nats.io"}),
    ("machine_path", {"README.md": "src/wo·rk/x, /wo·rkers, {home}/wo·rk and ~/ro·ot"}),
]


def _sources(files: dict[str, str]) -> list[Source]:
    return [Source(path, text.replace("·", "")) for path, text in files.items()]


@pytest.fixture(scope="module")
def everything() -> list[Source]:
    return tree()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_tree_keeps(rule: Rule, everything: list[Source]) -> None:
    """No file violates the rule; each violation is listed with what to do instead."""
    if broken := rule.broken(everything):
        pytest.fail(f"{len(broken)} places break `{rule.name}`:\n" + "\n".join(map(str, broken)), pytrace=False)


@pytest.mark.parametrize(("name", "files"), CAUGHT)
def test_a_rule_catches_its_planted_example(name: str, files: dict[str, str]) -> None:
    """Each rule finds its examples, on an existing line and with a message; a rule that cannot fail is a defect."""
    broken = _BY_NAME[name].broken(_sources(files))
    assert broken
    for found in broken:
        assert 1 <= found.line <= len(files[found.path].splitlines())
        assert ":" in found.message or ";" in found.message


@pytest.mark.parametrize(("name", "files"), PASSED)
def test_a_rule_lets_pass_what_only_looks_alike(name: str, files: dict[str, str]) -> None:
    """Each rule accepts its good examples; developers work around a rule with false alarms."""
    assert _BY_NAME[name].broken(_sources(files)) == []


def test_every_package_of_the_map_is_there_once() -> None:
    """No package is on two floors, and a module belongs to the floor of its package."""
    assert sum(map(len, FLOORS)) == len(frozenset().union(*FLOORS))
    assert [
        unit_of(module) for module in ("coordinator", "coordinator.ids", "coordinator.bus.streams", "events.x")
    ] == [
        "coordinator",
        "ids",
        "bus",
        "events",
    ]


def test_long_files_are_named_and_fail_nothing() -> None:
    """A long file fails no rule; `warnings` lists a very long one."""
    planted = _sources({"events/a.py": "x = 1\n" * (FILE_LINES_WARNED + 1), "events/b.py": "x = 1\n"})
    assert [found.path for found in warnings(planted)] == ["events/a.py"]


def test_every_rule_has_planted_examples() -> None:
    """Each rule has failing and passing examples, and each exception belongs to a rule."""
    assert {name for name, _ in CAUGHT} == {name for name, _ in PASSED} == set(_BY_NAME)
    assert set(ALLOWED) <= set(_BY_NAME)


def test_every_allowance_is_used_where_it_stands() -> None:
    """An exception applies to one file only."""
    planted = _sources(
        {"coordinator/clock.py": "import time\ntime.time()", "coordinator/x/clock.py": "import time\ntime.time()"}
    )
    assert [found.path for found in _BY_NAME["wall_clock"].broken(planted)] == ["coordinator/x/clock.py"]


def test_every_allowance_excuses_something(everything: list[Source]) -> None:
    """An allowance that nothing needs any more goes."""
    for name, allowed in ALLOWED.items():
        needed = {found.path for found in _BY_NAME[name].find(everything)}
        for pattern in allowed:
            assert any(is_among(path, [pattern]) for path in needed), (name, pattern)


def test_patterns_match_whole_paths() -> None:
    """`*` does not match `/`, and a pattern does not match the end of a longer path."""
    assert is_among("events/task.py", ["events/*.py"])
    assert not is_among("events/old/task.py", ["events/*.py"])
    assert not is_among("tests/events/task.py", ["events/*.py"])


def test_the_tree_is_what_git_sees(everything: list[Source]) -> None:
    """The rules check this file, tracked or not, and no file that git ignores."""
    paths = {source.path for source in everything}
    assert "tests/test_tidy.py" in paths
    assert not any(path.startswith((".venv/", ".git/")) or "__pycache__" in path for path in paths)
