"""Every role against every subject, on a real nats-server with the configuration that `coordinator auth init` makes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from nats.aio.client import Client

from coordinator.commands import COMMANDS
from coordinator.security.permissions import account_of, grant_of, may_publish, may_subscribe, user_of
from coordinator.security.server_config import Known
from events.credentials import read_login
from events.subjects import Subjects
from tests.secured import Secured, directory_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from coordinator.security.permissions import User

pytestmark = pytest.mark.e2e

S = Subjects()
DOMAINS = ("execution", "monitoring")
ROLES = (
    *(user_of(role) for role in ("coordinator", "follower", "archive", "admin", "monitor")),
    *(user_of("domain", name) for name in DOMAINS),
    *(user_of(role, "w1") for role in ("worker", "agents")),
    user_of("node", "n1"),
)
STREAMS = (
    *(S.stream_journal, S.stream_events, S.stream_heartbeats, f"KV_{S.bucket_lease}", S.stream_snapshots),
    *(S.stream_inbox(domain) for domain in DOMAINS),
)
STREAM_VERBS = (
    *("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE"),
    *("LEADER.STEPDOWN", "PEER.REMOVE"),
)
TAP = "tap"
LAST = "nobody.may"


def published() -> list[str]:
    """Every subject to publish on, in concrete form; its sources are those of `ROLES` and others."""
    sources = [*(user.token for user in ROLES), "local", "nobody"]
    return [
        *(S.snapshot_chunk, S.snapshot_manifest, S.archive),
        *(S.journal, S.epoch, S.leader, S.services, f"{S.namespace}.elsewhere", f"$KV.{S.bucket_lease}.writer"),
        *(S.event(name) for name in ("task.submitted", "container.started")),
        *(S.inbox(domain, "task.done") for domain in (*DOMAINS, "third")),
        *(S.heartbeat(kind, name) for kind in ("worker", "service", "node") for name in ("w1", "n1", "other")),
        *(S.notice(kind, name) for kind in ("worker", "node") for name in ("w1", "n1", "other")),
        *(S.rpc(source, one.KIND, one.VERB) for source in sources for one in COMMANDS.values()),
        *(S.read(source, verb) for source in sources for verb in ("get", "list", "events", "position")),
        *(S.node(name, verb) for name in ("n1", "other") for verb in ("logs", "usage")),
        *(f"_INBOX.{source}.bus.1" for source in sources),
        *("_INBOX.anybody", "_R_.abcdef.ghijkl", "$SRV.PING", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO"),
    ]


def asked_of_jetstream() -> list[str]:
    """Every call of JetStream's API, for each stream."""
    calls = [f"STREAM.{verb}.{stream}" for verb in STREAM_VERBS for stream in STREAMS]
    calls += [
        f"CONSUMER.{verb}.{stream}.one" for verb in ("CREATE", "INFO", "DELETE", "MSG.NEXT") for stream in STREAMS
    ]
    calls += [f"CONSUMER.CREATE.{stream}.one.{S.namespace}.>" for stream in STREAMS]
    calls += [f"CONSUMER.{verb}.{stream}" for verb in ("CREATE", "LIST", "NAMES") for stream in STREAMS]
    calls += [f"CONSUMER.DURABLE.CREATE.{stream}.one" for stream in STREAMS]
    calls += [f"DIRECT.GET.{stream}" for stream in STREAMS]
    calls += ["INFO", "STREAM.NAMES", "STREAM.LIST", "META.LEADER.STEPDOWN", "SERVER.REMOVE"]
    acks = [f"$JS.ACK.{stream}.one.1.1.1.1.1" for stream in STREAMS]
    return [*(f"$JS.API.{call}" for call in calls), *acks, "$JS.SNAPSHOT.ACK.x.y", "$JS.FC.x.y.z"]


def subscribed() -> list[str]:
    """Subjects to subscribe to, including patterns that reach too far."""
    sources = [user.token for user in ROLES]
    return [
        *(">", "*", "*.>", f"{S.namespace}.>", f"{S.namespace}.*.>", "_INBOX.>", "_INBOX.*.>", "_R_.>"),
        *("$JS.>", "$JS.API.>", "$KV.>", "$SYS.>", "$SRV.>", "$JS.EVENT.>"),
        *(S.journal, S.epoch, S.leader, S.services, S.events_all, S.event("task.submitted"), S.heartbeats),
        *(S.rpc_all, S.read_all, S.inboxes_all, S.notices_all, S.nodes_all),
        *(f"_INBOX.{source}.>" for source in sources),
        *(S.rpc(source, "task", "submit") for source in sources),
        *(S.inbox_all(domain) for domain in DOMAINS),
        *(S.notice(kind, name) for kind in ("worker", "node") for name in ("w1", "n1", "other")),
        *(S.notices_of(kind) for kind in ("worker", "node")),
        *(S.node_all(name) for name in ("n1", "other")),
    ]


