"""Answers that do not fit into one message: each caller gets the outcome of what it asked for, and only once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.nats_client import NatsClient
from coordinator.client.client import Client
from coordinator.client.paging import listed
from coordinator.commands.container import CreateContainer, StartContainer
from coordinator.commands.node import RegisterNode
from coordinator.commands.payloads import payload_of
from coordinator.commands.pool import AllocatePool, DefinePool, GetPool
from coordinator.commands.service import FindServices, RegisterService
from coordinator.commands.task import ClaimTasks, CompleteTask, GetTask, ListTasks, SubmitTask
from coordinator.commands.worker import ListWorkers, RegisterWorker
from coordinator.container.resource_manager import ResourceManager
from coordinator.registry.discovery import LoadBalancingStrategy, ServiceDiscovery
from coordinator.registry.service_registry import ServiceRegistry
from events.container import ContainerStatus, Secret
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.resources import Resources
from events.service import ServiceStatus
from events.subjects import Subjects
from events.task import TaskStatus
from tests.e2e.test_service_watch import remote_app

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
MANY = 60
LARGE = payload_of("x" * 30_000)
"""So large that only half of the answers about `MANY` tasks fit into a message of 1 MB."""
PATIENCE_S = 20.0


async def submit(client: Client, count: int = MANY) -> list[str]:
    ids = [f"t{number}" for number in range(count)]
    await asyncio.gather(*(client.execute(SubmitTask(task_id=one, task_name="n", payload=LARGE)) for one in ids))
    return ids


async def raw(cluster: Cluster, kind: str, verb: str, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send one request and return the answers of its one answer message."""
    async with Bus.open(cluster.url, name="raw", buffered=False) as bus:
        body = json.dumps(commands).encode()
        answers: list[dict[str, Any]] = json.loads(
            await bus.request(SUBJECTS.rpc("raw", kind, verb), body, timeout_s=PATIENCE_S)
        )
    return answers


async def test_questions_asked_at_once_are_all_answered(cluster: Cluster) -> None:
    """They share requests, whatever the answers weigh."""
    ids = await submit(cluster.client)
    told = await asyncio.gather(*(cluster.client.execute(GetTask(task_id=one), timeout_s=PATIENCE_S) for one in ids))
    assert [task.task_id for task in told] == ids
    assert all(task.payload == LARGE for task in told)


async def test_what_does_not_fit_is_to_be_asked_again(cluster: Cluster) -> None:
    """In one message: what fits is answered, and every other answer says what to do."""
    ids = await submit(cluster.client)
    asks = [{"type": "get_task", "data": {"task_id": one}} for one in ids]
    answers = await raw(cluster, "task", "get", asks)
    assert len(answers) == MANY
    told = {number: answer["ok"]["task_id"] for number, answer in enumerate(answers) if "ok" in answer}
    assert MANY // 3 < len(told) < MANY
    assert all(ids[number] == task_id for number, task_id in told.items())
    for answer in answers:
        if "error" in answer:
            assert (answer["error"]["code"], answer["error"]["reason"]) == ("unavailable", "ask_again")
            assert "smaller" in answer["error"]["message"]


async def test_claims_made_at_once_get_what_was_lent_to_them(cluster: Cluster) -> None:
    """No task is lent to a claim that is never told."""
    ids = await submit(cluster.client)
    await cluster.client.execute(RegisterWorker(worker_id="w"))
    claims = [ClaimTasks(claim_id=f"c{number}", worker_id="w") for number in range(MANY)]
    told = await asyncio.gather(*(cluster.client.execute(claim, timeout_s=PATIENCE_S) for claim in claims))
    assert sorted(task.task_id for (task,) in told) == sorted(ids)
    assert {claim.claim_id: task.claim_id for claim, (task,) in zip(claims, told, strict=True)} == {
        claim.claim_id: claim.claim_id for claim in claims
    }
    engine = cluster.coordinator.engine
    assert engine is not None
    assert all(task.attempt == 1 for task in engine.world.tasks.values())


async def test_claims_whose_caller_gives_up_are_withdrawn(cluster: Cluster) -> None:
    """A client whose time is over returns what it was not told of."""
    await submit(cluster.client, 1)
    await cluster.client.execute(RegisterWorker(worker_id="w"))
    engine = cluster.coordinator.engine
    assert engine is not None
    async with Client.open(cluster.url, source="late") as late:
        late.attempt_timeout_s = 0.05
        await late.bus.flush()
        late.bus.on_disconnect.clear()
        lost = late.bus.request

        async def deaf(*args: Any, **named: Any) -> bytes:
            await lost(*args, **named)
            raise Unavailable("the answer was lost", reason="timeout")

        late.bus.request = deaf  # type: ignore[method-assign]  # the network between this client and its answers
        with pytest.raises(Unavailable):
            await late.execute(ClaimTasks(claim_id="c", worker_id="w"), timeout_s=0.3)
        async with asyncio.timeout(PATIENCE_S):
            while engine.world.tasks["t0"].status is not TaskStatus.PENDING or not engine.world.tasks["t0"].attempt:  # noqa: ASYNC110  # told over NATS
                await asyncio.sleep(0.01)
    assert engine.world.tasks["t0"].failures == 0


