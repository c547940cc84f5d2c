"""The tenant and the trace of what this code sends: set for a block, by the environment, or by OpenTelemetry."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

import coordinator
from coordinator.commands.acting import (
    Acting,
    act_for,
    acting,
    acting_for_nobody,
    context_for_nobody,
    current,
    ids_of,
    in_span,
    trace_id_of,
)
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

ID, SPAN, CHILD = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
TRACE = f"00-{ID}-{SPAN}-01"
OTHER = f"00-{'1' * 32}-{'2' * 16}-00"


@contextmanager
def acting_for(tenant: str, traceparent: str) -> Iterator[None]:
    """As a worker does for a task."""
    token = act_for(Thing(tenant, traceparent))
    try:
        with in_span(traceparent):
            yield
    finally:
        token.var.reset(token)


class Thing(NamedTuple):
    """What is acted for."""

    tenant: str
    traceparent: str


def test_it_holds_for_a_block_and_what_is_not_given_stays() -> None:
    """Blocks may be nested; it is exported by the package."""
    assert coordinator.acting is acting
    assert current() == Acting("", "")
    with acting(tenant="blue"):
        with acting(traceparent=TRACE):
            assert current() == Acting("blue", TRACE)
        with acting_for_nobody():
            assert current() == Acting("", "")
        assert current() == Acting("blue", "")
    assert current() == Acting("", "")


async def test_what_outlives_the_block_is_apart() -> None:
    """A task that serves others too, such as a coordinator in this process, acts for nobody."""

    async def seen() -> Acting:
        return current()

    with acting(tenant="blue"):
        assert await asyncio.create_task(seen(), context=context_for_nobody()) == Acting("", "")
        assert current().tenant == "blue"


async def test_it_holds_for_the_tasks_of_the_block() -> None:
    """Others, such as those of another call at the same time, have their own."""

    async def seen(tenant: str) -> Acting:
        with acting(tenant=tenant):
            await asyncio.sleep(0)
            return await asyncio.create_task(asyncio.to_thread(current))

    assert [one.tenant for one in await asyncio.gather(seen("blue"), seen("red"))] == ["blue", "red"]


@pytest.mark.parametrize(
    "trace",
    ["x", TRACE.upper(), TRACE[:-3], f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01", f"{TRACE}x", f"{TRACE}\n"],
)
def test_what_is_malformed_is_refused(trace: str) -> None:
    """Before anything is sent. A task may have such a trace, as the wire accepts others too: it is only not used."""
    with pytest.raises(Refused, match="Trace Context"), acting(traceparent=trace):
        pass
    with pytest.raises(Refused, match="tenant"), acting(tenant="a b"):
        pass
    with acting_for("blue", trace):
        assert current() == Acting("blue", "")
    assert trace_id_of(trace) == ""


def test_a_line_of_the_log_says_what_is_not_usual() -> None:
    """The usual tenant and no trace are not told."""
    assert ids_of("default", "") == ids_of("", "") == {}
    assert ids_of("blue", TRACE) == {"tenant": "blue", "traceparent": TRACE, "trace_id": ID}
    assert ids_of("", "odd") == {"traceparent": "odd"}


@pytest.mark.parametrize(("given", "used"), [(TRACE, TRACE), ("odd", "")])
def test_a_process_begins_with_the_trace_of_its_environment(given: str, used: str) -> None:
    """A container has that of its creation; one that is malformed is not used."""
    code = "from coordinator.commands.acting import current; print(current().traceparent)"
    made = subprocess.run(
        [sys.executable, "-c", code], env={"TRACEPARENT": given}, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == used


def test_without_opentelemetry_all_else_works() -> None:
    """It is no dependency."""
    code = f"""
import sys
sys.modules["opentelemetry"] = None
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry": raise ModuleNotFoundError(name)
del sys.modules["opentelemetry"]
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.startswith("opentelemetry") else found(name, package)
from types import SimpleNamespace
from coordinator.commands.acting import act_for, current, in_span
act_for(SimpleNamespace(tenant="blue", traceparent="{TRACE}"))
with in_span("{TRACE}"):
    print(current().traceparent)
assert "opentelemetry" not in sys.modules
"""
    made = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == TRACE


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


@pytest.fixture
def otel() -> object:
    """OpenTelemetry's API, which only the tests install."""
    return pytest.importorskip("opentelemetry.trace", reason="OpenTelemetry is no dependency")


def test_the_current_span_is_the_trace(otel: object) -> None:
    """A span that a program has made its current one is used, unless another trace is set."""
    from opentelemetry import trace

    span = trace.NonRecordingSpan(
        trace.SpanContext(int(ID, 16), int(SPAN, 16), is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    assert current().traceparent == ""
    with trace.use_span(span):
        assert current() == Acting("", TRACE)
        with acting_for_nobody():
            assert current() == Acting("", "")
        with acting(tenant="blue"):
            assert current() == Acting("blue", TRACE)
        with acting(traceparent=OTHER):
            assert current().traceparent == OTHER


def test_a_handler_runs_in_the_span_of_its_task(otel: object) -> None:
    """Spans that it starts are its children, and what it sends is a part of these."""
    from opentelemetry import trace

    with acting_for("blue", TRACE):
        span = trace.get_current_span().get_span_context()
        assert (f"{span.trace_id:032x}", f"{span.span_id:016x}", span.is_remote) == (ID, SPAN, True)
        child = trace.SpanContext(span.trace_id, int(CHILD, 16), is_remote=False, trace_flags=span.trace_flags)
        with trace.use_span(trace.NonRecordingSpan(child)):
            assert current() == Acting("blue", f"00-{ID}-{CHILD}-01")
    assert not trace.get_current_span().get_span_context().is_valid
