"""
Run an agent in a container, submit a task to it, and destroy it: `python examples/containers.py`.

The built-in `task_agent` registers itself as a service, and executes tasks with the handlers of `worker.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.container import ContainerConfig, ContainerManager
from coordinator.registry import ServiceRegistry, ServiceStatus
from coordinator.scheduler import TaskScheduler

HANDLERS = Path(__file__).with_name("worker.py").resolve()


async def main() -> None:
    """Start an agent, submit a task that counts words, show the agent's service and usage, and stop it."""
    async with ContainerManager() as containers, ServiceRegistry() as registry, TaskScheduler() as scheduler:
        config = ContainerConfig(
            agent_id="agent_001",
            agent_type="task_agent",
            resources={"cpu": "500m", "memory": "256Mi"},
            environment={"COORDINATOR_HANDLERS": str(HANDLERS)},
        )
        container_id = await containers.create_container(config)
        try:
            await show(container_id, containers, registry, scheduler)
        finally:
            print(f"destroyed: {await containers.destroy_container(container_id)}")


async def show(
    container_id: str, containers: ContainerManager, registry: ServiceRegistry, scheduler: TaskScheduler
) -> None:
    """Start the container, and use its agent."""
    if not await containers.start_container(container_id):
        lines = await containers.get_container_logs(container_id)
        raise SystemExit("\n".join(["the container did not start:", *lines]))
    print(f"container: {(await containers.get_container_status(container_id)).value}")

    task_id = await scheduler.submit_task("word_count", payload="to be or not to be")
    task = await scheduler.wait_for_task(task_id)
    print(f"task: {task.status.value}, {task.result}, by worker {task.worker_id}")

    agents = await registry.find_services("task_agent", ServiceStatus.HEALTHY)
    agent = next(one for one in agents if one.container_id == container_id)
    print(f"service: {agent.service_name}, {agent.status.value}, in container {agent.container_id}")
    usage = await containers.get_resource_usage(container_id)
    print(f"usage: {usage['pids']} process, {usage['memory_bytes'] / 2**20:.0f} MiB")
    print(f"stopped: {await containers.stop_container(container_id)}")


if __name__ == "__main__":
    asyncio.run(main())
