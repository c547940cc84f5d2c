"""Logs: one line per event, nothing in it that could look like another line, and no credential."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import time
import warnings
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from coordinator import logs
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "sesame"
URL = f"nats://{SECRET}@host:4222"


class Lines(io.StringIO):
    """A stream that is read as the lines it was given."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal

    def all(self) -> list[str]:
        """Return the lines, split at everything that a reader may treat as a line break."""
        return self.getvalue().removesuffix("\n").splitlines()

    def one(self) -> dict[str, Any]:
        """Return the only line, parsed."""
        (line,) = self.all()
        parsed: dict[str, Any] = json.loads(line)
        return parsed


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Leave logging as it was found: it belongs to the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines() -> Lines:
    """Log as JSON into a stream of our own."""
    stream = Lines()
    logs.configure("debug", "json", stream)
    return stream


@pytest.fixture
def console() -> Lines:
    """Log for a terminal, without colours, into a stream of our own."""
    stream = Lines()
    logs.configure("debug", "console", stream)
    return stream


log = structlog.get_logger("coordinator.engine")


def fail_with_secrets() -> None:
    password = SECRET
    try:
        raise KeyError(len(password))
    except KeyError as error:
        raise ValueError(f"cannot reach {URL}\nforged line") from error


class TestJson:
    """Lines for machines."""

    def test_line(self, lines: Lines) -> None:
        """A line holds the time in UTC, the level, who logged, what happened, and the keys, in this order."""
        log.info("task_started", task_id="task_1", attempt=2, ok=True, nothing=None, load=0.5)
        line = lines.one()
        told = datetime.fromisoformat(line.pop("timestamp"))
        assert told.utcoffset() == UTC.utcoffset(None)
        assert abs((datetime.now(UTC) - told).total_seconds()) < 60
        assert list(line.items()) == [
            ("level", "info"),
            ("logger", "coordinator.engine"),
            ("event", "task_started"),
            ("task_id", "task_1"),
            ("attempt", 2),
            ("ok", True),
            ("nothing", None),
            ("load", 0.5),
        ]

    def test_exception(self, lines: Lines) -> None:
        """An exception is logged with its causes and frames, and never with local variables."""
        try:
            fail_with_secrets()
        except ValueError:
            log.exception("command_crashed")
        line = lines.one()
        raised, cause = line["exception"]
        assert (raised["exc_type"], cause["exc_type"]) == ("ValueError", "KeyError")
        assert raised["exc_value"] == "cannot reach nats://[redacted]@host:4222\nforged line"
        assert [frame["name"] for frame in raised["frames"]] == ["test_exception", "fail_with_secrets"]
        assert "locals" not in lines.getvalue()
        assert SECRET not in lines.getvalue()

    def test_any_value(self, lines: Lines) -> None:
        """Any value is logged as plain JSON, bounded in length, breadth and depth."""

        class Broken:
            def __repr__(self) -> str:
                raise RuntimeError

        class Status(Enum):
            RUNNING = "running"

        deep: list[Any] = []
        deep.append(deep)
        log.info(
            "odd",
            path=Path("/a b"),
            status=Status.RUNNING,
            raw=b"\xff",
            broken=Broken(),
            error=ValueError("x\ny"),
            nan=float("nan"),
            huge=10**5000,
            long="x" * 100_000,
            many=range(10),
            deep=deep,
            mapping={1: {"a": {2}}},
            wide=list(range(100_000)),
        )
        line = lines.one()
        assert (line["path"], line["status"], line["raw"]) == ("/a b", "running", "b'\\xff'")
        assert line["broken"] == "<Broken, whose repr raised RuntimeError>"
        assert (line["error"], line["nan"], line["huge"]) == ("ValueError: x y", "nan", "an integer of 16610 bits")
        assert line["long"].endswith("… (100000 characters)")
        assert (line["many"], len(line["wide"]) > 900, line["mapping"]) == ("range(0, 10)", True, {"1": {"a": [2]}})
        assert len(lines.getvalue()) < 40_000

    def test_repeated_value(self, lines: Lines) -> None:
        """A small value that is huge when it is written out is cut short, as a list and as a mapping."""
        bomb: Any = "x"
        for _ in range(30):
            bomb = [bomb, {"a": bomb, "b": bomb}] * 9
        log.info("odd", bomb=bomb)
        assert "a list of 18" in lines.getvalue()
        assert len(lines.getvalue()) < 100_000

    @given(st.text(), st.text())
    def test_one_line(self, event: str, value: str) -> None:
        """Whatever the text is, it is one line of ASCII, and reading it gives the text back."""
        stream = Lines()
        logs.configure("info", "json", stream)
        log.info(event, value=value)
        line = stream.one()
        assert (line.get("event", ""), line["value"]) == (event, logs.redact(value))
        assert stream.getvalue().isascii()


