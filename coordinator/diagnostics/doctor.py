"""
Checks everything the coordinator depends on: NATS, its streams, the leader, the follower, this machine, the settings.

It only reads: nothing is created, changed or written. What it may not read is reported as `unknown`, never as ok.
`look_here` checks this machine and the settings alone, without NATS.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.bus.jetstream import NO_STREAM, ApiError
from coordinator.bus.streams import drift, stream_info
from coordinator.client.client import Client
from coordinator.clock import EARLIEST, SystemClock
from coordinator.commands.agents import GetAgents
from coordinator.commands.cluster import GetStats
from coordinator.diagnostics.findings import Finding, fail, ok, unknown, warn
from coordinator.doors.heartbeats import heartbeat_stream
from coordinator.doors.inbox import find_inboxes
from coordinator.doors.room import KEEPS_UNREAD
from coordinator.follower.feed import feed_stream
from coordinator.journal.search import time_of
from coordinator.journal.snapshots import snapshot_stream
from coordinator.journal.stream import HEADER_BYTES, NatsJournal, stream_config
from coordinator.leadership.lease import lease_config
from coordinator.nats_server.find import MINIMUM_VERSION, TESTED_VERSION
from coordinator.processes.follower import feed_limits
from events.codec import rfc3339
from events.errors import CoordinationError, Unavailable
from projections.agents import changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from coordinator.settings.model import Settings

ANSWER_TIMEOUT_S = 5.0
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 10.0
"""Leases and deadlines tolerate a clock that is off by one second; at ten, the recorded times are misleading."""
NTP = "synchronise the clocks of all machines (NTP)"
LAG_WARN_S = 30.0
FULL_WARN, FULL_FAIL = 0.8, 0.95
GROWTH_WARN_DAYS = 14.0

_SYSTEM = "$SYS.REQ.SERVER.PING.JSZ"
_SYSTEM_HEALTH = "$SYS.REQ.SERVER.PING.HEALTHZ"

DISK_WARN_BYTES, DISK_FAIL_BYTES = 5 * 1024**3, 512 * 1024**2
INODES_WARN, INODES_FAIL = 10_000, 500
"""Free inodes: each container, snapshot and block of a stream needs some files."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PRIVATE = (
    "running.json",
    "token",
    "state.db",
    "state.db-wal",
    "checks.db",
    "nats",
    "nats.log",
    "secrets",
    "containers",
    "journal.seen",
)


async def look(client: Client, settings: Settings, *, monitor: str = "") -> list[Finding]:
    """
    Check NATS, the streams, the leader and the follower.

    *monitor* is the server's monitoring URL, `http://host:port`. The error of a check becomes its finding.
    """
    looks: list[tuple[str, Callable[[], Awaitable[list[Finding]]]]] = [
        ("server version", lambda: _server(client)),
        ("max_payload", lambda: _payload(client, settings)),
        ("fsync", lambda: _fsync(client, monitor)),
        ("writes", lambda: _writes(client, monitor)),
        ("streams", lambda: _streams(client, settings)),
        ("inboxes", lambda: _inboxes(client)),
        ("clock", lambda: _clock(client)),
        ("leader", lambda: _leader(client)),
        ("agents", lambda: _agents(client, settings)),
        ("follower", lambda: _follower(client)),
    ]
    found: list[Finding] = []
    for check, run in looks:
        try:
            found += await run()
        except CoordinationError as error:
            found.append(unknown(check, error.message))
    return found


async def _server(client: Client) -> list[Finding]:
    reported = str(client.bus.server.get("version", ""))
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", reported)
    check, best = "server version", ".".join(map(str, TESTED_VERSION))
    if match is None:
        return [unknown(check, f"the server reports version {reported!r}, which cannot be compared")]
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < MINIMUM_VERSION:
        least = ".".join(map(str, MINIMUM_VERSION))
        return [fail(check, f"nats-server {reported}", f"upgrade it to {least} or newer; tested: {best}")]
    if version < TESTED_VERSION:
        return [warn(check, f"nats-server {reported}", f"upgrade it: this release was tested with {best}")]
    return [ok(check, f"nats-server {reported}")]


async def _payload(client: Client, settings: Settings) -> list[Finding]:
    given, needed = client.bus.max_payload_bytes, settings.engine.turn_bytes + HEADER_BYTES
    if given < needed:
        do = f"raise max_payload in the server's configuration to {needed} or more, or lower engine.turn_bytes"
        return [fail("max_payload", f"{given} bytes, but a commit can have {needed}", do)]
    return [ok("max_payload", f"{given} bytes; a commit has at most {needed}")]


# --- fsync and room ---------------------------------------------------------------------------------------------------


