"""
Leads a cluster of real processes through everything that can happen, so that its journal has every type of event.

It waits for what only time causes (silence, expired leases, mass silence), with limits of a second or two.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import time
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats

from tests.golden.release_journal import Process, command, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.aio.client import Client as Connection

NAMESPACE = "coordination"
TASKS = 6400
BATCH = 200
WAIT_S = 60.0
SETTINGS = """\
agents:
  sleeper: {command: ["sleep", "1000"], stop_grace_s: 0.5}
  task_agent: {when_cut_off: keep}
container: {restart_backoff_s: 0.3, restart_backoff_max_s: 0.6}
engine: {ended_kept: 300, tick_s: 0.1}
feed: {max_bytes: 1048576}
follower: {snapshot_events: 5000, snapshot_pause_s: 0}
inbox: {discover_s: 0.2}
leadership: {ttl_s: 2, renew_s: 0.5, fresh_s: 1.0, stop_after_s: 1.6}
node: {node_lease_s: 2.0, sync_interval_s: 0.25}
registry: {cleanup_interval: 0.2, heartbeat_timeout: 2.0, deregister_after_s: 2.0, mass_silence_least: 3,
           health_check_interval: 0.5, health_check_timeout_s: 0.3}
scheduler: {task_timeout_check_interval: 0.2, retry_backoff_s: 0.1, lease_s: 2.0, worker_timeout_s: 3.0}
log: {level: warning}
"""
_HANDLERS = str(Path(__file__).with_name("release_handlers.py"))
_BIG = 10**14
"""Bytes that only the simulated nodes have, so that a container that needs some is placed there."""


async def play(work: Path, home: Path) -> None:
    """Run everything; afterwards *home* holds the store, the read model and all other files of a home."""
    variables = {"COORDINATOR_CONFIG": str(work / "coordinator.yaml"), "PYTHONPATH": str(Path.cwd())}
    async with serving(work / "server", home / "nats") as server:
        cluster = Cluster(home, work, server.url, variables)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(cluster.end)
            await cluster.start_first()
            follower = await stack.enter_async_context(Process.running(home, "follow", url=server.url, **variables))
            call = await stack.enter_async_context(Calls.open(server.url))
            await call.until_led()
            await _inboxes(cluster, call)
            await _tasks(call, "early", TASKS // 2, cluster)
            async with asyncio.TaskGroup() as group:
                for happen in (_services, _nodes, _workers, _pools_and_sessions):
                    group.create_task(happen(call))
            await _real_node(cluster, call)
            await cluster.take_over(call)
            await _tasks(call, "late", TASKS // 2, cluster)
            await cluster.pass_by(call)
            await cluster.end()
            await _until_read(home / "state.db", server.url)
            await follower.end()


class Calls:
    """Commands and questions as any program may send them, by the documented protocol."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._ids = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Calls]:
        """Connect."""
        connection = await nats.connect(url)
        try:
            yield cls(connection)
        finally:
            await connection.close()

    async def __call__(self, subject: str, name: str, **data: Any) -> Any:
        """Send one command, repeat it while nobody leads, and return its value; an error is raised as received."""
        (answer,) = await self.all(subject, name, [data])
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["ok"]

    async def all(self, subject: str, name: str, each: list[dict[str, Any]], **around: str) -> list[Any]:
        """Send many commands in one request; *around* is added to each next to its data."""
        self._ids += 1
        orders = [
            {"id": f"play_{self._ids}_{at}", "type": name, "data": data, **around} for at, data in enumerate(each)
        ]
        body = json.dumps(orders).encode()
        give_up = time.monotonic() + WAIT_S
        while True:
            try:
                wait_s = 5.0 + max((data.get("wait_s", 0.0) for data in each), default=0.0)
                reply = await self.connection.request(f"{NAMESPACE}.rpc.play.{subject}", body, timeout=wait_s)
            except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
                answers = [{"error": {"code": "unavailable"}}]
            else:
                answers = json.loads(reply.data)
            if all(answer.get("error", {}).get("code") != "unavailable" for answer in answers):
                return answers
            assert time.monotonic() < give_up, (name, answers)
            await asyncio.sleep(0.1)

    async def until_led(self) -> str:
        """Wait until a coordinator leads, and return its name."""
        leader: str = (await self("coordinator.stats", "get_stats"))["leader"]
        return leader

    async def beat_worker(self, worker_id: str, leases: list[str]) -> None:
        """Send a worker's heartbeat."""
        await self._beat("worker", worker_id, {"worker_id": worker_id, "leases": leases, "load": 0.5})

    async def beat_service(self, service_id: str) -> None:
        """Send a service's heartbeat."""
        await self._beat("service", service_id, {"service_id": service_id, "load": 0.25, "connections": 2})

    async def _beat(self, kind: str, entity_id: str, data: dict[str, Any]) -> None:
        self._ids += 1
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        beat = {
            "specversion": "1.0", "type": f"{kind}.heartbeat", "id": str(self._ids), "source": "/play",
            "subject": entity_id, "time": now, "dataversion": 1, "data": data,
        }  # fmt: skip
        await self.connection.publish(f"{NAMESPACE}.heartbeat.{kind}.{entity_id}", json.dumps(beat).encode())