class TestConsole:
    """Lines for people."""

    def test_line(self, console: Lines) -> None:
        """A line is readable and holds the same."""
        log.info("task_started", task_id="task_1", attempt=2)
        (line,) = console.all()
        assert line.split() == [
            line.split()[0], "[info", "]", "task_started", "[coordinator.engine]", "task_id='task_1'", "attempt=2",
        ]  # fmt: skip
        assert line.split()[0].endswith("Z")

    def test_exception_is_one_line(self, console: Lines) -> None:
        """An exception is in the same line, with where it was raised and what caused it, without locals."""
        try:
            fail_with_secrets()
        except ValueError:
            log.exception("command_crashed", reason="x")
        (line,) = console.all()
        assert "ValueError: cannot reach nats://[redacted]@host:4222 forged line (test_logs.py:" in line
        assert " fail_with_secrets) ← KeyError: 6 (test_logs.py:" in line
        assert SECRET not in line

    def test_groups(self, console: Lines) -> None:
        """A group of exceptions is logged with its members, limited in depth and number."""
        error: Exception = ValueError("the cause")
        for _ in range(50):
            error = ExceptionGroup("several", [error, OSError("broken pipe")])
        log.error("stopped", exc_info=error)
        log.error("stopped", exc_info=ExceptionGroup("several", [ValueError("one"), OSError("two")]))
        deep, flat = console.all()
        assert "ExceptionGroup: several (2 sub-exceptions) [ValueError: one; OSError: two]" in flat
        assert len(deep) < 2000

    @given(st.text(), st.text())
    def test_one_line(self, event: str, value: str) -> None:
        """Whatever the text is, it is one line, and nothing in it moves the cursor."""
        stream = Lines()
        logs.configure("info", "console", stream)
        log.info(event, value=value, exception=value, stack=value, **{f"k{value}": 1})
        assert stream.getvalue().endswith("\n")
        assert stream.getvalue()[:-1].isprintable()

    @pytest.mark.parametrize(
        ("format", "terminal", "is_json"),
        [("auto", False, True), ("auto", True, False), ("json", True, True), ("console", False, False)],
    )
    def test_auto(self, format: str, terminal: bool, is_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """The format `auto` is for people on a terminal and for machines elsewhere."""
        monkeypatch.setenv("NO_COLOR", "1")
        stream = Lines()
        stream.terminal = terminal
        logs.configure("info", format, stream)
        log.info("started")
        assert stream.getvalue().startswith("{") is is_json
        assert "\x1b" not in stream.getvalue()

    def test_colors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Colours are for terminals that show them, unless NO_COLOR is set."""
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        stream = Lines()
        stream.terminal = True
        logs.configure("info", "console", stream)
        log.info("started")
        assert "\x1b[" in stream.getvalue()


class TestSecrets:
    """What must not be read in a log."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (URL, "nats://[redacted]@host:4222"),
            (f"tls://user:{SECRET}@host", "tls://[redacted]@host"),
            (f"at 'nats://{SECRET}/+=/x@host', twice: nats://{SECRET}@h",
             "at 'nats://[redacted]@host', twice: nats://[redacted]@h"),
            (f"nats://a:1,nats://{SECRET}@b:2", "nats://[redacted]@b:2"),
            (f'{{"url":"ws://{SECRET}@h","mail":"a@b"}}', '{"url":"ws://[redacted]@h","mail":"a@b"}'),
            (f"nats://{SECRET}@{SECRET}@h", "nats://[redacted]@h"),
            ("a@b said nats://host:4222", "a@b said nats://host:4222"),
            ("no url", "no url"),
        ],
    )  # fmt: skip
    def test_urls(self, text: str, told: str) -> None:
        """The user part of a URL is cut out, wherever in a text it stands; the rest is kept."""
        assert logs.redact(text) == told

    def test_takes_no_time(self) -> None:
        """Text made to slow redaction down does not."""
        began = time.perf_counter()
        for hostile in ("://" * 200_000, "a" * 600_000 + "://@", "://@" * 150_000, "x://" + "@" * 600_000):
            logs.redact(hostile)
        assert time.perf_counter() - began < 5

    @pytest.mark.parametrize("format", ["json", "console"])
    def test_everywhere(self, format: str) -> None:
        """No token comes through in an event, a value, a key, a nested value, an object, or another's message."""

        class Client:
            def __repr__(self) -> str:
                return f"Client({URL})"

        stream = Lines()
        logs.configure("debug", format, stream)
        with logs.bind(server=URL):
            log.info(URL, client=Client(), raw=URL.encode(), error=OSError(URL))
            log.info("connected", **{URL: 1}, urls=[{"a": (URL,)}], mapping={URL: URL}, long="x" * 16_380 + " " + URL)
            log.info("connected", token=SECRET, options={"password": SECRET, "auth_token": SECRET.encode()})
            logging.getLogger("nats").warning("lost %s %s", URL, {"url": URL})
            logging.getLogger("nats").warning("bad %d", URL)
            logging.getLogger("nats").error(Client())
            try:
                fail_with_secrets()
            except ValueError:
                logging.getLogger("nats").exception("failed")
        assert len(stream.all()) == 7
        assert SECRET not in stream.getvalue()


