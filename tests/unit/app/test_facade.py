"""An argument of the wrong type is refused at once; the message names the value and what is accepted."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.container import AgentContainer, ContainerConfig, ContainerManager, ResourceLimits, ResourceManager
from coordinator.registry import HealthChecker, ServiceDiscovery, ServiceRegistry
from coordinator.scheduler import ResourceAllocator, TaskScheduler
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.app.app import App

SERVICE: dict[str, Any] = {"service_name": "a", "service_type": "agent", "host": "localhost", "port": 80}
CONFIG: dict[str, Any] = {"agent_id": "a", "agent_type": "task_agent"}


def config(**changes: Any) -> dict[str, Any]:
    return {"config": ContainerConfig(**CONFIG | changes)}


# method, arguments, what the message must hold: the name, the value, what would be right
TASKS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("submit_task", {"task_name": 5}, ["task_name 5", "text"]),
    ("submit_task", {"task_name": ""}, ["task_name", "1 to 128"]),
    ("submit_task", {"task_name": "a\nb"}, ["task_name", "control characters"]),
    ("submit_task", {"task_name": "a", "task_type": None}, ["task_type None", "text"]),
    ("submit_task", {"task_name": "a", "priority": "urgent"}, ["priority 'urgent'", "high, medium, low"]),
    ("submit_task", {"task_name": "a", "priority": 2.5}, ["priority 2.5", "a whole number"]),
    ("submit_task", {"task_name": "a", "priority": True}, ["priority True", "a whole number"]),
    ("submit_task", {"task_name": "a", "priority": 10**9}, ["priority 1000000000", "1e+06"]),
    ("submit_task", {"task_name": "a", "timeout": "1h"}, ["timeout '1h'", "a number"]),
    ("submit_task", {"task_name": "a", "timeout": nan}, ["timeout nan", "a finite number"]),
    ("submit_task", {"task_name": "a", "timeout": inf}, ["timeout inf", "a finite number"]),
    ("submit_task", {"task_name": "a", "timeout": 10**400}, ["timeout", "a finite number"]),
    ("submit_task", {"task_name": "a", "timeout": 0}, ["timeout_s 0", "0.001"]),
    ("submit_task", {"task_name": "a", "resources": 5}, ["resources 5", "mapping"]),
    ("submit_task", {"task_name": "a", "resources": {"Disk": 1}}, ["'Disk'", "cpu, memory, gpu"]),
    ("submit_task", {"task_name": "a", "resources": {"cpu": "many"}}, ["cpu 'many'", "'500m'"]),
    ("submit_task", {"task_name": "a", "resources": {"cpu": -1}}, ["cpu -1", "a number ≥ 0"]),
    ("submit_task", {"task_name": "a", "max_retries": "3"}, ["max_retries '3'", "a whole number"]),
    ("submit_task", {"task_name": "a", "idempotency_key": 7}, ["idempotency_key 7", "text"]),
    ("submit_task", {"task_name": "a", "task_id": "a.b"}, ["task_id 'a.b'", "A-Z a-z 0-9"]),
    ("submit_task", {"task_name": "a", "task_id": 7}, ["task_id 7", "text"]),
    ("submit_task", {"task_name": "a", "payload": object()}, ["object", "JSON"]),
    ("submit_task", {"task_name": "a", "payload": "x" * 70_000}, ["70002 bytes", "65536"]),
    ("get_next_task", {"worker_id": 5}, ["worker_id 5", "text"]),
    ("get_next_task", {"worker_id": "a b"}, ["worker_id 'a b'", "A-Z a-z 0-9"]),
    ("get_next_task", {"worker_id": "w", "strategy": "lifo"}, ["strategy 'lifo'", "fifo, priority"]),
    ("get_next_task", {"worker_id": "w", "strategy": 1}, ["strategy 1", "fifo, priority"]),
    ("get_next_task", {"worker_id": "w", "wait_s": "5"}, ["wait_s '5'", "a number"]),
    ("get_next_task", {"worker_id": "w", "wait_s": -1}, ["wait_s -1", "0 to 60"]),
    ("complete_task", {"task_id": 5}, ["task_id 5", "text"]),
    ("complete_task", {"task_id": "a", "execution_time": "2s"}, ["execution_time '2s'", "a number"]),
    ("complete_task", {"task_id": "a", "lease": 5}, ["lease 5", "text"]),
    ("complete_task", {"task_id": "a", "result": {1j}}, ["set", "JSON"]),
    ("fail_task", {"task_id": "a", "error": ValueError("x")}, ["error ValueError('x')", "text"]),
    ("fail_task", {"task_id": "a", "error": "x", "retry": "no"}, ["retry 'no'", "True or False"]),
    ("report_progress", {"task_id": "a", "progress": "half"}, ["progress 'half'", "a number"]),
    ("cancel_task", {"task_id": "a", "reason": 5}, ["reason 5", "text"]),
    ("get_task", {"task_id": None}, ["task_id None", "text"]),
    ("wait_for_task", {"task_id": "a", "wait_s": nan}, ["wait_s nan", "a finite number"]),
    ("list_tasks", {"status": "done"}, ["status 'done'", "pending, running, completed"]),
    ("list_tasks", {"limit": "all"}, ["limit 'all'", "a whole number"]),
    ("list_tasks", {"limit": 0}, ["limit 0", "1 to 1000"]),
    ("plan_task", {"task_name": "n", "timeout_s": 5}, ["'timeout_s'", "the parameters of submit_task"]),
    ("plan_task", {"task_name": "n", "timeout": "5"}, ["timeout '5'", "a number"]),
    ("explain_task", {"task_id": 5}, ["task_id 5", "text"]),
]
SERVICES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("register_service", {**SERVICE, "service_name": None}, ["service_name None", "text"]),
    ("register_service", {**SERVICE, "service_name": "a.b"}, ["service_name 'a.b'", "A-Z a-z 0-9"]),
    ("register_service", {**SERVICE, "service_type": 1}, ["service_type 1", "text"]),
    ("register_service", {**SERVICE, "host": 127}, ["host 127", "text"]),
    ("register_service", {**SERVICE, "host": "a b"}, ["host 'a b'", "host name"]),
    ("register_service", {**SERVICE, "port": "x"}, ["port 'x'", "a whole number"]),
    ("register_service", {**SERVICE, "port": 80.0}, ["port 80.0", "a whole number"]),
    ("register_service", {**SERVICE, "port": 70_000}, ["port 70000", "65535"]),
    ("register_service", {**SERVICE, "health_check_url": 5}, ["health_check_url 5", "text"]),
    ("register_service", {**SERVICE, "health_check_url": "file:///etc/passwd"}, ["file:///", "http://host:port"]),
    ("register_service", {**SERVICE, "tags": "blue"}, ["tags 'blue'", "a list of texts"]),
    ("register_service", {**SERVICE, "tags": ["blue", 5]}, ["tags", "5", "text"]),
    ("register_service", {**SERVICE, "metadata": [1]}, ["metadata [1]", "a dict of text to text"]),
    ("register_service", {**SERVICE, "metadata": {1: "a"}}, ["metadata key 1", "text"]),
    ("register_service", {**SERVICE, "metadata": {"a": 1}}, ["metadata['a'] 1", "text"]),
    ("register_service", {**SERVICE, "weight": 0.5}, ["weight 0.5", "a whole number"]),
    ("register_service", {**SERVICE, "weight": 0}, ["weight 0", "1 to 1000"]),
    ("register_service", {**SERVICE, "service_id": 5}, ["service_id 5", "text"]),
    ("deregister_service", {"service_id": 5}, ["service_id 5", "text"]),
    ("find_services", {"service_name": 5}, ["service_name 5", "text"]),
    ("find_services", {"status": "well"}, ["status 'well'", "healthy, unhealthy, unknown, offline"]),
    ("find_services", {"limit": "all"}, ["limit 'all'", "a whole number"]),
    ("find_services", {"tag": 5}, ["tag 5", "text"]),
    ("get_service", {"service_id": 5}, ["service_id 5", "text"]),
    ("update_heartbeat", {"service_id": "a", "load": "high"}, ["load 'high'", "a number"]),
    ("update_heartbeat", {"service_id": "a", "connections": 1.5}, ["connections 1.5", "a whole number"]),
    ("update_heartbeat", {"service_id": "a", "response_time_ms": "1"}, ["response_time_ms '1'", "a number"]),
]
CONTAINERS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("create_container", {"config": {"agent_id": "a"}}, ["config {'agent_id': 'a'}", "a ContainerConfig"]),
    ("create_container", config(agent_id=5), ["agent_id 5", "text"]),
    ("create_container", config(agent_id="a b"), ["agent_id 'a b'", "A-Z a-z 0-9"]),
    ("create_container", config(agent_type="x"), ["'x'", "task_agent"]),
    ("create_container", config(resources=5), ["resources 5", "mapping"]),
    ("create_container", config(resources={"memory": "2GB"}), ["memory '2GB'", "'2Gi'"]),
    ("create_container", config(environment=["A=b"]), ["environment ['A=b']", "a dict"]),
    ("create_container", config(environment={"A": 5}), ["environment['A'] 5", "text or"]),
    ("create_container", config(environment={5: "a"}), ["environment name 5", "text"]),
    ("create_container", config(environment={"A": {"secret": 5}}), ["{'secret': 5}", "text"]),
    ("create_container", config(session_id=5), ["session_id 5", "text"]),
    ("start_container", {"container_id": 5}, ["container_id 5", "text"]),
    ("start_container", {"container_id": "*"}, ["container_id '*'", "A-Z a-z 0-9"]),
    ("stop_container", {"container_id": "a", "force": "yes"}, ["force 'yes'", "True or False"]),
    ("stop_container", {"container_id": 5}, ["container_id 5", "text"]),
    ("pause_container", {"container_id": 5}, ["container_id 5", "text"]),
    ("resume_container", {"container_id": 5}, ["container_id 5", "text"]),
    ("destroy_container", {"container_id": "a", "force": 1}, ["force 1", "True or False"]),
    ("get_container", {"container_id": 5}, ["container_id 5", "text"]),
    ("list_containers", {"limit": None}, ["limit None", "a whole number"]),
    ("get_container_logs", {"container_id": "a", "lines": "10"}, ["lines '10'", "a whole number"]),
    ("get_resource_usage", {"container_id": 5}, ["container_id 5", "text"]),
]
POOLS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("initialize", {"capacity": {"cpus": 5}}, ["'cpus'", "use cpu"]),
    ("initialize", {"capacity": {"disks": 5}}, ["capacity has 'disks'", "cpu, memory and gpu"]),
    ("initialize", {"capacity": 5}, ["resources 5", "mapping"]),
    ("request_resources", {"request_id": 5, "resources": {"cpu": 1}}, ["request_id 5", "text"]),
    ("request_resources", {"request_id": "a", "resources": 5}, ["resources 5", "mapping"]),
    (
        "request_resources",
        {"request_id": "a", "resources": {}, "priority": "high"},
        ["priority 'high'", "a whole number"],
    ),
    ("release_resources", {"request_id": 5}, ["request_id 5", "text"]),
]


def _ids(cases: list[tuple[str, dict[str, Any], list[str]]]) -> list[str]:
    return [f"{method}: {holds[0]}" for method, _, holds in cases]


async def _expect(facade: Any, case: tuple[str, dict[str, Any], list[str]]) -> None:
    method, arguments, holds = case
    with pytest.raises(Refused) as refused:
        await getattr(facade, method)(**arguments)
    for part in holds:
        assert part in refused.value.message


@pytest.mark.parametrize("case", TASKS, ids=_ids(TASKS))
async def test_tasks(app: App, case: tuple[str, dict[str, Any], list[str]]) -> None:
    """The scheduler names the wrong argument and what is accepted."""
    await _expect(TaskScheduler(app), case)


@pytest.mark.parametrize("case", SERVICES, ids=_ids(SERVICES))
async def test_services(app: App, case: tuple[str, dict[str, Any], list[str]]) -> None:
    """The registry names the wrong argument and what is accepted."""
    await _expect(ServiceRegistry(app), case)


@pytest.mark.parametrize("case", CONTAINERS, ids=_ids(CONTAINERS))
async def test_containers(app: App, case: tuple[str, dict[str, Any], list[str]]) -> None:
    """The container manager names the wrong argument and what is accepted."""
    await _expect(ContainerManager(app), case)


@pytest.mark.parametrize("case", POOLS, ids=_ids(POOLS))
async def test_pools(app: App, case: tuple[str, dict[str, Any], list[str]]) -> None:
    """A resource pool names the wrong argument and what is accepted."""
    await _expect(ResourceAllocator(app), case)


async def test_other_facades(app: App) -> None:
    """Constructors and methods that take objects of ours name the wrong argument too."""
    registry = ServiceRegistry(app)
    with pytest.raises(Refused, match="registry None is not a ServiceRegistry"):
        ServiceDiscovery(None)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="registry 5 is not a ServiceRegistry"):
        HealthChecker(5)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="interval_s 0 is not allowed: use a number of seconds above 0"):
        HealthChecker(registry, interval_s=0)
    with pytest.raises(Refused, match="timeout_s '1' is not a number"):
        HealthChecker(registry, timeout_s="1")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="config 5 is not a ContainerConfig"):
        AgentContainer("a", 5)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="container_id 5 is not text"):
        AgentContainer(5, ContainerConfig(**CONFIG))  # type: ignore[arg-type]
    with pytest.raises(Refused, match="limits 5 is not a ResourceLimits"):
        await ResourceManager(app).allocate_resources("a", 5)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="cpu 'x' is not a quantity"):
        await ResourceManager(app).allocate_resources("a", ResourceLimits(cpu_limit="x"))


async def test_discovery(app: App) -> None:
    """Discovery refuses an invalid name, an invalid strategy, and a result that is not True or False."""
    discovery = ServiceDiscovery(ServiceRegistry(app))
    with pytest.raises(Refused, match="service_name 5 is not text"):
        await discovery.discover_service(5)  # type: ignore[arg-type]
    for find in (discovery.discover_service, discovery.discover_service_with_failover):
        with pytest.raises(Refused, match="strategy 'best' is not one of round_robin, least_connections"):
            await find("a", strategy="best")
    with pytest.raises(Refused, match="ok 'yes' is not True or False"):
        discovery.report_result("a", ok="yes")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="response_time_ms '5' is not a number"):
        discovery.report_result("a", ok=True, response_time_ms="5")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="service_id 5 is not text"):
        discovery.report_result(5, ok=True)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="service_name None is not text"):
        await discovery.get_service_stats(None)  # type: ignore[arg-type]


async def test_custom_checks(app: App) -> None:
    """A custom check must be callable, and its service must have a name."""
    checker = HealthChecker(ServiceRegistry(app))

    async def well(_: Any) -> bool:
        return True

    with pytest.raises(Refused, match="check 5 of service 'a' is invalid"):
        await checker.register_custom_health_check("a", 5)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="service '' is invalid"):
        await checker.register_custom_health_check("", well)
    with pytest.raises(Refused, match="service_name 5 is not text"):
        await checker.register_custom_health_check(5, well)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="limit '5' is not a whole number"):
        await checker.get_health_history("a", limit="5")  # type: ignore[arg-type]