async def test_containers_started_at_once_are_told_as_started(cluster: Cluster) -> None:
    """A start that was carried out is never answered as refused."""
    client = cluster.client
    await client.execute(RegisterNode(node_id="node", capacity=Resources(cpu_millis=64_000), runtime="process"))
    ids = [f"k{number}" for number in range(40)]
    environment: dict[str, str | Secret] = {"V": "x" * 30_000}
    for one in ids:
        await client.execute(
            CreateContainer(container_id=one, agent_id=one, agent_type="task_agent", environment=environment)
        )
    told = await asyncio.gather(
        *(client.execute(StartContainer(container_id=one), timeout_s=PATIENCE_S) for one in ids)
    )
    assert [one.container_id for one in told] == ids
    assert {one.status for one in told} == {ContainerStatus.STARTING}
    assert all(one.environment == environment for one in told)


async def test_one_answer_that_is_too_large_says_how_to_page(cluster: Cluster) -> None:
    """The question is refused; with the limit that the refusal names it is answered."""
    metadata = {f"m{number}": "x" * 250 for number in range(30)}
    register = [
        RegisterService(
            service_id=f"s{number:03}", service_name="s", service_type="t", host="h", port=1, metadata=metadata
        )
        for number in range(150)
    ]
    await asyncio.gather(*(cluster.client.execute(one) for one in register))
    with pytest.raises(Refused, match=r"limit=.*after=") as refused:
        await cluster.client.execute(FindServices())
    assert refused.value.reason == "too_large"
    found: list[str] = []
    while page := await cluster.client.execute(FindServices(after=found[-1] if found else "", limit=100)):
        found += [view.service.service_id for view in page]
    assert found == [one.service_id for one in register]


async def test_a_large_pool_is_read_page_by_page(cluster: Cluster) -> None:
    """What is told of a command that was carried out is not that it was refused."""
    client = cluster.client
    share = Resources(cpu_millis=100, memory_bytes=10**9, gpus=1)
    define = DefinePool(pool_id="p", capacity=Resources(cpu_millis=10**6, memory_bytes=10**13, gpus=10**4))
    await client.execute(define)
    ids = [f"{'r' * 58}{number:05}" for number in range(5000)]
    allocate = (AllocatePool(pool_id="p", request_id=one, resources=share, priority=1000) for one in ids)
    assert all(await asyncio.gather(*map(client.execute, allocate)))
    with pytest.raises(Refused, match=r"limit=.*after=") as refused:
        await client.execute(GetPool(pool_id="p"))
    assert refused.value.reason == "too_large"
    with pytest.raises(CoordinationError, match=r"was carried out.*get_pool") as untold:
        await client.execute(DefinePool(pool_id="p", capacity=Resources(cpu_millis=6000)))
    assert (untold.value.code, untold.value.reason) == ("error", "too_large")
    seen: list[str] = []
    while page := (await client.execute(GetPool(pool_id="p", limit=1000, after=seen[-1] if seen else ""))).allocations:
        seen += page
    assert seen == ids


async def test_services_with_large_metadata_are_found_as_before(cluster: Cluster) -> None:
    """30 services of 60 kB are two messages: the registry, discovery and its watch read them page by page."""
    metadata = {f"m{number}": "x" * 1000 for number in range(60)}
    async with remote_app(cluster) as app:
        registry = ServiceRegistry(app)
        ids = [f"s{number:02}" for number in range(30)]
        for one in ids:
            await registry.register_service("s", "t", "h", 1, service_id=one, metadata=metadata)
        with pytest.raises(Refused, match="only the first"):
            await cluster.client.execute(FindServices(service_name="s"))
        assert sorted(one.service_id for one in await registry.find_services("s")) == ids
        assert len(await registry.find_services(service_type="t", limit=25)) == 25
        assert len(await registry.find_services("s", ServiceStatus.UNHEALTHY)) == 0
        discovery = ServiceDiscovery(registry)
        assert (await discovery.get_service_stats("s"))["total_instances"] == 30
        least = {await chosen(discovery, LoadBalancingStrategy.LEAST_LOADED) for _ in range(3)}
        assert least <= set(ids)
        assert app.services is not None
        await asyncio.wait_for(app.services.ready.wait(), PATIENCE_S)
        assert {await chosen(discovery, LoadBalancingStrategy.ROUND_ROBIN) for _ in ids} == set(ids)


async def chosen(discovery: ServiceDiscovery, strategy: LoadBalancingStrategy) -> str:
    found = await discovery.discover_service("s", strategy)
    assert found is not None
    return found.service_id