async def _fsync(client: Client, monitor: str) -> list[Finding]:
    reported = await _reported(client, monitor, "jsz?config=1", _SYSTEM, b'{"config":true}')
    if reported is None:
        seen = "the server's configuration cannot be read with these credentials"
        do = "use --monitor http://host:port, or check the server's configuration for 'sync_interval: always'"
        return [unknown("fsync", seen, do)]
    config, used = reported.get("config", {}), reported.get("storage", 0)
    if config.get("sync_always"):
        found = [ok("fsync", "sync_interval: always")]
    else:
        every = config.get("sync_interval", 0) / 1e9
        do = "set jetstream { sync_interval: always } and restart it: a power cut can lose acknowledged commits"
        found = [fail("fsync", f"the server acknowledges first and syncs every {every:g} s", do)]
    limit = config.get("max_storage", 0)
    seen = f"{_gib(used)} of {_gib(limit)} (max_file) are used"
    do = "raise max_file, or archive old commits with 'coordinator archive run': a full store accepts no commits"
    if limit > 0 and used >= FULL_FAIL * limit:
        return [*found, fail("store limit", seen, do)]
    return [
        *found,
        (warn("store limit", seen, do) if limit > 0 and used >= FULL_WARN * limit else ok("store limit", seen)),
    ]


async def _reported(
    client: Client, monitor: str, path: str, subject: str, asked: bytes, *, may_fail: bool = False
) -> dict[str, Any] | None:
    """Return what the server reports, over HTTP or as its system account; None if neither is available."""
    if monitor:
        return await _get(monitor, f"{monitor.rstrip('/')}/{path}", may_fail=may_fail)
    try:
        raw = await client.bus.request(subject, asked, timeout_s=1.0)
    except Unavailable:
        return None
    answer: dict[str, Any] = msgspec.json.decode(raw)
    data: dict[str, Any] | None = answer.get("data")
    return data


async def _writes(client: Client, monitor: str) -> list[Finding]:
    """Check that the server keeps no write error: with one it acknowledges nothing until it is restarted."""
    reported = await _reported(client, monitor, "healthz", _SYSTEM_HEALTH, b"{}", may_fail=True)
    if reported is None:
        do = "use --monitor http://host:port, or read /healthz of the server's monitoring"
        return [unknown("writes", "the server's health cannot be read with these credentials", do)]
    error = str(reported.get("error", ""))
    if reported.get("status") == "ok" or not error:
        return [ok("writes", "the server reports no error")]
    do = "mend its disk (room, inodes, mounted read-only?); 'coordinator up' then restarts its own, restart any other"
    return [fail("writes", error, do)]


async def _get(monitor: str, url: str, *, may_fail: bool = False) -> dict[str, Any]:
    """
    Read a JSON object; the addresses of the host are tried as browsers do it, all within one time-out.

    *may_fail*: an answer with an error status is one, too.
    """
    import httpx2  # a tenth of a second, which `look_here` does not need

    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S), httpx2.AsyncClient() as http:
            answer = await http.get(url)
            if not may_fail:
                answer.raise_for_status()
            reported: dict[str, Any] = msgspec.json.decode(answer.content, type=dict[str, Any])
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, msgspec.MsgspecError) as error:
        why = str(error) or type(error).__name__
        raise Unavailable(f"{monitor} does not answer like the monitoring of a nats-server: {why}") from error
    return reported


def _gib(size: int) -> str:
    return f"{size / 1024**3:.2f} GiB"


# --- streams ----------------------------------------------------------------------------------------------------------


async def _streams(client: Client, settings: Settings) -> list[Finding]:
    subjects, replicas = client.subjects, settings.nats.replicas
    feed = feed_limits(settings)
    wanted: list[dict[str, Any]] = [
        stream_config(subjects, replicas=replicas),
        lease_config(subjects, replicas=replicas),
        heartbeat_stream(subjects, replicas=replicas),
        snapshot_stream(subjects, replicas=replicas),
        *([feed_stream(subjects, feed)] if feed is not None else []),
    ]
    needed = {wanted[0]["name"], wanted[1]["name"], wanted[2]["name"]}
    return [await _stream(client, one, is_needed=one["name"] in needed) for one in wanted]


