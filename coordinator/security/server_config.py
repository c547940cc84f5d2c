"""
The configuration of a nats-server with users and permissions: text from grants, and nothing else. Pure.

`nats.conf` is written once and then belongs to whoever runs the server; `accounts.conf`, which it includes, follows
from the users alone and is written anew whenever one is added. No secret stands in either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.security.permissions import User, account_of, bridge_of, grant_of
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coordinator.security.permissions import Grant
    from events.subjects import Subjects

ANSWER_WITHIN_S = 120
"""How long whoever answers requests may take; a question waits 60 s at most."""


class Known(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A user as the server knows it: by the public half of its key."""

    role: str
    name: str = ""
    public: str

    @property
    def user(self) -> User:
        """The user whose key it is."""
        return User(role=self.role, name=self.name)


def accounts_conf(known: Sequence[Known], subjects: Subjects) -> str:
    """Write the accounts, what passes between them, and the users with what each may."""
    core, clients = (account_of(User(role=role), subjects) for role in ("coordinator", "monitor"))
    bridge = bridge_of(subjects)
    lines = [
        "# Made by `coordinator auth`, and made anew whenever a user is added: not to be edited.",
        "system_account: SYS",
        "accounts {",
        "  SYS { users: [] }",
        *_account(core, known, subjects, jetstream=True),
        *_list("exports", [_export("service", one, clients) for one in bridge.requests_in], more=True),
        *_list(None, [_export("stream", one, clients) for one in bridge.messages_out], more=False),
        *_list("imports", [_import("service", one, clients) for one in bridge.requests_out]),
        "  }",
        *_account(clients, known, subjects, jetstream=False),
        *_list("exports", [_export("service", one, core) for one in bridge.requests_out]),
        *_list("imports", [_import("service", one, core) for one in bridge.requests_in], more=True),
        *_list(None, [_import("stream", one, core) for one in bridge.messages_out], more=False),
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _account(name: str, known: Sequence[Known], subjects: Subjects, *, jetstream: bool) -> list[str]:
    domains = sorted(one.name for one in known if one.role == "domain")
    members = [one for one in known if account_of(one.user, subjects) == name]
    users: list[str] = []
    for one in sorted(members, key=lambda one: one.user.token):
        users += _user(one, grant_of(one.user, subjects, domains))
    head = [f"  {checked(name, 'account')} {{", *(["    jetstream: enabled"] if jetstream else [])]
    return [*head, "    users: [", *users, "    ]"]


def _user(one: Known, grant: Grant) -> list[str]:
    answers = f'        allow_responses: {{ max: 1, expires: "{ANSWER_WITHIN_S}s" }}'
    return [
        f"      # {one.user.token}",
        f"      {{ nkey: {checked(one.public, 'nkey')}, permissions: {{",
        "        publish: {",
        *_subjects("allow", grant.publish),
        *(_subjects("deny", grant.publish_never) if grant.publish_never else ()),
        "        }",
        "        subscribe: {",
        *_subjects("allow", grant.subscribe),
        "        }",
        *([answers] if grant.answers else ()),
        "      } }",
    ]


def _subjects(word: str, patterns: Iterable[str]) -> list[str]:
    return [f"          {word}: [", *(f"            {_quoted(one)}" for one in patterns), "          ]"]


def _list(name: str | None, entries: list[str], *, more: bool | None = None) -> list[str]:
    """Write a list of the account; *more* of it may follow from another call, whose *name* is None."""
    begin = [f"    {name}: ["] if name is not None else []
    return [*begin, *(f"      {one}" for one in entries), *([] if more else ["    ]"])]


def _export(kind: str, subject: str, to: str) -> str:
    return f"{{ {kind}: {_quoted(subject)}, accounts: [{to}] }}"


def _import(kind: str, subject: str, of: str) -> str:
    return f"{{ {kind}: {{ account: {of}, subject: {_quoted(subject)} }} }}"


def server_conf(namespace: str, listen: str, store: str) -> str:
    """Write what else the server needs, as a beginning: where it listens, where its data is, its limits."""
    return f"""\
# Made once by `coordinator auth init`; yours to change. Accounts and users: accounts.conf; certificates: tls.conf.
#
#   nats-server -c nats.conf            start
#   nats-server --signal reload         take up users that were added

server_name: {_quoted(checked(namespace, "namespace"))}
listen: {_quoted(listen)}
http: "127.0.0.1:-1"              # monitoring; -1 takes a free port

jetstream {{
  store_dir: {_quoted(store)}
  sync_interval: always           # fsync, then acknowledge; the default can lose what it acknowledged
}}

# nats-py's ordered consumer cannot read acknowledgement subjects of version 2: its read loop would die silently.
feature_flags {{ js_ack_fc_v2: false }}

max_payload: 1MB                  # a commit is at most 512 KiB
max_pending: 64MB
max_connections: 4096
max_subscriptions: 4096           # per connection
max_control_line: 4KB
write_deadline: "10s"
ping_interval: "20s"
ping_max: 2

include "tls.conf"
include "accounts.conf"
"""


def tls_conf(certificate: str = "", key: str = "") -> str:
    """Write the server's part of TLS; without a certificate it says how to get one."""
    if not certificate:
        return "# No TLS: keep to loopback. `coordinator auth init --tls` makes certificates and writes this file.\n"
    return f"""\
tls {{
  cert_file: {_quoted(certificate)}
  key_file: {_quoted(key)}
  min_version: "1.3"
  timeout: 5
}}
"""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
