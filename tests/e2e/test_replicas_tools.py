"""Doctor, verify, backup and restore with three copies of everything, on three real nats-servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from coordinator.bus.streams import ensure_stream
from coordinator.client.client import Client
from coordinator.commands.task import ListTasks, SubmitTask
from coordinator.doors.inbox import InboxLimits, inbox_stream
from coordinator.errors import Unavailable
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.task_groups import task_group
from events import codec
from events.inbox import InboxRecorded
from events.publisher import EventPublisher
from tests.commands import Said, run, running
from tests.faults.replicated import JOURNAL, PATIENCE_S, Judge, Keeper, patiently
from tests.nats_cluster import NatsCluster, nats_cluster
from tests.real_server import find_binary

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

EVENTS = 200
ROOT = Path(__file__).parents[2]
TASKS, AT_ONCE = 1500, 5
"""Some hundred commits: more than a restore has in flight at once."""


async def command(cluster: NatsCluster, home: Path, *arguments: str) -> Said:
    """Run a command line that knows all three servers."""
    environment = {"COORDINATOR_URL": cluster.url, "COORDINATOR_NATS__REPLICAS": "3", "COORDINATOR_HOME": str(home)}
    return await asyncio.to_thread(run, *arguments, timeout_s=PATIENCE_S, **environment)


async def submit(client: Client, count: int) -> set[str]:
    async def some(first: int) -> list[str]:
        numbers = range(first, count, AT_ONCE)
        return [await client.execute(SubmitTask(task_id=f"t{number}", task_name="n")) for number in numbers]

    return {task_id for told in await asyncio.gather(*map(some, range(AT_ONCE))) for task_id in told}


async def recorded(client: Client) -> list[int]:
    """Read what the journal recorded of a domain's events."""
    journal = NatsJournal(client.bus, client.subjects)
    return [
        json.loads(bytes(envelope.data.data))["x"]
        async for records in journal.read(0, (await patiently(journal.bounds)).last)
        for record in records
        if record.kind == "commit"
        for envelope in codec.decode(record.body)
        if isinstance(envelope.data, InboxRecorded)
    ]


async def test_a_backup_of_one_cluster_is_restored_into_another(tmp_path: Path) -> None:
    """
    The tools work on three copies as on one: a backup while everything runs, a drill, and a restore by `--nats`.

    All acknowledged data is on the other cluster, in three copies, and its journal is sound.
    """
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with nats_cluster(tmp_path / "a") as cluster, task_group() as tasks:
        keeper = Keeper(cluster.url, tmp_path / "a", tasks)
        keeper.start()
        async with Client.open(cluster.url) as client:
            acknowledged = await submit(client, TASKS)
        made = await command(cluster, tmp_path / "home", "backup", "create", str(tmp_path / "backup"))
        assert made.code == 0, made
        drilled = await command(cluster, tmp_path / "home", "backup", "drill")
        assert drilled.code == 0, drilled
        await keeper.crash()
    async with nats_cluster(tmp_path / "b") as cluster, task_group() as tasks:
        arguments = ("backup", "restore", str(tmp_path / "backup"), "--nats", cluster.url)
        restored = await command(cluster, tmp_path / "home", *arguments)
        assert restored.code == 0, restored
        keeper = Keeper(cluster.url, tmp_path / "b", tasks)
        keeper.start()
        async with Client.open(cluster.url) as client:
            assert await client.execute(ListTasks(limit=10), timeout_s=PATIENCE_S)
            await client.execute(SubmitTask(task_id="after", task_name="n"))
        judge = Judge(cluster.url)
        await judge.read()
        assert judge.submitted.keys() == acknowledged | {"after"}
        info = await cluster.info(JOURNAL)
        assert info["config"]["num_replicas"] == 3
        verified = await command(cluster, tmp_path / "home", "verify")
        assert verified.code == 0, verified
        await keeper.crash()


