"""
All that crosses NATS as one AsyncAPI 3.0 document: who may publish what on which subject, and what answers it.

It is made of the same structs that read and write the messages, the same table of commands and the same spelling of
subjects; `docs/schema/asyncapi.json` is this, and never edited. Operations are told from the coordinator's side: what
it sends, and what it receives.
"""

from __future__ import annotations

from typing import Any

import msgspec

from coordinator import __version__
from coordinator.commands import COMMANDS
from coordinator.commands.node import NodeQuestion
from coordinator.commands.reads import VERBS
from coordinator.commands.wire import MOST_COMMANDS, WIRE_COMMANDS, WireError
from coordinator.doors.inbox_messages import MOST_EVENTS
from events.codec import EVENTS, HEARTBEATS, SPECVERSION
from events.coordinator import EpochClaim
from events.ids import PATTERN
from events.schema import IN_JOURNAL, components, event_schemas, reference
from events.subjects import Subjects

SHARED = "#/components/schemas/{name}"
JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
NODE_VERBS = ("logs", "usage")

_PLACE = "PLACE"
"""Stands in a subject where a parameter is to be, for a subject is made of checked tokens alone."""
_SOURCE = {"source": {"description": f"Who asks: the name that NATS permissions vouch for, {PATTERN}."}}
_HEADERS = {
    "type": "object",
    "required": ["Nats-Msg-Id", "Chain", "Content-Type"],
    "properties": {
        "Nats-Msg-Id": {"type": "string", "description": "<generation>.<claim>.<sequence>"},
        "Chain": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Hash of all before this message."},
        "Content-Type": {"const": CLOUD_EVENTS},
    },
}

Document = dict[str, Any]


class _Paper:
    """The document as it fills."""

    def __init__(self) -> None:
        self.channels: Document = {}
        self.operations: Document = {}

    def channel(self, name: str, address: str | None, about: str, messages: Document, **more: Any) -> None:
        self.channels[name] = {"address": address, "description": about, "messages": messages, **more}

    def operation(self, name: str, action: str, channel: str, about: str, *, reply: list[str] | None = None) -> None:
        """Say what the coordinator does on a channel; *reply* names the messages that may answer."""
        messages = [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in self.channels[channel]["messages"]]
        self.operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": about,
            "messages": messages,
        }
        if reply is not None:
            answers = [{"$ref": f"#/channels/answers/messages/{name}"} for name in reply]
            self.operations[name]["reply"] = {"channel": {"$ref": "#/channels/answers"}, "messages": answers}


def asyncapi(namespace: str = "coordination") -> Document:
    """Give the document, for subjects under *namespace*."""
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
            "description": "Containers, services and tasks of many agents; every change an event. See docs/protocol.md",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "The cluster's NATS."}},
        "channels": paper.channels,
        "operations": paper.operations,
        "components": {
            "messages": {
                name: _message(name, CLOUD_EVENT, _shared(name), _first_line(EVENTS[name])) for name in EVENTS
            },
            "schemas": {name: _portable(schema) for name, schema in _schemas().items()},
        },
    }


# --- what is published ------------------------------------------------------------------------------------------------


def _journal(paper: _Paper, subjects: Subjects) -> None:
    commit = _message("A commit", CLOUD_EVENTS, _shared("commit"), "All that one turn of the writer decided.")
    about = f"The truth, and all of it: stream {subjects.stream_journal}, one message for each commit."
    paper.channel("journal", subjects.journal, about, {"commit": commit | {"headers": _HEADERS}})
    paper.operation("append", "send", "journal", "Append a commit; nothing is acknowledged before.")
    claim = _message("A claim", JSON, _shared("EpochClaim"), "Who may write from here on.")
    about = f"Claims of the right to write, in the stream {subjects.stream_journal}."
    paper.channel("epoch", subjects.epoch, about, {"claim": claim})
    paper.operation("claim", "send", "epoch", "Claim the right to write.")


