"""Odd words in every argument and option of the command line: each is carried unchanged, or refused in one line."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.cli import cli
from coordinator.commands.operations import OPERATIONS
from tests.commands import Said, call, run, up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.untraced]

NOBODY = "nats://127.0.0.1:1"
CALL_TIMEOUT_S = 20
REFUSED = (2, 5)
REPORTS = (0, 1, 6)
"""The codes of commands that were carried out, and may report what they found."""
WORDS = (
    *("", " ", "a.b", "é", "１２", "1_000", "\u202e", "a\nb", "\x1b[2J", "\udcff", "nan", "inf", "-1", "0", "1e3"),
    *("99999", "null", "5 GB", "b" * 65, "2026-13-01", "--help", "nats://[::1", "nats://h:99999", "nats://%ff@h", "ws://h"),
)  # fmt: skip
"""What a process can be given: bytes that are not UTF-8 come as half of a surrogate pair, NUL never."""


class Line(NamedTuple):
    """A command with valid words: those before its options, and its options."""

    words: tuple[str, ...]
    options: dict[str, str] = {}  # never changed


CALLED = ("service.register", "service.check", "pool.define", "node.sync", "task.list", "read.list", "read.wait")
"""Operations with a field of each type: the options of all are made by the same function."""

COMMANDS: dict[str, Line] = {
    **{f"call {name}": Line((json.dumps(OPERATIONS[name].EXAMPLE.request),)) for name in CALLED},
    "operations": Line(("task.submit",)),
    "up": Line(()),
    "env": Line(()),
    "serve": Line((), {"--nats": NOBODY}),
    "follow": Line((), {"--nats": NOBODY}),
    "node run": Line((), {"--nats": NOBODY}),
    "node list": Line(()),
    "node show": Line(("none",)),
    "node cordon": Line(("none",)),
    "node uncordon": Line(("none",)),
    "node drain": Line(("none",), {"--deadline": "60"}),
    "node remove": Line(("none",)),
    "worker run": Line(("handlers.py",), {"--nats": NOBODY}),
    "demo": Line(()),
    "bench containers": Line(()),
    "bench discovery": Line(()),
    "bench heartbeats": Line(()),
    "bench latency": Line(()),
    "bench packing": Line((), {"--tasks": "100"}),
    "bench rebuild": Line(()),
    "bench tasks": Line(()),
    "task cancel": Line(("none",)),
    "task get": Line(("none",)),
    "task list": Line(()),
    "task submit": Line(("n",), {"--json": ""}),
    "task explain": Line(("none",)),
    "task plan": Line(("n",), {"--json": ""}),
    "task pause": Line(("none",)),
    "task resume": Line(("none",)),
    "dead list": Line(()),
    "dead requeue": Line(("none",)),
    "dead show": Line(("none",)),
    "hold get": Line(("none",)),
    "hold lift": Line(("none",)),
    "hold list": Line(()),
    "hold place": Line((), {"--where": 'task_name == "n"', "--for": "1"}),
    "budget correct": Line(("none",), {"--tokens": "2"}),
    "budget define": Line(("b",), {"--tokens": "2"}),
    "budget get": Line(("none",)),
    "budget list": Line(()),
    "budget remove": Line(("b",)),
    "agents apply": Line(("/dev/null",)),
    "agents diff": Line(("/dev/null",)),
    "agents get": Line(("task_agent",)),
    "agents list": Line(()),
    "prices get": Line(()),
    "prices set": Line(("v1",)),
    "limit define": Line(("l",), {"--running": "2"}),
    "limit delete": Line(("l",)),
    "limit get": Line(("l",)),
    "limit list": Line(()),
    "pool define": Line(("p",), {"--cpu": "2"}),
    "pool get": Line(("p",)),
    "pool optimize": Line(("p",)),
    "pool release": Line(("p", "r")),
    "pool request": Line(("none", "r"), {"--cpu": "1"}),
    "queue define": Line(("q",)),
    "queue delete": Line(("q",)),
    "queue get": Line(("default",)),
    "queue list": Line(()),
    "queue pause": Line(("q",)),
    "queue policy": Line(("fifo",)),
    "queue promote": Line(("q",)),
    "queue resume": Line(("q",)),
    "queue rollback": Line(("q",)),
    "queue shadow": Line(("fifo",)),
    "version list": Line(()),
    "version reinstate": Line(("b",)),
    "version retire": Line(("b",)),
    "version route": Line(("q",), {"--current": "b"}),
    "schedule backfill": Line(("none",), {"--since": "2026-11-23T17:15:00Z", "--until": "2026-11-23T17:16:00Z"}),
    "schedule define": Line(("s", "n"), {"--every": "60"}),
    "schedule delete": Line(("none",)),
    "schedule get": Line(("none",)),
    "schedule list": Line(()),
    "schedule next": Line(("none",)),
    "schedule pause": Line(("none",)),
    "schedule resume": Line(("none",)),
    "service list": Line(()),
    "container create": Line(("task_agent",)),
    "container destroy": Line(("none",)),
    "container list": Line(()),
    "container logs": Line(("none",)),
    "container pause": Line(("none",)),
    "container restart": Line(("none",)),
    "container resume": Line(("none",)),
    "container show": Line(("none",)),
    "container start": Line(("none",)),
    "container stop": Line(("none",)),
    "container usage": Line(("none",)),
    "inbox add": Line(("other",)),
    "inbox list": Line(()),
    "events tail": Line((), {"--no-follow": ""}),
    "silence accept": Line(("service",)),
    "silence list": Line(()),
    "auth add": Line(("worker", "w"), {"--dir": "auth"}),
    "auth check": Line((), {"--dir": "auth"}),
    "auth init": Line(("auth",)),
    "auth list": Line((), {"--dir": "auth"}),
    "backup create": Line(("backup",), {"--url": NOBODY}),
    "backup drill": Line((), {"--url": NOBODY}),
    "backup restore": Line(("backup",), {"--nats": NOBODY}),
    "backup verify": Line(("backup",)),
    "archive run": Line(("archive",), {"--url": NOBODY, "--before": "1"}),
    "archive verify": Line(("archive",)),
    "verify": Line((), {"--nats": NOBODY}),
    "doctor": Line((), {"--nats": NOBODY}),
    "schema asyncapi": Line(()),
    "schema json": Line(()),
}
"""Every command. What would run for long is given nobody to connect to, or another option that is refused."""
LONG = {"demo", "task submit", *(command for command in COMMANDS if command.startswith("bench"))}
"""Commands that a number makes run for long."""
NUMBERS = ("１２", "1_000", "1e3", "99999", "0")
FIELDS = {
    "NAME": "task_name", "--type": "task_type", "--priority": "priority", "--timeout": "timeout_s", "--id": "task_id",
    "--max-retries": "max_retries", "--tenant": "tenant", "--traceparent": "traceparent",
}  # fmt: skip
"""What of a submitted task must be what was said."""


class Place(NamedTuple):
    """An option, or the argument at *at*, of a command."""

    command: str
    name: str
    at: int
    is_path: bool

    def line(self, word: str) -> list[str]:
        """Return the command line with *word* here."""
        valid = COMMANDS[self.command]
        words, options = list(valid.words), dict(valid.options)
        if self.at >= 0:
            words[self.at] = word
        else:
            options.pop("--json" if self.name == "-o" else self.name, None)
        said = [] if self.at >= 0 or self.name.startswith("--") else [self.name, word]
        said += [part for name, value in options.items() for part in ([f"{name}={value}"] if value else [name])]
        if self.at < 0 and self.name.startswith("--"):
            said.append(f"{self.name}={word}")
        return [*self.command.split(), *said, "--", *words]


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*before, name))
        else:
            yield " ".join((*before, name)), found


ALL = {
    command: found
    for command, found in commands(cli)
    if not command.startswith("call ") or command.removeprefix("call ") in CALLED
}


def places() -> Iterator[Place]:
    for command, found in ALL.items():
        arguments = [one for one in found.params if isinstance(one, click.Argument)]
        for one in found.params:
            if not getattr(one, "is_flag", False):
                at = arguments.index(one) if isinstance(one, click.Argument) else -1
                name = str(one.name).upper() if at >= 0 else one.opts[0]
                yield Place(command, name, at, isinstance(one.type, click.Path))


PLACES = list(places())


def test_every_command_is_here() -> None:
    """A command without a valid line would not be tried."""
    assert set(ALL) == set(COMMANDS)
    assert len(PLACES) * len(WORDS) > 3000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("odd") / "home") as started:
        yield started


@pytest.fixture(autouse=True)
def folder(cluster: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test's own, against the cluster."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backup").mkdir()
    (tmp_path / "handlers.py").write_text("from coordinator.worker import task\n@task('n')\ndef n(payload): ...\n")
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    # A follower yields the CPU to others for ever, and here that would be this process with all later tests.
    monkeypatch.setenv("COORDINATOR_FOLLOWER__NICENESS", "0")
    return tmp_path


class Late(BaseException):
    """A command took too long; no handler of errors may take it for something else"""


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late(f"not within {CALL_TIMEOUT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(CALL_TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong_with(place: Place, word: str, ended: Said) -> str:
    """Return what is wrong with how a command ended; '' if nothing."""
    if "internal error" in ended.err or "Traceback" in ended.err + ended.out:
        return ended.err[-300:]
    if ended.code not in REPORTS and not ended.err.rpartition("\n")[0].rpartition("\n")[2].startswith("coordinator: "):
        return f"{ended.code} without a reason: {ended.err[-300:]}"
    plain = {"KIND": "service|worker", "--kind": "event pattern", "--where": "filter"}.get(
        place.name, place.name.strip("-").lower()
    )
    said = {place.name.lower(), plain, plain.replace("-", "_").partition("_")[0], ascii(word)[1:-1][:20].lower()}
    if ended.code in REFUSED and not any(one in ended.err.lower() for one in said):
        return f"refused without the name: {ended.err[-300:]}"
    if ended.code == 0 and place.command == "task submit" and place.name in FIELDS:
        return changed_task(place, word, json.loads(ended.out)["task_id"])
    return ""


def changed_task(place: Place, word: str, task_id: str) -> str:
    """Return what a submitted task has instead of the word; '' if it has the word."""
    ended = call("task", "get", "--json", "--", task_id)
    assert ended.code == 0, ended
    found: Any = json.loads(ended.out).get(FIELDS[place.name], "")
    if word == "" and place.name in ("--tenant", "--traceparent", "--id"):
        return ""  # as if it were not there
    same = float(word) == (found or 0) if place.name in ("--priority", "--timeout", "--max-retries") else word == found
    return "" if same else f"changed to {found!r}"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.command} {place.name}")
def test_odd_words(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word is carried, or refused in one line that names its place; nothing is an error of ours."""
    wrong: dict[str, str] = {}
    if place.command == "up":
        monkeypatch.setenv("COORDINATOR_NATS__URL", NOBODY)  # it would run
    if place.name in ("--url", "--nats") or NOBODY in COMMANDS[place.command].options.values():
        monkeypatch.setenv("COORDINATOR_NATS__CONNECT_TIMEOUT_S", "0.05")  # nobody answers there
    environment = dict(os.environ)
    for word in WORDS:
        if (place.command, word) == ("worker run", "") or (place.command in LONG and word in NUMBERS):
            continue
        try:
            with in_time():
                ended = call(*place.line(word))
        except (Exception, Late) as error:  # noqa: BLE001  # it is what is looked for
            wrong[word[:40]] = f"{type(error).__name__}: {error}"[:300]
        else:
            if said := wrong_with(place, word, ended):
                wrong[word[:40]] = said
        os.environ.clear()
        os.environ.update(environment)
    assert wrong == {}


