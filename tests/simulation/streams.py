"""
The simulated JetStream: streams with its checks, error codes and time limits, and pull consumers.

It has only what the coordinator uses; `tests/contract` makes the same calls to the real server. No faults are drawn
here: the broker decides whether a message arrives.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.bus.jetstream import NANOSECONDS, NO_MESSAGE, WRONG_LAST_MESSAGE, WRONG_LAST_SEQUENCE
from coordinator.bus.streams import _UNLESS_WANTED

if TYPE_CHECKING:
    from collections.abc import Callable

DUPLICATE_WINDOW_S = 120.0
encode = msgspec.json.encode


class Stored(NamedTuple):
    """One message of a stream; it expires at `expires_at` (loop time)."""

    sequence: int
    subject: str
    headers: bytes
    data: bytes
    expires_at: float


def fault(code: int, err_code: int, description: str) -> bytes:
    """Return an error answer."""
    return encode({"error": {"code": code, "err_code": err_code, "description": description}})


def header_of(raw: bytes, name: bytes) -> str | None:
    """Return one header of a raw block."""
    start = raw.find(b"\r\n%b: " % name)
    if start < 0:
        return None
    start += len(name) + 4
    return raw[start : raw.find(b"\r\n", start)].decode()


def matches(pattern: list[str], subject: list[str]) -> bool:
    """Return True if the tokens of a subject match those of a pattern."""
    if pattern[-1] == ">":
        return len(subject) >= len(pattern) and matches(pattern[:-1] or [""], subject[: len(pattern) - 1] or [""])
    return len(pattern) == len(subject) and all(
        mine in ("*", theirs) for mine, theirs in zip(pattern, subject, strict=True)
    )


class Stream:
    """One stream; *replicated* sets the order of checks of a stream with replicas: message ids first."""

    def __init__(self, config: dict[str, Any], *, replicated: bool) -> None:
        self.config = _UNLESS_WANTED | config
        self.name: str = config["name"]
        self.patterns = [pattern.split(".") for pattern in config["subjects"]]
        self.created = f"2026-11-24T00:00:00.{_now():012.6f}Z".replace(" ", "0")
        self.messages: dict[int, Stored] = {}
        self.purged: list[Stored] = []
        """What was purged, for the check at the end."""
        self.last = 0
        self.consumers: dict[str, Consumer] = {}
        self.checked: Callable[[bytes, bytes], None] = lambda *_: None
        """Called with the headers and the data of each stored message."""
        self._replicated = replicated
        self._last_of: dict[str, int] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._last_id = ""
        self._window_s = config.get("duplicate_window", DUPLICATE_WINDOW_S * NANOSECONDS) / NANOSECONDS
        self._one_each = config.get("max_msgs_per_subject", -1) == 1

    def takes(self, subject: list[str]) -> bool:
        """Return True if a subject, given as tokens, belongs to this stream."""
        return any(matches(pattern, subject) for pattern in self.patterns)

    def store(self, subject: str, headers: bytes, data: bytes) -> bytes:
        """Check a message, store it, and return the answer."""
        message_id = header_of(headers, b"Nats-Msg-Id")
        known = self._known(message_id)
        if self._replicated and known is not None:
            return known
        wrong = self._wrong(subject, headers)
        if wrong is not None:
            return wrong
        if known is not None:
            return known
        self.checked(headers, data)
        ttl = header_of(headers, b"Nats-TTL")
        self.last += 1
        expires_at = _now() + float(ttl.removesuffix("s")) if ttl else float("inf")
        if self._one_each and (former := self._last_of.get(subject)):
            self.messages.pop(former, None)
        self.messages[self.last] = Stored(self.last, subject, headers, data, expires_at)
        self._last_of[subject] = self.last
        self._last_id = message_id or ""
        if message_id:
            self._seen[message_id] = (self.last, _now())
        for consumer in tuple(self.consumers.values()):
            consumer.pump()
        return encode({"stream": self.name, "seq": self.last})

    def get(self, which: dict[str, Any]) -> Stored | None:
        """Return one message by its sequence, or the last or the next one of a subject."""
        if "last_by_subj" in which:
            return self._living(self._last_of.get(which["last_by_subj"], 0))
        if "next_by_subj" in which:
            pattern = which["next_by_subj"].split(".")
            found = (self._living(sequence) for sequence in sorted(self.messages) if sequence >= which["seq"])
            return next((one for one in found if one is not None and matches(pattern, one.subject.split("."))), None)
        return self._living(which["seq"])

    def purge(self, pattern: str, below: int) -> int:
        """Remove the messages on a pattern of subjects before the sequence *below*; return how many."""
        tokens = pattern.split(".")
        gone = [
            one.sequence
            for one in self.messages.values()
            if one.sequence < below and matches(tokens, one.subject.split("."))
        ]
        self.purged += [self.messages.pop(sequence) for sequence in gone]
        return len(gone)

    def info(self) -> dict[str, Any]:
        """Describe the stream as STREAM.INFO does."""
        first = next(iter(self.messages), 0)
        state = {
            "messages": len(self.messages),
            "bytes": sum(len(one.data) + len(one.headers) for one in self.messages.values()),
            "first_seq": first or self.last + 1,
            "last_seq": self.last,
        }
        return {"config": self.config, "created": self.created, "state": state}

    def _living(self, sequence: int) -> Stored | None:
        found = self.messages.get(sequence)
        if found is not None and found.expires_at <= _now():
            del self.messages[sequence]
            return None
        return found

    def _known(self, message_id: str | None) -> bytes | None:
        if message_id is None or message_id not in self._seen:
            return None
        sequence, at = self._seen[message_id]
        if at < _now() - self._window_s:
            return None
        return encode({"stream": self.name, "seq": sequence, "duplicate": True})

    def _wrong(self, subject: str, headers: bytes) -> bytes | None:
        last = header_of(headers, b"Nats-Expected-Last-Sequence")
        last_id = header_of(headers, b"Nats-Expected-Last-Msg-Id")
        if last_id is not None and last_id != self._last_id:
            return fault(400, WRONG_LAST_MESSAGE, "wrong last msg ID")
        of = header_of(headers, b"Nats-Expected-Last-Subject-Sequence-Subject") or subject
        expected = header_of(headers, b"Nats-Expected-Last-Subject-Sequence")
        living = self._living(self._last_of.get(of, 0))
        if (last is not None and int(last) != self.last) or (
            expected is not None and int(expected) != (0 if living is None else living.sequence)
        ):
            return fault(400, WRONG_LAST_SEQUENCE, "wrong last sequence")
        return None


class Consumer:
    """An ephemeral consumer: sends the messages from `next` on to pull requests, and idle heartbeats."""

    def __init__(
        self, stream: Stream, name: str, start: int, send: Callable[[str, str, str, bytes, bytes], bool]
    ) -> None:
        self.stream = stream
        self.name = name
        self._next = start
        self._send = send
        self._pulls: list[_Pull] = []
        self._delivered = 0
        self._beat: asyncio.TimerHandle | None = None

    def pull(self, request: dict[str, Any], reply: str) -> None:
        """Accept a pull request."""
        expires_at = _now() + request["expires"] / NANOSECONDS
        self._pulls.append(_Pull(reply, request["batch"], expires_at))
        if self._beat is None:
            self._sign(request["idle_heartbeat"] / NANOSECONDS)
        self.pump()

    def pump(self) -> None:
        """Send available messages to waiting pull requests."""
        while self._pulls and self._next <= self.stream.last:
            sequence, self._next = self._next, self._next + 1
            found = self.stream.messages.get(sequence)
            if found is None:
                continue
            pull = self._pulls[0]
            self._delivered += 1
            ack = f"$JS.ACK.{self.stream.name}.{self.name}.1.{sequence}.{self._delivered}.0.0"
            if not self._send(pull.reply, found.subject, ack, found.headers, found.data):
                self.end()
                return
            pull.left -= 1
            if pull.left == 0:
                self._pulls.pop(0)

    def end(self) -> None:
        """Remove the consumer."""
        self.stream.consumers.pop(self.name, None)
        self._pulls.clear()
        if self._beat is not None:
            self._beat.cancel()

    def _sign(self, every_s: float) -> None:
        """Send idle heartbeats to pull requests, and end expired ones."""
        for pull in [pull for pull in self._pulls if pull.expires_at <= _now()]:
            self._pulls.remove(pull)
            over = f"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: {pull.left}\r\n\r\n".encode()
            self._send(pull.reply, pull.reply, "", over, b"")
        if self._pulls and not self._send(
            self._pulls[0].reply, self._pulls[0].reply, "", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b""
        ):
            self.end()
            return
        self._beat = asyncio.get_running_loop().call_later(every_s, self._sign, every_s)


class _Pull:
    __slots__ = ("expires_at", "left", "reply")

    def __init__(self, reply: str, left: int, expires_at: float) -> None:
        self.reply = reply
        self.left = left
        self.expires_at = expires_at


def no_message() -> bytes:
    """Return the answer for a missing message."""
    return fault(404, NO_MESSAGE, "no message found")


def _now() -> float:
    return asyncio.get_running_loop().time()
