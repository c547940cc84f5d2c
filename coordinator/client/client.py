"""
The client of the RPC door: sends commands, retries through take-overs, and returns values or raises errors.

Concurrent calls of one command share requests: the first call is sent at once, calls that arrive while it is in flight
share the next request. A request without an answer is sent again, byte for byte, until the deadlines of all its calls
have passed. The caller makes the ids, so a repeated command takes effect only once. Answers from an older reign than
one already seen are dropped. A call must never wait past its own deadline, whatever else shares its request.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
import structlog

from coordinator.bus.connection import CONNECT_TIMEOUT_S, Bus, Url
from coordinator.client.lane import Lane, closed, too_late
from coordinator.clock import SystemClock
from coordinator.commands.acting import current
from coordinator.commands.notices import Announcement
from coordinator.commands.task import ClaimTasks, WithdrawClaim
from coordinator.commands.wire import WIRE_COMMANDS, decode_answers, encode_command, request_of, value_of
from coordinator.ids import TimeOrderedIds
from events.base import START, Position
from events.codec import UNREADABLE, encode, rfc3339
from events.codec import envelope as codec_envelope
from events.credentials import read_login
from events.errors import CoordinationError, Unavailable
from events.ids import checked
from events.service import ServiceHeartbeat
from events.subjects import Subjects
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus.subscription import Message
    from coordinator.commands.command import Command
    from coordinator.commands.wire import Answer

log = structlog.get_logger(__name__)

T = TypeVar("T")

CALL_TIMEOUT_S = 30.0
ATTEMPT_TIMEOUT_S = 2.0
RETRY_PAUSE_S = 0.05
TROUBLE_S = 5.0
"""How long an announcement that nobody can lead is believed; it is repeated every second."""

_ids = TimeOrderedIds()


def name_in(creds: str | None, role: str) -> str:
    """
    Return the name that the credentials file *creds* allows a *role*, such as "worker", to use.

    Returns '' if there is no file, or if it is not for that role.
    """
    return _name_as(role, read_login(creds).user) if creds else ""


def _name_as(role: str, user: str) -> str:
    return user.removeprefix(f"{role}-") if user.startswith(f"{role}-") else ""


class Door(Protocol):
    """Executes commands: the RPC client, or the engine in this process."""

    async def execute(self, command: Command[T], *, timeout_s: float | None = None) -> T:
        """
        Execute a command or a question; return its answer, which has the type that the command says.

        Args:
            command: the command.
            timeout_s: seconds to wait for the answer, on top of the command's own `wait_s`; by default 30 s, or
                `client.call_timeout_s` of the settings.

        Raises:
            CoordinationError: the command was refused, or not answered in time (`Unavailable`).
        """
        ...


class Client:
    """A connection to the coordinator from outside its process; open it with `Client.open`."""

    def __init__(self, bus: Bus, tasks: asyncio.TaskGroup, *, source: str, namespace: str, tenant: str) -> None:
        self.bus = bus
        self.subjects = Subjects(namespace)
        self.source = checked(source, "source")
        self.call_timeout_s = CALL_TIMEOUT_S
        self.attempt_timeout_s = ATTEMPT_TIMEOUT_S
        self._tenant = checked(tenant, "tenant")
        self._tasks = tasks
        self._lanes: dict[type[Command], Lane] = {}
        self._attempts: set[asyncio.Timeout] = set()
        self._reign = START
        self._announced = START, 1
        self._trouble = "", 0.0
        self._is_closed = False
        self._clock = SystemClock()
        self.position = START
        """The newest journal position that any answer was based on."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: Url,
        *,
        source: str = "local",
        namespace: str = "coordination",
        tenant: str = "default",
        name: str = "client",
        creds: str | None = None,
        tls_ca: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        call_timeout_s: float = CALL_TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    ) -> AsyncIterator[Client]:
        """
        Connect to the coordinator through its NATS server.

        Args:
            url: the NATS server; a function is asked for it before each attempt to connect.
            source: the sender of the commands; the user of *creds* takes precedence.
            namespace: the first part of all subjects, as in the coordinator's settings.
            tenant: the tenant that the commands are for, where no other one is set (`acting`).
            name: the connection's name, shown by NATS.
            creds: the path of a credentials file.
            tls_ca: the path of the CA certificate, for TLS.
            connect_timeout_s: seconds to wait for the server.
            call_timeout_s: seconds to wait for an answer, unless a call says otherwise.
            attempt_timeout_s: seconds after which a request without answer is sent again.

        Raises:
            Unavailable: no server answered.
        """
        failure: Exception | None = None
        async with (
            Bus.open(
                url, name=name, creds=creds, tls_ca=tls_ca, connect_timeout_s=connect_timeout_s, buffered=False
            ) as bus,
            asyncio.TaskGroup() as tasks,
        ):
            client = cls(bus, tasks, source=bus.user or source, namespace=namespace, tenant=tenant)
            client.call_timeout_s, client.attempt_timeout_s = call_timeout_s, attempt_timeout_s
            await bus.subscribe(client.subjects.leader, client._leader_changed)
            try:
                yield client
            except Exception as error:  # noqa: BLE001  # raised below, outside the task group, which would wrap it
                failure = error
            finally:
                client._close()
        if failure is not None:
            raise failure

    def name_as(self, role: str) -> str:
        """Return the name that the credentials allow a *role*, such as "node", to use; '' if they are not for it."""
        return _name_as(role, self.bus.user)

    async def execute(self, command: Command[T], *, timeout_s: float | None = None) -> T:
        """Execute a command or a question and return its value; see `Door.execute`."""
        return value_of(await self.answer(command, timeout_s=timeout_s), command)

    async def answer(self, command: Command, *, timeout_s: float | None = None) -> Answer:
        """Execute a command or a question; return the answer as received: an error or a value, epoch and position."""
        loop = asyncio.get_running_loop()
        # Only remembered commands need an id: a command that creates something is identified by the id of that.
        command_id = _ids.new("cmd") if command.REMEMBERED else ""
        acting = current()
        tenant, traceparent = acting.tenant or self._tenant, acting.traceparent
        encoded = encode_command(
            WIRE_COMMANDS[type(command)](data=command, id=command_id, tenant=tenant, traceparent=traceparent)
        )
        lane = self._lane(type(command))
        wait_s = _wait_of(command)
        deadline = loop.time() + wait_s + (self.call_timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                answer = await (
                    self._request_one(lane.subject, encoded, deadline, wait_s)
                    if wait_s > 0
                    else lane.ride(encoded, deadline)
                )
            except (asyncio.CancelledError, CoordinationError) as error:
                self._withdraw(command)
                self._raise_trouble(error)
                raise
            if answer.warning:
                log.warning("command_warning", command=type(command).__name__, why=answer.warning)
            # A command that is refused as unavailable is retried with the same ids until the deadline.
            if answer.error is None or answer.error.code != Unavailable.code:
                return answer
            pause_s = answer.error.retry_after_s or RETRY_PAUSE_S
            if loop.time() + pause_s >= deadline:
                self._withdraw(command)
                self._raise_trouble(Unavailable(answer.error.message))
                return answer
            await asyncio.sleep(pause_s)

    def _withdraw(self, command: Command) -> None:
        """Withdraw the claim of a call that ends without tasks. If the message is lost, the leases expire."""
        if isinstance(command, ClaimTasks):
            withdraw = WithdrawClaim(claim_id=command.claim_id, worker_id=command.worker_id)
            encoded = encode_command(
                WIRE_COMMANDS[WithdrawClaim](data=withdraw, tenant=current().tenant or self._tenant)
            )
            self.bus.send(self.subjects.rpc(self.source, withdraw.KIND, withdraw.VERB), request_of([encoded]))

    def _lane(self, command: type[Command]) -> Lane:
        lane = self._lanes.get(command)
        if lane is None:
            subject = self.subjects.rpc(self.source, command.KIND, command.VERB)
            lane = self._lanes[command] = Lane(subject, self.request, self._tasks)
        if self._is_closed:
            raise closed()
        return lane

    async def _request_one(self, subject: str, encoded: bytes, deadline: float, wait_s: float) -> Answer:
        """Send a command that may take long in a request of its own, so that no other call waits for its answer."""
        try:
            async with asyncio.timeout_at(deadline):
                return (await self.request(subject, [encoded], deadline, wait_s))[0]
        except TimeoutError:
            raise too_late(subject) from None

    def beat_worker(
        self, worker_id: str, leases: tuple[str, ...], load: float = 0.0, *, registration: str = ""
    ) -> bool:
        """
        Publish a worker's heartbeat, which renews exactly *leases*; return whether it could be sent.

        Args:
            worker_id: the worker.
            leases: the leases to renew, at most 10,000.
            load: the share of the worker's slots in use, 0 to 1.
            registration: the registration that it belongs to; '' if the worker has none.
        """
        beat = WorkerHeartbeat(worker_id=worker_id, leases=leases, load=load, registration=registration)
        return self._beat("worker", beat)

    def beat_service(self, service_id: str, *, load: float = 0.0, connections: int = 0, registration: str = "") -> bool:
        """
        Publish a service's heartbeat; return whether it could be sent.

        Args:
            service_id: the service instance.
            load: the share of its capacity in use, 0 to 1.
            connections: the connections it has open.
            registration: the registration that it belongs to; '' if the service has none.
        """
        beat = ServiceHeartbeat(service_id=service_id, load=load, connections=connections, registration=registration)
        return self._beat("service", beat)

    def _beat(self, kind: str, beat: WorkerHeartbeat | ServiceHeartbeat) -> bool:
        now = rfc3339(self._clock.wall())
        acting = current()
        envelope = codec_envelope(
            beat,
            position=_ids.new("beat"),
            time=now,
            source=f"/{self.source}",
            tenant=acting.tenant or self._tenant,
            traceparent=acting.traceparent,
        )
        return self.bus.send(self.subjects.heartbeat(kind, beat.subject), encode(envelope))

    async def request(self, subject: str, encoded: list[bytes], deadline: float, wait_s: float = 0.0) -> list[Answer]:
        """
        Send encoded commands until a writer answers whose reign is not older than any seen before.

        Args:
            subject: the subject of the commands.
            encoded: the commands; there is one answer for each.
            deadline: when to stop retrying, in loop time.
            wait_s: seconds that the coordinator may take to answer.

        Raises:
            Unavailable: the deadline has passed, or the client was closed.
        """
        loop = asyncio.get_running_loop()
        body = request_of(encoded)
        while not self._is_closed:
            left_s = deadline - loop.time()
            try:
                async with self._attempt():
                    raw = await self.bus.request(
                        subject, body, timeout_s=max(0.001, min(left_s, wait_s + self.attempt_timeout_s))
                    )
            except TimeoutError:
                continue  # another instance leads now, or this one did not get it: send at once
            except Unavailable as error:
                if loop.time() + RETRY_PAUSE_S >= deadline:
                    raise
                if error.reason != "timeout":
                    await asyncio.sleep(RETRY_PAUSE_S)
                continue
            answers = decode_answers(raw)
            if self._is_current(answers):
                return _one_each(answers, len(encoded))
            await asyncio.sleep(RETRY_PAUSE_S)
        raise closed()

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        """Run one attempt; `_interrupt` ends it with TimeoutError."""
        async with asyncio.timeout(None) as attempt:
            self._attempts.add(attempt)
            try:
                yield
            finally:
                self._attempts.discard(attempt)

    def _interrupt(self) -> None:
        """End every attempt in flight; each request then starts a new attempt."""
        now = asyncio.get_running_loop().time()
        for attempt in self._attempts:
            if not attempt.expired():
                attempt.reschedule(now)

    def _is_current(self, answers: list[Answer]) -> bool:
        """Return whether the answers are of the newest reign seen: a deposed writer may not have noticed yet."""
        epoch = position = ""
        for answer in answers:
            if answer.epoch != epoch:  # the answers to one request are nearly always of the same turn
                epoch = answer.epoch
                reign = Position.parse(epoch)
                if reign < self._reign:
                    return False
                self._reign = reign
            if answer.position != position:
                position = answer.position
                self.position = max(self.position, Position.parse(position))
        return True

    def _raise_trouble(self, error: BaseException) -> None:
        """Raise the reason why nobody can lead instead of *error*, a call's that ends without an answer, if known."""
        trouble, until = self._trouble
        if trouble and isinstance(error, Unavailable) and asyncio.get_running_loop().time() < until:
            raise nothing_stored(trouble, error) from error

    def _leader_changed(self, message: Message) -> None:
        """
        Send outstanding requests again at once: to a new leader, or to one that lost its connection and is there again.

        An announcement that is no news is ignored.
        """
        try:
            announcement = msgspec.json.decode(message.data, type=Announcement)
            announced = Position.parse(announcement.epoch), announcement.opened
        except (*UNREADABLE, CoordinationError) as error:
            log.warning("announcement_unreadable", why=str(error)[:200])
            return
        self._trouble = announcement.trouble, asyncio.get_running_loop().time() + TROUBLE_S
        if announced > max(self._announced, (self._reign, 1)):
            self._announced = announced
            self._interrupt()

    def _close(self) -> None:
        self._is_closed = True
        for lane in self._lanes.values():
            lane.close()
        self._interrupt()


def nothing_stored(trouble: str, error: Unavailable) -> Unavailable:
    """Return the error of a call that ended with *error* while *trouble* keeps everybody from leading."""
    return Unavailable(f"nobody leads, nothing is accepted: {trouble} ({error.message})", reason="nothing_stored")


def _wait_of(command: Command) -> float:
    """Return the command's `wait_s`, 0 if it has none. The coordinator refuses an invalid value."""
    wait_s = getattr(command, "wait_s", 0.0)
    return float(wait_s) if isinstance(wait_s, int | float) and wait_s > 0 else 0.0


def _one_each(answers: list[Answer], count: int) -> list[Answer]:
    if len(answers) == count:
        return answers
    if len(answers) == 1 and answers[0].error is not None:
        return answers * count  # the request was refused as a whole
    msg = f"received {len(answers)} answers to {count} commands"
    raise CoordinationError(msg, reason="bad_answer")
