"""What does harm only when it is acted on: poison tasks, dead names, dead agents."""

from __future__ import annotations

from itertools import count, cycle
from typing import TYPE_CHECKING, Any

from tests.faults.strangers.bulky import payload, request

if TYPE_CHECKING:
    from tests.faults.strangers.sender import Place, Sender

POISON = ("exit", "raise", "odd", "large")
EATEN_PER_S = 20
"""How many of the poison tasks are for the honest worker."""
NAMES = ("no-such-host.invalid", "slow.example.invalid", "x" * 60 + ".invalid", "a.b.c.d.e.invalid", "10.255.255.1")
SERVICES = 1000
CONTAINERS = 60


async def poison_tasks(place: Place) -> None:
    """Submit tasks that fail wherever they run, with many retries; own workers take them, and fail, or vanish."""
    numbers, how = count(), cycle(POISON)
    async with place.sender() as sender, place.sender("agents") as agents:
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                match number % 4:
                    case 0:
                        every = max(1, 2000 // EATEN_PER_S // 4)
                        is_eaten = number // 4 % every == 0
                        body = request(
                            "submit_task",
                            task_id=f"p{number}",
                            task_name="poison" if is_eaten else "own_poison",
                            max_retries=100,
                            payload=payload(next(how) if is_eaten else "x"),
                        )
                        await sender.raw("task", "submit", body)
                    case 1:
                        worker_id = f"{place.name}{number // 4 % 20}"  # another registration: the one before is gone
                        more: dict[str, Any] = {"registration": f"r{number}", "handles": ["own_poison"]}
                        await agents.send(
                            "worker", "register", "register_worker", worker_id=worker_id, slots=100, **more
                        )
                    case 2:
                        worker_id = f"{place.name}{number // 4 % 20}"
                        claim = {"claim_id": f"k{number}", "worker_id": worker_id, "slots": 10, "wait_s": 0.5}
                        body = request("claim_tasks", **claim, task_names=["own_poison"])
                        await agents.raw("task", "claim", body, keep=True)
                    case _:
                        await _fail(agents)


async def _fail(agents: Sender) -> None:
    """Fail half of what was claimed, and forget the rest."""
    kept, agents.kept = agents.kept, []
    for answer in kept[:1]:
        tasks = answer.get("ok")
        for one in (tasks if isinstance(tasks, list) else [])[::2]:
            data: dict[str, Any] = {"task_id": one["task_id"], "lease": one["lease"], "error": "poison " * 20}
            await agents.send("task", "fail", "fail_task", **data)


async def dead_names(place: Place) -> None:
    """Register services whose hosts have no address, or answer never, with health checks; and register them again."""
    numbers, hosts = count(), cycle(NAMES)
    async with place.sender() as sender:
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                host = next(hosts)
                service: dict[str, Any] = {
                    "service_id": f"{place.name}{number % SERVICES}",
                    "service_name": "dead",
                    "service_type": "t",
                    "host": host,
                    "port": 81,
                    "health_check_url": f"http://{host}:81/{number}",
                }
                await sender.send("service", "register", "register_service", **service)


async def dead_agents(place: Place) -> None:
    """Register a large node that never answers; start containers that end at once, and destroy them."""
    async with place.sender("node") as node, place.sender() as sender:
        capacity = {"cpu_millis": 1_000_000, "memory_bytes": 1 << 40}
        await node.send("node", "register", "register_node", node_id=place.name, capacity=capacity, runtime="process")
        numbers = count()
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                container_id = f"{place.name}{number // 4 % CONTAINERS}"
                match number % 4:
                    case 0:
                        data: dict[str, Any] = {"container_id": container_id, "agent_id": "a", "agent_type": "dies"}
                        await sender.send("container", "create", "create_container", **data)
                    case 1:
                        await sender.send("container", "start", "start_container", container_id=container_id)
                    case 2:
                        await node.send("node", "sync", "sync_node", node_id=place.name, observed=[])
                    case _ if number % 400 == 399:
                        forced: dict[str, Any] = {"container_id": container_id, "force": True}
                        await sender.send("container", "destroy", "destroy_container", **forced)
                    case _:
                        await sender.send("container", "get", "get_container", container_id=container_id)