async def test_a_pool_with_many_allocations_is_used_as_before(cluster: Cluster) -> None:
    """Whoever asks for its status gets all of them; to set its capacity again is carried out, and not refused."""
    async with remote_app(cluster) as app:
        manager = ResourceManager(app)
        await manager.initialize({"cpu": 1000, "memory": 10**13, "gpu": 10**4})
        ids = [f"{'r' * 58}{number:05}" for number in range(5000)]
        share = Resources(cpu_millis=100, memory_bytes=10**9, gpus=1)
        await asyncio.gather(
            *(
                cluster.client.execute(AllocatePool(pool_id=manager.POOL, request_id=one, resources=share, priority=1))
                for one in ids
            )
        )
        status = await manager.get_resource_status()
        assert list(status["allocations"]) == ids
        assert status["allocated"]["gpu"] == 5000
        await manager.initialize({"cpu": 2000, "memory": 10**13, "gpu": 10**4})
        assert (await manager.get_resource_status())["total"]["cpu"] == 2000


async def test_tasks_with_large_results_are_listed_and_read(cluster: Cluster) -> None:
    """1,000 tasks with 60 kB each: the list is without them, and each task tells its own."""
    client = cluster.client
    ids = [f"t{number:03}" for number in range(1000)]
    result = payload_of("r" * 60_000)
    await asyncio.gather(*(client.execute(SubmitTask(task_id=one, task_name="n"), timeout_s=PATIENCE_S) for one in ids))
    for begin in range(0, len(ids), 100):
        some = ids[begin : begin + 100]
        await asyncio.gather(
            *(client.execute(CompleteTask(task_id=one, result=result), timeout_s=PATIENCE_S) for one in some)
        )
    assert sorted(task.task_id for task in await listed(client, ListTasks(limit=1000))) == ids
    told = await asyncio.gather(*(client.execute(GetTask(task_id=one), timeout_s=PATIENCE_S) for one in ids[:200]))
    assert all(task.result == result for task in told)


async def test_a_list_is_read_in_as_many_pages_as_it_needs(cluster: Cluster) -> None:
    """As the facades and the command line do."""
    names = tuple(f"{number:04}{'n' * 120}" for number in range(1000))
    for number in range(20):
        await cluster.client.execute(RegisterWorker(worker_id=f"w{number:02}", handles=names))
    with pytest.raises(Refused, match=r"only the first \d items do: read it page by page"):
        await cluster.client.execute(ListWorkers(limit=20))
    found = await listed(cluster.client, ListWorkers(limit=19))
    assert [worker.worker_id for worker in found] == [f"w{number:02}" for number in range(19, 0, -1)]
    assert len(await listed(cluster.client, ListWorkers(limit=50))) == 20
    with pytest.raises(Refused, match="use 1 to 1000"):
        await listed(cluster.client, ListWorkers(limit=0))


@pytest.mark.parametrize("most", [140_000, 62_000])
async def test_a_claim_gets_as_many_tasks_as_its_answer_takes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """On a server of small messages too: the others go back to the queue, and no task waits for ever."""
    client = cluster.client
    ids = await submit(client, 20)
    monkeypatch.setattr(NatsClient, "max_payload", most)
    await client.execute(RegisterWorker(worker_id="w", slots=64))
    got: list[str] = []
    for number in range(40):
        claim = ClaimTasks(claim_id=f"c{number}", worker_id="w", slots=64, wait_s=1.0)
        for task in await client.execute(claim, timeout_s=PATIENCE_S):
            assert task.payload == LARGE
            await client.execute(CompleteTask(task_id=task.task_id, lease=task.lease))
            got.append(task.task_id)
        if len(got) == len(ids):
            break
    assert sorted(got) == sorted(ids)
    engine = cluster.coordinator.engine
    assert engine is not None
    assert {(task.status, task.failures) for task in engine.world.tasks.values()} == {(TaskStatus.COMPLETED, 0)}


async def test_a_server_of_small_messages_is_served(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take so little that not even short errors have room: one answer then tells it for the whole request."""
    ids = await submit(cluster.client, 1)
    monkeypatch.setattr(NatsClient, "max_payload", 4000)
    told = await raw(cluster, "task", "get", [{"type": "get_task", "data": {"task_id": ids[0]}}])
    assert [(one["error"]["code"], one["error"]["reason"]) for one in told] == [("refused", "too_large")]
    told = await raw(cluster, "task", "get", [{"type": "get_task", "data": {"task_id": "none"}}] * 50)
    assert [(one["error"]["code"], one["error"]["reason"]) for one in told] == [("unavailable", "ask_again")]
    questions = (cluster.client.execute(GetTask(task_id="none"), timeout_s=PATIENCE_S) for _ in range(50))
    assert {type(one) for one in await asyncio.gather(*questions, return_exceptions=True)} == {NotFound}