class Cluster:
    """Two coordinators, one of which leads."""

    def __init__(self, home: Path, work: Path, url: str, variables: dict[str, str]) -> None:
        self.url = url
        self.home = home
        self.work = work
        self.variables = variables
        self.first: Process

    async def start_first(self) -> None:
        """Start the coordinator of the home that is kept."""
        self.first = Process(self.home, "serve", "--without-follower", url=self.url, **self.variables)

    async def end(self) -> None:
        """Stop the first cleanly, if it runs."""
        if self.first.code is None:
            await self.first.end()

    async def take_over(self, call: Calls) -> None:
        """Kill the first; the second takes over, and hands over to the first when it is stopped."""
        led = await call.until_led()
        arguments = ("serve", "--without-follower")
        async with Process.running(self.work / "second", *arguments, url=self.url, **self.variables):
            await asyncio.sleep(2.0)
            await self.first.end(kill=True)
            await until(lambda: _is_led_by_another(call, led))
            other = await call.until_led()
            await self.start_first()
            await asyncio.sleep(2.0)
        await until(lambda: _is_led_by_another(call, other))

    async def pass_by(self, call: Calls) -> None:
        """Remove messages of inboxes, and a whole inbox, while no coordinator reads."""
        await self.first.end()
        jetstream = call.connection.jetstream()
        stream = f"{NAMESPACE.upper()}_INBOX_WEATHER"
        for number in range(3):
            await jetstream.publish(f"{NAMESPACE}.inbox.weather.weather.noted", b'{"late":%d}' % number)
        await jetstream.purge_stream(stream, keep=1)
        await jetstream.delete_stream(f"{NAMESPACE.upper()}_INBOX_SALES")
        await command(self.home, "inbox", "add", "sales", url=self.url)
        await jetstream.publish(f"{NAMESPACE}.inbox.sales.order.placed", b'{"again":true}')
        await self.start_first()
        await call.until_led()

        async def all_read() -> bool:
            listed = {one["domain"]: one for one in await call("inbox.list", "list_inboxes")}
            last = (await jetstream.stream_info(stream)).state.last_seq
            return bool(listed["weather"].get("sequence", 0) == last and listed["sales"].get("sequence", 0) == 1)

        await until(all_read)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110  # over NATS
            await asyncio.sleep(0.1)


async def _is_led_by_another(call: Calls, leader: str) -> bool:
    return await call.until_led() != leader


# --- what happens -----------------------------------------------------------------------------------------------------


async def _tasks(call: Calls, name: str, count: int, cluster: Cluster) -> None:
    """Make two real workers execute tasks of all sorts."""
    sorts = ["double"] * 16 + ["flaky", "hopeless", "steps", "double"]
    each = [
        {
            "task_id": f"{name}-{number}",
            "task_name": sorts[number % len(sorts)],
            "priority": number % 3,
            "max_retries": 2,
            "payload": _payload({"n": number % 50}),
            **({"idempotency_key": f"{name}/{number}"} if number % 100 == 0 else {}),
        }
        for number in range(count)
    ]
    workers = [
        Process.running(
            cluster.work / f"{name}-worker-{number}",
            "worker", "run", _HANDLERS, "--id", f"{name}-worker-{number}", "--slots", "100",
            url=cluster.url, **cluster.variables,
        )
        for number in range(2)
    ]  # fmt: skip
    waiting = (await call("coordinator.stats", "get_stats"))["tasks"]["pending"]
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        for at in range(0, count, BATCH):
            await call.all("task.submit", "submit_task", each[at : at + BATCH])

        async def all_ended() -> bool:
            tasks = (await call("coordinator.stats", "get_stats"))["tasks"]
            return bool(tasks["pending"] <= waiting and not tasks["running"])

        await until(all_ended)


