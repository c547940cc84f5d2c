"""
The NATS protocol as one AsyncAPI 3.0 document: subjects, their messages, and the replies.

It is generated from the structs that encode and decode the messages, the table of commands and the subject names;
`docs/schema/asyncapi.json` is its output and never edited. Operations are from the coordinator's point of view: `send`
is what it publishes, `receive` what it consumes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from coordinator.commands.node import FollowQuestion, NodeQuestion
from coordinator.commands.operations import (
    OPERATIONS,
    always_of,
    description_of,
    refusals_of,
    roles_of,
    summary_of,
)
from coordinator.commands.reads import VERBS, ReadQuestion
from coordinator.commands.wire import MOST_COMMANDS, WIRE_COMMANDS, WireError
from coordinator.doors.inbox_messages import MOST_EVENTS
from coordinator.version import __version__
from events.codec import EVENTS, HEARTBEATS, SPECVERSION
from events.coordinator import EpochClaim
from events.ids import PATTERN
from events.schema import IN_JOURNAL, components, event_schemas, reference
from events.subjects import Subjects

if TYPE_CHECKING:
    from coordinator.commands.command import Operation

SHARED = "#/components/schemas/{name}"
JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
NODE_VERBS = {
    "logs": (NodeQuestion, "logs"),
    "usage": (NodeQuestion, "usage"),
    "follow": (FollowQuestion, "next lines of the logs"),
}

_PLACE = "PLACE"
"""Placeholder for a parameter in a subject, because a subject is built from validated tokens only."""
_SOURCE = {"source": {"description": f"Name of the sender, enforced by NATS permissions, {PATTERN}."}}
_HEADERS = {
    "type": "object",
    "required": ["Nats-Msg-Id", "Chain", "Content-Type"],
    "properties": {
        "Nats-Msg-Id": {"type": "string", "description": "<generation>.<claim>.<sequence>"},
        "Chain": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Hash over all earlier messages."},
        "Content-Type": {"const": CLOUD_EVENTS},
    },
}

Document = dict[str, Any]


class _Paper:
    """The document under construction."""

    def __init__(self) -> None:
        self.channels: Document = {}
        self.operations: Document = {}

    def channel(self, name: str, address: str | None, about: str, messages: Document, **more: Any) -> None:
        self.channels[name] = {"address": address, "description": about, "messages": messages, **more}

    def operation(
        self, name: str, action: str, channel: str, about: str, *, reply: list[str] | None = None, **more: Any
    ) -> None:
        """Add an operation of the coordinator on a channel; *reply* has the names of the possible replies."""
        messages = [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in self.channels[channel]["messages"]]
        self.operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": about,
            "messages": messages,
            **more,
        }
        if reply is not None:
            answers = [{"$ref": f"#/channels/answers/messages/{name}"} for name in reply]
            self.operations[name]["reply"] = {"channel": {"$ref": "#/channels/answers"}, "messages": answers}


def asyncapi(namespace: str = "coordination") -> Document:
    """Return the document, with subjects in *namespace*."""
    subjects, paper = Subjects(namespace), _Paper()
    _journal(paper, subjects)
    _feed(paper, subjects)
    _inboxes(paper, subjects)
    _heartbeats(paper, subjects)
    _hints(paper, subjects)
    _answers(paper)
    _commands(paper, subjects)
    _questions(paper, subjects)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Coordinator",
            "version": __version__,
            "description": "Containers, services and tasks of many agents; changes are events. See docs/protocol.md",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "The cluster's NATS."}},
        "x-reasons": _reasons(),
        "channels": paper.channels,
        "operations": paper.operations,
        "components": {
            "messages": {
                name: _message(name, CLOUD_EVENT, _shared(name), _first_line(EVENTS[name])) for name in EVENTS
            },
            "schemas": {name: _portable(schema) for name, schema in _schemas().items()},
        },
    }


# --- published messages -----------------------------------------------------------------------------------------------


def _journal(paper: _Paper, subjects: Subjects) -> None:
    commit = _message("A commit", CLOUD_EVENTS, _shared("commit"), "All events of one turn of the writer.")
    about = f"The journal, the source of truth: stream {subjects.stream_journal}, one message per commit."
    paper.channel("journal", subjects.journal, about, {"commit": commit | {"headers": _HEADERS}})
    paper.operation("append", "send", "journal", "Append a commit; commands are acknowledged only after it.")
    claim = _message("A claim", JSON, _shared("EpochClaim"), "The writer from this slot on.")
    about = f"Claims of the epoch, in the stream {subjects.stream_journal}."
    paper.channel("epoch", subjects.epoch, about, {"claim": claim})
    paper.operation("claim", "send", "epoch", "Claim the epoch, which is the right to write.")


def _feed(paper: _Paper, subjects: Subjects) -> None:
    kinds: dict[str, list[str]] = {}
    for name in IN_JOURNAL:
        kinds.setdefault(name.partition(".")[0], []).append(name)
    for kind, names in kinds.items():
        paper.channel(
            f"events.{kind}",
            subjects.event(f"{kind}.{_PLACE}").replace(_PLACE, "{event}"),
            f"Events about a {kind}, one per message, in the order of the journal: stream {subjects.stream_events}.",
            {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            parameters={"event": {"description": "What happened.", "enum": [name.partition(".")[2] for name in names]}},
        )
        paper.operation(f"tell.{kind}", "send", f"events.{kind}", f"Publish an event about a {kind}.")


def _inboxes(paper: _Paper, subjects: Subjects) -> None:
    event = _object(
        {
            "specversion": {"const": SPECVERSION},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "subject": {"type": "string", "description": "Id of the thing that a command is about."},
        },
        ["specversion", "id", "source", "type"],
    )
    batch = {"type": "array", "items": event, "minItems": 1, "maxItems": MOST_EVENTS}
    any_json = {"description": "Only the data; type and domain come from the subject."}
    paper.channel(
        "inbox",
        subjects.inbox("domain_", f"KIND.{_PLACE}")
        .replace("domain_", "{domain}")
        .replace("KIND", "{kind}")
        .replace(_PLACE, "{event}"),
        "Events and commands from another domain, in a stream of its own; each enters the journal exactly once.",
        {
            "event": _message("An event", CLOUD_EVENT, event, "A CloudEvent."),
            "batch": _message("Several events", CLOUD_EVENTS, batch, "CloudEvents, in the order of processing."),
            "bare": _message("Bare data", JSON, any_json, "JSON that is not a CloudEvent is used as the data of one."),
        },
        parameters={
            "domain": {"description": "Name of the publisher, enforced by NATS permissions."},
            "kind": {"description": "Kind of thing the event is about."},
            "event": {"description": "What happened, or what is commanded."},
        },
    )
    paper.operation("takeIn", "receive", "inbox", "Execute a command, or record an event of another domain.")


def _heartbeats(paper: _Paper, subjects: Subjects) -> None:
    kinds = ("service", "worker")
    parameters = {
        "kind": {"description": "Kind of the sender.", "enum": list(kinds)},
        "id": {"description": f"Id of the sender, {PATTERN}; heartbeats for another id are dropped."},
    }
    paper.channel(
        "heartbeats",
        subjects.heartbeat("KIND", _PLACE).replace("KIND", "{kind}").replace(_PLACE, "{id}"),
        f"Heartbeats: stream {subjects.stream_heartbeats}, in memory, only the last one of each sender.",
        {name: {"$ref": f"#/components/messages/{name}"} for name in sorted(HEARTBEATS) if name.startswith(kinds)},
        parameters=parameters,
    )
    paper.operation("hear", "receive", "heartbeats", "Record the heartbeat of a service or worker.")


def _hints(paper: _Paper, subjects: Subjects) -> None:
    leader = _object({"epoch": _text("Epoch of the leader, <generation>.<claim>.")}, ["epoch"])
    paper.channel(
        "leader",
        subjects.leader,
        "Notice of a new leader; clients resend unanswered requests at once.",
        {"leader": _message("Who leads", JSON, leader, "An instance has become the leader.")},
    )
    paper.operation("announce", "send", "leader", "Announce a new leader.")
    lost = {"type": "array", "items": {"type": "string"}, "description": "Leases that the worker no longer holds."}
    paper.channel(
        "notice",
        subjects.notice("KIND", _PLACE).replace("KIND", "{kind}").replace(_PLACE, "{id}"),
        "Hints for one worker or node to check for changes now, and outcomes of health checks; they may be lost.",
        {
            "notice": _message("A hint", JSON, _object({"lost": lost}), "Something changed for the receiver."),
            "check": _message("An outcome", JSON, _shared("CheckOutcome"), "A check of a service was reported."),
        },
        parameters={
            "kind": {"description": "Kind of the receiver, or `check`.", "enum": ["worker", "node", "check"]},
            "id": {"description": f"Id of the receiver, or of the checked service, {PATTERN}."},
        },
    )
    paper.operation("hint", "send", "notice", "Notify a worker or node of a change, and followers of a check.")
    paper.channel(
        "services",
        subjects.services,
        "Service changes, for watchers; a message may be lost, and the next one reveals the gap.",
        {"services": _message("Service changes", JSON, _shared("ServiceNotice"), "Service events of one commit.")},
    )
    paper.operation("tellServices", "send", "services", "Publish service changes.")


# --- requests ---------------------------------------------------------------------------------------------------------


def _answers(paper: _Paper) -> None:
    messages = {"node": _message("Answer of a node", JSON, _answer({}), "A value or an error.")}
    for verb, question in VERBS.items():
        schema = _answer(_value_of(question.Answer))
        messages[f"read.{verb}"] = _message(f"Answer to read {verb}", JSON, schema, "A value or an error.") | _example(
            question.NAME, {"ok": question.EXAMPLE.answer}
        )
    for name, command in COMMANDS.items():
        schema = _batch(_answer(_value_of(command.Answer), fields=command.__struct_fields__))
        messages[name] = _message(f"Answers to {name}", JSON, schema, "One answer per command, in the same order.")
        messages[name] |= _example(command.NAME, [{"ok": command.EXAMPLE.answer}])
    paper.channel("answers", None, "The reply subject of the request.", messages)


def _commands(paper: _Paper, subjects: Subjects) -> None:
    for name, command in COMMANDS.items():
        request = _message(name, JSON, _batch(_shared(WIRE_COMMANDS[command].__name__)), summary_of(command))
        request |= _example(command.NAME, [{"type": name, "data": command.EXAMPLE.request}])
        address = subjects.rpc(_PLACE, command.KIND, command.VERB).replace(_PLACE, "{source}")
        about = f"{summary_of(command)} Request and reply."
        paper.channel(f"rpc.{name}", address, about, {name: request}, parameters=_SOURCE)
        paper.operation(name, "receive", f"rpc.{name}", summary_of(command), reply=[name], **_said_of(command))


def _questions(paper: _Paper, subjects: Subjects) -> None:
    for verb, question in VERBS.items():
        asked = _message(f"read {verb}", JSON, _shared(f"Read{question.__name__}"), summary_of(question))
        asked |= _example(question.NAME, question.EXAMPLE.request)
        address = subjects.read(_PLACE, verb).replace(_PLACE, "{source}")
        about = f"{summary_of(question)} Answered by followers."
        paper.channel(f"read.{verb}", address, about, {"question": asked}, parameters=_SOURCE)
        more = _said_of(question)
        paper.operation(f"read.{verb}", "receive", f"read.{verb}", summary_of(question), reply=[f"read.{verb}"], **more)
    for verb, (struct, what) in NODE_VERBS.items():
        asked = _message(f"node {verb}", JSON, _shared(struct.__name__), _first_line(struct))
        address = subjects.node(_PLACE, verb).replace(_PLACE, "{node_id}")
        about = f"Return the {what} of a container; answered by its node agent."
        parameters = {"node_id": {"description": f"Id of the node, {PATTERN}."}}
        paper.channel(f"node.{verb}", address, about, {"question": asked}, parameters=parameters)
        paper.operation(f"node.{verb}", "receive", f"node.{verb}", about, reply=["node"])


def _said_of(operation: type[Operation]) -> Document:
    """Return what the class of an operation says and AsyncAPI has no field for, under names of its own."""
    return {
        "title": operation.NAME,
        "description": description_of(operation),
        "x-roles": list(roles_of(operation)),
        "x-reasons": list(refusals_of(operation)),
    }


def _reasons() -> Document:
    """Return what the reasons of refusals mean, and those that every operation of a door may have."""
    meanings: dict[str, str] = {}
    for operation in OPERATIONS.values():
        meanings |= refusals_of(operation) | always_of(operation)
    return {
        "meaning": dict(sorted(meanings.items())),
        "always": {"writer": sorted(Command.ALWAYS), "follower": sorted(ReadQuestion.ALWAYS)},
    }


def _example(name: str, payload: Any) -> Document:
    return {"examples": [{"name": name, "payload": payload}]}


# --- schemas ----------------------------------------------------------------------------------------------------------


def _schemas() -> Document:
    """Return every schema by name: events, commands, answers, questions and their components."""
    answers = [one.Answer for one in OPERATIONS.values() if one.Answer is not None]
    questions = {f"Read{one.__name__}": components([one], SHARED)[one.__name__] for one in VERBS.values()}
    commit = {"type": "array", "minItems": 1, "items": {"oneOf": [_shared(name) for name in IN_JOURNAL]}}
    return {
        **event_schemas(SHARED),
        **components([*WIRE_COMMANDS.values(), *answers, WireError, NodeQuestion, FollowQuestion, EpochClaim], SHARED),
        **questions,
        "commit": commit,
        "ServiceNotice": _object(
            {
                "epoch": _text("Epoch of the writer."),
                "previous": _text("Position of the previous commit with service events."),
                "position": _text("Position up to which the service changes are complete."),
                "events": {"type": "array", "items": {"oneOf": [_shared(name) for name in _about_services()]}},
            },
            ["epoch", "previous", "position", "events"],
        ),
    }


def _about_services() -> list[str]:
    return [name for name in IN_JOURNAL if name.startswith("service.")]


def _value_of(answer: Any) -> Document:
    """Describe the `ok` of an answer."""
    if answer is None:
        return {"type": "null"}
    described, _ = msgspec.json.schema_components([answer], ref_template=SHARED)
    return described[0]


def _answer(value: Document, *, fields: tuple[str, ...] = ()) -> Document:
    shared = {
        "epoch": _text("Epoch of the writer that answered."),
        "position": _text("Committed position at that time."),
    }
    if "idempotency_key" in fields:
        about = "Until which commit time the idempotency key is remembered, in seconds since 1970."
        shared |= {"key_holds_until": {"type": "number", "description": about}}
    if "environment" in fields:
        shared |= {"warning": _text("What the sender should know, for people.")}
    return {
        "oneOf": [
            _object({"ok": value, **shared}, ["ok"]),
            _object({"error": _shared(WireError.__name__), **shared}, ["error"]),
        ]
    }


def _batch(items: Document) -> Document:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_COMMANDS}


def _object(properties: Document, required: list[str] | None = None) -> Document:
    return {"type": "object", "properties": properties, "required": required or []}


def _text(about: str) -> Document:
    return {"type": "string", "description": about}


def _shared(name: str) -> Document:
    return reference(name, SHARED)


def _message(title: str, content_type: str, payload: Document, summary: str) -> Document:
    return {"title": title, "summary": summary, "contentType": content_type, "payload": payload}


def _first_line(of: type) -> str:
    return (of.__doc__ or "").strip().partition("\n")[0]


def _portable(schema: Any) -> Any:
    """Convert tuples and end-of-text patterns to the dialect of AsyncAPI: draft 7, and JavaScript patterns."""
    if isinstance(schema, list):
        return [_portable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _portable(value) for name, value in schema.items() if name != "prefixItems"}
    if "prefixItems" in schema:
        kept["items"] = _portable(schema["prefixItems"])
    if isinstance(kept.get("pattern"), str):
        kept["pattern"] = kept["pattern"].replace("\\Z", "$")
    return kept
