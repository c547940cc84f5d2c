"""
Settings that change nothing, or nothing any more, each with the reason.

A key that the requirements name must load even before something reads it; whoever sets it is told so when a coordinator
starts. A key that never had an effect and is in no requirement is removed, with an error that says what to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.settings.model import Settings

UNREAD = {
    "container.health_check_interval": "containers have no health checks yet; their services have",
}
"""Keys that no code reads, with the reason: what they are for does not exist yet."""

REMOVED = {
    "engine.query_wait_s": "it had no effect: a question says itself how long it waits, with wait_s or timeout_s",
}
"""Keys that were removed, with the reason and what to use."""


def without_effect(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each key that is set and has no effect, with the reason. Keys that are not set are not mentioned."""
    container = settings.container
    if "health_check_interval" in container.model_fields_set:
        yield "container.health_check_interval", UNREAD["container.health_check_interval"]
    tick_s = settings.engine.tick_s
    for section, name in (("registry", "cleanup_interval"), ("scheduler", "task_timeout_check_interval")):
        keys = getattr(settings, section)
        if name in keys.model_fields_set and getattr(keys, name) >= tick_s:
            why = f"what is due is looked for more often than that: every engine.tick_s ({tick_s:.10g} s)"
            yield f"{section}.{name}", why
