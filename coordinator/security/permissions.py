"""
Who may do what on NATS: the one table of roles, from which the server's configuration and its test are made. Pure.

Everything that is not granted here is denied. Two accounts keep users away from what JetStream would do for them: a
server answers *any* request on whatever reply subject its sender names, with the server's own rights, so that whoever
may publish into some stream of an account could have the acknowledgement written into the journal of that account.
Only the coordinator, its followers, the archive and the administrator are in the account that holds the streams; all
others reach it by subjects that it exports, and answers to them stay in their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands import COMMANDS
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
"""Roles whose users each have a name: of the domain, the worker, the node; of others there is one by itself."""

INBOXES_ALL = "_INBOX.>"
IMPORTED_REPLIES = "_R_.>"
"""What NATS makes of the reply subject of a request from another account."""

COMMANDS_OF: dict[str, frozenset[str]] = {
    role: frozenset(name for name, command in COMMANDS.items() if role in {"admin", *command.FOR}) for role in ROLES
}
"""Which orders and questions each role may send; who of a role may do less is told by the settings of `security`."""


class User(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Somebody with credentials of their own; `token` is what subjects and logs call them."""

    role: str
    name: str = ""

    @property
    def token(self) -> str:
        """The `<source>` of subjects: a domain by its name, others by their role and name."""
        if self.role == "domain":
            return self.name
        return f"{self.role}-{self.name}" if self.name else self.role


class Grant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one user may: patterns of subjects. `answers` is whether requests that came may be answered."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_never: tuple[str, ...] = ()
    answers: bool = False


def user_of(role: str, name: str = "") -> User:
    """
    Give the user of *role* named *name*.

    Raises:
        Refused: there is no such role, or the name is none, is missing, or would be taken for another's.
    """
    if role not in ROLES:
        raise Refused(f"role {shown(role)} is not known: use {', '.join(ROLES)}", reason="bad_role")
    if role in NAMED and not name:
        raise Refused(f"a {role} needs a name: that of the {role}", reason="bad_name")
    if role == "domain":
        checked_domain(name)
        if name == OWN_NAME or name.partition("-")[0] in ROLES:
            raise Refused(f"domain {shown(name)} would be taken for a {name.partition('-')[0]}: use another name")
    user = User(role=role, name=checked(name, f"name of the {role}") if name else "")
    checked(user.token, f"name of the {role}")
    return user


def grant_of(user: User, subjects: Subjects, domains: Iterable[str] = ()) -> Grant:
    """Say what *user* may; *domains* are those whose inboxes the coordinator reads."""
    token = user.token
    publish = [subjects.rpc(token, COMMANDS[one].KIND, COMMANDS[one].VERB) for one in sorted(COMMANDS_OF[user.role])]
    if user.role == "admin":
        publish = [subjects.rpc_from(token)]
    subscribe = [f"_INBOX.{token}.>", subjects.leader]
    never: tuple[str, ...] = ()
    answers = False
    match user.role:
        case "coordinator":
            publish += _writes(subjects, domains)
            subscribe += [subjects.rpc_all, subjects.heartbeats, "$SRV.>"]
        case "follower":
            publish += _follows(subjects)
            subscribe += [subjects.read_all, subjects.services]
        case "archive":
            publish += [*_reads_stream(subjects.stream_journal), _api("STREAM.PURGE", subjects.stream_journal)]
            publish += [*_keeps_snapshots(subjects), subjects.archive]
        case "admin":
            publish += [subjects.read_from(token), subjects.nodes_all, "$JS.API.>", "$JS.SNAPSHOT.>"]
            subscribe += [subjects.events_all, subjects.services]
            never = (_api("STREAM.PURGE", subjects.stream_journal),)
        case "domain":
            publish += [subjects.read_from(token), subjects.inbox_all(user.name), subjects.heartbeats_of("service")]
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
            publish.append(subjects.read_from(token))
            subscribe += [subjects.events_all, subjects.services]
    return Grant(publish=tuple(publish), subscribe=tuple(subscribe), publish_never=never, answers=answers)


