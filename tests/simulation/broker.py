"""
The simulated nats-server, and the connection to it that replaces the one of nats-py.

Everything above the connection is real code: bus, client, doors, journal, lease, inbox readers. Each message may be
lost, late, repeated or out of order in each direction, and a process may be cut off in either direction.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import msgspec
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from coordinator.bus.jetstream import NO_STREAM
from tests.simulation.loop import PROCESS
from tests.simulation.streams import Consumer, Stream, encode, fault, matches, no_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.nats_client import Deliver
    from tests.simulation.faults import Dice
    from tests.simulation.loop import Process

MAX_PAYLOAD = 1024 * 1024
LATE_S = 2.5
RECONNECT_S = 0.3
BROKER: ContextVar[Broker]
_NOT_NOW = 10164
_decode = msgspec.json.decode


class Connection:
    """Replaces nats-py in `coordinator.bus.connection`: see `coordinator.bus.nats_client.NatsClient`."""

    def __init__(self, *, buffered: bool, disconnected: Callable[[], None]) -> None:
        process = PROCESS.get()
        assert process is not None
        self.process: Process = process
        self.max_payload = MAX_PAYLOAD
        self._buffered = buffered
        self._unsent: list[bytes] = []
        self.is_closed = False
        self.is_connected = False
        self.name = ""
        self.cut_in = self.cut_out = False
        """Whether no message reaches this connection, or leaves it; other ones of the process are not affected."""
        self.held_s = 0.0
        """How long what it sends is on its way from the server to its receivers."""
        self.server: dict[str, Any] = {"version": "2.12.0", "max_payload": MAX_PAYLOAD}
        self.generation = 0
        self.sent_at = self.came_at = 0.0
        self.subscriptions: dict[int, tuple[str, str, Deliver]] = {}
        self._broker = BROKER.get()
        self._on_disconnect = disconnected
        self._reconnected: Any = None
        self._notifying: asyncio.Task[None] | None = None
        self._sids = 0
        self._pings: list[asyncio.Future[None]] = []

    async def connect(self, **options: Any) -> None:
        self._reconnected = options["reconnected_cb"]
        self.name = options["name"]
        await asyncio.sleep(0.001)
        if not self.process.alive:
            raise NatsError("the process is dead")
        self.is_connected = True
        self._broker.attach(self)

    async def listen(self, subject: str, queue: str, deliver: Deliver) -> int:
        self._sids += 1
        self.subscriptions[self._sids] = (subject, queue, deliver)
        if self.is_connected:
            self._broker.subscribe(self, self._sids)
        return self._sids

    async def unlisten(self, sid: int) -> None:
        gone = self.subscriptions.pop(sid, None)
        if gone is not None:
            self._broker.unsubscribe(self, sid, gone[0])

    @property
    def unsent_bytes(self) -> int:
        return sum(map(len, self._unsent))

    def send(self, frame: bytes) -> None:
        if not self.is_connected:
            if self._buffered:
                self._unsent.append(frame)
            return
        rest = frame
        while rest:  # the feed sends several frames at once
            head, _, rest = rest.partition(b"\r\n")
            kind, subject, *replies, size = head.split(b" ")
            block = int(replies.pop()) if kind == b"HPUB" else 0
            end = int(size)
            reply = replies[0].decode() if replies else ""
            self._broker.send(self, subject.decode(), reply, rest[:block], rest[block:end])
            rest = rest[end + 2 :]

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109  # as nats-py has it
        if not self.is_connected:
            raise NatsError("not connected")
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings.append(pong)
        self._broker.send(self, "PING", "", b"", b"", lambda: self._pong(pong))
        try:
            async with asyncio.timeout(timeout):
                await pong
        except TimeoutError:
            raise NatsTimeoutError from None
        finally:
            self._pings.remove(pong)

    def _pong(self, pong: asyncio.Future[None]) -> None:
        if not pong.done():
            pong.set_result(None)

    def abort(self) -> None:
        """Break the connection; it reconnects unless it was closed."""
        if not self.is_connected:
            return
        self.is_connected = False
        self.generation += 1
        self._broker.detach(self)
        for pong in self._pings:
            if not pong.done():
                pong.set_exception(NatsError("disconnected"))
                pong.exception()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._on_disconnect, context=self.process.context)
        if not self.is_closed and self.process.alive:
            loop.call_later(RECONNECT_S, self._try_again, context=self.process.context)

    def _try_again(self) -> None:
        loop = asyncio.get_running_loop()
        if self.is_closed or self.is_connected or not self.process.alive:
            return
        if self.process.cut_in or self.process.cut_out or self.cut_in or self.cut_out or self._broker.is_down:
            loop.call_later(RECONNECT_S, self._try_again, context=self.process.context)
            return
        self.is_connected = True
        self._broker.attach(self)
        for sid in self.subscriptions:
            self._broker.subscribe(self, sid)
        unsent, self._unsent = self._unsent, []
        for frame in unsent:
            self.send(frame)
        self._notifying = loop.create_task(self._reconnected(), context=self.process.context)

    async def close(self) -> None:
        self.is_closed = True
        self.abort()


class Broker:
    """The server: subjects, queue groups, streams. `log` hashes every message that arrives."""

    def __init__(self, dice: Dice, *, replicated: bool) -> None:
        self.dice = dice
        self.streams: dict[str, Stream] = {}
        self.connections: dict[Connection, None] = {}
        self.is_down = False
        self.is_lease_down = False
        """Whether the stream of the lease stores nothing, as while its servers elect their leader."""
        self.log = hashlib.blake2b()
        self.sent: Callable[[Connection, str, str, bytes, bytes], None] = lambda *_: None
        """Called for every message that a process sends: connection, subject, reply, headers, data."""
        self.arrived: Callable[[Connection, str, str, bytes], None] = lambda *_: None
        """Called for every message that a process receives."""
        self.heard: Callable[[str, bytes, bytes], None] = lambda *_: None
        """Called for every message that reaches the server: subject, headers, data."""
        self.journal = self.lease = self.announced = ""
        """The streams of the journal and the lease, and the subject on which a leader announces itself."""
        self.stored: Callable[[bytes, bytes], None] = lambda *_: None
        """Called for every message that the journal stores: headers and data."""
        self.granted: Callable[[bytes, bytes], None] = lambda *_: None
        """Called for every message that the stream of the lease stores."""
        self._exact: dict[str, dict[tuple[Connection, int], None]] = {}
        self._wild: dict[str, dict[tuple[Connection, int], list[str]]] = {}
        """Patterns with wildcards, by their part before the first wildcard."""
        self._homes: dict[str, Stream | None] = {}
        self._held_s = 0.0
        self._replicated = replicated
        self._context = copy_context()
        self._context.run(PROCESS.set, None)

    # --- connections --------------------------------------------------------------------------------------------------

    def attach(self, connection: Connection) -> None:
        """Add a connection."""
        self.connections[connection] = None

    def detach(self, connection: Connection) -> None:
        """Remove a connection and its subscriptions."""
        self.connections.pop(connection, None)
        for sid, (subject, _, _) in connection.subscriptions.items():
            self.unsubscribe(connection, sid, subject)

    def subscribe(self, connection: Connection, sid: int) -> None:
        """Add a subscription."""
        subject = connection.subscriptions[sid][0]
        if (prefix := _literal(subject)) != subject:
            self._wild.setdefault(prefix, {})[connection, sid] = subject.split(".")
        else:
            self._exact.setdefault(subject, {})[connection, sid] = None

    def unsubscribe(self, connection: Connection, sid: int, subject: str) -> None:
        """Remove a subscription."""
        prefix = _literal(subject)
        table: dict[str, Any] = self._exact if prefix == subject else self._wild
        if prefix in table:
            table[prefix].pop((connection, sid), None)
            if not table[prefix]:
                del table[prefix]

    def _listening(self, subject: str) -> list[tuple[Connection, int]]:
        found = list(self._exact.get(subject, ()))
        tokens = subject.split(".")
        prefix = ""
        for token in tokens:
            prefix = f"{prefix}.{token}" if prefix else token
            for key, pattern in self._wild.get(prefix, {}).items():
                if matches(pattern, tokens):
                    found.append(key)
        return found

    def _home(self, subject: str) -> Stream | None:
        """Return the stream that stores messages on *subject*."""
        if subject.startswith("_INBOX"):
            return None
        if subject not in self._homes:
            tokens = subject.split(".")
            self._homes[subject] = next((one for one in self.streams.values() if one.takes(tokens)), None)
        return self._homes[subject]

    def restart(self) -> None:
        """Break all connections, and drop data that is only in memory."""
        for connection in tuple(self.connections):
            connection.abort()
        for stream in self.streams.values():
            for consumer in tuple(stream.consumers.values()):
                consumer.end()
            if stream.config.get("storage") == "memory":
                stream.messages.clear()

    # --- messages -----------------------------------------------------------------------------------------------------

    def send(
        self, connection: Connection, subject: str, reply: str, headers: bytes, data: bytes,
        then: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Send a message from a process to the server, unless a fault drops it."""
        if not connection.process.alive:
            return
        self.sent(connection, subject, reply, headers, data)
        if connection.process.cut_out or connection.cut_out:
            return
        for when in self._ways(connection, is_out=True):
            self._at(when, self._context, self._receive, connection, connection.generation, subject, reply, headers,
                     data, then)  # fmt: skip

    def _ways(self, connection: Connection, *, is_out: bool) -> list[float]:
        """Draw the arrival times of a message: usually one, in order; else none, late, twice or out of order."""
        dice, now = self.dice, asyncio.get_running_loop().time()
        when = now + 0.0002 + dice.random.random() * 0.002
        if dice.on:
            if dice.strikes("message_lost"):
                return []
            if dice.strikes("message_late"):
                return [when + dice.random.random() * LATE_S]
            if dice.strikes("message_reordered"):
                return [when + dice.random.random() * 0.02]
        before = connection.sent_at if is_out else connection.came_at
        when = max(when, before + 1e-6)
        if is_out:
            connection.sent_at = when
        else:
            connection.came_at = when
        if dice.on and dice.strikes("message_repeated"):
            return [when, when + dice.random.random() * LATE_S]
        return [when]

    def _at(self, when: float, context: Any, call: Callable[..., object], *args: Any) -> None:
        asyncio.get_running_loop().call_at(when, call, *args, context=context)

    def _receive(
        self, connection: Connection, generation: int, subject: str, reply: str, headers: bytes, data: bytes,
        then: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        if connection.generation != generation or not connection.is_connected:
            return
        if then is not None:
            self._back(connection, then)
            return
        self.log.update(subject.encode())
        self.log.update(data)
        self.heard(subject, headers, data)
        if subject.startswith("$JS.API."):
            self._api(subject[8:], reply, data)
            return
        stream = self._home(subject)
        if stream is not None and stream.name == self.journal:
            self._commit(stream, subject, reply, headers, data)
        elif stream is not None and stream.name == self.lease and self.is_lease_down:
            self._answer(reply, fault(503, 10008, "not now"))
        elif stream is not None:
            self._answer(reply, stream.store(subject, headers, data))
        self._held_s = connection.held_s
        if not self.publish(subject, reply, headers, data) and reply and stream is None:
            self._to(reply, reply, "", b"NATS/1.0 503\r\n\r\n", b"")
        self._held_s = 0.0

    def _back(self, connection: Connection, then: Callable[[], None]) -> None:
        if not connection.process.cut_in and not connection.cut_in:
            for when in self._ways(connection, is_out=False):
                self._at(when, connection.process.context, then)

    def publish(self, subject: str, reply: str, headers: bytes, data: bytes) -> int:
        """Deliver to all subscribers, to one of each queue group; return the number of receivers."""
        found = self._listening(subject)
        groups: dict[str, list[tuple[Connection, int]]] = {}
        sent = 0
        for connection, sid in found:
            queue = connection.subscriptions[sid][1]
            if queue:
                groups.setdefault(queue, []).append((connection, sid))
            else:
                self._deliver(connection, sid, subject, reply, headers, data)
                sent += 1
        for members in groups.values():
            self._deliver(*self.dice.random.choice(members), subject, reply, headers, data)
            sent += 1
        return sent

    def _to(self, inbox: str, subject: str, reply: str, headers: bytes, data: bytes) -> bool:
        """Deliver to the subscribers of *inbox*, as a message on *subject*; return True if there is one."""
        found = self._listening(inbox)
        for connection, sid in found:
            self._deliver(connection, sid, subject, reply, headers, data)
        return bool(found)

    def _deliver(self, connection: Connection, sid: int, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        if not connection.process.cut_in and not connection.cut_in:
            if subject == self.announced and self.dice.strikes("announcement_lost"):
                return
            for when in self._ways(connection, is_out=False):
                self._at(when + self._held_s, connection.process.context, self._take, connection,
                         connection.generation, sid, subject, reply, headers, data)  # fmt: skip

    def _take(
        self, connection: Connection, generation: int, sid: int, subject: str, reply: str, headers: bytes, data: bytes
    ) -> None:
        listening = connection.subscriptions.get(sid)
        if listening is None or connection.generation != generation or not connection.process.alive:
            return
        self.arrived(connection, subject, reply, data)
        listening[2](subject.encode(), reply.encode(), data, headers or None)

    def _answer(self, reply: str, data: bytes) -> None:
        if reply:
            self._to(reply, reply, "", b"", data)

    # --- JetStream ----------------------------------------------------------------------------------------------------

    def _commit(self, stream: Stream, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        """Store a commit or a claim, with the faults of the server."""
        dice = self.dice
        if dice.strikes("commit_refused"):
            code = dice.random.choice(((503, 10008), (400, _NOT_NOW)))
            self._answer(reply, fault(*code, "not now"))
            return
        if dice.strikes("commit_late"):
            self._at(_now() + dice.random.random() * LATE_S, self._context, stream.store, subject, headers, data)
            return
        answer = stream.store(subject, headers, data)
        slow_s = dice.random.random() * (1.5 if dice.strikes("disk_slow") else 0.003)
        if not dice.strikes("ack_lost"):
            self._at(_now() + slow_s, self._context, self._answer, reply, answer)

    def _api(self, api: str, reply: str, data: bytes) -> None:
        verb, _, rest = api.partition(".")
        request = _decode(data) if data else {}
        match verb, rest.split("."):
            case "STREAM", ["NAMES"]:
                wanted = request.get("subject", ">").removesuffix(".>")
                names = [one.name for one in self.streams.values() if one.config["subjects"][0].startswith(wanted)]
                self._answer(reply, encode({"streams": names, "total": len(names)}))
            case "STREAM", ["CREATE", name]:
                if name not in self.streams:
                    self.streams[name] = Stream(request, replicated=self._replicated)
                    self._homes.clear()
                    if name == self.journal:
                        self.streams[name].checked = self.stored
                    elif name == self.lease:
                        self.streams[name].checked = self.granted
                self._answer(reply, encode(self.streams[name].info()))
            case "CONSUMER", ["MSG", "NEXT", name, consumer]:
                found = self.streams[name].consumers.get(consumer)
                if found is None:
                    self._to(reply, reply, "", b"NATS/1.0 503\r\n\r\n", b"")
                else:
                    found.pull(request, reply)
            case "DIRECT", ["GET", name]:
                self._page(self.streams[name], request["seq"], request["batch"], reply)
            case _, [*_, name] if verb == "CONSUMER":
                self._consumer(rest.split("."), request, reply)
            case _, [*what, name]:
                stream = self.streams.get(name)
                if stream is None:
                    self._answer(reply, fault(404, NO_STREAM, "stream not found"))
                elif what == ["INFO"]:
                    self._answer(reply, encode(stream.info()))
                elif what == ["PURGE"]:
                    self._answer(reply, encode({"purged": stream.purge(request["filter"], request["seq"])}))
                else:
                    self._answer(reply, _found(stream, request))
            case _:
                raise AssertionError(api)

    def _consumer(self, words: list[str], request: dict[str, Any], reply: str) -> None:
        verb, name, consumer = words
        stream = self.streams.get(name)
        if stream is None:
            self._answer(reply, fault(404, NO_STREAM, "stream not found"))
        elif verb == "CREATE":
            start = request["config"]["opt_start_seq"]
            stream.consumers[consumer] = Consumer(stream, consumer, start, self._to)
            self._answer(reply, encode({"name": consumer}))
        elif consumer in stream.consumers:
            stream.consumers[consumer].end()

    def _page(self, stream: Stream, after: int, most: int, reply: str) -> None:
        found = [one for one in stream.messages.values() if one.sequence >= after][:most]
        for one in found:
            head = f"NATS/1.0\r\nNats-Subject: {one.subject}\r\nNats-Sequence: {one.sequence}\r\n\r\n".encode()
            self._to(reply, reply, "", head, one.data)
        self._to(reply, reply, "", b"NATS/1.0 204 EOB\r\n\r\n" if found else b"NATS/1.0 404 No Messages\r\n\r\n", b"")


def _found(stream: Stream, request: dict[str, Any]) -> bytes:
    one = stream.get(request)
    if one is None:
        return no_message()
    message = {
        "subject": one.subject,
        "seq": one.sequence,
        "hdrs": base64.b64encode(one.headers).decode(),
        "data": base64.b64encode(one.data).decode(),
    }
    return encode({"message": message})


def _literal(subject: str) -> str:
    """Return the part of a pattern before its first wildcard."""
    for wildcard in (".*", ".>"):
        subject = subject.partition(wildcard)[0]
    return subject


def _now() -> float:
    return asyncio.get_running_loop().time()


BROKER = ContextVar("broker")
