"""Container runtimes: one protocol, and those that keep it. A runtime acts and observes; it never decides."""

from coordinator.runtime.fake import FakeRuntime
from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.protocol import Launch, Observed, Runtime, RuntimeState, Usage

__all__ = ["FakeRuntime", "Launch", "Observed", "ProcessRuntime", "Runtime", "RuntimeState", "Usage"]