async def test_one_server_is_away_and_then_two(tmp_path: Path) -> None:
    """
    Without one server, doctor warns of it by name, and verify and commands work.

    Without two servers nothing is stored: calls raise Unavailable, and succeed when repeated once a second is back.
    """
    async with nats_cluster(tmp_path) as cluster, task_group() as tasks:
        keeper = Keeper(cluster.url, tmp_path, tasks)
        keeper.start()
        async with Client.open(cluster.url) as client:
            await submit(client, 10)
            well = await command(cluster, tmp_path / "home", "doctor")
            assert "configured as expected, 3 replicas" in well.out
            assert "not up to date" not in well.out
            away = await cluster.leader_of(JOURNAL)
            await cluster.kill(away)
            await client.execute(SubmitTask(task_id="with_two", task_name="n"), timeout_s=PATIENCE_S)
            ill, missing = "", f"1 replicas are not up to date: {away}"
            async with asyncio.timeout(2 * PATIENCE_S):
                while missing not in ill:  # a server updates its view of the others some seconds later
                    ill = (await command(cluster, tmp_path / "home", "doctor")).out
            verified = await command(cluster, tmp_path / "home", "verify")
            assert verified.code == 0, verified
            await cluster.kill(await cluster.leader_of(JOURNAL))
            waits = SubmitTask(task_id="waits", task_name="n")
            with pytest.raises(Unavailable):
                await client.execute(waits, timeout_s=5)
            await cluster.start(away)
            assert await client.execute(waits, timeout_s=PATIENCE_S) == "waits"
        judge = Judge(cluster.url)
        await judge.read()
        assert judge.submitted["waits"] == 1
        await keeper.crash()


async def test_snapshots_have_as_many_copies_as_the_journal(tmp_path: Path) -> None:
    """The follower made their stream: it survives the loss of any server, the tools find no fault, and all start."""
    often = {"COORDINATOR_FOLLOWER__SNAPSHOT_EVENTS": "5", "COORDINATOR_FOLLOWER__SNAPSHOT_PAUSE_S": "0"}
    async with nats_cluster(tmp_path) as cluster, task_group() as tasks, Client.open(cluster.url) as client:
        keeper = Keeper(cluster.url, tmp_path, tasks)
        keeper.start()
        await submit(client, 10)
        home, stream = tmp_path / "home", client.subjects.stream_snapshots
        environment = {"COORDINATOR_NATS__REPLICAS": "3", "COORDINATOR_HOME": str(home), **often}
        snapshots = Snapshots(client.bus, client.subjects, replicas=3)
        with running("follow", written=tmp_path / "out", COORDINATOR_URL=cluster.url, **environment):
            async with asyncio.timeout(PATIENCE_S):
                while not await patiently(snapshots.manifests):  # noqa: ASYNC110  # told over NATS
                    await asyncio.sleep(0.1)
        assert (await cluster.info(stream))["config"]["num_replicas"] == 3
        well = await command(cluster, home, "doctor")
        assert [
            line for line in well.out.splitlines() if stream in line and "configured as expected, 3 replicas" in line
        ], well
        await cluster.kill(await cluster.leader_of(stream))
        await keeper.crash()
        keeper = Keeper(cluster.url, tmp_path, tasks)
        keeper.start()
        assert not await keeper.has_refused()
        await submit(client, 20)
        moved = await command(cluster, home, "archive", "run", str(tmp_path / "archive"), "--before", "3")
        assert moved.code == 0, moved
        await keeper.crash()


async def test_what_a_domain_publishes_is_taken_up_once(tmp_path: Path) -> None:
    """An inbox has three copies: its leader is killed while a domain publishes, and each event is recorded once."""
    async with nats_cluster(tmp_path) as cluster, task_group() as tasks:
        keeper = Keeper(cluster.url, tmp_path, tasks)
        keeper.start()
        async with Client.open(cluster.url) as client:
            await submit(client, 1)
            inbox = inbox_stream(client.subjects, "robots", InboxLimits(replicas=3, max_bytes=64 * 1024**2))
            await ensure_stream(client.bus, inbox)
            async with EventPublisher.open(cluster.url, domain="robots", timeout_s=PATIENCE_S) as publisher:
                for number in range(EVENTS):
                    if number == EVENTS // 2:
                        await cluster.kill(await cluster.leader_of(inbox["name"]))
                    await publisher.publish("robot.moved", {"x": number})
            async with asyncio.timeout(PATIENCE_S):
                while len(seen := await recorded(client)) < EVENTS:  # noqa: ASYNC110  # told over NATS
                    await asyncio.sleep(0.1)
            assert seen == list(range(EVENTS))
        await keeper.crash()


async def test_the_configuration_in_the_guide_is_one(tmp_path: Path) -> None:
    """nats-server accepts the configuration in docs/guide/cluster.md, for each of the three."""
    page = (ROOT / "docs/guide/cluster.md").read_text()
    conf = page.split("```conf\n")[1].split("```")[0]
    for number in (1, 2, 3):
        mine = conf.replace("n1 ", f"n{number} ").replace("10.0.0.1:4222", f"127.0.0.{number}:4222")
        file = tmp_path / f"n{number}.conf"
        file.write_text(mine.replace("/var/lib/nats", str(tmp_path / "store")))
        ended = await asyncio.to_thread(subprocess.run, [find_binary(), "-t", "-c", str(file)], capture_output=True)
        assert ended.returncode == 0, ended.stderr