class TestStandardLibrary:
    """What others log."""

    def test_goes_the_same_way(self, lines: Lines) -> None:
        """A line of the standard library looks like one of ours."""
        with logs.bind(trace="t1"):
            logging.getLogger("asyncio").warning("slow %s\nforged", "callback", stack_info=True)
        line = lines.one()
        assert (line["level"], line["logger"], line["trace"]) == ("warning", "asyncio", "t1")
        assert line["event"] == "slow callback\nforged"
        assert "_record" not in line

    def test_unreadable(self, lines: Lines) -> None:
        """A message that cannot be formatted is logged as such, with its place in the code; the caller continues."""
        logs.configure("info", "json", lines)  # here, because pytest's own handler would raise
        logging.getLogger("theirs").warning("%d", "x")
        line = lines.one()
        assert (line["event"], line["logger"]) == ("log_record_unreadable", "theirs")
        assert Path(line["at"].rpartition(":")[0]).name == "test_logs.py"

    def test_warnings(self, lines: Lines) -> None:
        """A warning of Python is a line too."""
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=False)
            logs.configure("info", "json", lines)
            warnings.warn("old\nway", UserWarning, stacklevel=1)
        assert (lines.one()["logger"], lines.one()["level"]) == ("py.warnings", "warning")

    def test_chatty(self, lines: Lines) -> None:
        """Libraries that log every request are logged only at debug level."""
        logging.getLogger("httpx2").info("GET /")
        logs.configure("info", "json", lines)
        logging.getLogger("httpx2").info("GET /")
        assert len(lines.all()) == 1

    def test_takes_over(self, lines: Lines) -> None:
        """After a second configuration each line is written once, to the new stream."""
        again = Lines()
        logs.configure("info", "json", again)
        logging.getLogger("theirs").info("once")
        log.info("once")
        assert (len(again.all()), lines.getvalue()) == (2, "")


class TestConfigure:
    """How it is set up."""

    def test_level(self, lines: Lines) -> None:
        """What is below the level is dropped, ours and others'."""
        logs.configure("warning", "json", lines)
        log.info("dropped")
        logging.getLogger("theirs").info("dropped")
        log.warning("kept")
        assert lines.one()["event"] == "kept"

    def test_unknown(self) -> None:
        """An unknown level or format is refused."""
        with pytest.raises(Refused, match="unknown log level 'loud': use debug, info, warning, error"):
            logs.configure("loud")
        with pytest.raises(Refused, match="unknown log format 'xml': use auto, console, json"):
            logs.configure("info", "xml")

    def test_standard_error(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a stream it is standard error as it is at that time; it may be missing, or closed."""
        logs.configure("info", "json")
        log.info("started")
        told = capsys.readouterr()
        assert (json.loads(told.err)["event"], told.out) == ("started", "")
        closed = io.StringIO()
        closed.close()
        for gone in (None, closed):
            monkeypatch.setattr(sys, "stderr", gone)
            logs.configure("info", "auto")
            log.info("unheard")

    def test_broken_pipe(self) -> None:
        """A closed stream does not make logging fail."""

        class Broken(Lines):
            def flush(self) -> None:
                raise BrokenPipeError

        logs.configure("info", "json", Broken())
        log.info("unheard")
        logging.getLogger("theirs").info("unheard")


class TestBind:
    """Ids in every line."""

    def test_until_left(self, lines: Lines) -> None:
        """Bound ids are in every line of the block, inner ones replace outer ones, and none is left after it."""
        logs.bind(instance="i1")
        with logs.bind(trace="t1"):
            with logs.bind(trace="t2", task_id="task_1"):
                log.info("inner")
            log.info("outer")
        log.info("after")
        bound = [
            {key: line.get(key) for key in ("instance", "trace", "task_id")} for line in map(json.loads, lines.all())
        ]
        assert [tuple(one.values()) for one in bound] == [
            ("i1", "t2", "task_1"), ("i1", "t1", None), ("i1", None, None),
        ]  # fmt: skip

    async def test_tasks(self, lines: Lines) -> None:
        """A task inherits what was bound when it started; what it binds itself stays its own."""

        async def work(number: int) -> None:
            logs.bind(number=number)
            await asyncio.sleep(0)
            log.info("worked")

        with logs.bind(trace="t1"):
            async with asyncio.TaskGroup() as group:
                for number in range(2):
                    group.create_task(work(number))
            log.info("done")
        told = [
            (line.get("trace"), line.get("number")) for line in map(json.loads, lines.all()) if line["level"] == "info"
        ]
        assert told == [("t1", 0), ("t1", 1), ("t1", None)]