async def _stream(client: Client, wanted: dict[str, Any], *, is_needed: bool) -> Finding:
    check = f"stream {wanted['name']}"
    try:
        info = await stream_info(client.bus, wanted["name"], timeout_s=ANSWER_TIMEOUT_S)
    except ApiError as error:
        if error.err_code != NO_STREAM:
            return unknown(check, error.message)
        if is_needed:
            return fail(
                check,
                "it does not exist",
                "start a coordinator; if one ran before, run 'coordinator verify'",
            )
        return unknown(check, "it does not exist yet: a follower creates it on first use")
    differs = drift(info["config"], wanted)
    if differs:
        do = "check what was lost, then restore the setting with the NATS tools; see docs/operations.md, Journal drift"
        return fail(check, "; ".join(differs), do)
    away = [one["name"] for one in info.get("cluster", {}).get("replicas", []) if not one.get("current")]
    if away:
        do = "bring these servers back: one more failure can stop the coordinator"
        return warn(check, f"{len(away)} replicas are not up to date: {', '.join(away)}", do)
    replicas = info["config"].get("num_replicas", 1)
    return ok(
        check, f"configured as expected, {replicas} replica{'s' * (replicas > 1)}, {info['state']['messages']} messages"
    )


async def _inboxes(client: Client) -> list[Finding]:
    """Check which inboxes let go of unread messages or have little room; those in order share one finding."""
    streams = await find_inboxes(client.bus, client.subjects)
    found = []
    for domain, name in sorted(streams.items()):
        check, info = f"inbox {domain}", await stream_info(client.bus, name, timeout_s=ANSWER_TIMEOUT_S)
        used, bound = info["state"]["bytes"], info["config"]["max_bytes"]
        if any(info["config"].get(field) != value for field, value in KEEPS_UNREAD.items()):
            do = "start a coordinator of this release; on a secured cluster run 'coordinator auth init' again before"
            found.append(warn(check, "it drops messages by age or size, even unread ones", do))
        if 0 < bound * FULL_WARN < used:
            do = "see in 'coordinator inbox list' whether it is read; raise max_bytes of its stream with the NATS tools"
            found.append(warn(check, f"{_gib(used)} of {_gib(bound)} are used; a full inbox refuses its publisher", do))
    return found or ([ok("inboxes", f"{len(streams)} with room, none drops unread messages")] if streams else [])


# --- clocks, leader and follower --------------------------------------------------------------------------------------


async def _clock(client: Client) -> list[Finding]:
    clock = SystemClock()
    before = clock.wall()
    try:
        info = await stream_info(client.bus, client.subjects.stream_journal, timeout_s=ANSWER_TIMEOUT_S)
    except ApiError as error:
        return [unknown("clock", error.message)]
    after = clock.wall()
    reported = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", info["ts"])).timestamp()
    # The server answered at some moment between the two readings: only a time outside of them proves an offset.
    off_s = min(0.0, reported - before) + max(0.0, reported - after)
    found = [_off("clock", off_s, "the server's clock and this machine's are {:.3f} s apart")]
    if after < EARLIEST:
        found = [fail("clock", f"this machine's clock shows {rfc3339(after)}, before this program was written", NTP)]
    last = info["state"]["last_seq"]
    if info["state"]["messages"]:
        journal = NatsJournal(client.bus, client.subjects)
        for sequence in range(last, max(0, last - 8), -1):
            record = await journal.slot(sequence)
            if record is not None and record.kind == "commit":
                ahead_s = max(0.0, time_of(record) - after)
                seen = "the last commit is {:.3f} s ahead of this machine's clock"
                do = f"{NTP}; if they are right now, one was ahead: recorded times stay ahead, durations are right"
                found.append(_off("commit time", ahead_s, seen, do))
                break
    return found


def _off(check: str, off_s: float, seen: str, do: str = NTP) -> Finding:
    text = seen.format(abs(off_s))
    if abs(off_s) >= CLOCK_FAIL_S:
        return fail(check, text, do)
    return warn(check, text, do) if abs(off_s) >= CLOCK_WARN_S else ok(check, text)


async def _leader(client: Client) -> list[Finding]:
    began = time.monotonic()
    try:
        stats = await client.execute(GetStats(), timeout_s=ANSWER_TIMEOUT_S)
    except CoordinationError as error:
        do = "start 'coordinator serve' or 'coordinator up'; if one is running, its log says why it does not lead"
        return [fail("leader", f"no coordinator answers: {error.message}", do)]
    took_ms = (time.monotonic() - began) * 1000
    return [ok("leader", f"{stats.leader} leads in epoch {stats.epoch} and answered in {took_ms:.0f} ms")]


async def _agents(client: Client, settings: Settings) -> list[Finding]:
    found = await client.execute(GetAgents(), timeout_s=ANSWER_TIMEOUT_S)
    own = {name: agent.agent_type() for name, agent in settings.agents.items()}
    differ = changes(found.agents, own) if found.digest else {}
    if differ:
        seen = f"the catalogue in force differs from agents of these settings: {', '.join(differ)}"
        return [warn("agents", seen, "see 'coordinator agents diff', then 'coordinator agents apply' or mend the file")]
    return [ok("agents", f"{len(found.agents)} agent types, as these settings say")]


