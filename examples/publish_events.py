"""
Publish events of another domain into its inbox: its own facts, and commands for the coordinator.

    coordinator up                          # in one terminal
    coordinator inbox add warehouse         # once
    COORDINATOR_URL=… python examples/publish_events.py
    coordinator events tail                 # shows the result

It needs only the package `events`, msgspec and nats-py, and nothing of the coordinator.
"""

from __future__ import annotations

import asyncio
import os

from events.publisher import EventPublisher, Outgoing


async def main() -> None:
    """Publish a delivery, and submit a task that counts it."""
    url = os.environ["COORDINATOR_URL"]
    async with EventPublisher.open(url, domain="warehouse") as publisher:
        # A fact of the warehouse: stored in the journal, in order with all other events.
        await publisher.publish("delivery.arrived", {"pallets": 3}, subject="delivery_7")
        # A command for the coordinator. Publishing the same `event_id` again, such as after a crash, submits no second
        # task.
        await publisher.publish(
            "task.submitted", {"task_name": "count"}, subject="count_7", event_id="delivery_7.count"
        )
        await publisher.publish("task.completed", {"execution_time_s": 0.5}, subject="count_7")
        # Publishing many at once is far faster, and keeps their order.
        shelves = [Outgoing(type="shelf.filled", data={"shelf": n}, subject=f"shelf_{n}") for n in range(1000)]
        print(len(await publisher.publish_many(shelves)), "events stored")


if __name__ == "__main__":
    asyncio.run(main())
