"""
The remote side of the RPC door: sends commands, waits out take-overs, and gives values or errors of the one family.

Concurrent calls of one kind share requests: the first goes at once, what comes while it is under way rides in the
next. A request without an answer is sent again, byte for byte, until the time of all its calls is over: ids are made by
whoever calls, so that nothing is done twice. Answers of an older reign than one already seen are dropped. A call must
never wait longer than its own time, whatever else shares its request.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from coordinator.bus.connection import Bus
from coordinator.client.lane import Lane, closed, too_late
from coordinator.clock import SystemClock
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

CALL_TIMEOUT_S = 30.0
ATTEMPT_TIMEOUT_S = 2.0
RETRY_PAUSE_S = 0.05

_ids = TimeOrderedIds()


def name_in(creds: str | None, role: str) -> str:
    """Give the name that the file *creds* gives a *role*, which may go by no other; empty when it says none."""
    return _name_as(role, read_login(creds).user) if creds else ""


def _name_as(role: str, user: str) -> str:
    return user.removeprefix(f"{role}-") if user.startswith(f"{role}-") else ""


class Door(Protocol):
    """Where commands go in: the RPC client, or the engine of this process."""

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """
        Order or ask something; the value is of the command's `Answer` type.

        Raises:
            CoordinationError: it was refused, or could not be answered in *timeout_s* seconds.
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
        self._announced = START
        self._is_closed = False
        self._clock = SystemClock()
        self.position = START
        """The newest position that any answer was as of."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        source: str = "local",
        namespace: str = "coordination",
        tenant: str = "default",
        name: str = "client",
        creds: str | None = None,
        tls_ca: str | None = None,
        connect_timeout_s: float = 5.0,
    ) -> AsyncIterator[Client]:
        """
        Connect to the NATS that the coordinator is on; *source* is who the commands are from, unless *creds* say.

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
            await bus.subscribe(client.subjects.leader, client._leader_changed)
            try:
                yield client
            except Exception as error:  # noqa: BLE001  # raised again below, where no group wraps it
                failure = error
            finally:
                client._close()
        if failure is not None:
            raise failure

    def name_as(self, role: str) -> str:
        """Give the name that the credentials give a *role*, such as a node; empty when they are not of that role."""
        return _name_as(role, self.bus.user)

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Order or ask something; see `Door.execute`."""
        return value_of(await self.answer(command, timeout_s=timeout_s), command)

    async def answer(self, command: Command, *, timeout_s: float | None = None) -> Answer:
        """Order or ask something, and give the answer as it came: an error, or a value as of a position of a reign."""
        loop = asyncio.get_running_loop()
        # Only what is remembered needs an id; what makes something is known by the id of that.
        command_id = _ids.new("cmd") if command.REMEMBERED else ""
        order = encode_command(WIRE_COMMANDS[type(command)](data=command, id=command_id, tenant=self._tenant))
        lane = self._lane(type(command))
        wait_s = _wait_of(command)
        deadline = loop.time() + wait_s + (self.call_timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                answer = await (
                    self._alone(lane.subject, order, deadline, wait_s) if wait_s > 0 else lane.ride(order, deadline)
                )
            except asyncio.CancelledError:
                self._withdraw(command)
                raise
            # What could not be taken now is asked again, with the same ids, while there is time.
            if answer.error is None or answer.error.code != Unavailable.code:
                return answer
            pause_s = answer.error.retry_after_s or RETRY_PAUSE_S
            if loop.time() + pause_s >= deadline:
                return answer
            await asyncio.sleep(pause_s)

    def _withdraw(self, command: Command) -> None:
        """Take a claim back that nobody waits for any more, lest it be given tasks; what is lost lapses by itself."""
        if isinstance(command, ClaimTasks):
            back = WithdrawClaim(claim_id=command.claim_id, worker_id=command.worker_id)
            order = encode_command(WIRE_COMMANDS[WithdrawClaim](data=back, tenant=self._tenant))
            self.bus.send(self.subjects.rpc(self.source, back.KIND, back.VERB), request_of([order]))

    def _lane(self, command: type[Command]) -> Lane:
        lane = self._lanes.get(command)
        if lane is None:
            subject = self.subjects.rpc(self.source, command.KIND, command.VERB)
            lane = self._lanes[command] = Lane(subject, self.request, self._tasks)
        if self._is_closed:
            raise closed()
        return lane

    async def _alone(self, subject: str, order: bytes, deadline: float, wait_s: float) -> Answer:
        """Get one answer, in time, to what may take long, so that nothing else waits for it."""
        try:
            async with asyncio.timeout_at(deadline):
                return (await self.request(subject, [order], deadline, wait_s))[0]
        except TimeoutError:
            raise too_late(subject) from None

    def beat_worker(self, worker_id: str, leases: tuple[str, ...], load: float = 0.0) -> bool:
        """Publish a worker's heartbeat, which renews exactly *leases*; say whether it could leave."""
        return self._beat("worker", WorkerHeartbeat(worker_id=worker_id, leases=leases, load=load))

    def beat_service(self, service_id: str, *, load: float = 0.0, connections: int = 0) -> bool:
        """Publish a service's heartbeat; say whether it could leave."""
        return self._beat("service", ServiceHeartbeat(service_id=service_id, load=load, connections=connections))

    def _beat(self, kind: str, beat: WorkerHeartbeat | ServiceHeartbeat) -> bool:
        now = rfc3339(self._clock.wall())
        envelope = codec_envelope(beat, position=_ids.new("beat"), time=now, source=f"/{self.source}")
        return self.bus.send(self.subjects.heartbeat(kind, beat.subject), encode(envelope))

    async def request(self, subject: str, orders: list[bytes], deadline: float, wait_s: float = 0.0) -> list[Answer]:
        """
        Send written commands until they are answered by a writer no older than any seen before.

        Raises:
            Unavailable: the time is over.
        """
        loop = asyncio.get_running_loop()
        body = request_of(orders)
        while not self._is_closed:
            left_s = deadline - loop.time()
            try:
                async with self._attempt():
                    raw = await self.bus.request(
                        subject, body, timeout_s=max(0.001, min(left_s, wait_s + self.attempt_timeout_s))
                    )
            except TimeoutError:
                continue  # another leads now: ask it at once
            except Unavailable as error:
                if loop.time() + RETRY_PAUSE_S >= deadline:
                    raise
                if error.reason != "timeout":
                    await asyncio.sleep(RETRY_PAUSE_S)
                continue
            answers = decode_answers(raw)
            if self._is_current(answers):
                return _one_each(answers, len(orders))
            await asyncio.sleep(RETRY_PAUSE_S)
        raise closed()

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        """Bear with one attempt until `_interrupt`, which gives TimeoutError."""
        async with asyncio.timeout(None) as attempt:
            self._attempts.add(attempt)
            try:
                yield
            finally:
                self._attempts.discard(attempt)

    def _interrupt(self) -> None:
        """End every attempt that is under way; what asked begins anew."""
        now = asyncio.get_running_loop().time()
        for attempt in self._attempts:
            if not attempt.expired():
                attempt.reschedule(now)

    def _is_current(self, answers: list[Answer]) -> bool:
        """Say whether a writer no older than any before has answered; one that was deposed may not have noticed yet."""
        epoch = position = ""
        for answer in answers:
            if answer.epoch != epoch:  # the answers to one request are nearly always of one turn
                epoch = answer.epoch
                reign = Position.parse(epoch)
                if reign < self._reign:
                    return False
                self._reign = reign
            if answer.position != position:
                position = answer.position
                self.position = max(self.position, Position.parse(position))
        return True

    def _leader_changed(self, message: Message) -> None:
        """Send what is outstanding again at once, to whoever leads now; a reign that is told again is no news."""
        try:
            reign = Position.parse(msgspec.json.decode(message.data, type=Announcement).epoch)
        except (*UNREADABLE, CoordinationError) as error:
            log.warning("announcement_unreadable", why=str(error)[:200])
            return
        if reign > max(self._announced, self._reign):
            self._announced = reign
            self._interrupt()

    def _close(self) -> None:
        self._is_closed = True
        for lane in self._lanes.values():
            lane.close()
        self._interrupt()


def _wait_of(command: Command) -> float:
    """Say how long the coordinator may take over a command; what is no such time, it will refuse."""
    wait_s = getattr(command, "wait_s", 0.0)
    return float(wait_s) if isinstance(wait_s, int | float) and wait_s > 0 else 0.0


def _one_each(answers: list[Answer], count: int) -> list[Answer]:
    if len(answers) == count:
        return answers
    if len(answers) == 1 and answers[0].error is not None:
        return answers * count  # the request was refused as a whole
    msg = f"{count} commands were answered by {len(answers)} answers"
    raise CoordinationError(msg, reason="bad_answer")