async def _follower(client: Client) -> list[Finding]:
    subject = client.subjects.read(client.source, "lag")
    do = "start 'coordinator follow': without a follower, questions about history fail and the feed gets no events"
    try:
        raw = await client.bus.request(subject, b"{}", timeout_s=ANSWER_TIMEOUT_S)
    except Unavailable as error:
        return [fail("follower", f"no follower answers: {error.message}", do)]
    answer: dict[str, Any] = msgspec.json.decode(raw)
    if "ok" not in answer:
        return [unknown("follower", str(answer.get("error", {}).get("message", answer)))]
    told = answer["ok"]
    behind = [_behind(name, told.get(key)) for name, key in (("read model", "store"), ("feed", "feed"))]
    return [*behind, _store_size(told.get("size"))]


def _store_size(size: dict[str, Any] | None) -> Finding:
    check = "read model size"
    if size is None:
        return unknown(check, "the follower that answered does not tell it")
    grows = size["bytes_a_day"]
    seen = f"{_gib(size['bytes'])}, {_gib(size['free_bytes'])} free on its disk"
    if grows is None:
        return ok(check, seen)
    seen = f"{seen}, grows by {_gib(round(max(0.0, grows)))} a day"
    if grows * GROWTH_WARN_DAYS > size["free_bytes"]:
        do = "bound it with follower.keep_days or follower.keep_events, or make room"
        return warn(check, f"{seen}: full in {max(0.0, size['free_bytes'] / grows):.1f} days", do)
    return ok(check, seen)


def _behind(check: str, behind: dict[str, Any] | None) -> Finding:
    if behind is None:
        return unknown(check, "the follower that answered has none, or is still starting")
    seen = f"{behind['behind']} records and {behind['behind_s']:.1f} s behind the journal"
    reason = behind.get("reason") or ""
    if reason:
        return warn(check, f"{seen}; state {behind.get('state')}: {reason}", "read the reason, then the follower's log")
    if behind["behind_s"] > LAG_WARN_S:
        return warn(check, seen, "wait: it catches up by itself. If the lag does not shrink, read the follower's log")
    return ok(check, seen)


def look_here(home: Path, settings: Settings) -> list[Finding]:
    """Check the state directory *home*, and whether *settings* contradict each other."""
    here = [_permissions(home), _disk(home)] if home.is_dir() else [unknown("home", f"{home} does not exist")]
    return [*here, *_settings(settings)]


def _permissions(home: Path) -> Finding:
    open_to_others = [path for path in (home, *(home / name for name in _PRIVATE)) if _is_open(path)]
    if not open_to_others:
        return ok("permissions", f"only its owner may enter {home}")
    if _is_open(home):
        do = f"chmod 700 {home}: it holds tokens and all submitted data"
        return fail("permissions", f"other users of this machine may enter {home}", do)
    names = ", ".join(path.name for path in open_to_others)
    return warn("permissions", f"others may read {names} if {home} is opened to them", "run chmod go= on them")


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False


def _disk(home: Path) -> Finding:
    has = os.statvfs(home)
    if has.f_flag & os.ST_RDONLY:
        do = "find out why ('dmesg' tells of disk errors), repair it and mount it writable: nothing can be stored"
        return fail("disk", f"the file system of {home} is mounted read-only", do)
    free, inodes = has.f_bavail * has.f_frsize, has.f_favail
    is_counted = has.f_files > 0  # some file systems make inodes as they need them
    seen = f"{free / 1024**3:.1f} GiB" + (f" and {inodes} inodes" if is_counted else "") + f" free under {home}"
    do = "make room: a full disk stops the journal, and with it the coordinator"
    if free < DISK_FAIL_BYTES or (is_counted and inodes < INODES_FAIL):
        return fail("disk", seen, do)
    is_low = free < DISK_WARN_BYTES or (is_counted and inodes < INODES_WARN)
    return warn("disk", seen, do) if is_low else ok("disk", seen)


def _settings(settings: Settings) -> list[Finding]:
    """Check combinations of settings that load but make no sense."""
    found = []  # contradictions, such as a lease renewed more slowly than it expires, are refused on loading
    if settings.nats.replicas == 1 and "," in (settings.nats.url or ""):
        seen = "nats.url names several servers, but nats.replicas is 1: streams have one copy"
        found.append(warn("settings", seen, "set nats.replicas to 3 before the first start"))
    registry = settings.registry
    if not registry.health_check_networks and "health_check_networks" not in registry.model_fields_set:
        seen = "registry.health_check_networks is empty: no health URL is checked, and such services stay UNKNOWN"
        found.append(warn("settings", seen, "list the networks of your services in it, or [] if none has a health URL"))
    return found or [ok("settings", "no contradictions")]
