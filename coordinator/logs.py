"""
Logging of our processes: one line per event, as JSON or for a terminal, for structlog and the standard library.

Text from outside never makes a second line, moves the cursor, or shows a credential: control characters are escaped,
the user part of every URL is cut out, and tracebacks never contain local variables, whatever is installed. No value
makes a log call fail, and each is bounded. structlog is imported on first use, because that takes 250 ms.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from events.errors import Refused

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from structlog.typing import EventDict, Processor

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FORMATS = ("auto", "console", "json")
REDACTED = "[redacted]"

_SECRET_KEYS = frozenset({"authorization", "auth_token", "nkey_seed", "password", "secret", "token"})
_CHATTY = ("httpcore", "httpx", "httpx2")
"""These log each request at info, and a health checker makes many."""
_FIRST = ("timestamp", "level", "logger", "event")
_CHARS_MOST = 16_384
_ITEMS_MOST = 1000
_DEPTH_MOST = 16
_INTEGER_BITS_MOST = 64
_FRAMES_MOST = 40
_FRAMES_IN_LINE = 3
_CAUSES_MOST = 4

_run_of_url_characters = re.compile(r"""[^\s"'<>]+""")


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """
    Send the log of this process to *stream*; a second call replaces the settings of the first.

    It takes over the standard library's root logger, so use it only in our own processes, never in a script that only
    imports us.

    Args:
        level: debug, info, warning or error; lower levels are dropped.
        format: json, console, or auto: console on a terminal, else json.
        stream: None means standard error, as it is at the time of each line.

    Raises:
        Refused: the level or the format is unknown.
    """
    if level not in LEVELS:
        raise Refused(f"unknown log level {level!r}: use {', '.join(LEVELS)}", reason="bad_log_level")
    if format not in FORMATS:
        raise Refused(f"unknown log format {format!r}: use {', '.join(FORMATS)}", reason="bad_log_format")
    import structlog

    sink = _Sink(stream)
    to_console = format == "console" or (format == "auto" and sink.is_terminal())
    gather: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish = _to_console(colors=sink.shows_colors()) if to_console else _to_json()
    structlog.configure(
        processors=[*gather, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *names: _Logger(sink, *names),
        # A cached logger would keep the first settings for ever; creating one each time takes 2 µs.
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=gather,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
    )
    _take_over_standard_library(LEVELS[level], _Handler(sink, formatter))


class bind:  # noqa: N801  # reads as the verb it is: `bind(instance=…)`, `with bind(trace=…):`
    """
    Add *ids* to every line that this context logs from now on; in a `with` statement, until the end of the block.

    The context is that of `contextvars`: tasks started afterwards inherit it, others do not.
    """

    def __init__(self, **ids: str | int) -> None:
        from structlog.contextvars import bind_contextvars

        self._before: Mapping[str, Token[Any]] = bind_contextvars(**ids)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from structlog.contextvars import reset_contextvars

        reset_contextvars(**self._before)


def redact(text: str) -> str:
    """
    Redact the user part of every URL in *text*: `nats://token@host` becomes `nats://[redacted]@host`.

    Everything between `://` and the last `@` is removed, slashes too: tokens in base64 contain some. Takes linear time.
    """
    if "://" not in text or "@" not in text:
        return text
    return _run_of_url_characters.sub(_redact_run, text)


def _redact_run(match: re.Match[str]) -> str:
    run = match[0]
    begin, end = run.find("://"), run.rfind("@")
    return f"{run[: begin + 3]}{REDACTED}{run[end:]}" if 0 <= begin < end else run


# --- where lines go ---------------------------------------------------------------------------------------------------


class _Sink:
    """Writes whole lines, one at a time; lines for a closed stream are dropped silently."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    @property
    def stream(self) -> TextIO | None:
        # Python's standard error is None in a process without a console.
        return self._stream if self._stream is not None else sys.stderr

    def is_terminal(self) -> bool:
        with suppress(ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    def shows_colors(self) -> bool:
        """Return whether to use colours; the `NO_COLOR` convention applies."""
        return self.is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def write(self, line: str) -> None:
        stream = self.stream
        if stream is None:
            return
        with self._lock, suppress(OSError, ValueError):  # a closed pipe, a closed file
            stream.write(line + "\n")
            stream.flush()


class _Logger:
    """Receives finished lines from structlog and writes them to the sink."""

    def __init__(self, sink: _Sink, name: str = "", *_: object) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = sink.write


class _Handler(logging.Handler):
    """Handles records logged with the standard library."""

    def __init__(self, sink: _Sink, formatter: logging.Formatter) -> None:
        super().__init__()
        self._sink = sink
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # a message that cannot be formatted must not fail the caller
            # The standard library would print the arguments, unredacted.
            import structlog

            log = structlog.get_logger(record.name)
            log.exception("log_record_unreadable", at=f"{record.pathname}:{record.lineno}")
        else:
            self._sink.write(line)


def _take_over_standard_library(level: int, handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING) if level > logging.DEBUG else logging.NOTSET)
    logging.captureWarnings(capture=True)


# --- what lines say ---------------------------------------------------------------------------------------------------


def _to_json() -> list[Processor]:
    from structlog.processors import ExceptionRenderer
    from structlog.tracebacks import ExceptionDictTransformer

    trace = ExceptionDictTransformer(show_locals=False, use_rich=False, max_frames=_FRAMES_MOST)
    return [ExceptionRenderer(trace), _clean, _render_json]


def _to_console(*, colors: bool) -> list[Processor]:
    from structlog.dev import ConsoleRenderer, plain_traceback
    from structlog.processors import ExceptionRenderer

    # Never reached, since exceptions are rendered before; the default would print local variables with rich.
    render = ConsoleRenderer(colors=colors, sort_keys=False, repr_native_str=True, exception_formatter=plain_traceback)
    return [ExceptionRenderer(_in_one_line), _clean, _escape, render]


def _clean(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Sort the usual keys first; bound, redact and simplify every value."""
    ordered = {key: event.pop(key) for key in _FIRST if event.get(key)}
    cleaned: EventDict = _Cleaner().mapping(ordered | dict(event), 0)
    return cleaned


class _Cleaner:
    """Makes the values of one line plain; the total number of values is limited, however they are nested."""

    def __init__(self) -> None:
        self._left = _ITEMS_MOST

    def mapping(self, given: Mapping[Any, object], depth: int) -> dict[str, object]:
        return {
            _cleaned_text(str(key)): REDACTED if _is_secret(key, inner) else self._plain(inner, depth)
            for key, inner in islice(given.items(), _ITEMS_MOST)
        }

    def _plain(self, value: object, depth: int) -> object:
        self._left -= 1
        if isinstance(value, Enum):
            value = value.value
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return _cleaned_text(str(value))
        if type(value) is int:
            return value if value.bit_length() <= _INTEGER_BITS_MOST else f"an integer of {value.bit_length()} bits"
        if type(value) is float:
            return value if math.isfinite(value) else repr(value)
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return _cleaned_text(_described(value))
        if depth >= _DEPTH_MOST or self._left <= 0:
            return f"a {type(value).__name__} of {len(value)}"
        if isinstance(value, Mapping):
            return self.mapping(value, depth + 1)
        return [self._plain(inner, depth + 1) for inner in islice(value, max(0, self._left))]


def _is_secret(key: object, value: object) -> bool:
    return bool(value) and isinstance(value, str | bytes) and str(key).lower() in _SECRET_KEYS


def _cleaned_text(text: str) -> str:
    text = redact(text)
    return text if len(text) <= _CHARS_MOST else f"{text[:_CHARS_MOST]}… ({len(text)} characters)"


def _described(value: object) -> str:
    """Return an object as text: a path as its string, an error in one line, anything else as its repr."""
    try:
        if isinstance(value, BaseException):
            return _in_one_line((type(value), value, None))
        return str(value) if isinstance(value, os.PathLike) else repr(value)
    except Exception as error:  # noqa: BLE001  # an error in a `__repr__` must not fail the caller
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    # ASCII only: a reader that splits lines at U+2028 or C1 characters finds one line too.
    return json.dumps(event, separators=(",", ":"))


def _escape(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape what the renderer prints unchanged: keys, and the values of the usual keys. Others are shown by `repr`."""
    # The renderer would print these two on separate lines.
    renamed = {"exception": "raised", "stack": "stack_trace"}
    return {
        _printable(renamed.get(key, key)): _printable(str(value)) if key in _FIRST else value
        for key, value in event.items()
    }


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _in_one_line(exc_info: tuple[type[BaseException], BaseException, TracebackType | None]) -> str:
    """Return an error, where it was raised, and what caused it, without line breaks."""
    return _described_error(exc_info[1], _CAUSES_MOST)


def _described_error(error: BaseException, further: int) -> str:
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    if frames := [*traceback.walk_tb(error.__traceback__)][-_FRAMES_IN_LINE:]:
        text += f" ({' > '.join(_place(frame.f_code.co_filename, line, frame.f_code) for frame, line in frames)})"
    if further <= 0:
        return text
    if isinstance(error, BaseExceptionGroup):
        text += f" [{'; '.join(_described_error(inner, further - 1) for inner in error.exceptions[:_CAUSES_MOST])}]"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text if cause is None else f"{text} ← {_described_error(cause, further - 1)}"


def _place(filename: str, line: int, code: Any) -> str:
    return f"{os.path.basename(filename)}:{line} {code.co_name}"  # noqa: PTH119  # frozen code has no path
