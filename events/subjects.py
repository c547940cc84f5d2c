"""
The only place that builds names of subjects, streams and buckets. Every token that is not a literal has passed `ids`.

    <ns>.journal                         the truth: one message per commit            stream <NS>_JOURNAL
    <ns>.epoch                           claims of the right to write                 stream <NS>_JOURNAL
    <ns>.snapshot.chunk, .manifest       snapshots of the world, made by followers    stream <NS>_SNAPSHOTS
    <ns>.archive                         what was archived and left the journal       stream <NS>_SNAPSHOTS
    <ns>.leader                          announcements of a new writer                core NATS
    <ns>.events.<kind>.<event>           the feed, one message per event              stream <NS>_EVENTS
    <ns>.inbox.<domain>.<kind>.<event>   facts from another domain                    stream <NS>_INBOX_<DOMAIN>
    <ns>.heartbeat.<kind>.<id>           heartbeats                                   stream <NS>_HEARTBEATS (memory)
    <ns>.rpc.<source>.<kind>.<verb>      commands and questions to the writer         core NATS, micro service
    <ns>.read.<source>.<verb>            questions to followers                       core NATS
    <ns>.notice.<kind>.<id>              hints to a worker or node: ask now           core NATS
    <ns>.services                        changes of services, for watchers            core NATS
    <ns>.node.<id>.<verb>                questions to one node agent: logs, usage …   core NATS
    $SRV.<verb>[.<name>[.<id>]]          service discovery by NATS tools (ADR-32)     core NATS
"""

from __future__ import annotations

import re

from events.errors import Refused, shown
from events.ids import checked

ANY = "*"
OWN_NAME = "coordinator"
"""The actor of what the coordinator does without a command; no domain may have this name."""

_is_domain = re.compile(r"[a-z0-9_-]{1,64}").fullmatch
_is_inbox = re.compile(r"_(?:INBOX[A-Za-z0-9_-]{0,64}|R_)(?:\.[A-Za-z0-9_-]{1,64}){1,8}").fullmatch


