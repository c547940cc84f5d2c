"""
nats-py with its pitfalls removed: only `bus` may import this.

The pitfalls of nats-py 2.16: it passes every message through a queue and a task, and drops messages when the queue is
full. It copies every message three times (see `nats_parser`). Its read loop ends silently on any exception, and one
late PONG is enough. Its `flush` overtakes messages published just before. After a reconnect it sends what the broken
connection left unsent, although the caller has already got an error. It loses cancellations (see `heeded`). It closes
for good on most `-ERR`. `NatsClient` replaces the methods concerned, each with the reason in a comment. They are
private methods, so the version is pinned to the minor release, and `tests/contract/test_bus.py` tests each of them.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import structlog
from nats.aio.subscription import Subscription
from nats.errors import Error

from coordinator.bus.nats_parser import MessageParser
from coordinator.guard import withhold
from events.cancellation import heeded
from events.errors import Refused
from events.nats_address import login_of, servers_of, url_of
from events.nats_transport import RacingClient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from nats.aio.client import Srv

    # subject, reply, data, raw header block
    Deliver = Callable[[bytes, bytes, bytes, bytes | None], None]

log = structlog.get_logger(__name__)

_PING = b"PING\r\n"
_PERMISSIONS = "permissions violation"
_SECOND_TRY_S = 0.5

_forbidden = re.compile(r'permissions violation for publish to "([^"]*)"').search
_has_space = re.compile(r"[\s\x00]").search


class NatsClient(RacingClient):
    """A connection that delivers synchronously, never ends silently, and drops unsent writes when it is lost."""

    def __init__(self, *, buffered: bool, disconnected: Callable[[], None]) -> None:
        super().__init__()
        self.look_again: Callable[[], str] | None = None
        """Returns the URL to connect to, before each attempt; it raises when there is none now."""
        self._buffered = buffered
        self._on_disconnect = disconnected
        self._deliver: dict[int, Deliver] = {}
        self._ps = MessageParser(self, self._take)
        withhold(self)  # else the server would see this connection as open while a fork of this process lives

    def descriptors(self) -> Collection[int]:
        """Return that of the connection, while it is open."""
        writer = getattr(self._transport, "_io_writer", None)
        socket = None if writer is None else writer.get_extra_info("socket")
        fd = -1 if socket is None else socket.fileno()
        return (fd,) if fd >= 0 else ()

    @property
    def unsent_bytes(self) -> int:
        """How much waits to be written to the socket."""
        return self._pending_data_size

    async def connect(self, *args: Any, **options: Any) -> None:
        """See nats-py; a cancellation is never lost."""
        await heeded(super().connect(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        """See nats-py; a cancellation is never lost."""
        await heeded(super().flush(*args, **options))

    async def close(self) -> None:
        """See nats-py; a cancellation is never lost."""
        await heeded(super().close())

    def send(self, frame: bytes) -> None:
        """Send a whole protocol frame; all frames of one iteration of the event loop are sent in one write."""
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        flusher = self._flush_queue
        if flusher is not None and self.is_connected and flusher.empty():
            flusher.put_nowait(asyncio.get_running_loop().create_future())

    async def listen(self, subject: str, queue: str, deliver: Deliver) -> int:
        """Subscribe; *deliver* is called from the read loop, with no queue between. It must not raise."""
        self._sid += 1
        sid = self._sid
        self._deliver[sid] = deliver
        # nats-py subscribes again to everything in `_subs` after a reconnect.
        self._subs[sid] = Subscription(self, sid, subject, queue=queue, pending_msgs_limit=1)
        await self._send_subscribe(self._subs[sid])
        return sid

    async def unlisten(self, sid: int) -> None:
        """End a subscription; does nothing if it has ended already."""
        self._deliver.pop(sid, None)
        if self._subs.pop(sid, None) is not None and self.is_connected:
            await self._send_unsubscribe(sid)

    @property
    def server(self) -> dict[str, Any]:
        """What the server reports about itself: version, max_payload, cluster."""
        return dict(self._server_info)

    def abort(self) -> None:
        """Abort the connection now, with unsent data dropped; a reconnect follows unless the client is closed."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _take(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        # No header parsing, no queue that could overflow, no task switch: two to three times as fast.
        deliver = self._deliver.get(sid)
        if deliver is not None:
            deliver(subject, reply, data, headers)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes the PING before data that still waits to be sent, so that a flush would not flush.
        self._pongs.append(future if future is not None else asyncio.get_running_loop().create_future())
        self.send(_PING)

    async def _process_pong(self) -> None:
        # A flush that timed out has cancelled its future; setting a result raises, which would end the read loop.
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)
        self._pongs_received += 1
        self._pings_outstanding = 0

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good on most errors. After an expired or revoked login the server may accept the next one.
        error = Error(f"nats: {err_msg.strip(chr(39))}")
        self._err = error
        if _PERMISSIONS in err_msg:
            await self._error_cb(error)
        else:
            await self._process_op_err(error)

    async def _process_op_err(self, e: Exception) -> None:
        # A regular close would wait until unsent data is written, which the broken connection cannot do.
        self.abort()
        await super()._process_op_err(e)

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        # nats-py upgrades a plain connection to TLS without telling asyncio's protocol, which then logs a warning at
        # each close.
        protocol = getattr(getattr(self._transport, "_io_writer", None), "_protocol", None)
        if protocol is not None and self.options.get("tls") is not None:
            protocol._over_ssl = True  # noqa: SLF001

    async def _read_loop(self) -> None:
        await super()._read_loop()
        # It returns when the connection was closed, or after an exception that it only logged.
        if self.is_connected and not self.is_draining and asyncio.current_task() is self._reading_task:
            log.warning("nats_read_loop_died")
            await self._process_op_err(Error("nats: the read loop died"))

    async def _connect_to_server(self, s: Srv) -> None:
        if self.look_again is not None:
            # Its server has a new port after a restart, and another program may listen on the old one.
            servers = servers_of(self.look_again())
            self.options.update(login_of(servers))
            s.uri = urlparse(url_of(servers[0]))
        await super()._connect_to_server(s)

    async def _attempt_reconnect(self) -> None:
        if not self._buffered:
            # Otherwise these would be sent after the reconnect, although their callers got an error.
            self._pending.clear()
            self._pending_data_size = 0
        self._on_disconnect()
        while True:
            try:
                await super()._attempt_reconnect()
            except Exception as error:  # noqa: BLE001 - any unexpected error would end reconnecting
                log.warning("nats_reconnect_failed", error=repr(error))
                await asyncio.sleep(_SECOND_TRY_S)
            else:
                return


