"""
Who may do what on NATS: the one table of roles, the source of the server configuration and of its test. Pure.

Everything not granted here is denied. Users are split into two accounts because of how JetStream answers: the server
sends the answer to *any* request to the reply subject that the sender names, with the server's own rights. So anyone
who may publish into some stream of an account could have the acknowledgement written into the journal of that account.
Only the coordinator, its followers, the archive and the administrator are in the account that holds the streams; all
others reach it through subjects that it exports, and the answers stay in their own account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.reads import VERBS
from events.errors import Refused, shown
from events.ids import checked
from events.subjects import OWN_NAME, checked_domain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.commands.command import Command
    from events.subjects import Subjects

CORE_ROLES = ("coordinator", "follower", "archive", "admin")
CLIENT_ROLES = ("domain", "worker", "agents", "node", "monitor")
ROLES = CORE_ROLES + CLIENT_ROLES
NAMED = ("domain", "worker", "agents", "node")
"""Roles whose users have a name, that of the domain, worker or node; every other role has exactly one user."""

INBOXES_ALL = "_INBOX.>"
IMPORTED_REPLIES = "_R_.>"
"""The reply subjects that NATS generates for requests from another account."""

COMMANDS_OF: dict[str, frozenset[str]] = {
    role: frozenset(name for name, command in COMMANDS.items() if role in {"admin", *command.FOR}) for role in ROLES
}
"""The commands each role may send; the settings in `security` can restrict single users further."""
READERS = frozenset({"admin"}.union(*(question.FOR for question in VERBS.values())))
"""The roles that may ask followers."""


class User(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A user with its own credentials; `token` is its name in subjects and logs."""

    role: str
    name: str = ""

    @property
    def token(self) -> str:
        """The `<source>` of subjects: a domain by its name, others by their role and name."""
        if self.role == "domain":
            return self.name
        return f"{self.role}-{self.name}" if self.name else self.role


class Grant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one user may do, as subject patterns. `answers` allows it to answer requests it received."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_never: tuple[str, ...] = ()
    answers: bool = False


def user_of(role: str, name: str = "") -> User:
    """
    Return the user of *role* named *name*.

    Raises:
        Refused: the role is unknown, or the name is invalid, missing, or could be confused with a role.
    """
    if role not in ROLES:
        raise Refused(f"role {shown(role)} is not known: use {', '.join(ROLES)}", reason="bad_role")
    if role in NAMED and not name:
        raise Refused(f"role {role} needs a name: add that of the {role}", reason="bad_name")
    if role == "domain":
        checked_domain(name)
        if name == OWN_NAME or name.partition("-")[0] in ROLES:
            role_name = name.partition("-")[0]
            raise Refused(f"domain {shown(name)} could be confused with the role {role_name}: use another name")
    user = User(role=role, name=checked(name, f"name of the {role}") if name else "")
    checked(user.token, f"name of the {role}")
    return user


def grant_of(user: User, subjects: Subjects, domains: Iterable[str] = ()) -> Grant:
    """Return the grant of *user*; *domains* are those whose inboxes the coordinator reads."""
    token = user.token
    publish = [subjects.rpc(token, COMMANDS[one].KIND, COMMANDS[one].VERB) for one in sorted(COMMANDS_OF[user.role])]
    if user.role == "admin":
        publish = [subjects.rpc_from(token)]
    if user.role in READERS:
        publish.append(subjects.read_from(token))
    subscribe = [f"_INBOX.{token}.>", subjects.leader]
    never: tuple[str, ...] = ()
    answers = False
    match user.role:
        case "coordinator":
            publish += _writes(subjects, domains)
            subscribe += [subjects.rpc_all, subjects.heartbeats, "$SRV.>"]
        case "follower":
            publish += _follows(subjects)
            subscribe += [subjects.read_all, subjects.services, subjects.notices_of("check")]
        case "archive":
            publish += [*_reads_stream(subjects.stream_journal), _api("STREAM.PURGE", subjects.stream_journal)]
            publish += [*_keeps_snapshots(subjects), subjects.archive]
        case "admin":
            publish += [subjects.nodes_all, "$JS.API.>", "$JS.SNAPSHOT.>"]
            subscribe += [subjects.events_all, subjects.services]
            never = (_api("STREAM.PURGE", subjects.stream_journal),)
        case "domain":
            publish += [subjects.inbox_all(user.name), subjects.heartbeats_of("service")]
            subscribe += [subjects.events_all, subjects.services]
        case "worker":
            publish.append(subjects.heartbeat("worker", user.name))
            subscribe.append(subjects.notice("worker", user.name))
        case "agents":
            publish += [subjects.heartbeats_of("worker"), subjects.heartbeats_of("service")]
            subscribe += [subjects.notices_of("worker"), subjects.services]
        case "node":
            subscribe += [subjects.node_all(user.name), subjects.notice("node", user.name)]
            answers = True
        case _:
            subscribe += [subjects.events_all, subjects.services]
    return Grant(publish=tuple(publish), subscribe=tuple(subscribe), publish_never=never, answers=answers)


