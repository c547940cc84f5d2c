"""
For whom this code acts: the tenant and the trace of the commands that it sends.

    with acting(tenant="blue", traceparent="00-…"):
        await scheduler.submit_task("summarize", {})

The coordinator keeps both with what a command creates, and writes them into every event about it. Inside a handler they
are those of its task. Where no trace is set, that of OpenTelemetry's current span is used, if the program has one, then
that of the environment (TRACEPARENT).
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from coordinator.commands.arguments import text
from events.errors import Refused, shown
from events.ids import DEFAULT_TENANT, checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import Token

_OTEL = "opentelemetry.trace"
_traceparent = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Acting(NamedTuple):
    """A tenant and a `traceparent` of W3C Trace Context; '' means that none is set."""

    tenant: str = ""
    traceparent: str = ""


class ActsFor(Protocol):
    """What has a tenant and a traceparent, such as a task."""

    @property
    def tenant(self) -> str:
        """The tenant."""
        ...

    @property
    def traceparent(self) -> str:
        """The trace."""
        ...


_NOBODY = Acting()
_acting: ContextVar[ActsFor | None] = ContextVar("coordinator_acting", default=None)


@contextmanager
def acting(*, tenant: str = "", traceparent: str = "") -> Iterator[None]:
    """
    Send the commands of this block for a tenant, and as part of a trace; what is '' stays as it is outside.

    It holds for the current task or thread, and for tasks that it starts in the block.

    Args:
        tenant: the tenant.
        traceparent: the trace, in the format of W3C Trace Context: `00-<32 hex>-<16 hex>-<2 hex>`.

    Raises:
        Refused: *tenant* is not an identifier, or *traceparent* has another format.
    """
    if tenant:
        checked(tenant, "tenant")
    if traceparent and trace_id_of(text("traceparent", traceparent)) == "":
        msg = f"traceparent {shown(traceparent)} is not valid: use the format of W3C Trace Context"
        raise Refused(msg, reason="bad_request")
    outside = _given()
    token = _acting.set(Acting(tenant or outside.tenant, traceparent or outside.traceparent))
    try:
        yield
    finally:
        _acting.reset(token)


def act_for(thing: ActsFor) -> Token[ActsFor | None]:
    """
    Act for a thing with this tenant and trace from now on; a malformed trace is not used.

    Reset the token's variable with it to end that. A worker does this for each attempt: it must be cheap.
    """
    return _acting.set(thing)


def current() -> Acting:
    """
    Return for whom this code acts now.

    OpenTelemetry's current span takes precedence if it is of the same trace: it is for a part of the work.
    """
    found = _given()
    if found is _NOBODY or _OTEL not in sys.modules:  # a program that has a span has imported it
        return found
    own, spanned = "" if found is _of_process() else found.traceparent, _current_span()
    if spanned and (not own or trace_id_of(spanned) == trace_id_of(own)):
        return Acting(found.tenant, spanned)
    return found


def _given() -> Acting:
    """Return what is set for this code, or what the environment says."""
    found = _acting.get()
    if found is None:
        return _of_process()
    if isinstance(found, Acting):
        return found
    traceparent = found.traceparent if trace_id_of(found.traceparent) else _of_process().traceparent
    return Acting(found.tenant or _of_process().tenant, traceparent)


@contextmanager
def acting_for_nobody() -> Iterator[None]:
    """Send the commands of this block for no tenant and as part of no trace but those that the sender always has."""
    token = _acting.set(_NOBODY)
    try:
        yield
    finally:
        _acting.reset(token)


def context_for_nobody() -> Context:
    """Return a copy of the current context for a task that outlives this code; see `acting_for_nobody`."""
    context = copy_context()
    context.run(_acting.set, _NOBODY)
    return context


def trace_id_of(traceparent: str) -> str:
    """Return the trace id in a traceparent, '' if it has another format, or an id of zeros only."""
    match = _traceparent.fullmatch(traceparent)
    return match[1] if match and match[1].strip("0") and match[2].strip("0") else ""


def ids_of(tenant: str, traceparent: str) -> dict[str, str]:
    """Return what a line of the log says about tenant and trace; the usual tenant and no trace say nothing."""
    ids = {} if tenant in ("", DEFAULT_TENANT) else {"tenant": tenant}
    if traceparent:
        ids["traceparent"] = traceparent
        ids |= {"trace_id": found} if (found := trace_id_of(traceparent)) else {}
    return ids


@cache
def _of_process() -> Acting:
    """Return what the environment says: a node agent sets TRACEPARENT for a container, as other programs do."""
    traceparent = os.environ.get("TRACEPARENT", "")
    return Acting(traceparent=traceparent if trace_id_of(traceparent) else "")


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


def _current_span() -> str:
    """Return the traceparent of OpenTelemetry's current span, '' if there is none."""
    trace: Any = sys.modules[_OTEL]
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 0xFF:02x}"


@contextmanager
def in_span(traceparent: str) -> Iterator[None]:
    """Make the span of *traceparent* OpenTelemetry's current one, if OpenTelemetry is installed."""
    trace, context = _opentelemetry()
    match = _traceparent.fullmatch(traceparent)
    if trace is None or match is None:
        yield
        return
    span = trace.SpanContext(
        trace_id=int(match[1], 16),
        span_id=int(match[2], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(match[3], 16)),
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span)))
    try:
        yield
    finally:
        context.detach(token)


@cache
def _opentelemetry() -> tuple[Any, Any]:
    """Return OpenTelemetry's modules of traces and of the context, None for both if it is not installed."""
    if find_spec("opentelemetry") is None or find_spec(_OTEL) is None:
        return None, None
    return import_module(_OTEL), import_module("opentelemetry.context")