def forbidden_subject(error: str) -> str:
    """Return the subject, in lower case, that *error* forbids to publish on; empty if it is another error."""
    found = _forbidden(error.lower())
    return found[1] if found is not None else ""


def check_subject(subject: str, other: str = "") -> None:
    """
    Check that nothing in a subject could end a protocol line.

    Raises:
        Refused: *subject*, or *other* (a reply subject or queue), has white space, or *subject* is empty.
    """
    if not subject or _has_space(subject) or _has_space(other):
        msg = f"subject {subject!r} with {other!r} is not valid: neither may have white space, the first not be empty"
        raise Refused(msg, reason="bad_subject")


def frame_of(subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None, *, limit_bytes: int) -> bytes:
    """
    Encode a message as a protocol frame.

    Raises:
        Refused: subject or headers are malformed, or it is larger than *limit_bytes*: the server would disconnect.
    """
    check_subject(subject, reply)
    if headers is None:
        size = len(data)
        frame = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), size, data)
    else:
        block = _header_block(headers)
        size = len(block) + len(data)
        frame = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), len(block), size, block, data)
    if size > limit_bytes:
        msg = f"a message of {size} bytes for {subject} is too large: the server accepts at most {limit_bytes}"
        raise Refused(msg, reason="too_large")
    return frame


def _header_block(headers: Mapping[str, str]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or any(":" in name for name in headers):
        msg = f"headers {dict(headers)!r} are malformed: use no line breaks, and no colon in a name"
        raise Refused(msg, reason="bad_header")
    return f"NATS/1.0\r\n{lines}\r\n".encode()