class Probed(NamedTuple):
    """What one user tried: allowed and refused, by kind."""

    allowed: set[str]
    refused: set[str]


class Prober:
    """A connection of one user that records what the server refuses."""

    def __init__(self) -> None:
        self.client = Client()
        self.errors: list[str] = []
        self.got: list[str] = []
        self._sees_everything = False

    async def connect(self, server: Secured, user: User) -> None:
        login = read_login(server.creds(user.role, user.name))
        await self._connect(server, login.apply(self.client))

    async def connect_as_tap(self, server: Secured, account: str) -> None:
        self._sees_everything = True
        await self._connect(server, {"user": f"{TAP}-{account}", "password": TAP})

    async def _connect(self, server: Secured, options: Mapping[str, object]) -> None:
        async def note(error: Exception) -> None:
            self.errors.append(str(error))

        # Ignoring the type is safe: both kinds of options are as nats-py documents them.
        await self.client.connect(server.url, error_cb=note, connect_timeout=20, **options)  # type: ignore[arg-type]

    async def publish(self, subjects: list[str]) -> Probed:
        for subject in subjects:
            await self.client.publish(subject, b"{")
        return await self._settled(subjects, "publish to")

    async def subscribe(self, subjects: list[str]) -> Probed:
        for subject in subjects:
            await self.client.subscribe(subject, cb=self.take)
        return await self._settled(subjects, "subscription to")

    async def take(self, message: Msg) -> None:
        self.got.append(message.subject)

    async def _settled(self, subjects: list[str], what: str) -> Probed:
        await self.client.flush(timeout=20)
        if not self._sees_everything:
            # Nobody may publish there, and the server answers in order: after this answer no other follows.
            await self.client.publish(LAST, b"")
            await until(lambda: any(LAST in error for error in self.errors))
        texts = [error.lower() for error in self.errors if LAST not in error]
        self.errors.clear()
        refused = {one for one in subjects if any(f'{what} "{one.lower()}"' in text for text in texts)}
        assert len(texts) == len(refused), Counter(texts).most_common(3)
        return Probed(set(subjects) - refused, refused)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Secured]:
    """The generated configuration, plus a user in each account who sees everything."""
    users = [(user.role, user.name) for user in ROLES]
    directory = directory_of(tmp_path, users)
    file = tmp_path / "accounts.conf"
    text = file.read_text()
    for user in (ROLES[0], ROLES[-1]):
        account = account_of(user, S)
        before, found, after = text.partition(f"  {account} {{")
        tap = f'      {{ user: "{TAP}-{account}", password: "{TAP}" }}'
        text = before + found + after.replace("users: [", f"users: [\n{tap}", 1)
    file.write_text(text)
    secured = Secured(directory, tls=False)
    await secured.start()
    try:
        yield secured
    finally:
        await secured.stop()


@pytest.mark.parametrize("user", ROLES, ids=lambda user: user.token)
async def test_each_role_may_do_what_the_table_says_and_nothing_else(server: Secured, user: User) -> None:
    """Publishing, calling JetStream, subscribing: what is granted passes and arrives, everything else is refused."""
    grant = grant_of(user, S, DOMAINS)
    prober, tap = Prober(), Prober()
    await prober.connect(server, user)
    await tap.connect_as_tap(server, account_of(ROLES[0], S))
    await tap.subscribe([">"])
    try:
        subjects = published() + asked_of_jetstream()
        probed = await prober.publish(subjects)
        assert probed.allowed == {one for one in subjects if may_publish(grant, one)}
        await _until_there(tap, {one for one in probed.allowed if one.startswith(f"{S.namespace}.")})
        assert not probed.refused & set(tap.got)
        patterns = subscribed()
        assert (await prober.subscribe(patterns)).allowed == {one for one in patterns if may_subscribe(grant, one)}
    finally:
        await prober.client.close()
        await tap.client.close()


