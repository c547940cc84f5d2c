"""Answers of JetStream: acknowledgements, and errors, which are identified only by their codes."""

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
NO_CLUSTER = 10074
"""Replicas are wanted of a server that has no others."""
WRONG_LAST_MESSAGE = 10070
WRONG_LAST_SEQUENCE = 10071
# The same id in flight, an expectation a new leader cannot check yet, another write on the subject in flight.
UNDECIDED = frozenset({10158, 10163, 10164})
SERVER_TROUBLE = 500
"""Statuses from here on are faults of the server."""
NO_ROOM = frozenset({10002, 10023, 10028, 10047})
"""The limit of an account or of the server (`max_file`) is reached; the first has the status of a wrong request."""
NOTHING_STORED = (
    "NATS answers, but acknowledges nothing that is to be stored: its disk is full, read-only or broken, or its "
    "servers have no majority. Its log and /healthz say which. Mend that, then restart nats-server: it keeps the error"
)
"""What it means that a connection is alive, and what was published on it is not acknowledged."""


class ApiError(CoordinationError):
    """JetStream refused the request"""

    code = "api_error"

    def __init__(self, status: int, err_code: int, description: str) -> None:
        do = "; raise max_file or the limit of the account, or archive old commits" if err_code in NO_ROOM else ""
        super().__init__(f"JetStream answered {status} ({err_code}): {description}{do}")
        self.status = status
        self.err_code = err_code
        self.description = description

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later: a fault of the server, or no room."""
        return self.status >= SERVER_TROUBLE or self.err_code in NO_ROOM


class Ack(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """JetStream has stored a message; `duplicate` if it has stored this message id before."""

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
    Decode the answer to a message published on *subject*.

    Raises:
        ApiError: the message was not stored.
        Unavailable: the answer is not from JetStream.
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
    Decode an answer of the API.

    Raises:
        ApiError: JetStream refused the request.
    """
    answer: dict[str, Any] = msgspec.json.decode(raw)
    error = answer.get("error")
    if error is not None:
        raise ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
    return answer


def key_stream(bucket: str) -> str:
    """Return the name of the stream of a key-value bucket."""
    return f"KV_{bucket}"


def key_subject(bucket: str, key: str) -> str:
    """Return the subject of a key in a bucket; the key `>` means all."""
    return f"$KV.{bucket}.{key}"


def request_of(payload: Mapping[str, Any] | bytes) -> bytes:
    """Encode a request to the API; bytes are encoded already."""
    return payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
