"""
The remote side of the RPC door: sends commands, waits out take-overs, and gives values or errors of the one family.

Concurrent calls of one kind share requests: the first goes at once, what comes while it is under way rides in the
next. A request without an answer is sent again, byte for byte, until the call's time is over: ids are made by whoever
calls, so that nothing is done twice. Answers of an older reign than one already seen are dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from coordinator.bus import Bus
from coordinator.clock import SystemClock
from coordinator.ids import TimeOrderedIds
from coordinator.wire import MOST_COMMANDS, ORDERS, Order, decode_answers, encode_orders, value_of
from events.base import Position
from events.codec import encode, rfc3339
from events.codec import envelope as codec_envelope
from events.errors import CoordinationError, Refused, Unavailable
from events.ids import checked
from events.service import ServiceHeartbeat
from events.subjects import Subjects
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus import Message
    from coordinator.commands import Command
    from coordinator.wire import Answer

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 30.0
ATTEMPT_TIMEOUT_S = 2.0
RETRY_PAUSE_S = 0.05
REQUEST_BYTES = 400_000
"""Commands ride together up to so many bytes; a single larger one travels alone."""

_ids = TimeOrderedIds()


def credentials(settings: Any) -> dict[str, Any]:
    """Give what the settings say of NATS credentials, as the connections take it."""
    nats = settings.nats
    return {"creds": str(nats.creds) if nats.creds else None, "tls_ca": str(nats.tls_ca) if nats.tls_ca else None}


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
        self._tenant = checked(tenant, "tenant")
        self._tasks = tasks
        self._lanes: dict[str, _Lane] = {}
        self._attempts: set[asyncio.Timeout] = set()
        self._seen = Position(0, 0)
        self._clock = SystemClock()

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
        Connect to the NATS that the coordinator is on; `source` is who the commands are from.

        Raises:
            Unavailable: no server answered.
        """
        failure: BaseException | None = None
        async with Bus.open(
            url, name=name, creds=creds, tls_ca=tls_ca, connect_timeout_s=connect_timeout_s, buffered=False
        ) as bus:
            try:
                async with asyncio.TaskGroup() as tasks:
                    client = cls(bus, tasks, source=source, namespace=namespace, tenant=tenant)
                    await bus.subscribe(client.subjects.leader, client._leader_changed)
                    try:
                        yield client
                    except BaseException as error:  # noqa: BLE001  # raised again below, outside of the group
                        failure = error
                    client._close()
            finally:
                if failure is not None:
                    raise failure

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Order or ask something; see `Door.execute`."""
        order = ORDERS[type(command)](data=command, id=_ids.new("cmd"), tenant=self._tenant)
        subject = self.subjects.rpc(self.source, command.KIND, command.VERB)
        wait_s = float(getattr(command, "wait_s", 0.0))
        deadline = (
            asyncio.get_running_loop().time() + wait_s + (self.call_timeout_s if timeout_s is None else timeout_s)
        )
        if wait_s > 0:
            (answer,) = await self.request(subject, encode_orders([order]), deadline, wait_s)
        else:
            lane = self._lanes.get(subject)
            if lane is None:
                lane = self._lanes[subject] = _Lane(self, subject, self._tasks)
            answer = await lane.ride(order, deadline)
        if answer.error is not None and answer.error.code == Unavailable.code:
            return await self._again(order, subject, answer, deadline)
        return value_of(answer, command)

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

    async def _again(self, order: Order, subject: str, answer: Answer, deadline: float) -> Any:
        """Repeat a command that could not be taken now, until its time is over."""
        loop = asyncio.get_running_loop()
        while answer.error is not None and answer.error.code == Unavailable.code:
            pause_s = answer.error.retry_after_s or RETRY_PAUSE_S
            if loop.time() + pause_s > deadline:
                break
            await asyncio.sleep(pause_s)
            wait_s = float(getattr(order.data, "wait_s", 0.0))
            (answer,) = await self.request(subject, encode_orders([order]), deadline, wait_s)
        return value_of(answer, order.data)

    async def request(self, subject: str, body: bytes, deadline: float, wait_s: float = 0.0) -> list[Answer]:
        """
        Send a request until it is answered by a writer no older than any seen before.

        Raises:
            Unavailable: the time is over.
        """
        loop = asyncio.get_running_loop()
        while True:
            left_s = deadline - loop.time()
            try:
                async with asyncio.timeout(None) as attempt:
                    self._attempts.add(attempt)
                    try:
                        raw = await self.bus.request(
                            subject, body, timeout_s=max(0.001, min(left_s, wait_s + ATTEMPT_TIMEOUT_S))
                        )
                    finally:
                        self._attempts.discard(attempt)
                answers = decode_answers(raw)
                if self._is_current(answers):
                    return answers
            except TimeoutError:
                continue  # another leads now: ask it at once
            except Unavailable as error:
                if loop.time() + RETRY_PAUSE_S >= deadline:
                    raise
                if error.reason != "timeout":
                    await asyncio.sleep(RETRY_PAUSE_S)

    def _is_current(self, answers: list[Answer]) -> bool:
        for answer in answers:
            if answer.epoch:
                reign = Position.parse(answer.epoch)
                if reign < self._seen:
                    return False
                self._seen = reign
        return True

    def _leader_changed(self, _: Message) -> None:
        """Send what is outstanding again at once, to whoever leads now."""
        now = asyncio.get_running_loop().time()
        for attempt in self._attempts:
            attempt.reschedule(now)

    def _close(self) -> None:
        for lane in self._lanes.values():
            lane.close()


class _Lane:
    """The calls of one kind: one request under way, the next one filling."""

    def __init__(self, client: Client, subject: str, tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._subject = subject
        self._tasks = tasks
        self._waiting: deque[tuple[Order, float, asyncio.Future[Answer]]] = deque()
        self._moving: asyncio.Task[None] | None = None

    async def ride(self, order: Order, deadline: float) -> Answer:
        """Let a command go with the next request, and give its answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((order, deadline, future))
        if self._moving is None:
            self._moving = self._tasks.create_task(self._move())
        return await future

    def close(self) -> None:
        """Give up what is under way."""
        if self._moving is not None:
            self._moving.cancel()

    async def _move(self) -> None:
        try:
            while self._waiting:
                await self._go(self._load())
        finally:
            self._moving = None
            for _, _, future in self._waiting:
                if not future.done():
                    future.set_exception(Unavailable("the client was closed"))
            self._waiting.clear()

    def _load(self) -> list[tuple[Order, float, asyncio.Future[Answer]]]:
        """Take what goes together: many, up to a limit of count and bytes."""
        taken: list[tuple[Order, float, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting and len(taken) < MOST_COMMANDS:
            size += _size_of(self._waiting[0][0])
            if taken and size > REQUEST_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _go(self, taken: list[tuple[Order, float, asyncio.Future[Answer]]]) -> None:
        deadline = max(deadline for _, deadline, _ in taken)
        error: Exception | None = None
        answers: list[Answer] = []
        try:
            answers = await self._client.request(self._subject, encode_orders([one for one, _, _ in taken]), deadline)
            if len(answers) != len(taken):
                error = CoordinationError(f"{len(taken)} commands were answered by {len(answers)} answers")
        except (CoordinationError, Refused) as caught:
            error = caught
        except asyncio.CancelledError:
            error = Unavailable("the client was closed before an answer came")
            raise
        finally:
            for index, (_, _, future) in enumerate(taken):
                if future.done():
                    continue
                if error is not None or not answers:
                    future.set_exception(error or Unavailable("no answer came"))
                else:
                    future.set_result(answers[index])


def _size_of(order: Order) -> int:
    """Guess a command's size on the wire from what may be large in it."""
    payload = getattr(order.data, "payload", None) or getattr(order.data, "result", None)
    return 300 + (len(payload.data) if payload is not None else 0)
