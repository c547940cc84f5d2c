"""`coordinator verify` and `coordinator doctor` on a healthy cluster, and on damaged ones."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.diagnostics import doctor
from coordinator.diagnostics import read_model as verify_store
from coordinator.diagnostics.doctor import look_here
from coordinator.diagnostics.findings import Finding, State
from coordinator.diagnostics.verify import Files, _Fold, _snapshots, verify
from coordinator.errors import Unavailable
from coordinator.follower.follower import Follower
from coordinator.journal.high_water import HighWater
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal, stream_config
from coordinator.journal.witnesses import seen_by_feed
from coordinator.leadership.catch_up import remembering
from coordinator.settings.load import load
from events.base import Position
from events.subjects import Subjects
from tests.commands import run
from tests.disks import no_file_above
from tests.journals import a_bit_of_everything, folded, leading
from tests.real_server import RealServer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
WAIT_S = 30.0


@pytest.fixture
async def store(server: RealServer, bus: Bus, tmp_path: Path) -> Path:
    """A journal with events of every kind, and a read model of it."""
    journal = NatsJournal(bus, SUBJECTS)
    await journal.prepare()
    async with leading(journal) as engine:
        await a_bit_of_everything(engine)
    last = (await journal.bounds()).last
    path = tmp_path / "state.db"
    async with Follower.open(server.url, path) as follower:
        opened = await follower.wait_opened(WAIT_S)
        await opened.wait_for(Position(last, 0), WAIT_S)
    return path


SOUND = dict.fromkeys(
    ("slots", "chain", "fold", "reigns", "placements", "seen by the read model state.db", "read model"), State.OK
) | {"snapshots": State.UNKNOWN}
"""What is found of a sound journal without snapshots."""


def states(findings: list[Finding]) -> dict[str, State]:
    return {finding.check: finding.state for finding in findings}


def of(findings: list[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def spoil(store: Path) -> None:
    store.write_bytes(b"x" * 10_000)


async def test_a_sound_journal_is_called_sound(bus: Bus, store: Path) -> None:
    """Every slot, the chain, the fold, the reigns, and the read model row by row."""
    report = await verify(bus, SUBJECTS, Files(store=store))
    assert states(report.findings) == SOUND
    assert report.figures.records == (await NatsJournal(bus, SUBJECTS).bounds()).last
    assert report.figures.events > 20
    assert report.placements == []


async def test_it_tells_how_a_task_was_placed(bus: Bus, store: Path) -> None:
    """Each attempt: by which turn, and that it follows again."""
    world = await folded(NatsJournal(bus, SUBJECTS))
    ran = next(task for task in world.tasks.values() if task.attempt)
    (told,) = (await verify(bus, SUBJECTS, Files(store=store), task_id=ran.task_id)).placements
    assert (told.worker_id, told.claim_id, told.attempt) == (ran.worker_id, ran.claim_id, ran.attempt)
    assert told.derived == "yes"


@pytest.mark.parametrize(
    "change",
    ["UPDATE tasks SET status = 'lost'", "DELETE FROM events WHERE place = (SELECT min(place) FROM events)"],
)
async def test_a_read_model_that_was_changed_is_found(bus: Bus, store: Path, change: str) -> None:
    """A changed state and a missing event are both found: every row is compared with the journal."""
    connection = sqlite3.connect(store)
    with connection:
        connection.execute(change)
    connection.close()
    report = await verify(bus, SUBJECTS, Files(store=store))
    found = of(report.findings, "read model")
    assert found.state is State.FAIL
    assert "differs from the journal" in found.seen
    assert "delete it" in found.do


async def test_a_read_model_that_is_none_is_found(bus: Bus, store: Path) -> None:
    """A file that SQLite cannot read."""
    spoil(store)
    report = await verify(bus, SUBJECTS, Files(store=store))
    assert of(report.findings, "read model").state is State.FAIL


async def test_without_room_for_copies_nothing_is_blamed(
    bus: Bus, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first copy has no room, the second one, or neither: it ends, reports unknown, and says what to do."""
    monkeypatch.setattr(verify_store, "BUILD_PATIENCE_S", 0.5)
    with sqlite3.connect(store) as live:
        [(pages,)], [(size,)] = (
            live.execute("PRAGMA page_count").fetchall(),
            live.execute("PRAGMA page_size").fetchall(),
        )
    live.close()
    for most in (pages * size // 2, pages * size):
        with no_file_above(most):
            async with asyncio.timeout(60):
                report = await verify(bus, SUBJECTS, Files(store=store))
        found = of(report.findings, "read model")
        assert found.state is State.UNKNOWN, (most, found)
        assert "--folder" in found.do
    nowhere = await verify(bus, SUBJECTS, Files(store=store, folder=tmp_path / "nowhere"))
    assert of(nowhere.findings, "read model").state is State.UNKNOWN
    folder = tmp_path / "large"
    folder.mkdir()
    enough = await verify(bus, SUBJECTS, Files(store=store, folder=folder))
    assert of(enough.findings, "read model").state is State.OK
    assert not list(folder.iterdir())


async def test_what_somebody_else_wrote_is_found(bus: Bus, store: Path) -> None:
    """A commit under a foreign id belongs to no reign; one with a wrong chain ends the reading there."""
    journal = NatsJournal(bus, SUBJECTS)
    last = (await journal.bounds()).last
    record = await journal.slot(last)
    assert record is not None
    report = await verify(bus, SUBJECTS, Files())
    await bus.js_publish(SUBJECTS.journal, record.body, {"Chain": report.chain, "Nats-Msg-Id": "foreign"}, timeout_s=5)
    report = await verify(bus, SUBJECTS, Files())
    assert "has the id foreign" in of(report.findings, "reigns").seen
    await bus.js_publish(SUBJECTS.journal, record.body, {"Chain": "0" * 64, "Nats-Msg-Id": "wrong"}, timeout_s=5)
    report = await verify(bus, SUBJECTS, Files(store=store))
    assert of(report.findings, "slots").state is State.FAIL
    assert f"sound up to {last + 1}." in report.findings[0].seen
    assert len(report.findings) == 1


async def test_a_journal_behind_its_read_model_is_found(bus: Bus, store: Path) -> None:
    """The stream was recreated: what the read model has seen of it is missing."""
    await bus.js_request(f"STREAM.DELETE.{SUBJECTS.stream_journal}", timeout_s=5)
    gone = await verify(bus, SUBJECTS, Files(store=store))
    assert of(gone.findings, "slots").state is State.FAIL
    await NatsJournal(bus, SUBJECTS).prepare()
    report = await verify(bus, SUBJECTS, Files(store=store))
    found = of(report.findings, "seen by the read model state.db")
    assert found.state is State.FAIL
    assert "--accept" in found.do


async def test_snapshots_may_come_and_go_meanwhile(bus: Bus, store: Path) -> None:
    """A store that a follower replaced is not damage; one that is still there and incomplete is."""
    journal, snapshots = NatsJournal(bus, SUBJECTS), Snapshots(bus, SUBJECTS, kept=2)
    last = (await journal.bounds()).last
    for at in (last - 3, last - 2):
        await snapshots.write((await folded(journal, at)).frozen())
    before = await snapshots.manifests()
    fold = _Fold(journal, {one.position.sequence: one for one in before})
    assert {one.state for one in await fold.run()} == {State.OK}
    assert (await _snapshots(snapshots, before, fold)).seen == "2 match the journal"
    await snapshots.write((await folded(journal, last - 1)).frozen())
    found = await _snapshots(snapshots, before, fold)
    assert (found.state, found.seen) == (State.OK, "1 match the journal, 1 were replaced during the check")
    await snapshots.write((await folded(journal, last)).frozen())
    assert (await _snapshots(snapshots, before, fold)).state is State.UNKNOWN
    broken = msgspec.structs.replace((await snapshots.manifests())[0], chunks=[999_999])
    await bus.js_publish(SUBJECTS.snapshot_manifest, msgspec.json.encode(broken), timeout_s=WAIT_S)
    report = await verify(bus, SUBJECTS, Files(store=store))
    assert "lacks its chunk 999999" in of(report.findings, "snapshots").seen


async def test_the_command_tells_by_its_exit_code(server: RealServer, store: Path) -> None:
    """0 for a sound journal, 1 for a damaged one; JSON contains the full report."""
    sound = await asyncio.to_thread(
        run, "verify", "--nats", server.url, "--home", str(store.parent), "--folder", str(store.parent), "-o", "json"
    )
    assert sound.code == 0, sound
    assert {one["check"]: State(one["state"]) for one in json.loads(sound.out)["findings"]} == SOUND
    spoil(store)
    wrong = await asyncio.to_thread(run, "verify", "--nats", server.url, "--home", str(store.parent))
    assert wrong.code == 1, wrong
    assert "is damaged" in wrong.out
    accepted = await asyncio.to_thread(run, "verify", "--nats", server.url, "--accept")
    assert json.loads(accepted.out)["generation"] > 1


class Troubled(RealServer):
    """A server whose JetStream cannot answer about the feed: the question is changed into one that it refuses."""

    def conf(self) -> str:
        asked, instead = (f"$JS.API.STREAM.{verb}" for verb in ("INFO.COORDINATION_EVENTS", "MSG.GET.NONE"))
        return f'{super().conf()}mappings {{ "{asked}": "{instead}" }}'


async def test_a_feed_that_cannot_be_asked_is_not_taken_for_none(tmp_path: Path) -> None:
    """A starting coordinator waits, and verify reports unknown: only the answer "no such stream" proves it."""
    server = Troubled(tmp_path)
    await server.start()
    try:
        async with Bus.open(server.url, name="judge") as bus:
            journal = NatsJournal(bus, SUBJECTS)
            await journal.prepare()
            async with leading(journal) as engine:
                await a_bit_of_everything(engine)
            with pytest.raises(Unavailable, match=SUBJECTS.stream_events):
                await seen_by_feed(bus, SUBJECTS)
            with pytest.raises(Unavailable, match=SUBJECTS.stream_events):
                await remembering(journal, bus, SUBJECTS, HighWater(), Snapshots(bus, SUBJECTS))
            report = await verify(bus, SUBJECTS, Files())
            assert of(report.findings, "seen by the feed").state is State.UNKNOWN
            assert of(report.findings, "slots").state is State.OK
    finally:
        await server.kill()


# --- doctor -----------------------------------------------------------------------------------------------------------


async def look(server: RealServer) -> list[Finding]:
    async with Client.open(server.url) as client:
        return await doctor.look(client, load())


async def test_what_is_missing_or_drifted_is_named(
    server: RealServer, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No leader, no follower, a drifted stream are reported; fsync cannot be read and is not reported as ok."""
    monkeypatch.setattr(doctor, "ANSWER_TIMEOUT_S", 1.0)
    wrong = {**stream_config(SUBJECTS), "max_msgs": 5}
    await bus.js_request(f"STREAM.CREATE.{SUBJECTS.stream_journal}", wrong, timeout_s=5)
    found = await look(server)
    assert of(found, "server version").state is State.OK
    assert of(found, "max_payload").state is State.OK
    assert of(found, "clock").state is State.OK
    assert of(found, "fsync").state is State.UNKNOWN
    assert of(found, f"stream {SUBJECTS.stream_journal}").state is State.FAIL
    assert "max_msgs is 5 and should be -1" in of(found, f"stream {SUBJECTS.stream_journal}").seen
    assert of(found, "leader").state is State.FAIL
    assert of(found, "follower").state is State.FAIL
    assert all(one.do for one in found if one.state in (State.FAIL, State.WARN))


@pytest.mark.parametrize(
    ("config", "state"),
    [
        ({"sync_always": True, "max_storage": 1000}, State.OK),
        ({"sync_interval": 120_000_000_000, "max_storage": 1000}, State.FAIL),
    ],
)
async def test_fsync_is_read_from_the_monitoring(server: RealServer, config: dict[str, Any], state: State) -> None:
    """A server that acknowledges before it syncs can lose acknowledged data; a full one stores nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"/jsz?config=1" in await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + msgspec.json.encode({"config": config, "storage": 990}))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener, Client.open(server.url) as client:
        port = listener.sockets[0].getsockname()[1]
        found = await doctor._fsync(client, f"http://127.0.0.1:{port}")
    assert of(found, "fsync").state is state
    assert of(found, "store limit").state is State.FAIL


def test_a_clock_that_is_off_is_told() -> None:
    """A clock that is off by a second is a warning, by ten a failure, in either direction."""
    found = [doctor._off("clock", off_s, "{:.1f} s").state for off_s in (0.2, -1.5, 30.0)]
    assert found == [State.OK, State.WARN, State.FAIL]


def test_a_follower_that_lags_or_waits_is_told() -> None:
    """Doctor reports how far the feed is behind, and why it waits."""
    behind = {"behind": 5, "behind_s": 2.0}
    assert doctor._behind("feed", behind).state is State.OK
    assert doctor._behind("feed", {**behind, "behind_s": 100.0}).state is State.WARN
    assert "no room" in doctor._behind("feed", {**behind, "state": "waiting", "reason": "no room"}).seen
    assert doctor._behind("feed", None).state is State.UNKNOWN


def test_a_home_that_others_may_enter_fails(tmp_path: Path) -> None:
    """The home holds tokens; a readable file in it behind a closed directory is a warning."""
    tmp_path.chmod(0o700)
    (tmp_path / "running.json").touch(mode=0o644)
    (tmp_path / "running.json").chmod(0o644)
    assert of(look_here(tmp_path, load()), "permissions").state is State.WARN
    tmp_path.chmod(0o755)
    found = of(look_here(tmp_path, load()), "permissions")
    assert found.state is State.FAIL
    assert "chmod 700" in found.do
    assert of(look_here(tmp_path / "none", load()), "home").state is State.UNKNOWN


def test_settings_that_do_not_go_together_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several servers with one copy of everything are reported."""
    monkeypatch.setenv("COORDINATOR_NATS__URL", "nats://a:4222,nats://b:4222")
    found = of(look_here(tmp_path, load()), "settings")
    assert found.state is State.WARN


async def test_the_doctor_says_that_nothing_runs(tmp_path: Path) -> None:
    """Exit code 1, and the message says what to start."""
    sick = await asyncio.to_thread(run, "doctor", "--nats", "nats://127.0.0.1:1", "-o", "json")
    assert sick.code == 1
    assert json.loads(sick.out)[0]["check"] == "NATS"
