"""The command line prints tables, JSON and one-line errors, and returns exit codes; no coordinator needed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import cli
from coordinator.cli.output import clean_json, moment, show, show_one
from coordinator.cli.run import _ready
from coordinator.terminal import clean, is_fancy
from events.errors import CoordinationError, Corrupt, NotFound, Refused, StaleLease, Unavailable
from events.nats_address import DEFAULT_PORT
from tests.commands import call

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\nb\x00\x7f\x9b31m\u202egnp.exe\ud800\U000e0041é日"

_COLUMNS = (("id", lambda thing: thing["id"]), ("what", lambda thing: thing["what"]))


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Add a command `planted` that does what the test says."""

    def add(body: Callable[[], Any]) -> None:
        module = ModuleType("planted_commands")
        module.planted = click.command("planted")(body)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "planted_commands", module)
        monkeypatch.setitem(cli._COMMANDS, "planted", ("planted_commands", "planted", "Only here."))

    return add


# --- tables and JSON --------------------------------------------------------------------------------------------------


def test_a_table_is_aligned_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a table is plain text in columns."""
    things = [{"id": "t1", "what": "short"}, {"id": "task_22", "what": "a longer one"}]
    show(things, _COLUMNS, output="table", as_json=False)
    assert capsys.readouterr().out == "ID       WHAT\nt1       short\ntask_22  a longer one\n"


def test_an_empty_table_has_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty result is a table without rows, or an empty array."""
    show([], _COLUMNS, output="table", as_json=False)
    show([], _COLUMNS, output="json", as_json=False)
    assert capsys.readouterr().out == "ID  WHAT\n[]\n"


@pytest.mark.parametrize(("output", "as_json"), [("json", False), ("table", True)])
def test_json_holds_everything(capsys: pytest.CaptureFixture[str], output: str, as_json: bool) -> None:
    """`-o json` and `--json` are the same and print every field."""
    thing = {"id": "t", "what": "w", "more": [1, None]}
    show([thing], _COLUMNS, output=output, as_json=as_json)
    show_one(thing, _COLUMNS, output=output, as_json=as_json)
    many, _, one = capsys.readouterr().out.partition("]\n{")
    assert json.loads(many + "]") == [thing]
    assert json.loads("{" + one) == thing


def test_one_thing_is_told_by_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Empty facts are left out; a zero is printed."""
    facts = (*_COLUMNS, ("none", lambda _: None), ("tries", lambda _: 0))
    show_one({"id": "t", "what": ""}, facts, output="table", as_json=False)
    assert capsys.readouterr().out == "id     t\ntries  0\n"


def test_what_somebody_sent_cannot_drive_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, control characters, direction marks and lone surrogates are escaped in every output format."""
    thing = {"id": HOSTILE.replace("\ud800", ""), "what": "w"}
    for output in ("table", "json"):
        show([thing], _COLUMNS, output=output, as_json=False)
        show_one(thing, _COLUMNS, output=output, as_json=False)
    out = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in out)
    assert r"\x1b[2J\x1b]0;owned\x07\r\nb" in out
    assert "é日" in out


@given(st.text())
def test_cleaning_leaves_only_what_prints(text: str) -> None:
    """Unprintable characters are escaped; printable text is unchanged."""
    assert clean(text).isprintable()
    assert clean(text) == text or not text.isprintable()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_cleaned_json_means_the_same(value: Any) -> None:
    """Escaping unprintable characters changes no value."""
    try:
        encoded = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return  # half a character, which JSON in UTF-8 cannot hold
    cleaned = clean_json(encoded)
    assert json.loads(cleaned) == value
    assert cleaned.isprintable()


def test_times_are_in_utc() -> None:
    """A time is printed in milliseconds, None as nothing."""
    assert moment(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"
    assert moment(None) == ""


@pytest.mark.parametrize(
    ("name", "value", "fancy"), [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("X", "", True)]
)
def test_a_terminal_gets_more_than_text_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fancy: bool
) -> None:
    """NO_COLOR and a dumb terminal get plain output; so does anything that is not a terminal."""
    for one in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, value)
    assert not is_fancy()
    main, terminal = pty.openpty()
    with os.fdopen(main), os.fdopen(terminal, "w") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        assert is_fancy() is fancy


def test_a_table_on_a_narrow_terminal_keeps_ids_whole() -> None:
    """Wide cells are cut, except the id, which users copy; no line wraps."""
    program = (
        "from coordinator.cli.output import show\n"
        "columns = (('id', lambda t: t[0]), ('why', lambda t: t[1]))\n"
        "show([('task_01m856at9rms4vnbkww9tsekpn', 'x' * 200)] * 2, columns, output='table', as_json=False)"
    )
    shown = on_terminal([sys.executable, "-c", program], columns="60")
    lines = shown.replace("\r\n", "\n").strip().split("\n")
    assert len(lines) == 3
    assert all("task_01m856at9rms4vnbkww9tsekpn" in line for line in lines[1:])


