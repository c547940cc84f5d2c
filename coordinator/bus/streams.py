"""
Requests to JetStream about a stream: whether it exists as wanted, its state, its messages.

`ensure_stream` reports each field that is configured differently; it never changes or deletes an existing stream, which
may hold the journal. All functions raise `ApiError` if JetStream refuses, and `Unavailable` if it does not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from coordinator.bus.jetstream import NAME_IN_USE, NANOSECONDS, NO_CLUSTER, NO_STREAM, ApiError
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.bus.connection import Bus

log = structlog.get_logger(__name__)

_ATTEMPTS = 3

# Features that a client could misuse stay off unless wanted: with rollups, TTLs or schedules a publisher can remove or
# forge messages.
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
    """Return the configuration and state of a stream."""
    return await bus.js_request(f"STREAM.INFO.{name}", timeout_s=timeout_s)


async def stream_names(bus: Bus, subject: str, *, offset: int, timeout_s: float) -> tuple[list[str], int]:
    """Return the names of the streams that hold *subject*, from *offset* on, and how many there are in all."""
    answer = await bus.js_request("STREAM.NAMES", {"subject": subject, "offset": offset}, timeout_s=timeout_s)
    return answer.get("streams") or [], answer["total"]


async def stored_message(bus: Bus, name: str, which: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Return a message from the stream's leader as JetStream sends it: `seq`, `subject`, `data`, `hdrs`, `time`."""
    answer = await bus.js_request(f"STREAM.MSG.GET.{name}", which, timeout_s=timeout_s)
    message: dict[str, Any] = answer["message"]
    return message


async def ask_stored(bus: Bus, name: str, which: Mapping[str, Any], reply: str) -> None:
    """Request stored messages from any replica; they go to *reply*, and a message with a status is the last."""
    await bus.js_send(f"DIRECT.GET.{name}", which, reply)


async def delete_message(bus: Bus, name: str, sequence: int, *, timeout_s: float) -> None:
    """Delete one message; its bytes are not overwritten."""
    await bus.js_request(f"STREAM.MSG.DELETE.{name}", {"seq": sequence, "no_erase": True}, timeout_s=timeout_s)


async def purge_stream(bus: Bus, name: str, subject: str, *, below: int, timeout_s: float) -> int:
    """Remove the messages on *subject* before the sequence *below*; return how many those were."""
    answer = await bus.js_request(f"STREAM.PURGE.{name}", {"filter": subject, "seq": below}, timeout_s=timeout_s)
    purged: int = answer["purged"]
    return purged


async def update_stream(bus: Bus, wanted: Mapping[str, Any], *, timeout_s: float) -> None:
    """Change the configuration of a stream."""
    await bus.js_request(f"STREAM.UPDATE.{wanted['name']}", wanted, timeout_s=timeout_s)


async def ensure_stream(bus: Bus, wanted: Mapping[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
    """
    Create the stream *wanted* (a JetStream stream configuration) unless it exists, and return its info.

    `duplicate_window` may be longer than wanted; every other field must be as wanted, or off if it is not in *wanted*.

    Raises:
        Refused: a stream of that name has another configuration; the message names the fields, with their values and
        the wanted ones. Unavailable: JetStream does not answer, or has no room.
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
            # Another coordinator was faster, perhaps with another configuration: check again.
            if error.err_code != NAME_IN_USE:
                raise _trouble(name, error) from error
    msg = f"stream {name} could not be created: it appears and disappears; find out who else creates and deletes it"
    raise Unavailable(msg)


def drift(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return how *config* differs from *wanted*, one text per field."""
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
    if error.err_code == NO_CLUSTER:
        msg = f"{message}: use nats.replicas 1, or a cluster of at least as many NATS servers"
        return Refused(msg, reason="stream_refused")
    if error.may_pass:
        return Unavailable(message)
    return Refused(message, reason="stream_refused")