async def _services(call: Calls) -> None:
    """One is silent and heard again; four are silent at once, twice; one is checked over HTTP by the follower."""
    offered = {"service_name": "search", "service_type": "http", "host": "127.0.0.1", "port": 8080}
    await call("service.register", "register_service", service_id="lone", **offered, tags=["eu"], weight=3)
    await until(lambda: _has_health(call, "lone", "offline"))
    await call("service.heartbeat", "heartbeat_service", service_id="lone", load=0.5)
    await call("service.deregister", "deregister_service", service_id="lone", reason="done")
    many = [f"many-{number}" for number in range(4)]
    for service_id in many:
        await call("service.register", "register_service", service_id=service_id, **offered)
    await until(lambda: _is_mass_silence(call))
    for service_id in many:
        await call.beat_service(service_id)
    await until(lambda: _is_no_mass_silence(call))
    await until(lambda: _is_mass_silence(call))
    await call("coordinator.accept_silence", "accept_silence", kind="service", reason="they are gone")
    await until(lambda: _is_no_mass_silence(call))
    async with _web_server() as port:
        await call(
            "service.register", "register_service", service_id="checked", **offered | {"port": port},
            health_check_url=f"http://127.0.0.1:{port}/health", metadata={"release": "1"},
        )  # fmt: skip
        await until(lambda: _has_health(call, "checked", "healthy"))
    await until(lambda: _has_health(call, "checked", "unhealthy"))


async def _nodes(call: Calls) -> None:
    """Two simulated nodes: containers in every state, one node is lost twice and removed."""
    capacity = {"cpu_millis": 4000, "memory_bytes": 4 * _BIG}
    await call("node.register", "register_node", node_id="node-a", capacity=capacity, runtime="fake")
    syncing = asyncio.create_task(_keep_syncing(call, "node-a"))
    await call("node.cordon", "cordon_node", node_id="node-a", reason="repair")
    await call("node.uncordon", "uncordon_node", node_id="node-a")
    wanted = {"agent_id": "agent", "agent_type": "task_agent", "resources": {"memory_bytes": _BIG}}
    await call(
        "container.create", "create_container", container_id="box", **wanted, session_id="user-0",
        environment={"MODE": "fast", "TOKEN": {"secret": "token"}},
    )  # fmt: skip
    await call("container.start", "start_container", container_id="box")
    await _sync(call, "node-a", "box", "running", pid=42)
    await call("container.pause", "pause_container", container_id="box")
    await _sync(call, "node-a", "box", "paused")
    await call("container.resume", "resume_container", container_id="box")
    await _sync(call, "node-a", "box", "running")
    await call("container.stop", "stop_container", container_id="box", reason="pause")
    await _sync(call, "node-a", "box", "exited", exit_code=143)
    await call("container.start", "start_container", container_id="box")
    await _sync(call, "node-a", "box", "exited", exit_code=1, reason="killed by signal 9")
    await until(lambda: _has_status(call, "box", "starting"))
    await _sync(call, "node-a", "box", "running")
    await call("container.destroy", "destroy_container", container_id="box", force=True)
    await until(lambda: _has_status(call, "box", "destroyed"))
    await call("container.create", "create_container", container_id="kept", **wanted)
    # A node that is cut off: lost with its container, back again, and then lost for good.
    await call("node.register", "register_node", node_id="node-b", capacity=capacity, runtime="fake", labels={"z": "1"})
    await call("node.cordon", "cordon_node", node_id="node-a", reason="let the next be placed elsewhere")
    await call("container.create", "create_container", container_id="moved", **wanted)
    await call("container.start", "start_container", container_id="moved")
    await _sync(call, "node-b", "moved", "running")
    await call("node.uncordon", "uncordon_node", node_id="node-a")
    await until(lambda: _is_node(call, "node-b", "lost"))
    await call("node.sync", "sync_node", node_id="node-b")
    await until(lambda: _is_node(call, "node-b", "removed"))
    await call("container.destroy", "destroy_container", container_id="moved")
    await until(lambda: _has_status(call, "moved", "destroyed"))
    syncing.cancel()


async def _keep_syncing(call: Calls, node_id: str) -> None:
    """Act as a node that reports nothing on its own and holds its orders: a container it does not name is gone."""
    orders_id = ""
    while True:
        await asyncio.sleep(0.3)
        answers = await call.all("node.sync", "sync_node", [{"node_id": node_id, "orders_id": orders_id}])
        told = answers[0].get("ok", {})
        stopping = any(one["desired"] == "destroyed" for one in told.get("containers", ()))
        orders_id = told.get("orders_id", "") if stopping else ""


