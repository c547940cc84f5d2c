"""
Every allowed number works: the main job, with each numeric setting at its least, at its most, and in pairs.

What cannot work together is refused at the start, with both names.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]

from coordinator.app.app import App
from coordinator.app.in_process import InProcess
from coordinator.client.client import Client
from coordinator.container import ContainerConfig, ContainerManager
from coordinator.errors import NotFound
from coordinator.home import Home
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.nats_server.server import EmbeddedServer
from coordinator.processes.coordinator import instance_of
from coordinator.processes.credentials import patience
from coordinator.processes.follower import open_follower
from coordinator.processes.node import open_node
from coordinator.registry import ServiceRegistry
from coordinator.scheduler import TaskScheduler
from coordinator.settings.load import load
from coordinator.settings.model import KNOWN_KEYS
from coordinator.task_groups import task_group
from coordinator.worker.worker import Worker
from events import codec
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.settings.model import Settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.untraced]

JOB_S = 10.0
AT_ONCE = 12
PAIRS = 60
SEED = 19
USUAL = {"node.runtime": "fake", "node.sync_interval_s": 0.05}


class Extreme(NamedTuple):
    """A setting at the end of its range."""

    key: str
    value: float

    def __str__(self) -> str:
        return f"{self.key}={self.value:.10g}"


def extremes() -> list[Extreme]:
    found = []
    for key, field in KNOWN_KEYS.items():
        bounds = {side: getattr(one, side) for one in field.metadata for side in ("ge", "le") if hasattr(one, side)}
        kind = int if field.annotation in (int, int | None) else float
        found += [Extreme(key.replace("<name>", "task_agent"), kind(bounds[side])) for side in bounds]
    return found


ALL = extremes()
MEANT = {
    "nats.replicas=5": "use nats.replicas 1, or a cluster",
    "security.default.max_pending_tasks=0": "0 tasks of source",
    "security.default.max_services=0": "has 0 services, of at most 0",
    "security.default.max_containers=0": "has 0 containers, of at most 0",
}
"""What stops the main job on purpose, and how the refusal begins."""


def settings_with(changes: dict[str, Any], folder: Path) -> Settings:
    made: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = key.split(".")
        at = made
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(made))
    return load(file)


@asynccontextmanager
async def cluster(url: str, settings: Settings, folder: Path) -> AsyncIterator[App]:
    """Run a coordinator, a follower, a node and a worker on a server that others use too, in their own namespace."""
    home = Home(folder)
    coordinator = Coordinator(instance_of(settings, url=url, name=home.instance("coordinator"), home=home))
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(task_group())
        serving = tasks.create_task(coordinator.run())
        stack.callback(coordinator.stop, "closed")
        leading = tasks.create_task(coordinator.leading.wait())
        await asyncio.wait({serving, leading}, return_when=asyncio.FIRST_COMPLETED)
        leading.cancel()
        if serving.done():
            serving.result()
        client = await stack.enter_async_context(Client.open(url, namespace=settings.namespace, **patience(settings)))
        await stack.enter_async_context(open_follower(settings, url, home, client, {}))
        node = await stack.enter_async_context(open_node(settings, home, client, {"COORDINATOR_URL": url}))
        await node.ready.wait()
        slots = min(8, settings.scheduler.claim_slots_max)  # else it is refused, with the reason
        worker = Worker("w", url=url, namespace=settings.namespace, drain_s=0, slots=slots, **patience(settings))

        @worker.task("double")
        async def double(payload: int) -> int:
            return payload * 2

        working = tasks.create_task(worker.run())
        door = InProcess(coordinator, call_timeout_s=settings.client.call_timeout_s)
        app = App(door, client, settings, tasks, where="test")
        app.start(app.keep_leases())
        try:
            yield app
            assert not serving.done()
            assert not working.done()
        finally:
            worker.stop()
            await asyncio.wait([working])
            app.close()


async def job(app: App) -> None:
    """Let a worker execute a task, let a container start and stop, let a service be found."""
    scheduler, containers, registry = TaskScheduler(app), ContainerManager(app), ServiceRegistry(app)
    registered = await registry.register_service("s", "t", "localhost", 80)
    assert [one.service_id for one in await registry.find_services("s")] == [registered]
    task_id = await scheduler.submit_task("double", payload=21)
    container_id = await containers.create_container(ContainerConfig(agent_id="a", agent_type="task_agent"))
    await containers.start_container(container_id)
    await happened(app, {("container.started", container_id)})
    await containers.stop_container(container_id)
    await happened(app, {("task.completed", task_id), ("container.stopped", container_id)})
    try:
        assert (await scheduler.wait_for_task(task_id)).result == 42
    except NotFound:
        assert 0 in (app.settings.engine.retention_s, app.settings.engine.ended_kept)


async def happened(app: App, wanted: set[tuple[str, str]]) -> None:
    """Wait until the journal has these events."""
    journal = NatsJournal(app.client.bus, app.client.subjects)
    at = 0
    while wanted:
        last = (await journal.bounds()).last
        async for records in journal.read(at, last):
            for record in records:
                if record.kind == "commit":
                    wanted -= {(one.type, one.subject) for one in codec.decode(record.body)}
        at = last
        await asyncio.sleep(0.02)


async def tried(url: str, chosen: tuple[Extreme, ...], folder: Path) -> str:
    """Return what does not work; '' if everything does, or if it was refused with the names of all."""
    await asyncio.to_thread(folder.mkdir)
    changes = USUAL | {"namespace": folder.name} | {one.key: one.value for one in chosen}
    try:
        settings = settings_with(changes, folder)
    except Refused as error:
        named = all(one.key in error.message for one in chosen) or "use at least" in error.message
        return "" if named and "because" in error.message else f"refused without a reason: {error.message}"
    try:
        async with asyncio.timeout(JOB_S), cluster(url, settings, folder) as app:
            await job(app)
    except Refused as error:
        meant = [said for one in chosen if (said := MEANT.get(str(one)))]
        return "" if any(said in error.message for said in meant) else f"Refused: {error.message}"
    except Exception as error:  # noqa: BLE001  # it is what is looked for
        return f"{type(error).__name__}: {error} {getattr(error, 'exceptions', '')}"[:300]
    return ""


async def wrong_with(folder: Path, choices: list[tuple[Extreme, ...]]) -> dict[str, str]:
    wrong: dict[str, str] = {}
    for some in batched_by(choices):
        # One server would soon have no room left that it has not promised to a stream.
        async with EmbeddedServer(folder / f"nats-{some[0][0]}") as server:
            async with asyncio.TaskGroup() as group:
                running = {
                    (number, chosen): group.create_task(tried(server.url, chosen, folder / f"n{number}"))
                    for number, chosen in some
                }
            for (number, chosen), one in running.items():
                # Times of some milliseconds are enough for one program on a machine, but not for a dozen at once.
                if one.result() and (said := await tried(server.url, chosen, folder / f"{number}-alone")):
                    wrong[", ".join(map(str, chosen))] = said
    return wrong


def batched_by(choices: list[tuple[Extreme, ...]]) -> list[list[tuple[int, tuple[Extreme, ...]]]]:
    numbered = list(enumerate(choices))
    return [numbered[at : at + AT_ONCE] for at in range(0, len(numbered), AT_ONCE)]


async def test_each_number_at_its_ends(tmp_path: Path) -> None:
    """A setting that is allowed must not stop the main job."""
    assert len(ALL) > 120
    assert await wrong_with(tmp_path, [(one,) for one in ALL]) == {}


async def test_pairs_of_numbers_at_their_ends(tmp_path: Path) -> None:
    """Two settings that are allowed together must not stop the main job; else both are refused at the start."""
    drawn = random.Random(SEED)
    print(f"seed {SEED}")
    pairs = [tuple(drawn.sample(ALL, 2)) for _ in range(PAIRS)]
    assert await wrong_with(tmp_path, [pair for pair in pairs if pair[0].key != pair[1].key]) == {}
