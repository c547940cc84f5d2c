"""
What is asked of JetStream about a stream: is it there as wanted, what does it hold, which message is stored where.

`ensure_stream` reports what is configured otherwise, field by field; it never changes or deletes what exists, for that
may hold the truth. All of these raise `ApiError` where JetStream says no, and `Unavailable` where it does not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from coordinator.bus.jetstream import NAME_IN_USE, NANOSECONDS, NO_STREAM, SERVER_TROUBLE, ApiError
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.bus.connection import Bus

log = structlog.get_logger(__name__)

_ATTEMPTS = 3

# What any client may misuse stays off unless wanted: with rollups, TTLs or schedules a publisher can remove or forge
# messages.
_UNLESS_WANTED: dict[str, Any] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "storage": "file",
    "discard": "old",
    "discard_new_per_subject": False,
    "num_replicas": 1,
    "compression": "none",
    "no_ack": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "allow_direct": False,
    "mirror_direct": False,
    "allow_msg_ttl": False,
    "allow_msg_schedules": False,
    "allow_msg_counter": False,
    "allow_atomic": False,
    "allow_batched": False,
    "subject_delete_marker_ttl": 0,
    "persist_mode": "default",
    "mirror": None,
    "sources": None,
    "republish": None,
    "subject_transform": None,
}
_AT_LEAST = frozenset({"duplicate_window"})


async def stream_info(bus: Bus, name: str, *, timeout_s: float) -> dict[str, Any]:
    """Give a stream's configuration and state."""
    return await bus.js_request(f"STREAM.INFO.{name}", timeout_s=timeout_s)


async def stream_names(bus: Bus, subject: str, *, offset: int, timeout_s: float) -> tuple[list[str], int]:
    """Give the names of the streams that hold *subject*, from *offset* on, and how many there are in all."""
    answer = await bus.js_request("STREAM.NAMES", {"subject": subject, "offset": offset}, timeout_s=timeout_s)
    return answer.get("streams") or [], answer["total"]


async def stored_message(bus: Bus, name: str, which: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Give a message from the stream's leader, as JetStream describes it: `seq`, `subject`, `data`, `hdrs`, `time`."""
    answer = await bus.js_request(f"STREAM.MSG.GET.{name}", which, timeout_s=timeout_s)
    message: dict[str, Any] = answer["message"]
    return message


async def ask_stored(bus: Bus, name: str, which: Mapping[str, Any], reply: str) -> None:
    """Have any replica send stored messages to *reply*; a message with a status ends them."""
    await bus.js_send(f"DIRECT.GET.{name}", which, reply)


async def delete_message(bus: Bus, name: str, sequence: int, *, timeout_s: float) -> None:
    """Delete one message; its bytes are not overwritten."""
    await bus.js_request(f"STREAM.MSG.DELETE.{name}", {"seq": sequence, "no_erase": True}, timeout_s=timeout_s)


async def purge_stream(bus: Bus, name: str, subject: str, *, below: int, timeout_s: float) -> int:
    """Remove the messages on *subject* before the sequence *below*; say how many those were."""
    answer = await bus.js_request(f"STREAM.PURGE.{name}", {"filter": subject, "seq": below}, timeout_s=timeout_s)
    purged: int = answer["purged"]
    return purged


async def update_stream(bus: Bus, wanted: Mapping[str, Any], *, timeout_s: float) -> None:
    """Change how a stream is configured."""
    await bus.js_request(f"STREAM.UPDATE.{wanted['name']}", wanted, timeout_s=timeout_s)


async def ensure_stream(bus: Bus, wanted: Mapping[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
    """
    Create the stream *wanted* (a JetStream stream configuration) unless it is there, and give its info.

    `duplicate_window` may be longer than wanted; everything else must be as wanted, and what is not named must be off.

    Raises:
        Refused: a stream of that name is configured otherwise; says which fields, what they are and what they should
        be. Unavailable: JetStream does not answer, or has no room.
    """
    name = wanted["name"]
    for _ in range(_ATTEMPTS):
        try:
            info = await bus.js_request(f"STREAM.INFO.{name}", timeout_s=timeout_s)
        except ApiError as error:
            if error.err_code != NO_STREAM:
                raise _trouble(name, error) from error
        else:
            _check(name, info["config"], wanted)
            return info
        try:
            await bus.js_request(f"STREAM.CREATE.{name}", wanted, timeout_s=timeout_s)
            log.info("stream_created", stream=name)
        except ApiError as error:
            # Another coordinator came first, and perhaps with another configuration: look again.
            if error.err_code != NAME_IN_USE:
                raise _trouble(name, error) from error
    msg = f"stream {name} could not be created: it comes and goes; look who else creates and deletes it"
    raise Unavailable(msg)


def drift(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say, field by field, how *config* differs from *wanted*."""
    full = _UNLESS_WANTED | dict(wanted)
    found = []
    for field, should in full.items():
        value = config.get(field)
        if value is None and not should:
            continue
        if field == "persist_mode" and value is None:
            continue
        right = (value or 0) >= should if field in _AT_LEAST else value == should
        if not right:
            least = "at least " if field in _AT_LEAST else ""
            found.append(f"{field} is {_shown(field, value)} and should be {least}{_shown(field, should)}")
    return found


def _check(name: str, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    found = drift(config, wanted)
    if found:
        msg = (
            f"stream {name} exists with another configuration: {'; '.join(found)}. Change it, or use another namespace"
        )
        raise Refused(msg, reason="stream_drift")


def _shown(field: str, value: object) -> str:
    if field in ("duplicate_window", "max_age", "subject_delete_marker_ttl") and isinstance(value, int):
        return f"{value / NANOSECONDS:g} s"
    return repr(value)


def _trouble(name: str, error: ApiError) -> Refused | Unavailable:
    message = f"stream {name}: {error.message}"
    if error.status >= SERVER_TROUBLE:
        return Unavailable(message)
    return Refused(message, reason="stream_refused")