async def _sync(call: Calls, node_id: str, container_id: str, state: str, **more: Any) -> None:
    told = await call("node.sync", "sync_node", node_id=node_id)
    generation = next(one["generation"] for one in told["containers"] if one["container_id"] == container_id)
    seen = {"container_id": container_id, "generation": generation, "state": state, **more}
    await call("node.sync", "sync_node", node_id=node_id, observed=[seen])


async def _workers(call: Calls) -> None:
    """One worker falls silent while it holds tasks; another fails, returns, is late, is told to stop, and leaves."""
    for number in range(8):
        await call("task.submit", "submit_task", task_id=f"odd-{number}", task_name="odd", max_retries=1,
                   **({"timeout_s": 0.5} if number == 5 else {}))  # fmt: skip
    for encoding, data in (("text", "größer"), ("base64", "AAEC/w==")):
        payload = {"encoding": encoding, "data": data, "digest": _digest(data)}
        await call("task.submit", "submit_task", task_id=f"odd-{encoding}", task_name="nobody", payload=payload)
    traced = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "acme"}
    wanted = {"task_name": "nobody", "resources": {"cpu_millis": 500, "gpus": 1}, "task_type": "report"}
    await call.all("task.submit", "submit_task", [{"task_id": "of-acme", **wanted}], **traced)
    await call("worker.register", "register_worker", worker_id="silent", slots=2, handles=["odd"])
    (lost,) = await call("task.claim", "claim_tasks", claim_id="of-silent", worker_id="silent", slots=1)
    await call(
        "worker.register", "register_worker", worker_id="busy", slots=4, handles=["odd"],
        resources={"cpu_millis": 4000, "memory_bytes": 10**9},
    )  # fmt: skip
    held = await call("task.claim", "claim_tasks", claim_id="of-busy", worker_id="busy", slots=5, strategy="priority")
    leases = {one["task_id"]: one["lease"] for one in held}
    await call.beat_worker("busy", list(leases.values()))
    ids = list(leases)
    await call("task.progress", "progress_task", task_id=ids[0], lease=leases[ids[0]], progress=0.5, message="half")
    await call("task.complete", "complete_task", task_id=ids[0], lease=leases[ids[0]], execution_time_s=0.5)
    await call("task.fail", "fail_task", task_id=ids[1], lease=leases[ids[1]], error="again", retry=True)
    await call("task.fail", "fail_task", task_id=ids[2], lease=leases[ids[2]], error="never", retry=False)
    await call("task.release", "release_task", task_id=ids[3], lease=leases[ids[3]], reason="drained")
    await call("worker.drain", "drain_worker", worker_id="busy", reason="done")
    await call("worker.leave", "leave_worker", worker_id="busy", reason="done")
    await until(lambda: _is_worker(call, "silent", "lost"))
    late = await call.all("task.complete", "complete_task", [{"task_id": lost["task_id"], "lease": lost["lease"]}])
    assert late[0]["error"]["code"] == "stale_lease", late
    await call("worker.register", "register_worker", worker_id="slow", handles=["odd"])
    await call("task.claim", "claim_tasks", claim_id="of-slow", worker_id="slow", slots=8)
    await until(lambda: _is_task(call, "odd-5", "timeout"))
    await call("worker.leave", "leave_worker", worker_id="slow", reason="done")
    for number in range(8):
        await call.all("task.cancel", "cancel_task", [{"task_id": f"odd-{number}", "reason": "not needed any more"}])


async def _pools_and_sessions(call: Calls) -> None:
    """Shares are granted, refused and returned; sessions move and end."""
    await call("pool.define", "define_pool", pool_id="pool", capacity={"cpu_millis": 1000, "gpus": 2})
    for number in range(3):
        share = {"cpu_millis": 400}
        await call("pool.allocate", "allocate_pool", pool_id="pool", request_id=f"r{number}", resources=share)
    await call("pool.release", "release_pool", pool_id="pool", request_id="r0")
    wanted = {"agent_id": "agent", "agent_type": "sleeper", "resources": {"memory_bytes": _BIG}}

    async def placed() -> bool:
        (answer,) = await call.all("container.create", "create_container", [{"container_id": "desk", **wanted}])
        return "ok" in answer

    await until(placed)
    for number in range(3):
        await call("session.bind", "bind_session", session_id=f"user-{number}", container_id="desk")
    await call("session.close", "close_session", session_id="user-1", reason="logged out")


