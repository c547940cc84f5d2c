"""Subjects, streams and buckets: spelled in one place, from checked tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from events import codec
from events.errors import Refused
from events.subjects import ANY, Subjects, service_api

if TYPE_CHECKING:
    from collections.abc import Callable

S = Subjects()
HOSTILE = ["", "*", ">", "a.b", "a b", "a\n", "\0", "é", "a" * 65]

BUILDERS: dict[str, Callable[[str], str]] = {
    "namespace": lambda token: Subjects(token).journal,
    "event kind": lambda token: S.event(f"{token}.submitted"),
    "event name": lambda token: S.event(f"task.{token}"),
    "heartbeat kind": lambda token: S.heartbeat(token, "w"),
    "heartbeat id": lambda token: S.heartbeat("worker", token),
    "inbox kind": lambda token: S.inbox("execution", f"{token}.done"),
    "inbox event": lambda token: S.inbox("execution", f"task.{token}"),
    "rpc source": lambda token: S.rpc(token, "task", "submit"),
    "rpc kind": lambda token: S.rpc("local", token, "submit"),
    "rpc verb": lambda token: S.rpc("local", "task", token),
    "any rpc kind": lambda token: S.rpc_any(token, "submit"),
    "any rpc verb": lambda token: S.rpc_any("task", token),
    "service verb": service_api,
    "service name": lambda token: service_api("PING", token),
    "service instance": lambda token: service_api("PING", "coordinator", token),
    "read source": lambda token: S.read(token, "find"),
    "read verb": lambda token: S.read("local", token),
    "notice kind": lambda token: S.notice(token, "w"),
    "notice id": lambda token: S.notice("worker", token),
    "node id": lambda token: S.node(token, "logs"),
    "node verb": lambda token: S.node("n", token),
}


def test_every_name_is_spelled_as_the_contract_says() -> None:
    """Other programs, credentials and archives go by these names."""
    assert vars(S) == {
        "namespace": "coordination",
        "journal": "coordination.journal",
        "epoch": "coordination.epoch",
        "snapshot_chunk": "coordination.snapshot.chunk",
        "snapshot_manifest": "coordination.snapshot.manifest",
        "snapshots_all": "coordination.snapshot.*",
        "archive": "coordination.archive",
        "leader": "coordination.leader",
        "services": "coordination.services",
        "events_all": "coordination.events.>",
        "heartbeats": "coordination.heartbeat.*.*",
        "inboxes_all": "coordination.inbox.>",
        "rpc_all": "coordination.rpc.*.*.*",
        "read_all": "coordination.read.*.*",
        "notices_all": "coordination.notice.*.*",
        "nodes_all": "coordination.node.*.*",
        "stream_journal": "COORDINATION_JOURNAL",
        "stream_events": "COORDINATION_EVENTS",
        "stream_heartbeats": "COORDINATION_HEARTBEATS",
        "streams_inbox": "COORDINATION_INBOX_",
        "bucket_lease": "COORDINATION_LEASE",
        "stream_snapshots": "COORDINATION_SNAPSHOTS",
    }
    assert ANY == "*"


def test_subjects_are_made_of_their_tokens() -> None:
    """Each builder puts its tokens where the table at the top of the file says."""
    assert S.event("task.attempt_failed") == "coordination.events.task.attempt_failed"
    assert S.heartbeat("worker", "w1") == "coordination.heartbeat.worker.w1"
    assert S.rpc("local", "task", "submit") == "coordination.rpc.local.task.submit"
    assert S.rpc_any("task", "submit") == "coordination.rpc.*.task.submit"
    assert S.read("local", "find") == "coordination.read.local.find"
    assert S.notice("node", "n1") == "coordination.notice.node.n1"
    assert S.node("n1", "logs") == "coordination.node.n1.logs"
    assert S.rpc_from("local") == "coordination.rpc.local.*.*"
    assert S.read_from("local") == "coordination.read.local.*"
    assert S.heartbeats_of("worker") == "coordination.heartbeat.worker.*"
    assert S.notices_of("worker") == "coordination.notice.worker.*"
    assert S.node_all("n1") == "coordination.node.n1.*"


def test_the_subjects_of_nats_tools() -> None:
    """Those of all services, of the ones of a name, of one instance."""
    assert service_api("PING") == "$SRV.PING"
    assert service_api("INFO", "coordinator") == "$SRV.INFO.coordinator"
    assert service_api("STATS", "coordinator", "c1") == "$SRV.STATS.coordinator.c1"


def test_another_namespace_shares_no_name() -> None:
    """Two clusters in one account differ in every subject, stream and bucket."""
    other = Subjects("test-7")
    assert other.stream_journal == "TEST-7_JOURNAL"
    assert not set(vars(S).values()) & set(vars(other).values())
    assert other.rpc("local", "task", "submit") == "test-7.rpc.local.task.submit"


@pytest.mark.parametrize("token", HOSTILE)
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_no_unchecked_token_enters_a_subject(build: Callable[[str], str], token: str) -> None:
    """A wildcard or separator in a token is refused, whichever token it is."""
    with pytest.raises(Refused, match="is not an identifier"):
        build(token)


@pytest.mark.parametrize("token", [*HOSTILE, "Execution", "coordinator"])
def test_a_domain_has_no_capitals_and_no_name_of_ours(token: str) -> None:
    """Its stream's name has it in capitals, so two that differ in them alone would share one; nobody poses as us."""
    for build in (S.inbox_all, S.stream_inbox, lambda domain: S.inbox(domain, "task.done")):
        with pytest.raises(Refused, match="is not a valid name: use 1 to 64 of a-z"):
            build(token)


def test_the_stream_of_an_inbox_is_known_by_its_name() -> None:
    """And only one that is spelled as it must be."""
    assert S.stream_inbox("exec-2") == "COORDINATION_INBOX_EXEC-2"
    assert S.parse_stream_inbox("COORDINATION_INBOX_EXEC-2") == "exec-2"
    assert S.inbox_all("exec-2") == "coordination.inbox.exec-2.*.*"
    others = (
        "COORDINATION_JOURNAL",
        "COORDINATION_INBOX_",
        "COORDINATION_INBOX_exec",
        "COORDINATION_INBOX_COORDINATOR",
    )
    assert [S.parse_stream_inbox(other) for other in others] == ["", "", "", ""]


@pytest.mark.parametrize("name", codec.EVENTS)
def test_every_event_type_has_a_feed_subject_of_its_own(name: str) -> None:
    """A type on the wire is the end of its subject."""
    assert S.event(name) == f"coordination.events.{name}"


def test_a_type_without_a_dot_has_no_subject() -> None:
    """What is no event type is not published."""
    with pytest.raises(Refused):
        S.event("task")


@pytest.mark.parametrize("namespace", ["coordination", "a", "A-b_c"])
def test_what_was_built_is_parsed_again(namespace: str) -> None:
    """The door learns source, kind, verb and id from the subject alone."""
    subjects = Subjects(namespace)
    assert subjects.parse_rpc(subjects.rpc("s", "k", "v")) == ("s", "k", "v")
    assert subjects.parse_inbox(subjects.inbox("d", "k.e")) == ("d", "k", "e")
    assert subjects.parse_heartbeat(subjects.heartbeat("worker", "w1")) == ("worker", "w1")
