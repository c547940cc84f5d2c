"""
The coordinator as a NATS micro service: tools such as `nats micro` list it, describe it and show its statistics.

They ask `$SRV.PING | INFO | STATS`, the service API of ADR-32 (nats-io/nats-architecture-and-design). Every instance
answers under its own name: the leader with an endpoint for each command, a standby with none. Statistics count
requests, not commands: a request may have a thousand commands. It must answer only to an inbox, and must never reveal
what a client may not know.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.commands import COMMANDS
from coordinator.commands.operations import answer_of, fields_of, refusals_of, roles_of, summary_of
from coordinator.commands.wire import WIRE_COMMANDS
from coordinator.version import __version__
from events.codec import rfc3339
from events.errors import Refused
from events.subjects import may_answer, service_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from coordinator.journal.slots import Epoch
    from events.errors import CoordinationError
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

NAME = "coordinator"
DESCRIPTION = "Coordinates containers, services and tasks; docs/protocol.md describes the protocol."
SCHEMAS = "#/components/schemas"
"""Where the AsyncAPI document has the schemas of requests: `coordinator schema asyncapi`."""
TYPE = "io.nats.micro.v1.{}_response"
VERBS = ("PING", "INFO", "STATS")
_ERROR_CHARS = 200


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The role of an instance: the epoch it leads in, None on standby, and the leader as far as it knows."""

    epoch: Epoch | None
    leader: str


class Endpoint:
    """The statistics of one command's subject; times in seconds, from receiving a request to sending its answers."""

    __slots__ = ("errors", "last_error", "requests", "took_s")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.took_s = 0.0
        self.last_error = ""

    def note(self, took_s: float, error: CoordinationError | None) -> None:
        """Count one answered request; *error* is the last error among its answers."""
        self.requests += 1
        self.took_s += took_s
        if error is not None:
            self.errors += 1
            self.last_error = f"{error.code}:{error.message[:_ERROR_CHARS]}"


class RequestStats:
    """The statistics of this instance since it started, by kind and verb."""

    def __init__(self) -> None:
        self.by_subject = {(command.KIND, command.VERB): Endpoint() for command in COMMANDS.values()}


def queue_of(epoch: Epoch) -> str:
    """Return the queue group of one reign, so that a deposed writer that wakes up receives no requests."""
    return f"e{epoch.generation}-{epoch.sequence}"


class ServiceApi:
    """Answers for one instance; see `open_service_api`."""

    def __init__(
        self, bus: Bus, subjects: Subjects, *, instance: str, started: str, standing: Callable[[], Standing]
    ) -> None:
        self.stats = RequestStats()
        self._bus = bus
        self._subjects = subjects
        self._instance = instance
        self._started = started
        self._standing = standing

    def take(self, message: Message) -> None:
        """Answer a request, if its reply subject is an inbox."""
        if not may_answer(message.reply):
            return
        verb = message.subject.split(".")[1]
        try:
            self._bus.send(message.reply, msgspec.json.encode(self.answer(verb)))
        except Refused as error:
            log.warning("answer_send_failed", why=error.message)

    def answer(self, verb: str) -> dict[str, Any]:
        """Return the answer to PING, INFO or STATS."""
        standing = self._standing()
        answer: dict[str, Any] = {
            "type": TYPE.format(verb.lower()),
            "name": NAME,
            "id": self._instance,
            "version": __version__,
            "metadata": self._metadata(standing),
        }
        if verb == "INFO":
            answer |= {"description": DESCRIPTION, "endpoints": self._endpoints(standing, described)}
        elif verb == "STATS":
            answer |= {"started": self._started, "endpoints": self._endpoints(standing, self._counted)}
        return answer

    def _metadata(self, standing: Standing) -> dict[str, str]:
        return {
            "role": "standby" if standing.epoch is None else "leader",
            "epoch": "" if standing.epoch is None else str(standing.epoch),
            "leader": standing.leader,
            "namespace": self._subjects.namespace,
        }

    def _endpoints(self, standing: Standing, more: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
        if standing.epoch is None:
            return []
        group = queue_of(standing.epoch)
        return [
            {"name": name, "subject": self._subject_of(name), "queue_group": group, **more(name)} for name in COMMANDS
        ]

    def _subject_of(self, name: str) -> str:
        return self._subjects.rpc_any(COMMANDS[name].KIND, COMMANDS[name].VERB)

    def _counted(self, name: str) -> dict[str, Any]:
        command = COMMANDS[name]
        endpoint = self.stats.by_subject[command.KIND, command.VERB]
        took_ns = int(endpoint.took_s * 1e9)
        return {
            "num_requests": endpoint.requests,
            "num_errors": endpoint.errors,
            "last_error": endpoint.last_error,
            "processing_time": took_ns,
            "average_processing_time": took_ns // endpoint.requests if endpoint.requests else 0,
            "data": {},  # some clients require it
        }


def described(name: str) -> dict[str, Any]:
    """Return what INFO says of a command, by its type on the wire."""
    command = COMMANDS[name]
    metadata = {
        "kind": "question" if command.IS_QUESTION else "command",
        "operation": command.NAME,
        "about": summary_of(command),
        "roles": ",".join(roles_of(command)),
        "fields": ",".join(one.name if one.is_required else f"{one.name}?" for one in fields_of(command)),
        "answer": answer_of(command),
        "errors": ",".join(refusals_of(command)),
        "schema": f"{SCHEMAS}/{WIRE_COMMANDS[command].__name__}",
        "waits": str("wait_s" in command.__struct_fields__),
    }
    return {"metadata": metadata}


@asynccontextmanager
async def open_service_api(
    bus: Bus, subjects: Subjects, *, instance: str, wall: float, standing: Callable[[], Standing]
) -> AsyncIterator[ServiceApi]:
    """Answer for *instance*, started at *wall* seconds since 1970, while the block runs."""
    api = ServiceApi(bus, subjects, instance=instance, started=rfc3339(wall), standing=standing)
    asked = [service_api(verb, *tokens) for verb in VERBS for tokens in ((), (NAME,), (NAME, instance))]
    subscriptions = [await bus.subscribe(subject, api.take) for subject in asked]
    try:
        yield api
    finally:
        for subscription in subscriptions:
            await subscription.unsubscribe()