class Subjects:
    """Builds every name in one namespace (default `coordination`)."""

    def __init__(self, namespace: str = "coordination") -> None:
        self.namespace = checked(namespace, "namespace")
        upper = namespace.upper()
        self.journal = f"{namespace}.journal"
        self.epoch = f"{namespace}.epoch"
        self.snapshot_chunk = f"{namespace}.snapshot.chunk"
        self.snapshot_manifest = f"{namespace}.snapshot.manifest"
        self.snapshots_all = f"{namespace}.snapshot.*"
        self.archive = f"{namespace}.archive"
        self.leader = f"{namespace}.leader"
        self.services = f"{namespace}.services"
        self.events_all = f"{namespace}.events.>"
        self.heartbeats = f"{namespace}.heartbeat.*.*"
        self.inboxes_all = f"{namespace}.inbox.>"
        self.rpc_all = f"{namespace}.rpc.*.*.*"
        self.read_all = f"{namespace}.read.*.*"
        self.notices_all = f"{namespace}.notice.*.*"
        self.nodes_all = f"{namespace}.node.*.*"
        self.stream_journal = f"{upper}_JOURNAL"
        self.stream_events = f"{upper}_EVENTS"
        self.stream_heartbeats = f"{upper}_HEARTBEATS"
        self.streams_inbox = f"{upper}_INBOX_"
        self.bucket_lease = f"{upper}_LEASE"
        self.stream_snapshots = f"{upper}_SNAPSHOTS"

    def event(self, event_type: str) -> str:
        """Return the feed subject of an event type such as `task.submitted`."""
        kind, _, name = event_type.partition(".")
        return f"{self.namespace}.events.{checked(kind, 'kind')}.{checked(name, 'event')}"

    def inbox(self, domain: str, event_type: str) -> str:
        """Return the subject on which *domain* publishes events of a type such as `task.completed`."""
        kind, _, name = event_type.partition(".")
        return f"{self.namespace}.inbox.{checked_domain(domain)}.{checked(kind, 'kind')}.{checked(name, 'event')}"

    def inbox_all(self, domain: str) -> str:
        """Return the pattern of all subjects in the inbox of *domain*."""
        return f"{self.namespace}.inbox.{checked_domain(domain)}.*.*"

    def stream_inbox(self, domain: str) -> str:
        """Return the name of the stream that holds the inbox of *domain*."""
        return f"{self.streams_inbox}{checked_domain(domain).upper()}"

    def parse_stream_inbox(self, stream: str) -> str:
        """Return the domain whose inbox has the stream name *stream*; empty if it is not the name of an inbox."""
        domain = stream.removeprefix(self.streams_inbox).lower()
        if not stream.startswith(self.streams_inbox) or not is_domain(domain) or self.stream_inbox(domain) != stream:
            return ""
        return domain

    def parse_inbox(self, subject: str) -> tuple[str, str, str]:
        """Split an inbox subject into (domain, kind, event); NATS permissions guarantee the domain."""
        _, domain, kind, event = subject[len(self.namespace) :].split(".")[1:]
        return domain, kind, event

    def heartbeat(self, kind: str, entity_id: str) -> str:
        """Return the subject on which *kind* *entity_id* publishes its heartbeats."""
        return f"{self.namespace}.heartbeat.{checked(kind, 'kind')}.{checked(entity_id)}"

    def rpc(self, source: str, kind: str, verb: str) -> str:
        """Return the subject to which *source* sends the command or question *verb* about *kind*."""
        return f"{self.namespace}.rpc.{checked(source, 'source')}.{checked(kind, 'kind')}.{checked(verb, 'verb')}"

    def rpc_any(self, kind: str, verb: str) -> str:
        """Return the pattern for the command or question *verb* about *kind* from any source."""
        return f"{self.namespace}.rpc.{ANY}.{checked(kind, 'kind')}.{checked(verb, 'verb')}"

    def read(self, source: str, verb: str) -> str:
        """Return the subject to which *source* sends the question *verb* for followers."""
        return f"{self.namespace}.read.{checked(source, 'source')}.{checked(verb, 'verb')}"

    def notice(self, kind: str, entity_id: str) -> str:
        """Return the subject on which *kind* *entity_id* listens for hints that something changed for it."""
        return f"{self.namespace}.notice.{checked(kind, 'kind')}.{checked(entity_id)}"

    def node(self, node_id: str, verb: str) -> str:
        """Return the subject on which the agent of *node_id* answers *verb*."""
        return f"{self.namespace}.node.{checked(node_id, 'node_id')}.{checked(verb, 'verb')}"

    # --- patterns, for subscriptions and permissions ------------------------------------------------------------------

    def rpc_from(self, source: str) -> str:
        """Return the pattern of everything that *source* may send to the writer."""
        return f"{self.namespace}.rpc.{checked(source, 'source')}.*.*"

    def read_from(self, source: str) -> str:
        """Return the pattern of everything that *source* may ask followers."""
        return f"{self.namespace}.read.{checked(source, 'source')}.*"

    def heartbeats_of(self, kind: str) -> str:
        """Return the pattern of all heartbeats of a kind."""
        return f"{self.namespace}.heartbeat.{checked(kind, 'kind')}.*"

    def notices_of(self, kind: str) -> str:
        """Return the pattern of all hints to a kind."""
        return f"{self.namespace}.notice.{checked(kind, 'kind')}.*"

    def node_all(self, node_id: str) -> str:
        """Return the pattern of all questions to the agent of *node_id*."""
        return f"{self.namespace}.node.{checked(node_id, 'node_id')}.*"

    def parse_rpc(self, subject: str) -> tuple[str, str, str]:
        """Split an RPC subject into (source, kind, verb); NATS permissions guarantee the source."""
        _, source, kind, verb = subject[len(self.namespace) :].split(".")[1:]
        return source, kind, verb

    def parse_heartbeat(self, subject: str) -> tuple[str, str]:
        """Split a heartbeat subject into (kind, id)."""
        _, kind, entity_id = subject[len(self.namespace) :].split(".")[1:]
        return kind, entity_id


def service_api(verb: str, name: str | None = None, instance: str | None = None) -> str:
    """Return the subject of *verb* (PING, INFO, STATS) for all NATS services, those of *name*, or one instance."""
    tokens = [token for token in (name, instance) if token is not None]
    return ".".join(("$SRV", checked(verb, "verb"), *(checked(token, "service name or instance") for token in tokens)))


def is_domain(name: str) -> bool:
    """Return whether *name* is valid for a domain; no capitals, because the name of its stream is in upper case."""
    return name != OWN_NAME and _is_domain(name) is not None


def checked_domain(name: object) -> str:
    """
    Return *name* if it is valid for a domain.

    Raises:
        Refused: it is not 1 to 64 lower-case letters, digits, `_` or `-`, or it is the coordinator's own name.
    """
    if isinstance(name, str) and is_domain(name):
        return name
    msg = f"domain {shown(name)} is not a valid name: use 1 to 64 of a-z 0-9 _ -, and not {OWN_NAME!r}"
    raise Refused(msg, reason="bad_id")


def may_answer(reply: str) -> bool:
    """
    Return whether *reply* is a subject to answer on: an inbox, or what NATS makes of one between two accounts.

    The sender chooses it, and the answer is published with the permissions of the service that answers: the sender must
    not reach the journal, a lease, another stream or JetStream's own API that way.
    """
    return _is_inbox(reply) is not None