def _writes(subjects: Subjects, domains: Iterable[str]) -> list[str]:
    """Return the subjects the writer publishes to, including its JetStream requests."""
    lease = f"KV_{subjects.bucket_lease}"
    asked = [
        *_reads_stream(subjects.stream_journal),
        *(_api("STREAM.CREATE", name) for name in (subjects.stream_journal, subjects.stream_heartbeats, lease)),
        *(_api("STREAM.INFO", name) for name in (subjects.stream_heartbeats, lease)),
        *(_api("STREAM.MSG.GET", name) for name in (lease, subjects.stream_events)),
        _api("STREAM.INFO", subjects.stream_events),
        _api("DIRECT.GET", subjects.stream_heartbeats),
        "$JS.API.STREAM.NAMES",
        # It reads them at its start; a restore writes them, and `verify --accept` removes those of lost positions.
        *(_api(verb, subjects.stream_snapshots) for verb in (*_SNAPSHOTS, "STREAM.MSG.DELETE")),
    ]
    for domain in domains:
        inbox = subjects.stream_inbox(domain)
        asked += [*_reads_stream(inbox), *(_api(verb, inbox) for verb in ("STREAM.UPDATE", "STREAM.PURGE"))]
    return [
        *(subjects.journal, subjects.epoch, subjects.leader, subjects.services, subjects.notices_all),
        *(subjects.snapshot_chunk, subjects.snapshot_manifest, subjects.archive),
        f"$KV.{subjects.bucket_lease}.writer",
        *(INBOXES_ALL, IMPORTED_REPLIES),
        *asked,
    ]


def _follows(subjects: Subjects) -> list[str]:
    """Return the subjects a follower publishes to, including its JetStream requests."""
    events = subjects.stream_events
    feed = [_api(verb, events) for verb in ("STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.GET")]
    reads = [*_reads_stream(subjects.stream_journal), *_keeps_snapshots(subjects)]
    return [subjects.events_all, INBOXES_ALL, IMPORTED_REPLIES, *reads, *feed]


_SNAPSHOTS = ("STREAM.INFO", "STREAM.CREATE", "STREAM.MSG.GET")


def _keeps_snapshots(subjects: Subjects) -> list[str]:
    """Return the subjects for writing snapshots and removing old ones, without the record of what was archived."""
    asked = [_api(verb, subjects.stream_snapshots) for verb in (*_SNAPSHOTS, "STREAM.PURGE")]
    return [subjects.snapshot_chunk, subjects.snapshot_manifest, *asked]


def _reads_stream(stream: str) -> list[str]:
    """Return the subjects for reading a stream: an own consumer, and single messages from the stream's leader."""
    consumer = [f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("CREATE", "MSG.NEXT", "DELETE")]
    return [_api("STREAM.INFO", stream), _api("STREAM.MSG.GET", stream), *consumer]


def _api(verb: str, stream: str) -> str:
    return f"$JS.API.{verb}.{stream}"


# --- between the two accounts -----------------------------------------------------------------------------------------


class Bridge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one account exports to the other: subjects of requests and of messages."""

    requests_in: tuple[str, ...]
    """From the clients' account to the account of the streams."""
    requests_out: tuple[str, ...]
    messages_out: tuple[str, ...]


def bridge_of(subjects: Subjects) -> Bridge:
    """Return what passes between the accounts."""
    return Bridge(
        requests_in=(subjects.rpc_all, subjects.read_all, subjects.heartbeats, f"{subjects.inboxes_all[:-1]}*.*.*"),
        requests_out=(subjects.nodes_all,),
        messages_out=(subjects.events_all, subjects.leader, subjects.services, subjects.notices_all),
    )


def account_of(user: User, subjects: Subjects) -> str:
    """Return the name of the account that *user* belongs to."""
    core = subjects.namespace.upper()
    return core if user.role in CORE_ROLES else f"{core}_CLIENTS"


# --- what a grant means -----------------------------------------------------------------------------------------------


def may_publish(grant: Grant, subject: str) -> bool:
    """Return whether the server allows a user with *grant* to publish on *subject*."""
    return _among(grant.publish, subject) and not _among(grant.publish_never, subject)


def may_subscribe(grant: Grant, subject: str) -> bool:
    """Return whether the server allows a user with *grant* to subscribe to *subject*."""
    return _among(grant.subscribe, subject)


def _among(patterns: tuple[str, ...], subject: str) -> bool:
    return any(covers(pattern, subject) for pattern in patterns)


def covers(pattern: str, subject: str) -> bool:
    """Return whether *pattern* matches everything that *subject*, which may be a pattern too, matches."""
    tokens, wanted = pattern.split("."), subject.split(".")
    for index, one in enumerate(tokens):
        if one == ">":
            return len(wanted) > index
        if index >= len(wanted) or wanted[index] == ">" or (one not in ("*", wanted[index])):
            return False
    return len(tokens) == len(wanted)


def commands_of(role: str) -> frozenset[type[Command]]:
    """Return the commands that *role* may send."""
    return frozenset(COMMANDS[name] for name in COMMANDS_OF[role])
