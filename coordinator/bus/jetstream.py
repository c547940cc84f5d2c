"""What JetStream answers: acknowledgements, and errors by their codes, which alone tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import CoordinationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

NANOSECONDS = 1_000_000_000

NO_MESSAGE = 10037
NAME_IN_USE = 10058
NO_STREAM = 10059
WRONG_LAST_MESSAGE = 10070
WRONG_LAST_SEQUENCE = 10071
# The same id in flight, an expectation a new leader cannot judge yet, another write on the subject in flight.
UNDECIDED = frozenset({10158, 10163, 10164})
SERVER_TROUBLE = 500
"""Statuses from here on are the server's fault."""


class ApiError(CoordinationError):
    """JetStream refused the request"""

    code = "api_error"

    def __init__(self, status: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream answered {status} ({err_code}): {description}")
        self.status = status
        self.err_code = err_code
        self.description = description


class Ack(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """JetStream has stored a message; `duplicate` when it knew the message id already."""

    stream: str
    sequence: int
    duplicate: bool = False


class _Fault(msgspec.Struct, frozen=True, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Published(msgspec.Struct, frozen=True, gc=False):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Fault | None = None


_decode_published = msgspec.json.Decoder(_Published).decode


def ack_of(subject: str, raw: bytes) -> Ack:
    """
    Read what came back for a message published on *subject*.

    Raises:
        ApiError: it was not stored.
        Unavailable: something else than JetStream answered.
    """
    try:
        answer = _decode_published(raw)
    except msgspec.DecodeError as error:
        msg = f"{subject} was answered by something that is not JetStream: {raw[:80]!r}"
        raise Unavailable(msg, reason="bad_answer") from error
    if answer.error is not None:
        raise ApiError(answer.error.code, answer.error.err_code, answer.error.description)
    return Ack(stream=answer.stream, sequence=answer.seq, duplicate=answer.duplicate)


def answer_of(raw: bytes) -> dict[str, Any]:
    """
    Read what the API answered.

    Raises:
        ApiError: it says no.
    """
    answer: dict[str, Any] = msgspec.json.decode(raw)
    error = answer.get("error")
    if error is not None:
        raise ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
    return answer


def key_stream(bucket: str) -> str:
    """Name the stream of a key-value bucket."""
    return f"KV_{bucket}"


def key_subject(bucket: str, key: str) -> str:
    """Spell the subject of a key in a bucket; `>` for all."""
    return f"$KV.{bucket}.{key}"


def request_of(payload: Mapping[str, Any] | bytes) -> bytes:
    """Write what is asked of the API; bytes are written already."""
    return payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
