"""
Another domain publishes into its inbox: facts of its own, and orders for the coordinator.

    coordinator up                          # in one terminal
    coordinator inbox add warehouse         # once
    COORDINATOR_URL=… python examples/publish_events.py
    coordinator events tail                 # what became of it

It needs the package `events` alone, msgspec and nats-py: nothing of the coordinator.
"""

from __future__ import annotations

import asyncio
import os

from events.publisher import EventPublisher, Outgoing


async def main() -> None:
    """Tell of a delivery, and have it counted."""
    url = os.environ["COORDINATOR_URL"]
    async with EventPublisher.open(url, domain="warehouse") as publisher:
        # A fact of the warehouse's own: kept in the journal, in order with everything else.
        await publisher.publish("delivery.arrived", {"pallets": 3}, subject="delivery_7")
        # An order to the coordinator. The same `event_id` again, after a crash, say, submits no second task.
        await publisher.publish(
            "task.submitted", {"task_name": "count"}, subject="count_7", event_id="delivery_7.count"
        )
        await publisher.publish("task.completed", {"execution_time_s": 0.5}, subject="count_7")
        # Many at once are far faster, and keep their order.
        shelves = [Outgoing(type="shelf.filled", data={"shelf": n}, subject=f"shelf_{n}") for n in range(1000)]
        print(len(await publisher.publish_many(shelves)), "events stored")


if __name__ == "__main__":
    asyncio.run(main())
