"""
Publishes events of another domain into its inbox, as CloudEvents: acknowledged, and repeated with the same id.

    async with EventPublisher.open("nats://token@127.0.0.1:4222", domain="execution") as publisher:
        await publisher.publish("task.completed", {"execution_time_s": 1.5}, subject="task_1")

When `publish` returns, the server has stored the event, and the coordinator takes it exactly once. It needs nats-py,
which is imported when a publisher is opened, so that importing this module is cheap. It must never report an event as
stored that is not, nor repeat one with another id.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import groupby
from time import time as wall_time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec

from events.cancellation import heeded
from events.codec import SPECVERSION, rfc3339
from events.credentials import INBOXES, read_login
from events.errors import Refused, Unavailable, shown
from events.nats_address import login_of, servers_of, url_of, where_is
from events.subjects import Subjects, checked_domain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from urllib.parse import SplitResult

    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = logging.getLogger(__name__)

IN_FLIGHT = 512
"""How many messages may be unacknowledged at a time; further calls wait."""
ACK_TIMEOUT_S = 2.0
TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 5.0
PING_INTERVAL_S = 3
"""After 6 to 9 s without an answer the client disconnects and tries another server of the cluster."""
SWEEP_S = 0.25
NO_RESPONDERS_PAUSE_S = 1.0
BATCH_EVENTS = 500
BATCH_BYTES = 256 * 1024
"""By default an inbox accepts messages of up to 512 KiB."""

_SERVER_TROUBLE = 500
_NO_ROOM = 10077
"""The stream has reached its bound of bytes or messages."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One event to publish.

    `type` is `<kind>.<event>`; `data` is anything that msgspec can encode as JSON; `subject` is the id of the thing it
    is about; `time` is in seconds since 1970, now by default. Set `event_id` if the same event may be published again
    after a crash: repeats are recognised by it.
    """

    type: str
    data: Any = None
    subject: str = ""
    event_id: str = ""
    time: float | None = None
    tenant: str = ""
    traceparent: str = ""


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    subject: str = ""
    tenant: str = ""
    traceparent: str = ""
    data: Any = None


class _Fault(msgspec.Struct, frozen=True, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct, frozen=True, gc=False):
    stream: str = ""
    error: _Fault | None = None


class _Sent:
    """A message that is not acknowledged yet."""

    __slots__ = ("again_at", "body", "done", "give_up_at", "headers", "is_full", "subject", "why")

    def __init__(self, subject: str, body: bytes, headers: dict[str, str], again_at: float, give_up_at: float) -> None:
        self.subject = subject
        self.body = body
        self.headers = headers
        self.again_at = again_at
        self.give_up_at = give_up_at
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.why = "no acknowledgement was received"
        self.is_full = False


_encode = msgspec.json.Encoder().encode
_decode_ack = msgspec.json.Decoder(_Ack).decode


class EventPublisher:
    """Publishes as one domain; safe to use from many tasks of one event loop."""

    def __init__(self, client: Client, domain: str, subjects: Subjects, *, source: str, timeout_s: float) -> None:
        self.domain = domain
        self.source = source
        self._client = client
        self._subjects = subjects
        self._timeout_s = timeout_s
        self._waiting: dict[str, _Sent] = {}
        self._window = asyncio.Semaphore(IN_FLIGHT)
        self._acks = ""
        self._sent = 0
        self._error = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        domain: str,
        namespace: str = "coordination",
        source: str = "",
        creds: str | None = None,
        tls_ca: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> AsyncIterator[EventPublisher]:
        """
        Connect to NATS at *url* to publish as *domain*, whose inbox `coordinator inbox add` has created.

        *source* is the CloudEvents source, `/<domain>` by default. A call to publish fails after *timeout_s*.

        Raises:
            Unavailable: no server accepts the connection.
            Refused: *domain* or *namespace* is not a valid name, or *url* not a NATS URL.
        """
        from events.nats_transport import RacingClient

        servers = servers_of(url)
        source = source or f"/{checked_domain(domain)}"
        publisher = cls(RacingClient(), domain, Subjects(namespace), source=source, timeout_s=timeout_s)
        failure: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            try:
                await publisher._connect(servers, creds, tls_ca)
                sweeping = tasks.create_task(publisher._sweep())
                try:
                    yield publisher
                finally:
                    sweeping.cancel()
            except Exception as error:  # noqa: BLE001  # the group must not wrap any error
                failure = error
            finally:
                await publisher._close()
        if failure is not None:
            raise failure

    async def publish(
        self,
        type: str,
        data: Any = None,
        *,
        subject: str = "",
        event_id: str | None = None,
        time: float | None = None,
        tenant: str = "",
        traceparent: str = "",
    ) -> str:
        """
        Publish one event and return its id when the server has stored it; see `Outgoing` for the arguments.

        Raises:
            Refused: it is malformed, too large, or this domain may not publish it.
            Unavailable: it was not acknowledged in time; it may still be stored: repeat it with the same id. Reason
            `inbox_full`: the inbox holds as much as it may.
        """
        one = Outgoing(
            type=type,
            data=data,
            subject=subject,
            event_id=event_id or "",
            time=time,
            tenant=tenant,
            traceparent=traceparent,
        )
        name, body = self._written(one)
        await self._send(self._subjects.inbox(self.domain, type), body, name, "application/cloudevents+json")
        return name

    async def publish_many(self, events: Iterable[Outgoing]) -> list[str]:
        """
        Publish many events in their order and return their ids; consecutive events of one type share a message.

        This is much faster than one by one if the server syncs each message to disk.

        Raises:
            Refused, Unavailable: as `publish`; the messages before the failure are stored whole.
        """
        names: list[str] = []
        for event_type, run in groupby(events, key=lambda one: one.type):
            subject = self._subjects.inbox(self.domain, event_type)
            for batch in _batches(map(self._written, run)):
                ids = [name for name, _ in batch]
                # The server drops a repeated batch of the same events as a duplicate.
                message_id = sha256("\0".join(ids).encode()).hexdigest()
                body = b"[%b]" % b",".join(body for _, body in batch)
                await self._send(subject, body, message_id, "application/cloudevents-batch+json")
                names += ids
        return names

    def _written(self, one: Outgoing) -> tuple[str, bytes]:
        name = one.event_id or uuid4().hex
        event = _CloudEvent(
            specversion=SPECVERSION,
            id=name,
            source=self.source,
            type=one.type,
            time=rfc3339(wall_time() if one.time is None else one.time),
            subject=one.subject,
            tenant=one.tenant,
            traceparent=one.traceparent,
            data=one.data,
        )
        try:
            return name, _encode(event)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            msg = f"{one.type} {shown(name)} cannot be written as JSON: {error}"
            raise Refused(msg, reason="bad_data") from error

    async def _send(self, subject: str, body: bytes, message_id: str, content_type: str) -> None:
        if len(body) > self._client.max_payload - 1024:
            msg = f"an event of {len(body)} bytes is too large: the server accepts at most {self._client.max_payload}"
            raise Refused(msg, reason="too_large")
        if not message_id.isascii() or not message_id.isprintable():
            msg = f"event_id {shown(message_id)} is not allowed in a header: use printable ASCII"
            raise Refused(msg, reason="bad_id")
        headers = {"Nats-Msg-Id": message_id, "Content-Type": content_type}
        async with self._window:
            now = asyncio.get_running_loop().time()
            sent = _Sent(subject, body, headers, now + ACK_TIMEOUT_S, now + self._timeout_s)
            self._sent += 1
            token = str(self._sent)
            self._waiting[token] = sent
            try:
                await self._put(token, sent)
                await sent.done
            finally:
                self._waiting.pop(token, None)

    async def _put(self, token: str, sent: _Sent) -> None:
        from nats.errors import Error

        # A message that cannot be sent now is sent by the sweep.
        with suppress(Error, OSError):
            if self._client.is_connected:
                await self._client.publish(sent.subject, sent.body, f"{self._acks}.{token}", sent.headers)

    async def _acknowledged(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        sent = self._waiting.get(token)
        if sent is None or sent.done.done():
            return
        if not message.data:  # no responders: the inbox does not exist, or is not available now
            sent.why = f"there is no inbox for {self.domain!r}: create it with 'coordinator inbox add {self.domain}'"
            sent.again_at = asyncio.get_running_loop().time() + NO_RESPONDERS_PAUSE_S
            return
        try:
            ack = _decode_ack(message.data)
        except msgspec.MsgspecError as error:
            sent.why = f"the answer is not from JetStream: {error}"
            return
        if ack.error is None:
            sent.done.set_result(None)
        elif ack.error.err_code == _NO_ROOM:
            sent.is_full = True
            sent.why = (
                f"the inbox of {self.domain!r} is full ({ack.error.description}): keep the event and publish it again "
                "with the same id; 'coordinator inbox list' shows whether the inbox is read"
            )
        elif ack.error.code >= _SERVER_TROUBLE:
            sent.why, sent.is_full = ack.error.description, False
        else:
            msg = f"the server refused the event: {ack.error.description}"
            sent.done.set_exception(Refused(msg, reason="stream_refused"))

    async def _failed(self, error: Exception) -> None:
        """Handle an error of the connection; a forbidden subject fails the messages that wait on it."""
        text = self._error = str(error)
        log.debug("publisher: %s", text)
        if "permissions violation" not in text.lower():
            return
        for sent in self._waiting.values():
            if f'"{sent.subject}"' in text and not sent.done.done():
                msg = f"these credentials may not publish on {sent.subject}"
                sent.done.set_exception(Refused(msg, reason="not_permitted"))

    async def _sweep(self) -> None:
        """Repeat messages that were not acknowledged in time, and fail those that waited too long."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            for token, sent in tuple(self._waiting.items()):
                if sent.done.done():
                    continue
                if now >= sent.give_up_at:
                    msg = f"{sent.subject} was not acknowledged within {self._timeout_s:g} s: {sent.why}"
                    sent.done.set_exception(Unavailable(msg, reason="inbox_full" if sent.is_full else "timeout"))
                elif now >= sent.again_at and self._client.is_connected:
                    sent.again_at = now + ACK_TIMEOUT_S
                    await self._put(token, sent)

    async def _connect(self, servers: list[SplitResult], creds: str | None, tls_ca: str | None) -> None:
        from nats.errors import Error

        login = None if creds is None else read_login(creds)
        prefix = INBOXES if login is None else login.inbox_prefix
        self._acks = f"{prefix}.{uuid4().hex}"
        by = login_of(servers) if login is None else login.apply(self._client)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connecting = self._client.connect(
                    servers=[url_of(server) for server in servers],
                    name=f"{self.domain}-publisher",
                    tls=ssl.create_default_context(cafile=tls_ca) if tls_ca else None,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    ping_interval=PING_INTERVAL_S,
                    error_cb=self._failed,
                    inbox_prefix=prefix,
                    **by,
                )
                await heeded(connecting)
                await self._client.subscribe(f"{self._acks}.*", cb=self._acknowledged)
        except (Error, OSError, TimeoutError) as error:
            hosts = ",".join(map(where_is, servers))
            why = self._error or str(error) or type(error).__name__
            msg = f"no NATS server at {hosts} accepts this connection: {why}"
            raise Unavailable(msg, reason="no_server") from None

    async def _close(self) -> None:
        from nats.errors import Error

        for sent in self._waiting.values():
            if not sent.done.done():
                sent.done.set_exception(Unavailable("the publisher was closed before the event was acknowledged"))
        with suppress(TimeoutError, OSError, Error):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await heeded(self._client.close())


def _batches(written: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Group events into batches, each as large as one message may be."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for name, body in written:
        if batch and (len(batch) == BATCH_EVENTS or size + len(body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((name, body))
        size += len(body) + 1
    if batch:
        yield batch
