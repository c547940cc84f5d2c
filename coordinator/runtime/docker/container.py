"""
What is sent to Docker to create a container, and how its answers are understood. Pure.

A container is identified by its labels; those with another cluster or home are none of ours. Values of its environment
are sent to Docker and nowhere else.
"""

from __future__ import annotations

import json
import signal
from datetime import datetime
from typing import Any

import msgspec

from coordinator.runtime.protocol import EXITED, KILLED, LOST, OOM, Launch, Observed, RuntimeState, cause_of

CLUSTER = "coordinator.cluster"
HOME = "coordinator.home"
"""The home of the node agent that started it: nodes may share one Docker."""
CONTAINER_ID = "coordinator.container_id"
GENERATION = "coordinator.generation"
EPOCH = "coordinator.epoch"
GRACE = "coordinator.stop_grace_s"
BOOT = "coordinator.boot"
UNTIL = "coordinator.until"
"""When it is killed without a later grant, in hundredths of a second of the keeper's clock; only on what needs one."""

PIDS_MAX = 1_024
_TMP = "rw,nosuid,nodev,size=64m"
_LOGS = {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}}
_NANOS_A_MILLI = 1_000_000
_LEAST_CPU_MILLIS = 10
"""Docker accepts no less."""


class DockerState(msgspec.Struct, frozen=True, rename="pascal"):
    """The state of a container, as Docker tells it."""

    status: str
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    started_at: str = ""
    finished_at: str = ""


class _Config(msgspec.Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class Inspected(msgspec.Struct, frozen=True, rename="pascal"):
    """What Docker tells of one container, as far as it is read; its environment is not."""

    id: str
    name: str
    state: DockerState
    config: _Config

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}


class ListedContainer(msgspec.Struct, frozen=True, rename="pascal"):
    """One line of Docker's list of containers."""

    id: str
    state: str
    labels: dict[str, str] | None = None


class _Cpu(msgspec.Struct, frozen=True):
    total_usage: int = 0


class _CpuStats(msgspec.Struct, frozen=True):
    cpu_usage: _Cpu = _Cpu()


class _MemoryStats(msgspec.Struct, frozen=True):
    usage: int = 0
    stats: dict[str, int] = {}


class _PidsStats(msgspec.Struct, frozen=True):
    current: int = 0


class _Network(msgspec.Struct, frozen=True):
    rx_bytes: int = 0
    tx_bytes: int = 0


class Stats(msgspec.Struct, frozen=True):
    """What Docker measures of a running container."""

    cpu_stats: _CpuStats = _CpuStats()
    memory_stats: _MemoryStats = _MemoryStats()
    pids_stats: _PidsStats = _PidsStats()
    networks: dict[str, _Network] | None = None

    @property
    def memory_bytes(self) -> int:
        """The memory in use, without files that the kernel may drop: cgroup v1 and v2 name them differently."""
        memory = self.memory_stats
        dropped = memory.stats.get("total_inactive_file", memory.stats.get("inactive_file", 0))
        return memory.usage - dropped if dropped < memory.usage else memory.usage


def ours(*, cluster: str, home: str, **labels: str) -> str:
    """Return the filter of the API for the containers of one node."""
    wanted = {CLUSTER: cluster, HOME: home, **labels}
    return json.dumps({"label": [f"{name}={value}" for name, value in wanted.items()]})


def key_of(labels: dict[str, str]) -> tuple[str, str]:
    """Return id and generation of a container with these labels; empty where they lack."""
    return labels.get(CONTAINER_ID, ""), labels.get(GENERATION, "")


def creation(launch: Launch, *, home: str, boot: str, until: str, network: str, cpus: int) -> dict[str, Any]:
    """
    Return the body of the request that creates a container, without rights that a command has no need of.

    *until* is the value of its label, "" without one; *cpus* those of this Docker: a limit above them is none.
    """
    labels = {
        CLUSTER: launch.cluster,
        HOME: home,
        CONTAINER_ID: launch.container_id,
        GENERATION: launch.generation,
        EPOCH: launch.epoch,
        GRACE: f"{launch.stop_grace_s!r}",
        BOOT: boot,
    }
    if until:
        labels[UNTIL] = until
    body: dict[str, Any] = {
        "Image": launch.image,
        "Env": [f"{name}={value}" for name, value in launch.environment.items()],
        "Labels": labels,
        "HostConfig": _limits(launch, cpus)
        | {
            "PidsLimit": PIDS_MAX,
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": _TMP},  # noqa: S108 - in the container, and only its own
            "SecurityOpt": ["no-new-privileges"],
            "CapDrop": ["ALL"],
            "Init": True,
            "NetworkMode": network,
            "IpcMode": "private",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": _LOGS,
        },
    }
    if launch.command:  # the whole command, whatever entry point the image has
        body["Entrypoint"] = [launch.command[0]]
        body["Cmd"] = list(launch.command[1:])
    return body


def observed_of(seen: Inspected, *, cause: str, boot: str) -> Observed | None:
    """
    Return what is known of a container; None for one that was created and has not been started.

    *cause* is the recorded one, *boot* identifies this start of the machine.
    """
    labels, state = seen.labels, seen.state
    container_id, generation = key_of(labels)
    observed = Observed(
        container_id=container_id,
        generation=generation,
        name=seen.name.removeprefix("/"),
        state=RuntimeState.PAUSED if state.status == "paused" else RuntimeState.RUNNING,
        stop_grace_s=_grace(labels),
        pid=state.pid or None,
        started_at=_seconds(state.started_at),
        cause=cause,
    )
    if state.status in {"running", "paused", "restarting"}:
        return observed
    code, reason = _ending(state)
    if state.status == "created":
        if not cause:
            return None
        code, reason = KILLED + signal.SIGKILL, _killed(signal.SIGKILL)  # given up before it began
    if labels.get(BOOT, boot) != boot and not cause and code != 0:
        # Docker noticed after a restart of the machine that it is gone; its code is an invention.
        code, reason = None, LOST
    return msgspec.structs.replace(
        observed,
        state=RuntimeState.EXITED,
        pid=None,
        exit_code=code,
        reason=reason,
        cause=cause or cause_of(code, reason),
    )


def hidden(message: str, launch: Launch) -> str:
    """Return a message of Docker about a launch without any value of its environment."""
    for value in sorted(launch.environment.values(), key=len, reverse=True):
        if value and value in message:
            message = message.replace(value, "…")
    return message


def _limits(launch: Launch, cpus: int) -> dict[str, int]:
    limits = {}
    if 0 < launch.cpu_millis < cpus * 1_000:
        limits["NanoCpus"] = max(launch.cpu_millis, _LEAST_CPU_MILLIS) * _NANOS_A_MILLI
    if launch.memory_bytes:
        limits["Memory"] = limits["MemorySwap"] = launch.memory_bytes  # both together: no swap
    return limits


def _ending(state: DockerState) -> tuple[int | None, str]:
    """Return exit code and reason; the init of a container, like a shell, tells signal N as 128 + N."""
    code = state.exit_code
    if state.oom_killed and code != 0:
        return code, OOM
    number = code - KILLED
    return code, _killed(number) if number in signal.valid_signals() else EXITED


def _killed(number: int) -> str:
    return f"killed by signal {int(number)}"


def _grace(labels: dict[str, str]) -> float:
    try:
        return float(labels[GRACE])
    except (KeyError, ValueError):
        return 10.0


def _seconds(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text)
        return at.timestamp() if at.year > 1 else None
    except ValueError:
        return None