def on_terminal(argv: list[str], *, columns: str = "100") -> str:
    """Run a program in a pseudo-terminal and return its output."""
    main, terminal = pty.openpty()
    env = {**os.environ, "COLUMNS": columns, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    written = b""
    with os.fdopen(main, "rb", buffering=0) as screen:
        try:
            while chunk := screen.read(65_536):
                written += chunk
        except OSError:  # how a pseudo-terminal ends
            pass
    assert process.wait(20) == 0
    return written.decode()


# --- errors and exit codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CoordinationError("no"), 1),
        (Corrupt("no"), 1),
        (Refused("no", reason="no_room"), 3),
        (NotFound("no"), 4),
        (Refused("no"), 5),
        (StaleLease("no"), 5),
        (Refused("no", reason="bad_credentials"), 7),
        (Unavailable("no"), 8),
        (OSError(28, "No space left on device"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_every_error_has_its_exit_code(
    plant: Callable[[Callable[[], Any]], None], error: BaseException, code: int
) -> None:
    """The exit code depends on the kind of error; standard output stays empty."""

    def fail() -> None:
        raise error

    plant(fail)
    ended = call("planted")
    assert (ended.code, ended.out) == (code, "")
    silent = isinstance(error, KeyboardInterrupt | BrokenPipeError)
    assert ended.err.count("\n") == (0 if silent else 1)


def test_what_a_command_gives_is_its_exit_code(plant: Callable[[Callable[[], Any]], None]) -> None:
    """A command's return value is its exit code; None is 0."""
    plant(lambda: 6)
    assert call("planted").code == 6
    plant(lambda: None)
    assert call("planted").code == 0


def test_an_error_is_one_line_that_cannot_drive_a_terminal(plant: Callable[[Callable[[], Any]], None]) -> None:
    """A message with control characters and several lines is printed as one clean line."""

    def fail() -> None:
        raise Refused(f"bad {HOSTILE}\n\n  second line\r\nthird")

    plant(fail)
    ended = call("planted")
    assert ended.err.startswith("coordinator: bad a\\x1b[2J")
    assert ended.err.endswith("| second line | third\n")
    assert ended.err.strip().isprintable()


def test_debug_shows_where_an_error_came_from(plant: Callable[[Callable[[], Any]], None]) -> None:
    """`--debug` prints a traceback before the error, without secrets and control characters."""

    def fail() -> None:
        raise ZeroDivisionError(f"nats://s3cret@localhost {HOSTILE}")

    plant(fail)
    assert "Traceback" not in call("planted").err
    ended = call("--debug", "planted")
    assert "Traceback" in ended.err
    assert "in fail" in ended.err
    assert "s3cret" not in ended.err
    assert all(one.isprintable() or one == "\n" for one in ended.err)
    assert ended.code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tsak"], "no such command 'tsak'. Did you mean 'task'?; see 'coordinator --help'"),
        (["zzz"], "no such command 'zzz'; see 'coordinator --help'"),
        (["task", "sumbit"], "no such command 'sumbit'. Did you mean 'submit'?; see 'coordinator task --help'"),
        (["task", "list", "--limt", "3"], "no such option '--limt'. Did you mean '--limit'?"),
        (["task", "list", "--limit", "0"], "invalid value for '--limit': 0 is not in the range 1<=x<=1000"),
        (["task", "list", "--status", "done"], "invalid value for '--status': 'done' is not one of 'pending',"),
        (["task", "list", "-o", "yaml"], "'yaml' is not one of 'table', 'json'"),
        (["task", "get"], "missing argument 'TASK_ID'; see 'coordinator task get --help'"),
        (["task", "get", "t", "--wait", "nan"], "'nan' is not a number of seconds from 0 to 86400"),
        (["task", "get", "t", "--wait", "-1"], "'-1' is not a number of seconds"),
        (["task", "submit", "n", "--payload", "{"], "--payload is not valid JSON"),
        (["task", "submit", "n", "--payload", "[" * 9999], "--payload is not valid JSON"),
        (["events", "tail", "--since", "*"], "position '*' is not of the form '<sequence>.<index>', such as '1042.0'"),
        (["worker", "run"], "missing argument 'MODULE'"),
        (["task", "list", "a\x1b[2J\nb"], r"unexpected extra argument (a\x1b[2J | b)"),
    ],
)
def test_wrong_usage_is_told_in_one_line_with_what_would_be_right(arguments: list[str], said: str) -> None:
    """An unknown command or option suggests the nearest, a bad value states what is allowed; exit code 2."""
    ended = call(*arguments)
    assert (ended.code, ended.out) == (2, ""), ended
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_without_a_coordinator_it_says_how_to_start_one() -> None:
    """The exit code is 8, and the error states what to do."""
    ended = call("task", "list")
    assert (ended.code, ended.out) == (8, "")
    assert "no coordinator runs here" in ended.err
    assert "start one with 'coordinator up', or set COORDINATOR_URL" in ended.err


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the address and not the token."""
    monkeypatch.setenv("COORDINATOR_NATS__CONNECT_TIMEOUT_S", "0.3")
    began = time.monotonic()
    ended = call("task", "list", "--url", "nats://s3cret@127.0.0.1:1")
    assert time.monotonic() - began < 20
    assert (ended.code, ended.out) == (8, "")
    assert "127.0.0.1:1" in ended.err
    assert "s3cret" not in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", [["serve"], ["follow"], ["node", "run"]])
def test_what_needs_a_nats_says_so(command: list[str]) -> None:
    """Without a NATS URL these commands fail and name the option."""
    ended = call(*command)
    assert (ended.code, ended.out) == (5, "")
    assert "use --nats nats://token@host:port or set COORDINATOR_URL" in ended.err


def test_up_says_where_it_is_and_what_to_do_next() -> None:
    """A few lines that fit into a terminal, without the token; a port other than the wanted one is explained."""
    told = list(_ready("nats://s3cret@127.0.0.1:4222", Path("/home/ann/.local/state/coordinator"), DEFAULT_PORT))
    assert told[0] == "coordinator is up at 127.0.0.1:4222; state in /home/ann/.local/state/coordinator"
    assert len(told) == 4
    assert max(map(len, told)) <= 80
    moved = list(_ready("nats://s3cret@127.0.0.1:4223", Path("/x"), DEFAULT_PORT))
    assert moved[1] == "  port 4222 is in use by another program"
    own = list(_ready("tls://a:s3cret@one:4333,tls://a:s3cret@two:4333", Path("/x"), None))
    assert own[0] == "coordinator is up at one:4333,two:4333; state in /x"


def test_a_port_without_a_server_of_our_own_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `nats.url` no server is started here, so the option would have no effect."""
    monkeypatch.setenv("COORDINATOR_NATS__URL", "nats://127.0.0.1:1")
    ended = call("up", "--port", "4223")
    assert ended.code == 2
    assert "--port has no effect" in ended.err


def test_wrong_settings_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown setting suggests the nearest, several errors share one line; so does a missing file."""
    monkeypatch.setenv("COORDINATOR_SCHEDULR__MAX_RETRIES", "5")
    monkeypatch.setenv("COORDINATOR_ENGINE__TICK_S", "never")
    ended = call("task", "list")
    assert (ended.code, ended.out) == (5, "")
    assert "the nearest is $COORDINATOR_SCHEDULER__MAX_RETRIES" in ended.err
    assert "engine.tick_s is 'never'" in ended.err
    assert ended.err.count("\n") == 1
    assert "does not exist" in call("--config", "nowhere.yaml", "task", "list").err


# --- help, and streams that end ---------------------------------------------------------------------------------------


def test_every_command_has_help_and_help_needs_nothing_heavy() -> None:
    """Every command has help, and `--help` imports nothing that only running a command needs."""
    program = (
        "import sys, click\n"
        "from coordinator.cli import cli, run_line\n"
        "def visit(command, words):\n"
        "    assert run_line([*words, '--help']) == 0\n"
        "    assert command.get_short_help_str(), words\n"
        "    context = click.Context(command)\n"
        "    for name in command.list_commands(context) if isinstance(command, click.Group) else ():\n"
        "        if name != 'demo': visit(command.get_command(context, name), [*words, name])\n"
        "visit(cli, [])\n"
        "heavy = {'nats', 'pydantic', 'structlog', 'asyncio', 'rich'} & set(sys.modules) - {'asyncio'}\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    for words in ("coordinator up", "coordinator task submit", "coordinator events tail", "coordinator node run"):
        assert f"Usage: {words} " in ended.stdout


def test_help_tells_of_every_command_and_version_of_the_version() -> None:
    """`--help`, `-h` and `--version` exit with 0."""
    ended = call("--help")
    assert ended == call("-h")
    assert ended.code == 0
    assert all(f"\n  {name} " in ended.out for name in cli._COMMANDS)
    assert call("--version").out.startswith("coordinator, version ")


def test_a_full_disk_is_an_error_and_no_trace() -> None:
    """A failed write is reported in one line."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        ended = subprocess.run(
            [sys.executable, "-m", "coordinator.cli", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.decode() == "coordinator: No space left on device\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    """A closed pipe ends the command with 0 and without a message."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator.cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(20) == 0


def test_an_output_that_knows_no_such_characters_gets_their_numbers() -> None:
    """Characters that the encoding lacks, such as an arrow, are escaped."""
    program = "import sys, click; from coordinator import cli; sys.argv[1:] = ['zz→z']; cli.main()"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2
    assert b"zz\\u2192z" in ended.stderr