async def _real_node(cluster: Cluster, call: Calls) -> None:
    """A real node agent runs, pauses, resumes and removes a real process, through the facade."""
    from coordinator.container import ContainerConfig, ContainerManager

    arguments = ("node", "run", "--id", "node-real", "--stop-containers")
    async with Process.running(cluster.home, *arguments, url=cluster.url, **cluster.variables):
        await until(lambda: _is_node(call, "node-real", "ready"))
        before = dict(os.environ)
        os.environ |= {"COORDINATOR_URL": cluster.url, "COORDINATOR_HOME": str(cluster.home)} | cluster.variables
        async with ContainerManager() as containers:
            config = ContainerConfig(agent_id="real", agent_type="sleeper", resources={"cpu": "100m"})
            container_id = await containers.create_container(config)
            await call("node.cordon", "cordon_node", node_id="node-a", reason="over")
            assert await containers.start_container(container_id)
            assert await containers.pause_container(container_id)
            assert await containers.resume_container(container_id)
            assert await containers.stop_container(container_id)
            assert await containers.destroy_container(container_id)
        os.environ.clear()
        os.environ.update(before)


async def _inboxes(cluster: Cluster, call: Calls) -> None:
    """Facts, commands and garbage of other domains."""
    jetstream = call.connection.jetstream()
    for domain in ("weather", "sales"):
        code, _, error = await command(cluster.home, "inbox", "add", domain, url=cluster.url)
        assert code == 0, error
    subject = f"{NAMESPACE}.inbox.weather"
    for number in range(20):
        await jetstream.publish(f"{subject}.weather.noted", json.dumps({"celsius": number / 2}).encode())
    fact = {"specversion": "1.0", "id": "f1", "source": "/weather/eu", "type": "weather.noted", "subject": "berlin",
            "time": "2026-11-23T17:14:59.5+01:00", "data": {"wind": 3}}  # fmt: skip
    await jetstream.publish(f"{subject}.weather.noted", json.dumps([fact, fact | {"id": "f2"}]).encode())
    await jetstream.publish(f"{subject}.task.submitted", b'{"task_id":"from_weather","task_name":"double"}')
    await jetstream.publish(f"{subject}.task.cancelled", b'{"task_id":"nobody"}')
    await jetstream.publish(f"{subject}.weather.noted", b"nonsense")
    await jetstream.publish(f"{NAMESPACE}.inbox.sales.order.placed", b'{"order":1}')

    async def all_read() -> bool:
        listed = {one["domain"]: one.get("sequence", 0) for one in await call("inbox.list", "list_inboxes")}
        return listed.get("weather") == 24 and listed.get("sales") == 1

    await until(all_read)
    await call("task.cancel", "cancel_task", task_id="from_weather", reason="rain")


@asynccontextmanager
async def _web_server() -> AsyncIterator[int]:
    """Answer every HTTP request with 204 while the block runs; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _until_read(store: Path, url: str) -> None:
    """Wait until the read model has reached the end of the journal."""
    connection = await nats.connect(url)
    last = (await connection.jetstream().stream_info(f"{NAMESPACE.upper()}_JOURNAL")).state.last_seq
    await connection.close()

    async def is_there() -> bool:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT sequence FROM position").fetchone()[0] >= last)

    await until(is_there)


def _payload(value: object) -> dict[str, str]:
    data = json.dumps(value)
    return {"encoding": "json", "data": data, "digest": _digest(data)}


def _digest(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()


async def _has_health(call: Calls, service_id: str, status: str) -> bool:
    return str((await call("service.get", "get_service", service_id=service_id))["service"]["status"]) == status


async def _is_mass_silence(call: Calls) -> bool:
    return bool((await call("coordinator.stats", "get_stats"))["mass_silence"].get("service"))


async def _is_no_mass_silence(call: Calls) -> bool:
    return not await _is_mass_silence(call)


async def _has_status(call: Calls, container_id: str, status: str) -> bool:
    found = await call("container.get", "get_container", container_id=container_id)
    return str(found["status"]) == status


async def _is_task(call: Calls, task_id: str, status: str) -> bool:
    return str((await call("task.get", "get_task", task_id=task_id))["status"]) == status


async def _is_worker(call: Calls, worker_id: str, status: str) -> bool:
    listed = await call("worker.list", "list_workers", limit=100)
    return any(one["worker_id"] == worker_id and one["status"] == status for one in listed)


async def _is_node(call: Calls, node_id: str, status: str) -> bool:
    listed = await call("node.list", "list_nodes", limit=100)
    return any(one["node_id"] == node_id and one["status"] == status for one in listed)
