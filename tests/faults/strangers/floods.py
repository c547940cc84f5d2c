"""Floods: more of what is allowed than anybody needs - submits, questions, claims, registrations."""

from __future__ import annotations

from itertools import count, cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.strangers.sender import Place

QUESTIONS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("task", "list", "list_tasks", {"limit": 1000}),
    ("task", "list", "list_tasks", {"status": "failed", "limit": 1000}),
    ("service", "find", "find_services", {"limit": 10_000}),
    ("service", "find", "find_services", {"tag": "nowhere"}),
    ("coordinator", "stats", "get_stats", {}),
    ("task", "get", "get_task", {"task_id": "none"}),
    ("task", "get", "get_task", {"task_id": "none", "wait_s": 30.0}),
)


async def submits(place: Place) -> None:
    """Submit tasks that no worker takes."""
    numbers = count()
    async with place.sender() as sender:
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                await sender.send("task", "submit", "submit_task", task_id=f"f{number}", task_name=f"n{number % 100}")


async def questions(place: Place) -> None:
    """Ask for long lists, for what is not there, and to wait."""
    questions = cycle(QUESTIONS)
    async with place.sender() as sender:
        async for allowed in place.pace.turns():
            for _ in range(allowed):
                kind, verb, name, data = next(questions)
                await sender.send(kind, verb, name, **data)


async def claims(place: Place) -> None:
    """Claim tasks of names that nobody submits, each claim under a new id and with a long wait."""
    numbers, worker = count(), place.name
    async with place.sender("worker") as sender:
        await sender.send("worker", "register", "register_worker", worker_id=worker, slots=1)
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                names = [f"none{number % 50}"]
                await sender.send(
                    *("task", "claim", "claim_tasks"),
                    claim_id=f"c{number}",
                    worker_id=worker,
                    wait_s=30.0,
                    task_names=names,
                )


async def registrations(place: Place) -> None:
    """Register services and workers under ever new ids, with as much beside them as is taken."""
    numbers = count()
    async with place.sender() as domain, place.sender("agents") as agents:
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                if number % 2:
                    await agents.send(
                        *("worker", "register", "register_worker"),
                        worker_id=f"{place.name}{number}",
                        slots=1,
                        handles=["none"],
                    )
                else:
                    await domain.send(
                        *("service", "register", "register_service"),
                        service_id=f"{place.name}{number}",
                        service_name=f"n{number}",
                        service_type="t",
                        host="127.0.0.1",
                        port=1,
                        tags=["a", "b"],
                        metadata={"a": "b" * 100},
                    )