def _feed(paper: _Paper, subjects: Subjects) -> None:
    kinds: dict[str, list[str]] = {}
    for name in IN_JOURNAL:
        kinds.setdefault(name.partition(".")[0], []).append(name)
    for kind, names in kinds.items():
        paper.channel(
            f"events.{kind}",
            subjects.event(f"{kind}.{_PLACE}").replace(_PLACE, "{event}"),
            f"Facts about a {kind}, one message each, in the order of the journal: stream {subjects.stream_events}.",
            {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            parameters={"event": {"description": "What happened.", "enum": [name.partition(".")[2] for name in names]}},
        )
        paper.operation(f"tell.{kind}", "send", f"events.{kind}", f"Tell what became of a {kind}.")


def _inboxes(paper: _Paper, subjects: Subjects) -> None:
    event = _object(
        {
            "specversion": {"const": SPECVERSION},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "subject": {"type": "string", "description": "The id of the thing that an order is about."},
        },
        ["specversion", "id", "source", "type"],
    )
    batch = {"type": "array", "items": event, "minItems": 1, "maxItems": MOST_EVENTS}
    any_json = {"description": "The data alone; type and domain are those of the subject."}
    paper.channel(
        "inbox",
        subjects.inbox("domain_", f"KIND.{_PLACE}")
        .replace("domain_", "{domain}")
        .replace("KIND", "{kind}")
        .replace(_PLACE, "{event}"),
        "Events of another domain, orders among them, into a stream of its own; each enters the journal exactly once.",
        {
            "event": _message("An event", CLOUD_EVENT, event, "A CloudEvent."),
            "batch": _message("Several events", CLOUD_EVENTS, batch, "CloudEvents, in the order they are to be taken."),
            "bare": _message("Bare data", JSON, any_json, "What is no CloudEvent is data of one."),
        },
        parameters={
            "domain": {"description": "Who publishes: the name that NATS permissions vouch for."},
            "kind": {"description": "What it is about."},
            "event": {"description": "What happened, or is to happen."},
        },
    )
    paper.operation("takeIn", "receive", "inbox", "Carry out an order, or keep a fact of another domain.")


def _heartbeats(paper: _Paper, subjects: Subjects) -> None:
    kinds = ("service", "worker")
    parameters = {
        "kind": {"description": "What lives.", "enum": list(kinds)},
        "id": {"description": f"Its id, {PATTERN}; a beat for another is dropped."},
    }
    paper.channel(
        "heartbeats",
        subjects.heartbeat("KIND", _PLACE).replace("KIND", "{kind}").replace(_PLACE, "{id}"),
        f"Signs of life: stream {subjects.stream_heartbeats}, in memory, the last one of each.",
        {name: {"$ref": f"#/components/messages/{name}"} for name in sorted(HEARTBEATS) if name.startswith(kinds)},
        parameters=parameters,
    )
    paper.operation("hear", "receive", "heartbeats", "Note that a service or worker lives.")


def _hints(paper: _Paper, subjects: Subjects) -> None:
    leader = _object({"epoch": _text("Its reign, <generation>.<claim>.")}, ["epoch"])
    paper.channel(
        "leader",
        subjects.leader,
        "Another instance leads: what is unanswered is sent again at once.",
        {"leader": _message("Who leads", JSON, leader, "An instance begins to lead.")},
    )
    paper.operation("announce", "send", "leader", "Say that another instance leads.")
    lost = {"type": "array", "items": {"type": "string"}, "description": "Leases that are not the worker's any more."}
    paper.channel(
        "notice",
        subjects.notice("KIND", _PLACE).replace("KIND", "{kind}").replace(_PLACE, "{id}"),
        "Hints to one worker or node to look now; any of them may be lost.",
        {"notice": _message("A hint", JSON, _object({"lost": lost}), "Something changed for it.")},
        parameters={
            "kind": {"description": "Who listens.", "enum": ["worker", "node"]},
            "id": {"description": f"Its id, {PATTERN}."},
        },
    )
    paper.operation("hint", "send", "notice", "Tell a worker or node to look now.")
    paper.channel(
        "services",
        subjects.services,
        "What became of services, for watchers; any of them may be lost, and then the next one tells.",
        {"services": _message("What became of services", JSON, _shared("ServiceNotice"), "Changes of services.")},
    )
    paper.operation("tellServices", "send", "services", "Tell what became of services.")


# --- what is asked ----------------------------------------------------------------------------------------------------


def _answers(paper: _Paper) -> None:
    told = {"read": "A follower's answer", "node": "A node's answer"}
    one = _answer({})
    messages = {name: _message(title, JSON, one, "A value, or what was wrong.") for name, title in told.items()}
    for name, command in COMMANDS.items():
        schema = _batch(_answer(_value_of(command.Answer)))
        messages[name] = _message(f"Answers to {name}", JSON, schema, "One for each command, in their order.")
    paper.channel("answers", None, "The reply subject that came with the request: an inbox.", messages)


def _commands(paper: _Paper, subjects: Subjects) -> None:
    for name, command in COMMANDS.items():
        request = _message(name, JSON, _batch(_shared(WIRE_COMMANDS[command].__name__)), _first_line(command))
        address = subjects.rpc(_PLACE, command.KIND, command.VERB).replace(_PLACE, "{source}")
        about = f"{_first_line(command)} Request and reply."
        paper.channel(f"rpc.{name}", address, about, {name: request}, parameters=_SOURCE)
        paper.operation(name, "receive", f"rpc.{name}", _first_line(command), reply=[name])


def _questions(paper: _Paper, subjects: Subjects) -> None:
    for verb, question in VERBS.items():
        asked = _message(f"read {verb}", JSON, _shared(f"Read{question.__name__}"), _first_line(question))
        address = subjects.read(_PLACE, verb).replace(_PLACE, "{source}")
        about = f"{_first_line(question)} Asked of followers."
        paper.channel(f"read.{verb}", address, about, {"question": asked}, parameters=_SOURCE)
        paper.operation(f"read.{verb}", "receive", f"read.{verb}", _first_line(question), reply=["read"])
    for verb in NODE_VERBS:
        asked = _message(f"node {verb}", JSON, _shared("NodeQuestion"), _first_line(NodeQuestion))
        address = subjects.node(_PLACE, verb).replace(_PLACE, "{node_id}")
        about = f"The {verb} of a container, asked of its node's agent."
        parameters = {"node_id": {"description": f"The node's id, {PATTERN}."}}
        paper.channel(f"node.{verb}", address, about, {"question": asked}, parameters=parameters)
        paper.operation(f"node.{verb}", "receive", f"node.{verb}", about, reply=["node"])


# --- schemas ----------------------------------------------------------------------------------------------------------


def _schemas() -> Document:
    """Give every schema by name: events, commands, answers, questions, and what they hold."""
    answers = [command.Answer for command in COMMANDS.values() if command.Answer is not None]
    questions = {f"Read{one.__name__}": components([one], SHARED)[one.__name__] for one in VERBS.values()}
    commit = {"type": "array", "minItems": 1, "items": {"oneOf": [_shared(name) for name in IN_JOURNAL]}}
    return {
        **event_schemas(SHARED),
        **components([*WIRE_COMMANDS.values(), *answers, WireError, NodeQuestion, EpochClaim], SHARED),
        **questions,
        "commit": commit,
        "ServiceNotice": _object(
            {
                "epoch": _text("The writer's reign."),
                "previous": _text("Position of the commit that told of services before this."),
                "position": _text("Services are as told up to here."),
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


def _answer(value: Document) -> Document:
    told = {"epoch": _text("Reign of the writer that answered."), "position": _text("What was committed then.")}
    return {
        "oneOf": [
            _object({"ok": value, **told}, ["ok"]),
            _object({"error": _shared(WireError.__name__), **told}, ["error"]),
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
    """Say tuples and the end of a text as AsyncAPI's own schemas do: draft 7, and patterns as in JavaScript."""
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
