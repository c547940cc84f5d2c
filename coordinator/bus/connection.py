"""
One NATS connection: publish, request, subscribe, and the JetStream calls that everything else is built from.

It reconnects for ever by itself, hides nats-py, and raises the coordinator's errors. It must never lose a message
silently (an overflow is counted and reported), never let a callback's exception end the connection, and never show a
token.

    async with Bus.open("nats://token@127.0.0.1:4222", name="engine", buffered=False) as bus:
        ack = await bus.js_publish("coordination.journal", body, headers, timeout_s=2)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult

import structlog
from nats.errors import Error as NatsError

from coordinator.bus.jetstream import Ack, ack_of, answer_of, request_of
from coordinator.bus.nats_client import (
    NatsClient,
    check_subject,
    forbidden_subject,
    frame_of,
)
from coordinator.bus.requests import Requests
from coordinator.bus.subscription import Message, Subscription
from coordinator.ids import TimeOrderedIds
from events.credentials import INBOXES, read_login
from events.errors import Refused, Unavailable
from events.nats_address import login_of, servers_of, url_of, where_is

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping

RECONNECT_WAIT_S = 0.25
PING_INTERVAL_S, PINGS_OUTSTANDING = 3, 2
"""After 6 to 9 s without an answer the client disconnects and tries another server of the cluster."""
CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
BUFFER_BYTES = 2 * 1024 * 1024
"""How much a buffered connection keeps while it is disconnected."""
UNSENT_BYTES = 16 * 1024 * 1024
"""Above this a publisher waits until the server has received what was sent."""
UNSENT_TIMEOUT_S = 10.0

Url: TypeAlias = str | Callable[[], str]
"""Where to connect; a function is asked before each attempt, for a server whose address may change."""

log = structlog.get_logger(__name__)
_ids = TimeOrderedIds()


class Bus:
    """
    One connection.

    `on_reconnect` and `on_disconnect` hold plain functions called at those moments; their exceptions are logged. A bus
    that is not *buffered* refuses to publish while disconnected and never sends a message after it has reported its
    failure to the caller: the writer needs that. A buffered one keeps up to 2 MiB for the reconnect.
    """

    def __init__(
        self,
        servers: list[SplitResult],
        *,
        buffered: bool,
        inbox_prefix: str,
        user: str,
        look_again: Callable[[], str] | None = None,
    ) -> None:
        self.where = _shown(servers)
        self.user = user
        """The user that the credentials name; empty if they name none."""
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_disconnect: list[Callable[[], None]] = []
        self.server: dict[str, Any] = {}  # what it reported when we connected
        self._buffered = buffered
        self._look_again = look_again
        self._client = NatsClient(buffered=buffered, disconnected=self._disconnected)
        if look_again is not None:
            self._client.look_again = self._look_for_server
        self._connected = asyncio.Event()
        self._inbox = f"{inbox_prefix}.{_ids.new('bus')}"
        self._requests = Requests(self._inbox)
        self._subscriptions: set[Subscription] = set()
        self._tasks: asyncio.TaskGroup
        self._last_error = ""
        self._connecting: asyncio.Timeout | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: Url,
        *,
        name: str,
        creds: str | None = None,
        tls_ca: str | None = None,
        reconnect_forever: bool = True,
        buffered: bool = True,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> AsyncIterator[Bus]:
        """
        Connect to *url*, `nats://token@host:port` or `nats://user:password@host:port`, several joined by commas.

        A function as *url* is called before each attempt to connect, so that a server which moved is found again; it
        returns the URL as of now, '' when there is none. *creds* is a file of credentials, *tls_ca* one of trusted
        certificates. Answers go to inboxes of this user.

        Raises:
            Unavailable: no server answered within *connect_timeout_s*.
            Refused: the URL is not valid, or the server does not accept the credentials.
        """
        look_again = None if isinstance(url, str) else url
        servers = servers_of(url if isinstance(url, str) else _known(url()))
        login = None if creds is None else read_login(creds)
        prefix, user = (INBOXES, "") if login is None else (login.inbox_prefix, login.user)
        bus = cls(servers, buffered=buffered, inbox_prefix=prefix, user=user, look_again=look_again)
        options = {
            **(login_of(servers) if login is None else login.apply(bus._client)),
            "servers": [url_of(server) for server in servers],
            "tls": ssl.create_default_context(cafile=tls_ca) if tls_ca or servers[0].scheme == "tls" else None,
            "name": name,
            "inbox_prefix": prefix,
            "max_reconnect_attempts": -1 if reconnect_forever else 1,
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "connect_timeout": min(connect_timeout_s, 2.0),
        }
        failure: Exception | None = None
        async with asyncio.TaskGroup() as bus._tasks:
            try:
                await bus._connect(options, connect_timeout_s)
                yield bus
            except Exception as error:  # noqa: BLE001 - the group would wrap what the caller's block raises
                failure = error
            finally:
                await bus.close()
        if failure is not None:
            raise failure

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._connected.is_set()

    @property
    def max_payload_bytes(self) -> int:
        """The largest message that the server accepts."""
        return self._client.max_payload

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the network."""
        return self._client.unsent_bytes

    async def until_connected(self, timeout_s: float) -> bool:
        """Wait until connected; return whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        return self.connected

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """
        Send a message; return before the server has it.

        Raises:
            Unavailable: disconnected (and not buffered, or the buffer is full), or the server no longer reads.
            Refused: the message is larger than the server accepts, or subject or headers are malformed.
        """
        frame = frame_of(subject, data, reply, headers, limit_bytes=self._client.max_payload)
        unsent_bytes = self._client.unsent_bytes
        if not self._connected.is_set():
            if not self._buffered or self._client.is_closed or unsent_bytes + len(frame) > BUFFER_BYTES:
                msg = f"cannot publish on {subject}: not connected to {self.where}; it reconnects by itself, retry"
                raise Unavailable(msg, reason="disconnected")
        elif unsent_bytes > UNSENT_BYTES:
            await self.flush(UNSENT_TIMEOUT_S)
        self._client.send(frame)

    async def publish_frames(self, frames: list[bytes]) -> None:
        """Send messages that are encoded as protocol frames already, in one piece; raises as `publish` does."""
        if not self._connected.is_set():
            raise Unavailable(f"cannot publish: not connected to {self.where}", reason="disconnected")
        if self._client.unsent_bytes > UNSENT_BYTES:
            await self.flush(UNSENT_TIMEOUT_S)
        self._client.send(b"".join(frames))

    def send(self, subject: str, data: bytes) -> bool:
        """Send an answer or a hint if that is possible now; return whether it was. The receiver asks again if lost."""
        if not self._connected.is_set() or self._client.unsent_bytes > UNSENT_BYTES:
            return False
        self._client.send(frame_of(subject, data, "", None, limit_bytes=self._client.max_payload))
        return True

    async def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """
        Wait until the server has read everything that was published.

        Raises:
            Unavailable: it did not within *timeout_s*.
        """
        try:
            # nats-py annotates seconds as int and takes fractions.
            await self._client.flush(timeout=timeout_s)
        except (NatsError, OSError) as error:
            msg = f"{self.where} did not answer within {timeout_s} s"
            raise Unavailable(msg, reason="timeout") from error

    async def probe(self, timeout_s: float) -> bool:
        """Return whether the connection is alive; abort it to reconnect if not. TCP may need minutes to detect that."""
        if not self.connected:
            return False
        try:
            await self.flush(timeout_s)
        except Unavailable:
            log.warning("nats_connection_aborted", server=self.where, silent_for_s=timeout_s)
            self._client.abort()
            return False
        return True

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """
        Send a request and return the data of the answer.

        Raises:
            Unavailable: nobody listens on *subject*, or no answer came; the request may have been received.
            Forbidden: the server does not let these credentials publish there. Refused: see `publish`.
        """
        return (await self.request_message(subject, data, timeout_s=timeout_s, headers=headers)).data

    async def request_message(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send a request and return the whole answer; see `request`."""

        async def send(reply: str) -> None:
            await self.publish(subject, data, reply=reply, headers=headers)

        return await self._requests.ask(subject, send, timeout_s)

    async def subscribe(
        self,
        subject: str,
        callback: Callable[[Message], None] | Callable[[Message], Awaitable[None]],
        *,
        queue: str = "",
        limit_messages: int = 65_536,
        limit_bytes: int = 64 * 1024 * 1024,
        on_overflow: Callable[[int], None] | None = None,
    ) -> Subscription:
        """
        Call *callback* for each message on *subject*, in order; subscriptions survive reconnects.

        A plain function is called at once in the read loop: this is fast and never overflows, but the function must not
        take long. An async one handles one message at a time in a task of its own, behind a queue with these limits; a
        message above them is dropped, counted in `dropped`, logged, and reported to *on_overflow*. Exceptions are
        logged and counted in `failures`.
        """
        check_subject(subject, queue)
        if self._client.is_closed:
            msg = f"cannot subscribe to {subject}: the connection to {self.where} is closed"
            raise Unavailable(msg, reason="closed")
        subscription = Subscription(
            callback, limit_messages=limit_messages, limit_bytes=limit_bytes, on_overflow=on_overflow
        )
        self._subscriptions = {active for active in self._subscriptions if active.active}
        self._subscriptions.add(subscription)
        await subscription.start(self._client, self._tasks, subject, queue)
        return subscription

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses; subscribe to it, or to it and `.*`."""
        return f"{self._inbox}.{_ids.new('inbox')}"

    async def js_request(
        self, api: str, payload: Mapping[str, Any] | bytes = b"", *, timeout_s: float
    ) -> dict[str, Any]:
        """
        Call the JetStream API *api*, such as `STREAM.INFO.<name>`.

        Raises:
            ApiError: JetStream refused the request.
            Unavailable: it did not answer.
        """
        raw = await self.request(f"$JS.API.{api}", request_of(payload), timeout_s=timeout_s)
        return answer_of(raw)

    async def js_send(self, api: str, payload: Mapping[str, Any] | bytes, reply: str) -> None:
        """Call the JetStream API *api*; its answers go to the subject *reply*."""
        await self.publish(f"$JS.API.{api}", request_of(payload), reply=reply)

    async def js_publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Ack:
        """
        Publish, and wait until JetStream has stored the message.

        Raises:
            ApiError: it was not stored.
            Unavailable: no answer came; the message may have been stored, or may be stored later.
        """
        return ack_of(subject, await self.request(subject, data, timeout_s=timeout_s, headers=headers))

    async def close(self) -> None:
        """Send what is waiting and disconnect, within 4 s in any case; does nothing when closed."""
        if self.connected:
            try:
                await self.flush(CLOSE_TIMEOUT_S)
            except Unavailable:
                self._client.abort()
        self._connected.clear()
        for subscription in tuple(self._subscriptions):
            await subscription.unsubscribe()
        with suppress(TimeoutError, OSError, NatsError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.close()
        # Between two attempts to connect, nats-py reports itself as closed but leaves the socket of the next one open.
        self._client.abort()
        await asyncio.sleep(0)
        self._requests.fail("the connection was closed")

    async def _connect(self, options: dict[str, Any], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s) as self._connecting:
                await self._client.connect(
                    **options,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=PINGS_OUTSTANDING,
                    pending_size=-1,  # the limits are ours: see `publish`
                    error_cb=self._error,
                    reconnected_cb=self._reconnected,
                    closed_cb=self._closed,
                )
                if not self._client.is_connected:  # connected and lost at once: nats-py is reconnecting
                    await self._connected.wait()
                await self._client.listen(self._requests.subject, "", self._requests.answered)
        except (TimeoutError, OSError, NatsError) as error:
            why = self._last_error or str(error) or type(error).__name__
            if "authorization" in why.lower():
                msg = f"{self.where} does not accept the credentials: {why}"
                raise Refused(msg, reason="bad_credentials") from None
            msg = f"no NATS server at {self.where} within {timeout_s} s ({why}): start one, or correct the URL"
            raise Unavailable(msg, reason="no_server") from None
        finally:
            self._connecting = None
        self.server = self._client.server
        self._connected.set()

    def _look_for_server(self) -> str:
        """Return the current URL for the next attempt to connect; raise Unavailable when there is none."""
        assert self._look_again is not None
        url = _known(self._look_again())
        where = _shown(servers_of(url))
        if where != self.where:
            log.info("nats_server_moved", server=where, before=self.where)
            self.where = where
        return url

    def _disconnected(self) -> None:
        if not self._connected.is_set():
            return
        self._connected.clear()
        log.warning("nats_disconnected", server=self.where, error=self._last_error)
        self._requests.fail(f"the connection to {self.where} was lost")
        _call(self.on_disconnect)

    async def _reconnected(self) -> None:
        self._connected.set()
        self._last_error = ""
        if self._connecting is None:
            log.info("nats_reconnected", server=self.where)
            _call(self.on_reconnect)

    async def _closed(self) -> None:
        self._disconnected()

    async def _error(self, error: Exception) -> None:
        """Handle an error that nats-py reports; raising here would end its read loop."""
        text = str(error) or type(error).__name__
        if forbidden := forbidden_subject(text):
            log.warning("nats_publish_forbidden", server=self.where, user=self.user, subject=forbidden[:200])
            self._requests.forbid(forbidden, self.user)
        # While the server is down the same error is reported four times a second.
        if text != self._last_error:
            self._last_error = text
            log.debug("nats_error", server=self.where, error=text)
        if self._connecting is not None and "authorization" in text.lower():
            self._connecting.reschedule(asyncio.get_running_loop().time())


def _known(url: str) -> str:
    """Return *url*; raise Unavailable if it is empty."""
    if not url:
        raise Unavailable("no coordinator runs where this program found one before: start it again", reason="no_server")
    return url


def _shown(servers: list[SplitResult]) -> str:
    return ",".join(map(where_is, servers))


def _call(hooks: list[Callable[[], None]]) -> None:
    for hook in tuple(hooks):
        try:
            hook()
        except Exception:  # raising here would end nats-py's reconnecting
            log.exception("connection_hook_failed")