LATIN_1 = [
    line.split()
    for line in (
        *("task submit é", 'task submit n --payload "é"', "task get é", "task cancel x --reason é", "é"),
        *("service list --name é", "events tail --kind é", "--config é.yaml env", "inbox add é", "up --port é"),
        *(
            "task list --url nats://é:4222",
            "auth init a --domain é",
            "auth init é",
            "worker run é.py",
            "node run --id é",
        ),
        *("backup verify é", "verify --home é", "container logs é", "silence accept é", "task list --limit é"),
    )
]
"""With é as Latin-1 has it, which is no UTF-8."""


@pytest.mark.parametrize("words", LATIN_1, ids=" ".join)
def test_bytes_that_are_not_utf_8(words: list[str]) -> None:
    """A process that is given such bytes says so in one line, or uses them: a file may have such a name."""
    ended = run(*(os.fsdecode(word.encode("latin-1")) for word in words))
    assert "internal error" not in ended.err
    assert "Traceback" not in ended.err
    assert ended.code in {1, 2, 5, 8}, ended
    assert ended.code == 1 or ended.err.splitlines()[-1].startswith("coordinator: "), ended


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from(
        ["task submit", "task get", "task cancel", "task list", "service list", "inbox list", "env"]
    ),
    words=st.lists(
        st.one_of(
            st.sampled_from(["--json", "--wait", "--id", "--payload", "--limit", "--status", "--", "-", "-o", "--cpu"]),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
            st.text('\udc80\udcff01.-eE+naif{}[]"\\\n ', max_size=8),
        ),
        max_size=6,
    ),
)
def test_any_words_at_all(command: str, words: list[str]) -> None:
    """Whatever is said, the answer is a result or one line."""
    if "--wait" in words:
        words = [word for word in words if not word.strip().isdigit()]
    with in_time():
        ended = call(*command.split(), *words)
    assert "internal error" not in ended.err
    assert ended.code in {0, 1, 2, 4, 5, 6, 8}
    assert ended.code in REPORTS or ended.err.splitlines()[-1].startswith("coordinator: ")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.recursive(
        LEAVES,
        lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
        max_leaves=12,
    )
)
def test_any_json_is_the_payload(value: Any) -> None:
    """What `--payload` says is what the task has."""
    ended = call("task", "submit", "n", f"--payload={json.dumps(value)}", "--json")
    assert ended.code == 0, ended
    found = json.loads(call("task", "get", "--json", json.loads(ended.out)["task_id"]).out)
    if value is None:
        assert "payload" not in found
    else:
        assert json.loads(found["payload"]["data"]) == value


@pytest.mark.parametrize(
    "payload",
    ['{"a": 1, "a": 2}', '[{"b": {"c": 1, "c": 1}}]', "NaN", "[Infinity]", "1e400", '"\\ud800"', "{1: 2}", ""],
)
def test_a_payload_that_a_parser_would_change_is_refused(payload: str) -> None:
    """Of a key that is there twice a parser takes the last, in silence."""
    ended = call("task", "submit", "n", f"--payload={payload}")
    assert (ended.code, ended.out) == (2, ""), ended
    assert "--payload is not valid JSON" in ended.err
