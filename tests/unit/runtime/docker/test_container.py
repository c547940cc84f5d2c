"""What Docker is asked for, and what its answers mean."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coordinator.errors import Refused
from coordinator.runtime.docker.container import Inspected, Stats, creation, hidden, observed_of
from coordinator.runtime.launch_checks import check_launch
from coordinator.runtime.protocol import Launch
from tests.launches import CLUSTER, launch

MIB = 1024 * 1024
LABELS = {
    "coordinator.container_id": "a",
    "coordinator.generation": "7.0",
    "coordinator.stop_grace_s": "1.0",
    "coordinator.boot": "b1",
}


def body(launched: Launch, *, until: str = "", cpus: int = 4) -> dict[str, Any]:
    return creation(launched, home="h", boot="b1", until=until, network="none", cpus=cpus)


def inspected(state: dict[str, object], labels: dict[str, str] = LABELS) -> Inspected:
    answer = {"Id": "1f", "Name": "/coordination-a-7.0", "State": state, "Config": {"Labels": labels}}
    return msgspec.convert(answer, Inspected)


def test_secrets_are_in_the_environment_only() -> None:
    """No label, name or argument has a value of the environment."""
    asked = body(launch("a", "run", environment={"TOKEN": "hush"}))
    assert asked.pop("Env") == ["TOKEN=hush"]
    assert "hush" not in repr(asked)


def test_limits() -> None:
    """0 is none, and so is more CPU than there is, which Docker refuses; swap is no way around the memory."""
    made = msgspec.structs.replace(launch(), cpu_millis=1_500, memory_bytes=64 * MIB)
    host = body(made)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (1_500_000_000, 64 * MIB, 64 * MIB)
    free = body(msgspec.structs.replace(made, cpu_millis=0, memory_bytes=0))["HostConfig"]
    assert not {"NanoCpus", "Memory", "MemorySwap"} & set(free)
    assert "NanoCpus" not in body(made, cpus=1)["HostConfig"]
    assert body(msgspec.structs.replace(made, cpu_millis=1))["HostConfig"]["NanoCpus"] == 10_000_000


def test_the_command_is_the_whole_command() -> None:
    """The entry point of an image does not come before it; without a command the image's own runs."""
    asked = body(launch("a", "sh", "-c", "x"))
    assert (asked["Entrypoint"], asked["Cmd"]) == (["sh"], ["-c", "x"])
    assert not {"Entrypoint", "Cmd"} & set(body(msgspec.structs.replace(launch(), command=())))


def test_only_what_needs_a_grant_has_a_time() -> None:
    assert "coordinator.until" not in body(launch())["Labels"]
    assert body(launch(), until="b1 42")["Labels"]["coordinator.until"] == "b1 42"


@pytest.mark.parametrize(
    ("state", "cause", "means"),
    [
        ({"Status": "exited", "ExitCode": 0}, "", (0, "exited", "exited")),
        ({"Status": "exited", "ExitCode": 3}, "", (3, "exited", "exited")),
        ({"Status": "exited", "ExitCode": 255}, "", (255, "exited", "exited")),
        ({"Status": "exited", "ExitCode": 139}, "", (139, "killed by signal 11", "crashed")),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "", (137, "oom", "oom")),
        ({"Status": "exited", "ExitCode": 0, "OOMKilled": True}, "", (0, "exited", "exited")),
        ({"Status": "exited", "ExitCode": 0}, "requested", (0, "exited", "requested")),
        ({"Status": "dead", "ExitCode": 137}, "cut_off", (137, "killed by signal 9", "cut_off")),
        ({"Status": "created"}, "cut_off", (137, "killed by signal 9", "cut_off")),
        ({"Status": "running", "Pid": 7}, "", (None, "", "")),
        ({"Status": "paused", "Pid": 7}, "requested", (None, "", "requested")),
    ],
)
def test_states(state: dict[str, object], cause: str, means: tuple[int | None, str, str]) -> None:
    seen = observed_of(inspected(state), cause=cause, boot="b1")
    assert seen is not None
    assert (seen.exit_code, seen.reason, seen.cause) == means
    assert (seen.container_id, seen.generation, seen.stop_grace_s) == ("a", "7.0", 1.0)
    assert seen.pid == state.get("Pid")


def test_what_has_not_been_started_is_nothing() -> None:
    assert observed_of(inspected({"Status": "created"}), cause="", boot="b1") is None


def test_what_a_restart_of_the_machine_ended_is_lost() -> None:
    """The code that Docker shows for it is an invention; one that was written before is not."""
    seen = observed_of(inspected({"Status": "exited", "ExitCode": 255}), cause="", boot="b2")
    assert seen is not None
    assert (seen.exit_code, seen.reason, seen.cause) == (None, "lost", "unknown")
    done = observed_of(inspected({"Status": "exited", "ExitCode": 0}), cause="", boot="b2")
    assert done is not None
    assert done.cause == "exited"


def test_labels_of_others_are_no_danger() -> None:
    """Whoever may create containers may write anything into labels."""
    seen = observed_of(inspected({"Status": "running"}, {"coordinator.stop_grace_s": "soon"}), cause="", boot="b1")
    assert seen is not None
    assert (seen.container_id, seen.stop_grace_s, seen.started_at) == ("", 10.0, None)


def test_memory_is_without_what_may_be_dropped() -> None:
    """As both versions of cgroups tell it."""
    for name in ("total_inactive_file", "inactive_file"):
        stats = msgspec.convert({"memory_stats": {"usage": 50, "stats": {name: 20}}}, Stats)
        assert stats.memory_bytes == 30
    assert msgspec.convert({}, Stats).memory_bytes == 0


def test_messages_of_docker_have_no_secret() -> None:
    made = launch(environment={"A": "hush", "B": "hush-hush", "C": ""})
    assert hidden("invalid: hush-hush and hush", made) == "invalid: … and …"


def test_an_image_alone_is_for_runtimes_that_run_images() -> None:
    """Others refuse it, and say what can run it; neither runs nothing at all."""
    whole = msgspec.structs.replace(launch(), command=())
    check_launch(whole, cluster=CLUSTER, images=True)
    with pytest.raises(Refused, match=r"image 'task_agent' without a command .* node\.runtime: docker"):
        check_launch(whole, cluster=CLUSTER)
    with pytest.raises(Refused, match="command"):
        check_launch(msgspec.structs.replace(whole, image=""), cluster=CLUSTER, images=True)
