"""
What the hostile clients send with: a rate that is never exceeded, a count of the answers, and connections.

A `Sender` is a connection that reads its answers; a `Deaf` one is a bare socket that reads none.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from coordinator.bus.connection import Bus
from events.credentials import Login, read_login
from events.errors import CoordinationError
from events.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus.subscription import Message

S = Subjects()
STEP_S = 0.01
PARSED_BYTES = 64 * 1024
"""Larger answers are counted unread: the hostile client is not what is measured."""
SOCKET_TIMEOUT_S = 2.0


class Pace:
    """How long a hostile client goes on, and how many requests it makes a second at most."""

    def __init__(self, seconds: float, per_s: int) -> None:
        self.ends_at = time.monotonic() + seconds
        self._per_s = per_s

    def at(self, per_s: int) -> Pace:
        """Return a pace with the same end and another rate."""
        return Pace(self.ends_at - time.monotonic(), min(per_s, self._per_s))

    @property
    def is_over(self) -> bool:
        """Whether it is time to stop."""
        return time.monotonic() >= self.ends_at

    async def turns(self) -> AsyncIterator[int]:
        """Yield how many requests may be made now, until the end; what could not be made in time is not made up for."""
        made, began = 0, time.monotonic()
        while not self.is_over:
            allowed = int((time.monotonic() - began) * self._per_s)
            number, made = min(allowed - made, max(1, int(5 * STEP_S * self._per_s))), allowed
            if number > 0:
                yield number
            await asyncio.sleep(STEP_S)


class Tally:
    """How many requests were made, and how they were answered."""

    def __init__(self) -> None:
        self.requests = 0
        self.answers: Counter[str] = Counter()

    def took(self, body: bytes) -> None:
        """Count the answers of one request."""
        if not body:
            self.answers["nobody listens"] += 1
            return
        if len(body) > PARSED_BYTES:
            self.answers["ok"] += 1
            return
        answers = msgspec.json.decode(body)
        for answer in answers if isinstance(answers, list) else [answers]:
            error = answer.get("error")
            self.answers["ok" if error is None else error.get("reason") or error["code"]] += 1


class Place:
    """Where and how long: the server, the credentials of this hostile client, its pace and its tally."""

    def __init__(self, url: str, creds: Path, name: str, pace: Pace) -> None:
        self.url = url
        self.name = name
        self.pace = pace
        self.tally = Tally()
        self._creds = creds

    def login(self, role: str) -> Path:
        """Return the credentials of this client in *role*."""
        return self._creds / f"{self.name if role == 'domain' else f'{role}-{self.name}'}.nk"

    @asynccontextmanager
    async def sender(self, role: str = "domain") -> AsyncIterator[Sender]:
        """Connect in *role*; answers are counted."""
        async with Bus.open(self.url, name="stranger", creds=str(self.login(role)), connect_timeout_s=20.0) as bus:
            sender = Sender(bus, self.tally)
            await bus.subscribe(f"{sender.inbox}.*", sender.answered)
            yield sender

    def deaf(self, role: str = "domain") -> Deaf:
        """Connect in *role* with a bare socket."""
        return Deaf(self.url, read_login(self.login(role)), self.tally)


class Sender:
    """One connection of a hostile client; it never waits for an answer."""

    def __init__(self, bus: Bus, tally: Tally) -> None:
        self.bus = bus
        self.inbox = bus.new_inbox()
        self.kept: list[dict[str, Any]] = []
        """Answers of what was sent with *keep*."""
        self._tally = tally

    async def send(self, kind: str, verb: str, name: str, **data: Any) -> None:
        """Send one command."""
        await self.raw(kind, verb, json.dumps([{"type": name, "data": data}]).encode())

    async def raw(self, kind: str, verb: str, body: bytes, *, keep: bool = False) -> None:
        """Send the body of a request."""
        self._tally.requests += 1
        reply = f"{self.inbox}.{'kept' if keep else 'counted'}"
        try:
            await self.bus.publish(S.rpc(self.bus.user, kind, verb), body, reply=reply)
        except CoordinationError as error:
            self._tally.answers[f"not sent: {error.reason}"] += 1

    def answered(self, message: Message) -> None:
        """Count an answer."""
        self._tally.took(message.data)
        if message.subject.endswith(".kept") and 0 < len(message.data) <= PARSED_BYTES:
            self.kept += msgspec.json.decode(message.data)


class Deaf:
    """A bare socket that is logged in, writes, and reads nothing more."""

    def __init__(self, url: str, login: Login, tally: Tally) -> None:
        self.user = login.user
        self._tally = tally
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), SOCKET_TIMEOUT_S)
        info = json.loads(self._line().removeprefix(b"INFO "))
        options = {
            "verbose": False,
            "pedantic": False,
            "lang": "raw",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "nkey": login.public_nkey,
            "sig": login.signature(info["nonce"]).decode(),
        }
        self.write(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
        while not self._line().startswith((b"PONG", b"-ERR")):
            pass

    def write(self, raw: bytes) -> bool:
        """Write bytes; return False if the server takes no more."""
        try:
            self._socket.sendall(raw)
        except OSError:
            return False
        return True

    def publish(self, subject: str, body: bytes, reply: str = "") -> bool:
        """Write a message; return False if the server takes no more."""
        self._tally.requests += 1
        return self.write(f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n")

    def subscribe(self, subject: str) -> bool:
        """Subscribe, and never read."""
        return self.write(f"SUB {subject} 1\r\n".encode())

    def read(self) -> bytes:
        """Return what came in, without waiting."""
        try:
            return self._socket.recv(1 << 20, socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def close(self) -> None:
        """Close the socket at once, with what is unread."""
        self._socket.close()

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            more = self._socket.recv(1)
            if not more:
                msg = "the server closed the connection"
                raise ConnectionError(msg)
            line += more
        return line