@pytest.mark.parametrize("user", ROLES, ids=lambda user: user.token)
async def test_each_role_hears_what_it_may_hear(server: Secured, user: User) -> None:
    """Messages from the account of the streams reach users who are granted their subject, and nobody else."""
    grant = grant_of(user, S, DOMAINS)
    prober, tap = Prober(), Prober()
    await prober.connect(server, user)
    await tap.connect_as_tap(server, account_of(ROLES[0], S))
    said = [
        *(S.leader, S.services, S.event("task.submitted"), S.journal),
        *(S.notice(kind, name) for kind in ("worker", "node") for name in ("w1", "n1", "other")),
        *(S.node(name, "logs") for name in ("n1", "other")),
    ]
    try:
        await prober.subscribe([*grant.subscribe, *said])
        prober.got.clear()
        assert not (await tap.publish(said)).refused
        expected = {one for one in said if may_subscribe(grant, one)}
        await _until_there(prober, expected)
        assert set(prober.got) == expected
    finally:
        await prober.client.close()
        await tap.client.close()


async def _until_there(prober: Prober, expected: set[str]) -> None:
    await until(lambda: expected <= set(prober.got))
    await prober.client.flush(timeout=20)


async def _until_stored(jetstream: JetStreamContext, stream: str, count: int) -> None:
    async with asyncio.timeout(20):
        for _ in range(2000):
            if (await jetstream.stream_info(stream)).state.messages >= count:
                return
            await asyncio.sleep(0.01)


def test_the_table_says_what_matters_most() -> None:
    """Checked apart from the table: who writes the journal, who purges it, who may call JetStream."""
    grants = {user.token: grant_of(user, S, DOMAINS) for user in ROLES}
    assert [who for who, grant in grants.items() if may_publish(grant, S.journal)] == ["coordinator"]
    assert [who for who, grant in grants.items() if may_publish(grant, S.epoch)] == ["coordinator"]
    purge = f"$JS.API.STREAM.PURGE.{S.stream_journal}"
    assert [who for who, grant in grants.items() if may_publish(grant, purge)] == ["archive"]
    noted = [who for who, grant in grants.items() if may_publish(grant, S.archive)]
    assert noted == ["coordinator", "archive"]
    written = [who for who, grant in grants.items() if may_publish(grant, S.snapshot_manifest)]
    assert written == ["coordinator", "follower", "archive"]
    delete = f"$JS.API.STREAM.DELETE.{S.stream_journal}"
    assert [who for who, grant in grants.items() if may_publish(grant, delete)] == ["admin"]
    at_all = {who for who, grant in grants.items() for one in asked_of_jetstream() if may_publish(grant, one)}
    assert at_all == {"coordinator", "follower", "archive", "admin"}
    for who, grant in grants.items():
        others = [user.token for user in ROLES if user.token != who]
        assert not [one for one in others if may_subscribe(grant, f"_INBOX.{one}.>")], who
        assert not [one for one in others if may_publish(grant, S.rpc(one, "task", "submit"))], who
    assert [who for who, grant in grants.items() if may_publish(grant, S.inbox("execution", "a.b"))] == ["execution"]


def test_as_many_probes_as_there_are() -> None:
    """The table is large enough to be meaningful: every role is tested with many subjects."""
    each = len(published()) + len(asked_of_jetstream()) + len(subscribed())
    assert each > 700
    assert each * len(ROLES) > 7000
    assert Known(role="worker", name="w1", public="U").user in ROLES


async def test_an_acknowledgement_cannot_be_had_where_it_does_harm(server: Secured) -> None:
    """JetStream answers to any reply subject; from another account that is never the journal, nor an inbox."""
    core = Prober()
    await core.connect_as_tap(server, account_of(ROLES[0], S))
    attacker = Prober()
    await attacker.connect(server, user_of("domain", "execution"))
    try:
        jetstream = core.client.jetstream(timeout=20)
        await jetstream.add_stream(name=S.stream_journal, subjects=[S.journal, S.epoch])
        for domain in DOMAINS:
            await jetstream.add_stream(name=S.stream_inbox(domain), subjects=[S.inbox_all(domain)])
        for reply in (S.journal, S.epoch, S.inbox("monitoring", "task.done"), S.rpc("admin", "task", "cancel")):
            await attacker.client.publish(S.inbox("execution", "task.done"), b"{}", reply=reply)
        await attacker.client.flush(timeout=20)
        await _until_stored(jetstream, S.stream_inbox("execution"), 4)
        # The control: inside the journal's own account the same message does harm.
        await core.client.publish(S.inbox("execution", "task.done"), b"{}", reply=S.epoch)
        await _until_stored(jetstream, S.stream_journal, 1)
        assert (await jetstream.stream_info(S.stream_journal)).state.messages == 1
        assert (await jetstream.stream_info(S.stream_inbox("monitoring"))).state.messages == 0
    finally:
        await attacker.client.close()
        await core.client.close()