def _writes(subjects: Subjects, domains: Iterable[str]) -> list[str]:
    """What the writer publishes, and what it asks of JetStream."""
    lease = f"KV_{subjects.bucket_lease}"
    asked = [
        *_reads_stream(subjects.stream_journal),
        *(_api("STREAM.CREATE", name) for name in (subjects.stream_journal, subjects.stream_heartbeats, lease)),
        *(_api("STREAM.INFO", name) for name in (subjects.stream_heartbeats, lease)),
        *(_api("STREAM.MSG.GET", name) for name in (lease, subjects.stream_events)),
        _api("STREAM.INFO", subjects.stream_events),
        _api("DIRECT.GET", subjects.stream_heartbeats),
        "$JS.API.STREAM.NAMES",
        # It reads them as it begins; a restore writes them, and whoever accepts a loss removes those of what is lost.
        *(_api(verb, subjects.stream_snapshots) for verb in (*_SNAPSHOTS, "STREAM.MSG.DELETE")),
    ]
    for domain in domains:
        asked += _reads_stream(subjects.stream_inbox(domain))
    return [
        *(subjects.journal, subjects.epoch, subjects.leader, subjects.services, subjects.notices_all),
        *(subjects.snapshot_chunk, subjects.snapshot_manifest, subjects.archive),
        f"$KV.{subjects.bucket_lease}.writer",
        *(INBOXES_ALL, IMPORTED_REPLIES),
        *asked,
    ]


def _follows(subjects: Subjects) -> list[str]:
    """What a follower publishes, and what it asks of JetStream."""
    events = subjects.stream_events
    feed = [_api(verb, events) for verb in ("STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.GET")]
    reads = [*_reads_stream(subjects.stream_journal), *_keeps_snapshots(subjects)]
    return [subjects.events_all, INBOXES_ALL, IMPORTED_REPLIES, *reads, *feed]


_SNAPSHOTS = ("STREAM.INFO", "STREAM.CREATE", "STREAM.MSG.GET")


def _keeps_snapshots(subjects: Subjects) -> list[str]:
    """What it takes to write snapshots and to remove old ones; what was archived may be noted by few of those."""
    asked = [_api(verb, subjects.stream_snapshots) for verb in (*_SNAPSHOTS, "STREAM.PURGE")]
    return [subjects.snapshot_chunk, subjects.snapshot_manifest, *asked]


def _reads_stream(stream: str) -> list[str]:
    """What reading a stream takes: a consumer of one's own, and single messages from the stream's leader."""
    consumer = [f"$JS.API.CONSUMER.{verb}.{stream}.*" for verb in ("CREATE", "MSG.NEXT", "DELETE")]
    return [_api("STREAM.INFO", stream), _api("STREAM.MSG.GET", stream), *consumer]


def _api(verb: str, stream: str) -> str:
    return f"$JS.API.{verb}.{stream}"


# --- between the two accounts -----------------------------------------------------------------------------------------


class Bridge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What passes from one account to the other: requests one way, streams of messages the other."""

    requests_in: tuple[str, ...]
    """From the clients' account into that of the streams."""
    requests_out: tuple[str, ...]
    messages_out: tuple[str, ...]


def bridge_of(subjects: Subjects) -> Bridge:
    """Say what passes between the accounts."""
    return Bridge(
        requests_in=(subjects.rpc_all, subjects.read_all, subjects.heartbeats, f"{subjects.inboxes_all[:-1]}*.*.*"),
        requests_out=(subjects.nodes_all,),
        messages_out=(subjects.events_all, subjects.leader, subjects.services, subjects.notices_all),
    )


def account_of(user: User, subjects: Subjects) -> str:
    """Name the account that *user* belongs to."""
    core = subjects.namespace.upper()
    return core if user.role in CORE_ROLES else f"{core}_CLIENTS"


# --- what a grant means -----------------------------------------------------------------------------------------------


def may_publish(grant: Grant, subject: str) -> bool:
    """Say whether the server lets somebody with *grant* publish on *subject*."""
    return _among(grant.publish, subject) and not _among(grant.publish_never, subject)


def may_subscribe(grant: Grant, subject: str) -> bool:
    """Say whether the server lets somebody with *grant* subscribe to *subject*."""
    return _among(grant.subscribe, subject)


def _among(patterns: tuple[str, ...], subject: str) -> bool:
    return any(covers(pattern, subject) for pattern in patterns)


def covers(pattern: str, subject: str) -> bool:
    """Say whether all that *subject*, which may be a pattern too, stands for is in *pattern*."""
    tokens, wanted = pattern.split("."), subject.split(".")
    for index, one in enumerate(tokens):
        if one == ">":
            return len(wanted) > index
        if index >= len(wanted) or wanted[index] == ">" or (one not in ("*", wanted[index])):
            return False
    return len(tokens) == len(wanted)


def commands_of(role: str) -> frozenset[type[Command]]:
    """Give the commands that *role* may send."""
    return frozenset(COMMANDS[name] for name in COMMANDS_OF[role])
